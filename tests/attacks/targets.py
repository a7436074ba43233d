"""Targets that mean one thing to one reader and another to the next."""

from tests.attacks.table import Attack, get

_FORM = "9112 3.2: origin-form, but for proxies and OPTIONS"
_PERCENT = "3986 2.1 and 3629 3: two hex digits; UTF-8, and not overlong"
_DOTS = "3986 3.3: dot segments mean other paths; refused rather than repaired"


def _at(target: bytes, status: int, rule: str) -> Attack:
    bodies = (b"",) if status == 200 else ()
    return Attack(target.decode("latin-1")[:70], get(target), status, rule, bodies, stays=True)


ATTACKS = [
    *(
        _at(target, 400, _FORM)
        for target in (
            b"http://x/invoke/r/x", b"http://evil/invoke/r/x", b"https://x:443/invoke/r/x", b"HTTP://x/invoke/r/x",
            b"*", b"ftp://x/invoke/r/x",
        )
    ),
    *(
        _at(target, 400, _DOTS)
        for target in (
            b"/invoke/r/..", b"/invoke/r/../../v2/repository/index", b"/invoke/r/./x", b"/invoke/r/%2e%2e/x",
            b"/invoke/r/%2E./x", b"/invoke/r/.%2e/x", b"/invoke/%2e%2e/x", b"/invoke/r/x/../y",
            b"/v2/models/../x/ready", b"/v2/models/%2e%2e/ready", b"/v1/models/..", b"/v1/models/%2e%2e",
        )
    ),
    *(
        _at(target, 400, "3986 2.2: an encoded slash is no slash, and many take it for one")
        for target in (
            b"/invoke/r/a%2fb", b"/invoke/r/..%2f..%2fetc/passwd", b"/invoke/r%2Fx", b"/v2/models/a%2f..%2fb/ready",
            b"/v2/models/..%2f..%2fetc%2fpasswd/infer", b"/invoke/r/a%5cb", b"/invoke/r/..%5c..%5cx",
        )
    ),
    *(
        _at(target, 400, _PERCENT)
        for target in (
            b"/invoke/r/%00", b"/invoke/r/x%00.png", b"/invoke/r/%0d%0aevil:%201", b"/invoke/r/%c0%ae%c0%ae/x",
            b"/invoke/r/%c0%af", b"/invoke/r/%e0%80%af", b"/invoke/r/%f0%80%80%af", b"/invoke/r/%ff",
            b"/invoke/r/%ed%a0%80", b"/invoke/r/%", b"/invoke/r/%4", b"/invoke/r/%zz", b"/invoke/r/%u002e",
            b"/invoke/r/x?a=%", b"/invoke/r/x?a=%zz", b"/invoke/r/%7f", b"/invoke/r/%c2%85", b"/v2/models/%00/ready",
        )
    ),
    *(
        _at(target, 400, "3986 2: a character that must be encoded")
        for target in (
            b"/invoke/r/x#y", b"/invoke/r/a\\b", b"/invoke/r/\xc3\xa9", b"/invoke/r/\xff", b"/invoke/r/x?a=\xe9",
        )
    ),
    *(
        _at(target, 404, "no such thing here; nothing is guessed")
        for target in (
            b"/", b"/INVOKE/r/x", b"/invoke", b"/invoke/", b"/invoke//r/x", b"//invoke/r/x", b"/%69nvoke/r/x",
            b"/admin/config", b"/metrics", b"/invoke/nobody/x", b"/v3/x",
            b"/invoke/r//evil.example/x", b"/.well-known/x", b"/webhooks/fleet", b"/invoke/r%20/x",
        )
    ),
    *(
        _at(target, 403, "below /invoke the v2 protocol is not offered, so that its guards cannot be gone round")
        for target in (b"/invoke/r/v2/repository/index", b"/invoke/r/v2/systemsharedmemory/status", b"/invoke/r/%762/x")
    ),
    *(
        _at(target, 200, "decoded once, and only to be looked at: it goes on as it came")
        for target in (
            b"/invoke/r/%252e%252e/x", b"/invoke/r/%2500", b"/invoke/r/a%20b", b"/invoke/r/x?y=/../..%2f&z=%00",
            b"/invoke/r/...", b"/invoke/r/x;y=1/..z", b"/invoke/r/%C3%A9", b"/invoke/r", b"/invoke/r/",
        )
    ),
]  # fmt: skip

METHODS = [
    Attack("CONNECT", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", 400, _FORM),
    Attack("CONNECT to a path", b"CONNECT /invoke/r/x HTTP/1.1\r\nHost: x\r\n\r\n", 405, "9110 9.3.6"),
    Attack(
        "TRACE",
        b"TRACE /invoke/r/x HTTP/1.1\r\nHost: x\r\n\r\n",
        405,
        "9110 9.3.8: it would show added fields",
    ),
    Attack(
        "OPTIONS *",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        400,
        "9112 3.2.4: it may be refused",
        stays=True,
    ),
]
