"""The bundled KServe v2 server on a local socket, with bounded slots and trouble on demand.

Stands in for Triton where no Triton wheel exists, and in tests of the wire. Must never know a gateway.
What it speaks is `KServeApp`; this module adds what a process adds: concurrency, a queue with Triton's
503, compressed answers, and ways to fail.
"""

import asyncio
import gzip
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from aiohttp import web

from backends.emulators.kserve_app import Answer, App, FunctionApp, KServeApp
from backends.emulators.kserve_infer import HEADER_LENGTH, Fields, InferRequest, Model, TensorSpec
from backends.emulators.tensors import Tensor, TritonError
from gateway.clock import Clock, SystemClock

Trouble = Literal["refuse", "stall", "die", "truncate", "garbage"] | int
"""How an inference request can fail, on `fail_next`:

refuse    the connection is cut before any byte of an answer
stall     no byte of an answer comes, until `release()` or `stop()`; then it is answered as usual
die       the head and half of the body are sent, then the connection is cut
truncate  the head and half of the body are sent, then nothing until `release()` or `stop()`
garbage   bytes that are not HTTP
an int    this status with a Triton error body (503 says that the queue is full), at once
"""

_STATUS_TEXTS = {
    503: "[request id: <id_unknown>] Exceeds maximum queue size",
    500: "Failed to process the request(s) for model instance, message: on demand",
    404: "Request for unknown model: 'model' is not found",
    429: "Too many requests",
}


class Seen(NamedTuple):
    """One request as it arrived: what a test wants to know about who called."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


class KServeServer:
    """A v2 server for `app` on its own port. Start and stop it on a running loop.

    slots:       inferences that run at once; None for no bound
    queue_limit: inferences that may wait for a slot before more get 503; None for no bound
    pace_s:      least service time of an inference in seconds; for a stream, least time before each part
    compress:    answer `accept-encoding: gzip` with gzip, as Triton does even for small bodies
    """

    def __init__(
        self,
        app: KServeApp | App,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        slots: int | None = None,
        queue_limit: int | None = None,
        pace_s: float = 0.0,
        compress: bool = True,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.app = app if isinstance(app, KServeApp) else FunctionApp(app)
        self.pace_s = pace_s
        self.queue_limit = queue_limit
        self.in_flight = 0
        """Inference requests that have arrived and are not answered: running and waiting."""
        self.seen_in_flight_max = 0
        self.running = 0
        self.seen_running_max = 0
        self.hung_up = 0
        """Inference requests whose client left before the answer was complete."""
        self.requests: deque[Seen] = deque(maxlen=1000)
        """The last thousand requests, oldest first."""
        self._host, self._port = host, port
        self._compress = compress
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._slots = asyncio.Semaphore(slots) if slots is not None else None
        self._waiting = 0
        self._troubles: deque[Trouble] = deque()
        self._released = asyncio.Event()
        self._threads = ThreadPoolExecutor(slots or 16, thread_name_prefix="kserve")
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def port(self) -> int:
        """The port; known once started."""
        return self._port

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen. The port is chosen here if it was 0, and kept across `stop_listening`."""
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # Without this a client's hang-up would go unnoticed and its slot stay taken.
        self._runner = web.AppRunner(
            application, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
        )
        await self._runner.setup()
        await self.listen()

    async def listen(self) -> None:
        """Open the listening socket (again)."""
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, self._host, self._port, reuse_address=True)
        await self._site.start()
        self._port = int(self._runner.addresses[0][1])

    async def stop_listening(self) -> None:
        """New connections are refused by the kernel; open ones live on."""
        if self._site is not None:
            await self._site.stop()
            self._site = None

    async def stop(self) -> None:
        """Close everything; stalled requests are let go."""
        self._released.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> "KServeServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def fail_next(self, n: int, kind: Trouble) -> None:
        """The next `n` inference requests meet this trouble; further calls line up behind."""
        self._troubles.extend([kind] * n)

    def release(self) -> None:
        """Let every stalled and truncated answer go on."""
        self._released.set()
        self._released = asyncio.Event()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        self.requests.append(Seen(request.method, request.raw_path, headers, body))
        path = request.raw_path.partition("?")[0]
        if not KServeApp.is_inference(request.method, path):
            return await self._send(request, self.app.answer(request.method, request.raw_path, headers, body))
        self.in_flight += 1
        self.seen_in_flight_max = max(self.seen_in_flight_max, self.in_flight)
        try:
            return await self._infer(request, headers, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.hung_up += 1
            raise
        finally:
            self.in_flight -= 1

    async def _infer(self, request: web.Request, headers: Fields, body: bytes) -> web.StreamResponse:
        trouble = self._troubles.popleft() if self._troubles else None
        if isinstance(trouble, int):
            return await self._send(request, _error(trouble))
        if trouble in ("refuse", "garbage"):
            return self._cut(request, b"\x00\x01 what?\r\n\r\n" if trouble == "garbage" else b"")
        if trouble == "stall":
            await self._released.wait()
        if self._slots is None:
            return await self._run(request, headers, body, trouble)
        full = self._slots.locked()
        if full and self.queue_limit is not None and self._waiting >= self.queue_limit:
            return await self._send(request, _error(503))
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._run(request, headers, body, trouble)
        finally:
            self._slots.release()

    async def _run(
        self, request: web.Request, headers: Fields, body: bytes, trouble: Trouble | None
    ) -> web.StreamResponse:
        self.running += 1
        self.seen_running_max = max(self.seen_running_max, self.running)
        began = self._clock.now()
        try:
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(
                self._threads, self.app.answer, request.method, request.raw_path, headers, body
            )
            if not answer.streamed:
                await self._sleep(max(0.0, self.pace_s - (self._clock.now() - began)))
            if trouble in ("die", "truncate"):
                return await self._break_off(request, answer, hang=trouble == "truncate")
            return await self._send(request, answer, compress=self._compress)
        finally:
            self.running -= 1

    async def _send(
        self, request: web.Request, answer: Answer, *, compress: bool = False
    ) -> web.StreamResponse:
        if answer.streamed:
            return await self._stream(request, answer)
        body, fields = b"".join(answer.parts), list(answer.fields)
        accepted = request.headers.get("accept-encoding", "")
        if compress and "gzip" in accepted:
            body, fields = gzip.compress(body, mtime=0), [*fields, ("content-encoding", "gzip")]
        elif compress and "deflate" in accepted:
            body, fields = zlib.compress(body), [*fields, ("content-encoding", "deflate")]
        return web.Response(status=answer.status, headers=fields, body=body)

    async def _stream(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.fields)
        response.enable_chunked_encoding()
        parts = iter(answer.parts)
        loop = asyncio.get_running_loop()
        while (part := await loop.run_in_executor(self._threads, next, parts, None)) is not None:
            await self._sleep(self.pace_s)
            if not response.prepared:
                await response.prepare(request)
            await response.write(part)
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()
        return response

    async def _break_off(self, request: web.Request, answer: Answer, *, hang: bool) -> web.StreamResponse:
        body = b"".join(answer.parts)
        response = web.StreamResponse(status=answer.status, headers=answer.fields)
        if answer.streamed:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        if hang:
            await self._released.wait()
            await response.write(body[len(body) // 2 :])
            await response.write_eof()
            return response
        return self._cut(request, b"", response)

    @staticmethod
    def _cut(
        request: web.Request, last_words: bytes, response: web.StreamResponse | None = None
    ) -> web.StreamResponse:
        """End the connection without an orderly answer."""
        transport = request.transport
        if transport is not None and last_words:
            transport.write(last_words)
            transport.close()
        elif response is not None and transport is not None:
            # What was written must still arrive: an abort could overtake it.
            transport.close()
        elif transport is not None:
            transport.abort()
        return response or web.Response(status=500)


def _error(status: int) -> Answer:
    error = TritonError(status, _STATUS_TEXTS.get(status, "on demand"))
    body = b'{"error":"%s"}' % str(error).encode()
    return Answer(status, [("content-type", "application/json")], (body,))


__all__ = [
    "HEADER_LENGTH", "Answer", "InferRequest", "KServeApp", "KServeServer", "Model", "Seen", "Tensor",
    "TensorSpec", "TritonError", "Trouble",
]  # fmt: skip
