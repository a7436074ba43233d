"""`/invoke/ROUTE/…`: any HTTP request at all, sent to the route that its path names.

Knows the leaves and the protocol contract. Nothing of the request is looked into but its target and
`accept`: what the rest means is between the client and the backend.
"""

from typing import ClassVar, NamedTuple

import msgspec

from gateway.errors import MethodNotAllowed, OverspillError, Refused, UnknownRoute
from gateway.protocols.base import (
    Answer,
    HeaderReader,
    Protocol,
    Request,
    Target,
    error_fields,
    error_text,
    parse_target,
    remember,
)
from gateway.vocab import Call, Headers

_NEVER = frozenset((b"CONNECT", b"TRACE"))  # a tunnel, and an echo of what the gateway adds
_ALLOWED = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class _Form(NamedTuple):
    route: str
    target: bytes


class Raw(Protocol):
    """Requests whose path names their route."""

    name: ClassVar[str] = "raw"

    def __init__(self) -> None:
        self._forms: dict[bytes, _Form] = {}
        self._headers = HeaderReader((b"accept",))

    def claims(self, path: bytes) -> bool:
        """`/invoke` and all below."""
        return path.startswith(b"/invoke/") or path == b"/invoke"

    async def read(self, request: Request) -> Call | Answer:
        """See `Protocol.read`. Never waits."""
        form = self._forms.get(request.target)
        if form is None:
            form = remember(self._forms, request.target, _form(parse_target(request.target)))
        if request.method in _NEVER:
            raise MethodNotAllowed(f"/invoke takes {_ALLOWED}", allow=_ALLOWED)
        call = Call(
            protocol="raw",
            operation="invoke",
            method=request.method,
            target=form.target,
            headers=request.headers,
            body=request.body,
            route_hint=form.route,
            arrived=request.arrived,
            request_id=request.request_id,
            traceparent=request.traceparent,
        )
        noted = self._headers.take(request.headers, call)
        call.stream = any(b"text/event-stream" in value.lower() for _, value in noted)
        return call

    def error(self, error: OverspillError) -> tuple[int, Headers, bytes]:
        """`{"error": {"reason", "message"}}`."""
        return error.status, error_fields(error), _body(error)

    def stream_error(self, error: OverspillError) -> bytes:
        """An event of type `error` with the same object."""
        return b"event: error\ndata: " + _body(error) + b"\n\n"


def _form(target: Target) -> _Form:
    _, *named = target.segments
    if not named or not named[0]:
        raise UnknownRoute("the path names no route: /invoke/ROUTE/…")
    route, *rest = named
    if len(rest) > 1 and not rest[0]:
        raise UnknownRoute("the path has an empty part after the route")  # //x reads as a host elsewhere
    if rest and rest[0] == "v2":
        # The KServe protocol refuses what this would let through: repository control, shared memory.
        raise Refused("the KServe v2 protocol is not offered below /invoke: call /v2/… itself")
    path = target.path.split(b"/", 3)
    return _Form(route, b"/" + (path[3] if len(path) > 3 else b"") + target.query)


def _body(error: OverspillError) -> bytes:
    return msgspec.json.encode({"error": {"reason": error.word, "message": error_text(error)}})
