"""A Modal web function, or a Modal server, on a local port.

Must never know a gateway or its client: it is written from Modal's documentation and from error bodies
that people have reported. HTTP reaches the function as it is, through ASGI; a call that has not begun to
answer after 150 s continues under a result URL (303). A server has no such
chain. Left out: sessions, the SDK's gRPC.
Unverified and chosen here: the texts of 401 with wrong credentials, of 429 and of 503, that a server holds
requests while a container starts, and whether an execution goes on when its client leaves (`hang_up_ends`).
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aiohttp import web

from backends.emulators.hosted import Asgi, FunctionCall, HostedEmulator
from backends.emulators.instance import FleetFull, FleetOptions, RanOut
from backends.emulators.tariff import PerLife

CALL_ID = "__modal_function_call_id"
"""Query parameter of a result URL."""

_TOKEN = frozenset({b"modal-key", b"modal-secret"})


class ModalOptions(NamedTuple):
    """The function and its limits; `redirect_after_s` is 150 s in reality.

    key, secret: the proxy token; None for a function without `requires_proxy_auth`
    timeout_s:   of one execution, as in `@app.function(timeout=…)`
    backlog:     inputs that may wait before more get 429
    kept_s:      how long a result URL can be loaded
    hang_up_ends: an execution ends when the client leaves before its answer
    """

    key: str | None = "wk-emulated"
    secret: str = "ws-emulated"  # noqa: S105 - opens nothing but this emulator
    usd_per_second: float = 0.000222
    redirect_after_s: float = 150.0
    timeout_s: float = 300.0
    backlog: int = 2000
    kept_s: float = 7 * 86_400.0
    hang_up_ends: bool = False


class _Proxied(HostedEmulator):
    """What web functions and servers have in common."""

    PROVIDER_CUES = ("stopped", "disabled", "no_container")
    """stopped: the app is not deployed; disabled: the workspace is suspended; no_container: none is up"""

    KEPT_BACK = _TOKEN

    def __init__(
        self,
        make_app: Callable[[str], Asgi],
        *,
        options: FleetOptions,
        function: ModalOptions | None = None,
        **server: Any,
    ) -> None:
        self.function = function or ModalOptions()
        if options.queue_limit is None:
            options = options._replace(queue_limit=self.function.backlog)
        tariff = PerLife(usd_per_second=self.function.usd_per_second, whole_seconds=False)
        super().__init__(make_app, tariff, options=options, **server)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self.cues.take("stopped"):
            return _error(404, "app for invoked web endpoint is stopped")
        if self.cues.take("disabled"):
            return _error(404, "workspace emulated is disabled")
        if self.cues.take("no_container"):
            return _error(503, "no container is up")
        if self.function.key is None:
            return None
        key, secret = request.headers.get("modal-key"), request.headers.get("modal-secret")
        if key is None or secret is None:
            return _error(401, "missing credentials for proxy authorization")
        if (key, secret) != (self.function.key, self.function.secret):
            return _error(401, "invalid credentials for proxy authorization")
        return None

    def failed(self, error: Exception) -> tuple[int, str]:
        """Modal's words."""
        match error:
            case FleetFull():
                return 429, "too many requests"
            case RanOut():
                return 500, "internal error: function execution timed out"
            case _:
                return 500, "internal error: function was terminated by signal"

    async def answer(self, request: web.Request, call: FunctionCall) -> web.StreamResponse:
        """Of an execution that has begun to answer, or has ended."""
        if call.failure is not None and not call.pieces:
            status, text = call.failure
            return _error(status, text) if text else web.Response(status=500, text="Internal Server Error")
        return await self.copy(request, call)

    async def _pause(self, seconds: float) -> None:
        await self.sleep(seconds)


class ModalEmulator(_Proxied):
    """One web function at `{url}`. `make_app` is called per container and returns its ASGI application."""

    def __init__(self, make_app: Callable[[str], Asgi], **server: Any) -> None:
        super().__init__(make_app, **server)
        self.calls: dict[str, FunctionCall] = {}

    def routes(self) -> Iterable[web.RouteDef]:
        """Any method on any path."""
        return [web.route("*", "/{path:.*}", self._handle)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self.front_failure(request) or self._refusal(request)) is not None:
            return refusal
        self._forget()
        if (name := request.query.get(CALL_ID)) is not None:
            if request.method != "GET":
                return _error(400, "bad redirect method")
            known = self.calls.get(name)
            return await self._answer(request, known) if known else _error(404, "invalid function call")
        body = await request.read()
        limit = self.fleet.options.queue_limit
        if self.cues.take("throttle") or (limit is not None and self.fleet.waiting >= limit):
            return _error(429, "too many requests")
        call = self.begin(request, body, timeout_s=self.function.timeout_s)
        self.calls[call.id] = call
        try:
            return await self._answer(request, call)
        except (asyncio.CancelledError, ConnectionResetError):
            if self.function.hang_up_ends and call.task is not None:
                call.task.cancel()
            raise
        finally:
            if not call.redirected:
                del self.calls[call.id]

    async def _answer(self, request: web.Request, call: FunctionCall) -> web.StreamResponse:
        begun = self.spawn(call.begun.wait())
        timer = self.spawn(self._pause(self.function.redirect_after_s))
        await asyncio.wait((begun, timer), return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        timer.cancel()
        if not call.begun.is_set():
            call.redirected = True
            path = request.raw_path
            if CALL_ID not in request.query:
                path += f"{'&' if '?' in path else '?'}{CALL_ID}={call.id}"
            location = f"{request.scheme}://{request.host}{path}"
            return web.Response(status=303, headers={"Location": location})
        return await self.answer(request, call)

    def _forget(self) -> None:
        now = self.clock.now()
        for name, call in list(self.calls.items()):
            if call.ended is not None and now >= call.ended + self.function.kept_s:
                del self.calls[name]


class ModalServerEmulator(_Proxied):
    """One server at `{url}`; the fleet's queue limit is what remains of its `max_concurrency`."""

    def routes(self) -> Iterable[web.RouteDef]:
        """Any method on any path."""
        return [web.route("*", "/{path:.*}", self._handle)]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self.front_failure(request) or self._refusal(request)) is not None:
            return refusal
        body = await request.read()
        limit = self.fleet.options.queue_limit
        if self.cues.take("throttle") or (limit is not None and self.fleet.waiting >= limit):
            return _error(429, "too many requests")
        call = self.begin(request, body)
        try:
            await call.begun.wait()
            if call.failure is not None and not call.pieces:
                status, text = call.failure
                return (
                    _error(status, text) if text else web.Response(status=500, text="Internal Server Error")
                )
            return await self.copy(request, call)
        finally:
            if call.task is not None and not call.complete:
                call.task.cancel()  # the process sees that its client has left


def _error(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"modal-http: {text}")
