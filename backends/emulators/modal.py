"""A Modal web function on a local port.

Must never know a gateway or its client: it is written from Modal's documentation and from error bodies
that people have reported. HTTP reaches the function as it is, through ASGI; a call that has not begun to
answer after 150 s continues under a result URL (303). Left out: servers on modal.direct, the SDK's gRPC.
Unverified and chosen here: the texts of 401 with wrong credentials and of 429, and whether an execution
goes on when its client leaves (`hang_up_ends`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from aiohttp import web

from backends.emulators.instance import FleetFull, FleetOptions, InstanceDied, RanOut
from backends.emulators.server import EmulatorServer
from backends.emulators.tariff import PerLife

CALL_ID = "__modal_function_call_id"
"""Query parameter of a result URL."""

Message = MutableMapping[str, Any]
Asgi = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_NOT_RELAYED = frozenset(
    {"connection", "content-length", "keep-alive", "transfer-encoding", "date", "server"}
)


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


class WebRequest(NamedTuple):
    """What an instance is given: the request, and where its answer goes."""

    scope: Message
    body: bytes
    call: "FunctionCall"


class FunctionCall:
    """One execution and what it has answered so far; outlives the HTTP request that began it."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.status = 200
        self.headers: list[tuple[str, str]] = []
        self.pieces: list[bytes] = []
        self.begun = asyncio.Event()
        self.complete = False
        self.failure: tuple[int, str] | None = None
        self.ended: float | None = None
        self.redirected = False
        """True once its id was told to anybody."""
        self.task: asyncio.Task[Any] | None = None
        self._changed = asyncio.Event()

    async def send(self, message: Message) -> None:
        """The ASGI `send` of this execution."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [
                (name.decode("latin-1").lower(), value.decode("latin-1"))
                for name, value in message["headers"]
            ]
            return
        if message.get("body"):
            self.pieces.append(message["body"])
        self.complete = not message.get("more_body", False)
        # A start without a byte of body is not yet an answer to anybody.
        if self.pieces or self.complete:
            self.begun.set()
        self._wake()

    def end(self, now: float, failure: tuple[int, str] | None = None) -> None:
        """The execution is over."""
        if failure is not None and not self.complete:
            self.failure = failure
        self.ended = now
        self.begun.set()
        self._wake()

    async def more_than(self, count: int) -> bool:
        """Wait for a piece beyond the first `count`; False when there will be none."""
        while len(self.pieces) <= count:
            if self.complete or self.ended is not None:
                return False
            await self._changed.wait()
        return True

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class ModalEmulator(EmulatorServer):
    """One web function at `{url}`. `make_app` is called per container and returns its ASGI application."""

    PROVIDER_CUES = ("stopped", "disabled")
    """stopped: the app is not deployed; disabled: the workspace is suspended"""

    HANDLER_CANCELLATION = True

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
        self._pace_s = options.pace_s
        # The pace is kept before the answer begins: the fleet would keep it after the answer has left.
        options = options._replace(pace_s=0.0)
        super().__init__(lambda name: self._hosted(make_app(name)), tariff, options=options, **server)
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
        call = FunctionCall(f"fc-{self.chance.getrandbits(100):025x}")
        self.calls[call.id] = call
        call.task = self.spawn(self._execute(call, WebRequest(_scope(request), body, call)))
        try:
            return await self._answer(request, call)
        except (asyncio.CancelledError, ConnectionResetError):
            if self.function.hang_up_ends:
                call.task.cancel()
            raise
        finally:
            if not call.redirected:
                del self.calls[call.id]

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self.cues.take("stopped"):
            return _error(404, "app for invoked web endpoint is stopped")
        if self.cues.take("disabled"):
            return _error(404, "workspace emulated is disabled")
        if self.function.key is None:
            return None
        key, secret = request.headers.get("modal-key"), request.headers.get("modal-secret")
        if key is None or secret is None:
            return _error(401, "missing credentials for proxy authorization")
        if (key, secret) != (self.function.key, self.function.secret):
            return _error(401, "invalid credentials for proxy authorization")
        return None

    async def _execute(self, call: FunctionCall, request: WebRequest) -> None:
        failure: tuple[int, str] | None = None
        try:
            async with self.fleet.slot() as slot:
                await slot.run(request, timeout_s=self.function.timeout_s)
        except FleetFull:
            failure = 429, "too many requests"
        except RanOut:
            failure = 500, "internal error: function execution timed out"
        except InstanceDied:
            failure = 500, "internal error: function was terminated by signal"
        except Exception:
            # What an ASGI server answers for an application that raised.
            failure = 500, ""
        finally:
            call.end(self.clock.now(), failure)

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
        if call.failure is not None and not call.pieces:
            status, text = call.failure
            return _error(status, text) if text else web.Response(status=500, text="Internal Server Error")
        return await self._copy(request, call)

    async def _pause(self, seconds: float) -> None:
        await self.sleep(seconds)

    async def _copy(self, request: web.Request, call: FunctionCall) -> web.StreamResponse:
        headers = [(name, value) for name, value in call.headers if name not in _NOT_RELAYED]
        if call.complete:
            return web.Response(status=call.status, headers=headers, body=b"".join(call.pieces))
        response = web.StreamResponse(status=call.status, headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        sent = 0
        while await call.more_than(sent):
            await response.write(call.pieces[sent])
            sent += 1
        if call.failure is not None:
            if request.transport is not None:
                request.transport.close()
            return response
        await response.write_eof()
        return response

    def _hosted(self, app: Asgi) -> Callable[[WebRequest], Awaitable[None]]:
        """The smallest ASGI server: one request in, its messages out."""

        async def serve(request: WebRequest) -> None:
            began = self.clock.now()
            parts = [{"type": "http.request", "body": request.body, "more_body": False}]

            async def receive() -> Message:
                return parts.pop() if parts else await _never()

            async def send(message: Message) -> None:
                left = self._pace_s - (self.clock.now() - began)
                if left > 0:
                    await self.sleep(left)
                await request.call.send(message)

            await app(request.scope, receive, send)

        return serve

    def _forget(self) -> None:
        now = self.clock.now()
        for name, call in list(self.calls.items()):
            if call.ended is not None and now >= call.ended + self.function.kept_s:
                del self.calls[name]


async def _never() -> Message:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def _scope(request: web.Request) -> Message:
    path, _, query = request.raw_path.partition("?")
    headers = [
        (name.lower(), value)
        for name, value in request.raw_headers
        # The proxy keeps the credentials to itself.
        if name.lower() not in (b"modal-key", b"modal-secret")
    ]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "https",
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
    }


def _error(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"modal-http: {text}")
