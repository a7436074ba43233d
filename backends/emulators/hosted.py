"""Applications of ASGI on a fleet that scales from zero: what providers of web endpoints have in common.

Each execution is a `FunctionCall`, which may outlive the request that began it. Must never know whose
endpoint it is: addresses, credentials and errors are each provider's own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote

from aiohttp import web

from backends.emulators.instance import FleetFull, FleetOptions, InstanceDied, RanOut
from backends.emulators.server import IN_HEAD, EmulatorServer
from backends.emulators.tariff import Tariff

Message = MutableMapping[str, Any]
Asgi = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

_NOT_RELAYED = frozenset(
    {"connection", "content-length", "keep-alive", "transfer-encoding", "date", "server"}
)


class WebRequest(NamedTuple):
    """What an instance is given: the request, and where its answer goes."""

    scope: Message
    body: bytes
    call: "FunctionCall"


class FunctionCall:
    """One execution and what it has answered so far; outlives the HTTP request that began it."""

    def __init__(self, name: str) -> None:
        self.id = name
        self.instance = ""
        """The instance that serves it, once one does."""
        self.status = 200
        self.headers: list[tuple[str, str]] = []
        self.pieces: list[bytes] = []
        self.begun = asyncio.Event()
        self.complete = False
        self.failure: tuple[int, str] | None = None
        self.ended: float | None = None
        self.redirected = False
        """True once its id was told to anybody else."""
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


class HostedEmulator(EmulatorServer):
    """Web endpoints. `make_app` is called per instance and returns its ASGI application."""

    HANDLER_CANCELLATION = True
    KEPT_BACK: ClassVar[frozenset[bytes]] = frozenset()
    """Request fields that the provider's proxy keeps to itself."""

    def __init__(
        self, make_app: Callable[[str], Asgi], tariff: Tariff, *, options: FleetOptions, **server: Any
    ) -> None:
        self._pace_s = options.pace_s
        # The pace is kept before the answer begins: the fleet would keep it after the answer has left.
        options = options._replace(pace_s=0.0)
        super().__init__(lambda name: self._hosted(make_app(name)), tariff, options=options, **server)

    def begin(self, request: web.Request, body: bytes, *, timeout_s: float | None = None) -> FunctionCall:
        """An execution of this request, which goes on whoever waits for it."""
        call = FunctionCall(f"fc-{self.chance.getrandbits(100):025x}")
        asked = WebRequest(_scope(request, self.KEPT_BACK), body, call)
        call.task = self.spawn(self._execute(call, asked, timeout_s))
        return call

    def failed(self, error: Exception) -> tuple[int, str]:
        """The provider's status and text for an execution that ended so."""
        raise NotImplementedError

    async def _execute(self, call: FunctionCall, request: WebRequest, timeout_s: float | None) -> None:
        failure: tuple[int, str] | None = None
        try:
            async with self.fleet.slot() as slot:
                call.instance = slot.instance.id
                await slot.run(request, timeout_s=timeout_s)
        except (FleetFull, RanOut, InstanceDied) as error:
            failure = self.failed(error)
        except Exception:
            # What an ASGI server answers for an application that raised.
            failure = 500, ""
        finally:
            call.end(self.clock.now(), failure)

    async def copy(
        self, request: web.Request, call: FunctionCall, fields: Iterable[tuple[str, str]] = ()
    ) -> web.StreamResponse:
        """The application's answer as it comes; cut off where the execution was."""
        headers = [(name, value) for name, value in call.headers if name not in _NOT_RELAYED]
        headers += fields
        if call.complete:
            response: web.StreamResponse = web.Response(
                status=call.status, headers=headers, body=b"".join(call.pieces)
            )
            response[IN_HEAD] = call.instance
            return response
        response = web.StreamResponse(status=call.status, headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        if request.transport is not None and not request.transport.is_closing():
            self.tell(call.instance, self.stays(request))
        if call.status == 200 and self.cues.take("cut") and request.transport is not None:
            await response.write(call.pieces[0][:1])
            self.hang_up(request)
            return response
        sent = 0
        while await call.more_than(sent):
            await response.write(call.pieces[sent])
            sent += 1
        if call.failure is not None:
            self.hang_up(request)
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


async def _never() -> Message:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def _scope(request: web.Request, kept_back: frozenset[bytes]) -> Message:
    path, _, query = request.raw_path.partition("?")
    headers = [(name.lower(), value) for name, value in request.raw_headers if name.lower() not in kept_back]
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
