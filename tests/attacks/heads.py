"""Lines and fields that are not what the grammar says, and fields that would say too much."""

from tests.attacks.table import Attack, get, post

_LINE = "9112 3: method SP target SP version CRLF"
_NAME = "9110 5.1: token"
_VALUE = "9110 5.5: no CR, LF, NUL; other controls are refused too"
_HOST = "9112 3.2: one valid Host"
_DROPPED = "it hands a name that it does not take on to nobody"


def _line(line: bytes) -> bytes:
    return line + b"\r\nHost: x\r\n\r\n"


LINES = [
    Attack("HTTP/0.9", b"GET /invoke/r/x\r\n\r\n", 400, _LINE,
           lenient={"node": "its parser knows that version, too"}),
    Attack("HTTP/1.2", _line(b"GET /invoke/r/x HTTP/1.2"), 400, "9112 2.3",
           lenient={"nginx": "it takes every minor version for 1.1"}),
    Attack("HTTP/1.10", _line(b"GET /invoke/r/x HTTP/1.10"), 400, "9112 2.3",
           lenient={"nginx": "it takes every minor version for 1.1"}),
    Attack("HTTP/2.0", _line(b"GET /invoke/r/x HTTP/2.0"), 400, "9110 2.5",
           lenient={"node": "its parser knows that version, too"}),
    Attack("HTTP/3", _line(b"GET /invoke/r/x HTTP/3"), 400, "9110 2.5"),
    Attack("HTTP/01.1", _line(b"GET /invoke/r/x HTTP/01.1"), 400, _LINE),
    Attack("HTTP/1,1", _line(b"GET /invoke/r/x HTTP/1,1"), 400, _LINE),
    Attack("http in small letters", _line(b"GET /invoke/r/x http/1.1"), 400, _LINE),
    Attack("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "9113 3.4"),
    Attack("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, _LINE),
    Attack("ICAP", _line(b"REQMOD /invoke/r/x ICAP/1.0"), 400, _LINE),
    Attack("RTSP", _line(b"DESCRIBE /invoke/r/x RTSP/1.0"), 400, _LINE,
           lenient={"node": "its parser is one for several protocols"}),
    Attack("source of icecast", _line(b"SOURCE /invoke/r/x ICE/1.0"), 400, _LINE,
           lenient={"node": "its parser is one for several protocols"}),
    Attack("method in small letters", _line(b"get /invoke/r/x HTTP/1.1"), 400, "9110 9.1: case-sensitive"),
    Attack("method that nobody knows", _line(b"SMUGGLE /invoke/r/x HTTP/1.1"), 400, "9110 15.6.2: 501 is allowed",
           lenient={"nginx": "it passes on what it does not know"}),
    Attack("method with control", _line(b"G\x01T /invoke/r/x HTTP/1.1"), 400, _NAME),
    Attack("no method", _line(b" /invoke/r/x HTTP/1.1"), 400, _LINE),
    Attack("two blanks before the target", _line(b"GET  /invoke/r/x HTTP/1.1"), 200,
           "9112 3: white space may part the three, and goes on as one blank", (b"",), stays=True),
    Attack("two blanks behind the target", _line(b"GET /invoke/r/x  HTTP/1.1"), 200,
           "9112 3: white space may part the three, and goes on as one blank", (b"",), stays=True),
    Attack("tab instead of blank", _line(b"GET\t/invoke/r/x HTTP/1.1"), 400, _LINE),
    Attack("blank behind the version", _line(b"GET /invoke/r/x HTTP/1.1 "), 400, _LINE,
           lenient={"nginx": "it takes off blanks at the end of the line"}),
    Attack("bare LF behind the line", b"GET /invoke/r/x HTTP/1.1\nHost: x\r\n\r\n", 400, "9112 2.2",
           lenient={"nginx": "it takes a bare LF for an end of line, as the section allows"}),
    Attack("bare LF everywhere", b"GET /invoke/r/x HTTP/1.1\nHost: x\n\n", 400, "9112 2.2",
           lenient={"nginx": "it takes a bare LF for an end of line, as the section allows"}),
    Attack("bare CR behind the line", b"GET /invoke/r/x HTTP/1.1\rHost: x\r\n\r\n", 400, "9112 2.2"),
    Attack("blank line of blanks first", b" \r\n" + get(), 400, _LINE),
    Attack("fields begin with a blank", b"GET /invoke/r/x HTTP/1.1\r\n Host: x\r\nHost: y\r\n\r\n", 400, "9112 2.2"),
    Attack("empty lines first", b"\r\n\r\n" + get(), 200, "9112 2.2: a server should pass over one", (b"",), stays=True),
]  # fmt: skip

FIELDS = [
    Attack("NUL in a value", get(b"/invoke/r/x", b"A: b\x00c"), 400, _VALUE),
    Attack("CR in a value", get(b"/invoke/r/x", b"A: b\rc"), 400, _VALUE),
    Attack("LF in a value", get(b"/invoke/r/x", b"A: b\nc: d"), 400, _VALUE,
           lenient={"nginx": "it takes a bare LF for an end of line, as 9112 2.2 allows"}),
    Attack("SOH in a value", get(b"/invoke/r/x", b"A: b\x01c"), 400, _VALUE,
           lenient={"nginx": "it refuses NUL only"}),
    Attack("ESC in a value", get(b"/invoke/r/x", b"A: b\x1bc"), 400, _VALUE, lenient={"nginx": "it refuses NUL only"}),
    Attack("DEL in a value", get(b"/invoke/r/x", b"A: b\x7fc"), 400, _VALUE, lenient={"nginx": "it refuses NUL only"}),
    Attack("NUL in a name", get(b"/invoke/r/x", b"A\x00B: c"), 400, _NAME),
    Attack("blank in a name", get(b"/invoke/r/x", b"A B: c"), 400, _NAME),
    Attack("no colon", get(b"/invoke/r/x", b"Abc"), 400, _NAME, lenient={"nginx": _DROPPED}),
    Attack("no name", get(b"/invoke/r/x", b": c"), 400, _NAME),
    Attack("at sign in a name", get(b"/invoke/r/x", b"a@b: c"), 400, _NAME, lenient={"nginx": _DROPPED}),
    Attack("parenthesis in a name", get(b"/invoke/r/x", b"a(b: c"), 400, _NAME, lenient={"nginx": _DROPPED}),
    Attack("non-ASCII in a name", get(b"/invoke/r/x", "ü: c".encode()), 400, _NAME, lenient={"nginx": _DROPPED}),
    Attack("obs-fold", get(b"/invoke/r/x", b"A: b\r\n c"), 400, "9112 5.2"),
    Attack("obs-fold with a tab", get(b"/invoke/r/x", b"A: b\r\n\tc"), 400, "9112 5.2"),
    Attack("no host", b"GET /invoke/r/x HTTP/1.1\r\n\r\n", 400, _HOST),
    Attack("two hosts", get(b"/invoke/r/x", b"Host: y"), 400, _HOST,
           lenient={"node": "it takes the first, unless told to look"}),
    Attack("two equal hosts", get(b"/invoke/r/x", b"Host: x"), 400, _HOST,
           lenient={"node": "it takes the first, unless told to look"}),
    *(
        Attack(f"host {host!r}", b"GET /invoke/r/x HTTP/1.1\r\nHost: %b\r\n\r\n" % host, 400, _HOST,
               lenient={"node": "it does not look into it"})
        for host in (b"a b", b"a/b", b"a\tb")
    ),
    *(
        Attack(f"host {host!r}", b"GET /invoke/r/x HTTP/1.1\r\nHost: %b\r\n\r\n" % host, 400, _HOST,
               lenient={"nginx": "it looks for few characters only", "node": "it does not look into it"})
        for host in (b"a,b", b"a@b", b"a?b", b"a#b", b"a\\b", b"a:b", b"a:1:2", b"[::1", b"a%zz",
                     b'a"b', b"<a>", "ü".encode())
    ),
    *(
        Attack(f"host {host!r} is one", b"GET /invoke/r/x HTTP/1.1\r\nHost: %b\r\n\r\n" % host, 200, _HOST, (b"",),
               stays=True, strict={"nginx": "it wants a name"} if not host else {})
        for host in (b"", b"a_b.c-d", b"127.0.0.1:80", b"[::1]:80", b"a:", b"a%41b", b"A.EXAMPLE.")
    ),
]  # fmt: skip

HOP_BY_HOP = [
    Attack("Connection names the length", post(b"Connection: content-length", b"Content-Length: 2", body=b"hi"), 200,
           "9110 7.6.1: framing is written anew for the next hop", (b"hi",), stays=True),
    Attack("Connection names Host", get(b"/invoke/r/x", b"Connection: host, x-a, close", b"X-A: 1"), 200, "9110 7.6.1",
           (b"",)),
    Attack("Connection names the coding", post(b"Connection: transfer-encoding", b"Transfer-Encoding: chunked",
           body=b"2\r\nhi\r\n0\r\n\r\n"), 200, "9110 7.6.1", (b"hi",), stays=True),
]  # fmt: skip

SIZES = [
    Attack("target of 9 KiB", get(b"/invoke/r/" + b"a" * 9000), 414, "9112 3",
           lenient={"node": "its limit is 16 KiB for the whole head", }),
    Attack("value of 40 KiB", get(b"/invoke/r/x", b"A: " + b"a" * 40_000), 431, "6585 5"),
    Attack("name of 40 KiB", get(b"/invoke/r/x", b"a" * 40_000 + b": b"), 431, "6585 5"),
    Attack("101 fields", get(b"/invoke/r/x", *[b"A: b"] * 100), 431, "6585 5",
           lenient={"nginx": "it counts bytes, not fields", "node": "it counts bytes, and drops what is over 2000"}),
]  # fmt: skip

ATTACKS = [*LINES, *FIELDS, *HOP_BY_HOP, *SIZES]
