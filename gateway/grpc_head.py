"""The head of an RPC: its field section, held against RFC 9113 and "gRPC over HTTP2".

Belongs to step 1. Pure: fields in, a head out, which is used again for every RPC that says the same. Knows
nothing of connections.
"""

import re
from collections.abc import Collection

from gateway.errors import BadCall, HeadTooLarge, NotOffered
from gateway.framing import REQUEST_ID, traceparent_of, without_state
from gateway.http2.fields import Fields
from gateway.vocab import Headers

DEADLINE_FIELD = b"x-overspill-deadline-ms"
"""In which HTTP clients say their deadline."""
_LONGEST_DEADLINE_S = 1e6
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?![ \t])[^\x00\r\n]*(?<![ \t])", re.DOTALL)
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_OF_HTTP1 = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_OF_THE_WIRE = frozenset(
    (
        b"te", b"content-type", b"content-length", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding",
        b"grpc-message-type", b"host",
    )
)  # fmt: skip
"""Said to whoever speaks gRPC at the other end of the connection, and to nobody behind."""


class Malformed(Exception):
    """No request at all: its stream is reset (RFC 9113, 8.1.1)."""


class RpcHead:
    """What an RPC says before its first message.

    target:     the method; b"": these are trailers
    headers:    its metadata, the deadline among it
    timeout:    seconds from its arrival; None: no deadline
    coding:     how packed messages are packed
    error:      why it is refused, None if it is not; `status` is then that of HTTP
    malformed:  nobody may look at it
    """

    __slots__ = (
        "coding", "error", "headers", "malformed", "request_id", "status", "target", "timeout", "traceparent",
    )  # fmt: skip

    def __init__(self) -> None:
        self.target = b""
        self.headers: Headers = []
        self.request_id = ""
        self.traceparent = ""
        self.timeout: float | None = None
        self.coding = b"identity"
        self.status = 200
        self.error: BadCall | None = None
        self.malformed = ""


def read_head(fields: Fields, size: int, *, most: int, methods: Collection[bytes]) -> RpcHead:
    """The head of an RPC, or the trailers of one. It never raises: what is wrong stands in it.

    size:     bytes of the fields, as RFC 9113, 6.5.2 counts them; beyond `most` some are left out
    methods:  those that are known
    """
    head = RpcHead()
    try:
        pseudo = _checked(fields)
    except Malformed as error:
        head.malformed = str(error)
        return head
    if not pseudo:
        return head
    head.target = pseudo[b":path"]
    traces = 0
    content_type = b""
    for name, value in fields:
        if name == b"x-request-id":
            if REQUEST_ID.fullmatch(value):
                head.request_id = value.decode("ascii")
        elif name == b"traceparent":
            traces += 1
            head.traceparent = traceparent_of(value)
        elif name == b"content-type":
            content_type = value
        elif name == b"grpc-encoding":
            head.coding = value
        elif name == b"grpc-timeout":
            head.timeout = _seconds(value, head)
        elif name not in _OF_THE_WIRE and not name.startswith(b":"):
            head.headers.append((name, value))
    if traces > 1:
        head.traceparent = ""  # which of them would it be?
    if not head.traceparent:
        head.headers = without_state(head.headers)
    if head.timeout is not None and head.timeout < _LONGEST_DEADLINE_S:
        head.headers.append((DEADLINE_FIELD, b"%.3f" % max(head.timeout * 1000, 0.001)))
    if pseudo[b":method"] != b"POST":
        head.status, head.error = 405, BadCall("gRPC calls are POST requests")
    elif not _is_grpc(content_type):
        head.status, head.error = 415, BadCall("this port speaks gRPC: content-type is application/grpc")
    elif head.target not in methods:
        method = head.target[:100].decode("ascii", "replace")
        head.error = NotOffered(f"there is no method {method} here")
    if size > most:
        head.error = HeadTooLarge(f"the metadata of a call may have {most} bytes (limits.head)")
    return head


def _is_grpc(content_type: bytes) -> bool:
    kind = content_type.lower()
    return kind == b"application/grpc" or kind.startswith((b"application/grpc+", b"application/grpc;"))


def _seconds(value: bytes, head: RpcHead) -> float | None:
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        head.error = BadCall("grpc-timeout is up to eight digits and one of H, M, S, m, u and n")
        return None
    return int(found[1]) * _UNITS[found[2]]


def _checked(fields: Fields) -> dict[bytes, bytes]:
    """The pseudo-fields, none for trailers (RFC 9113, 8.1 to 8.3). Raises Malformed."""
    pseudo: dict[bytes, bytes] = {}
    regular = False
    for name, value in fields:
        if not _VALUE.fullmatch(value):
            raise Malformed("a field's value has an octet that it may not have")
        if name.startswith(b":"):
            if regular or name in pseudo or name not in _PSEUDO:
                raise Malformed("a pseudo-field comes late, twice, or is none of a request")
            pseudo[name] = value
            continue
        regular = True
        if not _NAME.fullmatch(name):
            raise Malformed("a field's name is no name, or has capitals")
        if name in _OF_HTTP1 or (name == b"te" and value != b"trailers"):
            raise Malformed("a field of HTTP/1.1's connections")
    if pseudo and not (
        pseudo.get(b":path", b"").startswith(b"/") and pseudo.keys() >= {b":method", b":scheme"}
    ):
        raise Malformed("a request has a method, a scheme and a path")
    return pseudo
