"""What a client of the gRPC port may not do, frame by frame, and what it is told: RFC 9113, RFC 7541."""

from dataclasses import dataclass

from tests.grpc_ingress.support import SERVICE, request
from tests.http2.played import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    frame,
    reset,
    section,
    settings,
    window_update,
)

HELLO = PREFACE + settings()
PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION, CALM = 1, 3, 5, 6, 7, 9, 11


@dataclass(frozen=True)
class Attack:
    """Bytes of one connection, and what is right.

    ends:   the connection, with this code
    resets: stream 1 (or `stream`), with this code
    status: what stream 1 gets of gRPC
    calls:  that the pipeline hears of: each has one record
    Without `ends`, `resets` and `status` it is passed over.
    """

    name: str
    data: bytes
    rule: str
    ends: int | None = None
    resets: int | None = None
    status: int | None = None
    calls: int = 0
    stream: int = 1

    @property
    def kind(self) -> str:
        """In a word."""
        if self.ends is not None:
            return "connection"
        if self.resets is not None:
            return "stream"
        return "passed over" if self.status is None else "call"


def message(data: bytes) -> bytes:
    return b"\0" + len(data).to_bytes(4, "big") + data


BODY = message(request())
PSEUDO = (
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", (SERVICE + "ModelInfer").encode()), (b":authority", b"x"),
)  # fmt: skip
REST = ((b"te", b"trailers"), (b"content-type", b"application/grpc"))
BLOCK = section(*PSEUDO, *REST)


def opening(number: int = 1, *, last: bool = False, block: bytes = BLOCK) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if last else 0), number, block)


def call(number: int = 1, *, block: bytes = BLOCK) -> bytes:
    return opening(number, block=block) + frame(DATA, END_STREAM, number, BODY)


def _with(*fields: tuple[bytes, bytes]) -> bytes:
    return call(block=section(*PSEUDO, *REST, *fields))


def _malformed(name: str, block: bytes, rule: str) -> Attack:
    return Attack(name, HELLO + call(block=block), rule, resets=PROTOCOL)


def _ends(name: str, data: bytes, code: int, rule: str) -> Attack:
    return Attack(name, HELLO + data, rule, ends=code)


_OPENED = opening()
_SAID = HELLO + call()
_PRIORITY = b"\0\0\0\0\x10"

FRAMES = [
    _ends("a frame larger than allowed", frame(DATA, 0, 1, size=2**24 - 1), SIZE, "4.2"),
    _ends("HEADERS on stream 0", opening(0), PROTOCOL, "6.2"),
    _ends("DATA on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL, "6.1"),
    _ends("RST_STREAM on stream 0", reset(0), PROTOCOL, "6.4"),
    _ends("PRIORITY on stream 0", frame(PRIORITY, 0, 0, _PRIORITY), PROTOCOL, "6.3"),
    _ends("CONTINUATION on stream 0", frame(CONTINUATION, END_HEADERS, 0, b""), PROTOCOL, "6.10"),
    _ends("SETTINGS on a stream", frame(SETTINGS, 0, 1), PROTOCOL, "6.5"),
    _ends("PING on a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL, "6.7"),
    _ends("GOAWAY on a stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL, "6.8"),
    _ends("SETTINGS that are no pairs", frame(SETTINGS, 0, 0, bytes(5)), SIZE, "6.5"),
    _ends("SETTINGS that acknowledge and say something", frame(SETTINGS, ACK, 0, bytes(6)), SIZE, "6.5"),
    _ends("PING of seven bytes", frame(PING, 0, 0, bytes(7)), SIZE, "6.7"),
    _ends("PING of nine bytes", frame(PING, 0, 0, bytes(9)), SIZE, "6.7"),
    _ends("GOAWAY of seven bytes", frame(GOAWAY, 0, 0, bytes(7)), SIZE, "6.8"),
    _ends("WINDOW_UPDATE of three bytes", frame(8, 0, 0, bytes(3)), SIZE, "6.9"),
    _ends("WINDOW_UPDATE of five bytes on a stream", _OPENED + frame(8, 0, 1, bytes(5)), SIZE, "6.9"),
    _ends("RST_STREAM of three bytes", _OPENED + frame(RST_STREAM, 0, 1, bytes(3)), SIZE, "6.4"),
    _ends("PRIORITY of four bytes", _OPENED + frame(PRIORITY, 0, 1, bytes(4)), SIZE, "6.3; as of a connection, 5.4"),
    _ends("PRIORITY on itself", _OPENED + frame(PRIORITY, 0, 1, b"\0\0\0\1\x10"), PROTOCOL, "7540 5.3.1"),
    _ends("HEADERS with a priority cut short", frame(HEADERS, 0x25, 1, bytes(4)), SIZE, "4.2"),
    _ends("HEADERS with more padding than frame", frame(HEADERS, 0xD, 1, b"\x09" + b"x" * 8), PROTOCOL, "6.2"),
    _ends("DATA with more padding than frame", _OPENED + frame(DATA, PADDED, 1, b"\x05abcd"), PROTOCOL, "6.1"),
    _ends("DATA padded, of no bytes", _OPENED + frame(DATA, PADDED, 1), PROTOCOL, "6.1"),
    _ends("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + BLOCK), PROTOCOL, "8.4"),
    _ends("a stream of an even number", opening(2), PROTOCOL, "5.1.1"),
    _ends("streams that go backwards", call(5) + opening(3), PROTOCOL, "5.1.1; a frame for a stream that is closed"),
    _ends("DATA on a stream nobody opened", frame(DATA, 0, 1, b"x"), PROTOCOL, "5.1"),
    _ends("RST_STREAM on a stream nobody opened", reset(1), PROTOCOL, "5.1"),
    _ends("WINDOW_UPDATE on a stream nobody opened", window_update(1, 1), PROTOCOL, "5.1"),
    _ends("DATA on a stream of the server's that is none", frame(DATA, 0, 2, b"x"), PROTOCOL, "5.1"),
    _ends("CONTINUATION out of nowhere", frame(CONTINUATION, END_HEADERS, 1, BLOCK), PROTOCOL, "6.10"),
    _ends("CONTINUATION after the end of a section", _OPENED + frame(CONTINUATION, 4, 1), PROTOCOL, "6.10"),
    _ends("DATA inside a section", frame(HEADERS, 0, 1, BLOCK) + frame(DATA, 0, 1, b"x"), PROTOCOL, "6.2"),
    _ends("PING inside a section", frame(HEADERS, 0, 1, BLOCK) + frame(PING, 0, 0, bytes(8)), PROTOCOL, "6.2"),
    _ends("a section that goes on on another stream",
          frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, END_HEADERS, 3), PROTOCOL, "6.10"),
    _ends("an unknown frame inside a section", frame(HEADERS, 0, 1, BLOCK) + frame(0x77, 0, 1), PROTOCOL, "5.5"),
    _ends("a window of the connection that grows by nothing", window_update(0, 0), PROTOCOL, "6.9"),
    _ends("a window of the connection beyond 2^31 - 1", window_update(0, 2**31 - 1), FLOW, "6.9.1"),
    Attack("a window that grows by nothing", HELLO + _OPENED + window_update(1, 0), "6.9", resets=PROTOCOL),
    Attack("a window beyond 2^31 - 1", HELLO + _OPENED + window_update(1, 2**31 - 1), "6.9.1", resets=FLOW),
    _ends("windows beyond 2^31 - 1 by settings",
          settings([(4, 2**31)]), FLOW, "6.5.2"),
    _ends("settings that let an open window overflow",
          _OPENED + window_update(1, 2**31 - 65536) + settings([(4, 2**31 - 1)]), FLOW, "6.9.2"),
    _ends("frames of too few bytes asked for", settings([(5, 16383)]), PROTOCOL, "6.5.2"),
    _ends("frames of too many bytes asked for", settings([(5, 2**24)]), PROTOCOL, "6.5.2"),
    _ends("ENABLE_PUSH of 2", settings([(2, 2)]), PROTOCOL, "6.5.2"),
    Attack("settings nobody knows", HELLO + settings([(0xABCD, 7)]), "6.5.2"),
    Attack("a frame nobody knows", HELLO + frame(0xEE, 0xFF, 77, b"x"), "5.5"),
    Attack("RST_STREAM twice", HELLO + _OPENED + reset(1) + reset(1), "5.1: for a short time after"),
    Attack("DATA after RST_STREAM", HELLO + _OPENED + reset(1) + frame(DATA, 0, 1, b"x"), "5.1"),
    Attack("WINDOW_UPDATE after RST_STREAM", HELLO + _OPENED + reset(1) + window_update(1, 9), "5.1"),
    Attack("a GOAWAY of the client's", HELLO + frame(GOAWAY, 0, 0, bytes(8) + b"bye"), "6.8"),
    Attack("a whole call", _SAID, "8.1", status=0, calls=1),
    Attack("a whole call, padded and with a priority",
           HELLO + frame(HEADERS, END_HEADERS | PADDED | PRIORITISED, 1, b"\x03" + _PRIORITY + BLOCK + bytes(3))
           + frame(DATA, END_STREAM | PADDED, 1, b"\x02" + BODY + bytes(2)), "6.1, 6.2", status=0, calls=1),
    Attack("a whole call, a section in three frames",
           HELLO + frame(HEADERS, 0, 1, BLOCK[:5]) + frame(CONTINUATION, 0, 1) + frame(CONTINUATION, 4, 1, BLOCK[5:])
           + frame(DATA, END_STREAM, 1, BODY), "6.10", status=0, calls=1),
    Attack("a section read although its stream is refused",
           HELLO + call(1, block=section(*PSEUDO, *REST, (b"Capital", b"x"))) + call(3), "4.3",
           resets=PROTOCOL, calls=1),
    Attack("DATA after the end", HELLO + opening(last=False) + frame(DATA, END_STREAM, 1, BODY)
           + frame(DATA, 0, 1, b"x"), "5.1: half-closed; it had not begun", resets=CLOSED),
    Attack("HEADERS after the end", _SAID + opening(last=True), "5.1: half-closed; it had not begun", resets=CLOSED),
    Attack("HEADERS in the middle that do not end it", HELLO + _OPENED + opening(), "8.1", resets=PROTOCOL),
    Attack("trailers with a pseudo-field", HELLO + _OPENED + frame(DATA, 0, 1, BODY) + opening(last=True), "8.1",
           resets=PROTOCOL),
]  # fmt: skip

HEADS = [
    *(
        _malformed(f"without {name.decode()}", section(*(each for each in PSEUDO if each[0] != name), *REST), "8.3.1")
        for name in (b":method", b":scheme", b":path")
    ),
    *(
        _malformed(f"{name.decode()} twice", section(*PSEUDO, (name, dict(PSEUDO)[name]), *REST), "8.3")
        for name in (b":method", b":scheme", b":path")
    ),
    _malformed("no pseudo-field", section(*REST), "8.3.1"),
    _malformed("no field at all", b"", "8.3.1"),
    _malformed("a pseudo-field after others", section(*PSEUDO[:3], *REST, PSEUDO[3]), "8.3"),
    _malformed("a pseudo-field of answers", section(*PSEUDO, (b":status", b"200"), *REST), "8.3"),
    _malformed("a pseudo-field of nobody", section(*PSEUDO, (b":x", b"y"), *REST), "8.3"),
    _malformed("an empty path", section(*PSEUDO[:2], (b":path", b""), PSEUDO[3], *REST), "8.3.1"),
    _malformed("capitals in a name", section(*PSEUDO, *REST, (b"Name", b"x")), "8.2.1"),
    _malformed("an empty name", section(*PSEUDO, *REST, (b"", b"x")), "8.2.1"),
    _malformed("a name with a space", section(*PSEUDO, *REST, (b"a b", b"x")), "8.2.1"),
    _malformed("a name with a colon inside", section(*PSEUDO, *REST, (b"a:b", b"x")), "8.2.1"),
    _malformed("a name with CRLF", section(*PSEUDO, *REST, (b"a\r\nb", b"x")), "8.2.1"),
    _malformed("a name of high bytes", section(*PSEUDO, *REST, (b"\xff", b"x")), "8.2.1"),
    *(
        _malformed(f"{value!r} as a value", section(*PSEUDO, *REST, (b"x", value)), "8.2.1")
        for value in (b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0b", b" a", b"a ", b"\ta", b"a\t")
    ),
    *(
        _malformed(f"{name.decode()}, of HTTP/1.1", section(*PSEUDO, *REST, (name, b"x")), "8.2.2")
        for name in (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
    ),
    _malformed("te that is not trailers", section(*PSEUDO, (b"te", b"gzip"), REST[1]), "8.2.2"),
    Attack("another method", HELLO + call(block=section((b":method", b"GET"), *PSEUDO[1:], *REST)), "gRPC",
           status=3, calls=1),
    Attack("another content-type",
           HELLO + call(block=section(*PSEUDO, REST[0], (b"content-type", b"text/html"))), "gRPC", status=3, calls=1),
    Attack("a path nobody knows",
           HELLO + call(block=section(*PSEUDO[:2], (b":path", b"/x/y"), PSEUDO[3], *REST)), "gRPC", status=12, calls=1),
    Attack("a deadline that is none", HELLO + _with((b"grpc-timeout", b"1e9S")), "gRPC", status=3, calls=1),
    Attack("large metadata", HELLO + _with(*[(b"x-%d" % n, b"v" * 900) for n in range(40)]), "6.5.2", status=8, calls=1),
    _ends("very large metadata", b"".join(
        (frame(HEADERS, 0, 1, BLOCK), *[frame(CONTINUATION, 0, 1, b"\0\x01x\x7f\x80\x7e" + b"v" * 16250)] * 33)),
        CALM, "CVE-2024-27316"),
]  # fmt: skip

_ENTRY = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000
HPACK = [
    _ends("an index of nothing", opening(block=b"\x80"), COMPRESSION, "7541 6.1"),
    _ends("an index beyond the table", opening(block=b"\xbe"), COMPRESSION, "7541 2.3.3"),
    _ends("a number without end", opening(block=b"\xff" + b"\x80" * 20), COMPRESSION, "7541 5.1"),
    _ends("a string cut short", opening(block=b"\x00\x05ab"), COMPRESSION, "7541 5.2"),
    _ends("Huffman's end of string", opening(block=b"\x00\x84\xff\xff\xff\xff\x00"), COMPRESSION, "7541 5.2"),
    _ends("padding of Huffman's that is none", opening(block=b"\x00\x81\x00\x00"), COMPRESSION, "7541 5.2"),
    _ends("a table larger than allowed", opening(block=b"\x3f\xe2\x1f" + BLOCK), COMPRESSION, "7541 6.3"),
    _ends("a table's size after a field", opening(block=BLOCK + b"\x20"), COMPRESSION, "7541 4.2"),
    _ends("a table's size again and again", opening(block=b"\x20" * 16000 + BLOCK), COMPRESSION, "7541 4.2"),
    _ends("a bomb: one entry, many times", opening(block=_ENTRY + b"\xbe" * 12000), CALM, "7541 7.3"),
    Attack("a small bomb is refused, and nothing else is",
           HELLO + call(1, block=BLOCK + _ENTRY + b"\xbe" * 20), "7541 7.3", status=8, calls=1),
]  # fmt: skip

MESSAGES = [
    Attack("a flag that means nothing", HELLO + _OPENED + frame(DATA, END_STREAM, 1, b"\x07" + BODY[1:]), "gRPC",
           status=3, calls=1),
    Attack("packed, without saying how", HELLO + _OPENED + frame(DATA, END_STREAM, 1, b"\x01" + BODY[1:]), "gRPC",
           status=3, calls=1),
    Attack("a message cut short", HELLO + _OPENED + frame(DATA, END_STREAM, 1, BODY[:-1]), "gRPC", status=3, calls=1),
    Attack("no message", HELLO + opening(last=True), "gRPC", status=12, calls=1),
    Attack("two messages", HELLO + _OPENED + frame(DATA, END_STREAM, 1, BODY * 2), "gRPC", status=12, calls=1),
    Attack("a message larger than allowed", HELLO + _OPENED + frame(DATA, 0, 1, b"\0\xff\xff\xff\xff"), "gRPC",
           status=8, calls=1),
]  # fmt: skip

FLOODS = [
    _ends("SETTINGS", settings() * 4000, CALM, "CVE-2019-9515"),
    _ends("SETTINGS that are acknowledged", settings(flags=ACK) * 4000, CALM, "10.5"),
    _ends("PING", frame(PING, 0, 0, bytes(8)) * 4000, CALM, "CVE-2019-9512"),
    _ends("PRIORITY", frame(PRIORITY, 0, 1, _PRIORITY) * 4000, CALM, "CVE-2019-9513"),
    _ends("DATA of nothing", _OPENED + frame(DATA, 0, 1) * 4000, CALM, "CVE-2019-9518"),
    _ends("GOAWAY", frame(GOAWAY, 0, 0, bytes(8)) * 4000, CALM, "10.5"),
    _ends("frames nobody knows", frame(0xEE, 0, 0) * 4000, CALM, "10.5"),
    _ends("HEADERS and RST_STREAM", b"".join(opening(n) + reset(n) for n in range(1, 9000, 2)), CALM, "CVE-2023-44487"),
    _ends("HEADERS and what the server must reset",
          b"".join(opening(n) + window_update(n, 0) for n in range(1, 9000, 2)), CALM, "CVE-2025-8671"),
    _ends("HEADERS that are malformed", b"".join(opening(n, block=b"\x82") for n in range(1, 9000, 2)), CALM, "10.5"),
    _ends("trailers that are malformed",
          b"".join(opening(n) + opening(n) for n in range(1, 9000, 2)), CALM, "CVE-2025-8671"),
    _ends("CONTINUATION of nothing", frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 4000, CALM, "CVE-2024-27316"),
]  # fmt: skip

OPENINGS = [
    Attack("HTTP/1.1", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "3.4", ends=-1),
    Attack("garbage", bytes(range(1, 200)), "3.4", ends=-1),
    Attack("TLS in the clear", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), "3.4", ends=-1),
    Attack("a preface with a slip", PREFACE.replace(b"SM", b"XM") + settings(), "3.4", ends=-1),
    Attack("a call before settings", PREFACE + call(), "3.4", ends=PROTOCOL),
    Attack("a ping before settings", PREFACE + frame(PING, 0, 0, bytes(8)), "3.4", ends=PROTOCOL),
    Attack("settings acknowledged first", PREFACE + settings(flags=ACK), "3.4", ends=PROTOCOL),
]

ATTACKS = [*FRAMES, *HEADS, *HPACK, *MESSAGES, *FLOODS, *OPENINGS]
