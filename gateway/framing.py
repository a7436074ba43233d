"""What a request's fields say about its framing, beyond what the parser checks: pure functions.

Belongs to step 1. llhttp in its strict mode refuses two lengths, a length beside chunks, obs-fold and
the like; it leaves to its caller that the protocol is HTTP/1, that there is one Host and what it may be,
that the only coding is chunked, and that HTTP/1.0 has none. Knows no sockets.
"""

import re

from gateway.errors import BadCall, NotOffered
from gateway.exchange import Exchange
from gateway.vocab import Headers

_LOOKED_AT = frozenset(
    (
        b"content-length", b"host", b"transfer-encoding", b"expect", b"x-request-id", b"traceparent",
        b"tracestate",
    )
)  # fmt: skip
_ONE_OF_A_KIND = frozenset(
    (
        b"x-request-id", b"traceparent", b"tracestate", b"expect", b"transfer-encoding", b"idempotency-key",
    )
)  # fmt: skip
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
_IDS = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-"
_TRACEPARENT = re.compile(rb"00" + _IDS + rb"[0-9a-f]{2}")
_LATER = re.compile(rb"(?!00|ff)[0-9a-f]{2}(" + _IDS + rb")([0-9a-f]{2})(?:-.*)?", re.DOTALL)

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?")
"""What a Host may be (RFC 3986, 3.2.2), less the comma, which some would read as a list of two."""
_NOT_HTTP = frozenset(
    (
        b"ANNOUNCE", b"DESCRIBE", b"FLUSH", b"GET_PARAMETER", b"PAUSE", b"PLAY", b"PRI", b"RECORD",
        b"REDIRECT", b"SET_PARAMETER", b"SETUP", b"SOURCE", b"TEARDOWN",
    )
)  # fmt: skip
"""Methods of RTSP, Icecast and HTTP/2, whose request lines llhttp takes too."""


def is_http10(method: bytes, version: str) -> bool:
    """Is the request HTTP/1.0? Raises BadCall for what is neither that nor HTTP/1.1."""
    if version not in {"1.1", "1.0"} or method in _NOT_HTTP:
        raise BadCall("the protocols spoken here are HTTP/1.1 and HTTP/1.0", close=True)
    return version == "1.0"


def comes_again(headers: Headers) -> bool:
    """May a later request have the very same head?"""
    return _ONE_OF_A_KIND.isdisjoint([name for name, _ in headers])


def traceparent_of(value: bytes) -> str:
    """A traceparent in the form that is passed on, "" if it is none.

    Of a later version of the field only what version 00 knows is taken (W3C Trace Context, "Versioning of
    traceparent").
    """
    if _TRACEPARENT.fullmatch(value):
        return value.decode("ascii")
    later = _LATER.fullmatch(value)
    if later is None:
        return ""
    return f"00{later[1].decode('ascii')}{int(later[2], 16) & 1:02x}"


def without_state(headers: Headers) -> Headers:
    """Less tracestate, which means nothing beside another trace than the one it came with."""
    return [field for field in headers if field[0] != b"tracestate"]


def read_framing(exchange: Exchange) -> tuple[int | None, bool]:
    """The declared body length (None: chunked) and whether the client waits to be invited.

    Takes over the request's id and trace where they are fit to be passed on. Raises BadCall, NotOffered.
    """
    length: int | None = 0
    hosts = traces = 0
    expects = state = False
    for name, value in exchange.headers:
        if name not in _LOOKED_AT:
            continue
        if name == b"content-length":
            length = int(value)
        elif name == b"host":
            hosts += 1
            if not _HOST.fullmatch(value):
                raise BadCall("the host field is no host, with or without a port", close=True)
        elif name == b"transfer-encoding":
            if exchange.http10:
                raise BadCall("HTTP/1.0 has no transfer-encoding", close=True)
            if value.strip().lower() != b"chunked":
                raise NotOffered("the only transfer-encoding taken is chunked", close=True)
            length = None
        elif name == b"expect":
            if value.strip().lower() != b"100-continue":
                raise BadCall("the only expectation understood is 100-continue", close=True)
            expects = not exchange.http10
        elif name == b"x-request-id":
            if REQUEST_ID.fullmatch(value):
                exchange.request_id = value.decode("ascii")
        elif name == b"traceparent":
            traces += 1
            exchange.traceparent = traceparent_of(value)
        else:
            state = True
    if traces > 1:
        exchange.traceparent = ""  # which of them would it be?
    if state and not exchange.traceparent:
        exchange.headers = without_state(exchange.headers)
    if hosts > 1 or (hosts == 0 and not exchange.http10):
        raise BadCall("an HTTP/1.1 request has exactly one host field", close=True)
    return length, expects
