"""`/webhooks/BACKEND`: what a provider tells a backend by itself. It is answered here and goes on to nobody.

Knows the leaves and the protocol contract. Whether a request is the provider's is judged by the backend: for
a name that takes none it does as if there were no such path.
"""

import json
from collections.abc import Callable, Mapping
from typing import ClassVar

from backends.base import Backend
from gateway.errors import MethodNotAllowed, OverspillError, UnknownRoute
from gateway.protocols.base import JSON, Answer, Protocol, Request, error_fields, error_text, parse_target
from gateway.vocab import Call, Headers

_PREFIX = b"/webhooks/"
_MOST_BYTES = 16 * 2**20


class Webhooks(Protocol):
    """Requests to the gateway itself, for one of its backends as they are now."""

    name: ClassVar[str] = "webhook"

    def __init__(self, backends: Callable[[], Mapping[str, Backend]]) -> None:
        self._backends = backends

    def claims(self, path: bytes) -> bool:
        """All below `/webhooks/`."""
        return path.startswith(_PREFIX)

    async def read(self, request: Request) -> Call | Answer:
        """See `Protocol.read`."""
        _, *named = parse_target(request.target).segments
        backend = self._backends().get(named[0]) if len(named) == 1 else None
        take = None if backend is None else backend.webhook
        if take is None:
            raise UnknownRoute("no backend of that name takes webhooks")
        if request.method != b"POST":
            raise MethodNotAllowed("a webhook is a POST request", allow="POST")
        status, said = take(request.headers, await request.body.read(_MOST_BYTES))
        key = "error" if status >= 400 else "status"
        return Answer(status, [JSON], json.dumps({key: said}).encode())

    def error(self, error: OverspillError) -> tuple[int, Headers, bytes]:
        """`{"error": TEXT}`."""
        return error.status, error_fields(error), json.dumps({"error": error_text(error)}).encode()

    def stream_error(self, error: OverspillError) -> bytes:
        """Never asked for: nothing here streams."""
        return b""
