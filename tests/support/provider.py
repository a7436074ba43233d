"""A stand-in for a provider's API: raw HTTP/1.1 on 127.0.0.1 that answers, or misbehaves, as told.

The test plays the server: a behaviour gets each request and the connection to write to.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any, NamedTuple, TypeVar

from backends.base import Backend, Kit
from gateway.clock import Clock, SystemClock
from gateway.vocab import Call, Headers, WholeBody
from tests.support.requests import ArrivingBody

SECRET = "sk-never-show-this"
PATIENCE = 5.0


class Received(NamedTuple):
    """One request as it came over the wire; field names are lower-case."""

    method: str
    target: str
    fields: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """The connection that a request came on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def write(self, data: bytes) -> None:
        if self._writer.is_closing():  # uvloop has a RuntimeError for it, which nobody expects of a wire
            raise ConnectionResetError("the other side has left")
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int, fields: Mapping[str, str] | None = None) -> None:
        lines = [f"HTTP/1.1 {status} X", *(f"{k}: {v}" for k, v in (fields or {}).items())]
        await self.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def answer(self, status: int, body: bytes = b"", fields: Mapping[str, str] | None = None) -> None:
        await self.head(status, {"content-length": str(len(body)), **(fields or {})})
        await self.write(body)

    async def json(self, status: int, document: Any, fields: Mapping[str, str] | None = None) -> None:
        fields = {"content-type": "application/json", **(fields or {})}
        await self.answer(status, json.dumps(document).encode(), fields)

    async def reset(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        """End the connection in order, whatever was promised."""
        self._writer.close()

    async def hang(self) -> None:
        """Say nothing until the other side closes."""
        while await self._reader.read(4096):
            pass


Behaviour = Callable[[Received, Wire], Awaitable[None]]


class Provider:
    """The running stand-in."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.url = ""
        self.seen: list[Received] = []
        self.connections = 0
        self.busy = 0  # requests that are being answered
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    request = await _receive(reader)
                    self.seen.append(request)
                    self.busy += 1
                    try:
                        await self.behaviour(request, Wire(reader, writer))
                    finally:
                        self.busy -= 1
                    if writer.is_closing():
                        break
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _receive(reader: asyncio.StreamReader) -> Received:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    pairs = (line.partition(":") for line in lines[1:] if line)
    fields = {name.lower(): value.strip() for name, _, value in pairs}
    if fields.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return Received(method, target, fields, body)
    return Received(method, target, fields, await reader.readexactly(int(fields.get("content-length", "0"))))


@asynccontextmanager
async def providing(behaviour: Behaviour, *, host: str = "127.0.0.1") -> AsyncIterator[Provider]:
    provider = Provider(behaviour)
    server = await asyncio.start_server(provider.serve, host, 0)
    provider.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
        await provider.stop()
        await server.wait_closed()


async def refusing_url() -> str:
    """An address of this machine on which nobody listens."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return f"http://127.0.0.1:{port}"


class Background:
    """The owner of background tasks, as the gateway has one; `done` waits for all and shows their errors."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.names: list[str] = []

    def spawn(self, work: Coroutine[Any, Any, None], /, *, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.names.append(name)
        self.tasks.add(task)

    async def done(self) -> None:
        while self.tasks:
            await asyncio.wait_for(self.tasks.pop(), PATIENCE)


T = TypeVar("T", bound=Backend)


@asynccontextmanager
async def built(
    kind: type[T], options: Mapping[str, Any], *, clock: Clock | None = None
) -> AsyncIterator[tuple[T, Background]]:
    """A backend of this kind, opened; on leaving its background work is awaited and it is closed."""
    background = Background()
    kit = Kit(clock or SystemClock(), Random(7), background.spawn)
    backend = kind("burst", kind.Options.model_validate(options), kit)
    await backend.open()
    try:
        yield backend, background
    finally:
        await background.done()
        await backend.close()


def a_call(
    body: bytes | ArrivingBody = b'{"inputs":[]}',
    *,
    method: bytes = b"POST",
    target: bytes = b"/v2/models/minilm/infer",
    headers: Headers | None = None,
    stream: bool = False,
) -> Call:
    call = Call(
        protocol="kserve",
        operation="infer",
        method=method,
        target=target,
        headers=[(b"content-type", b"application/json")] if headers is None else headers,
        body=WholeBody(body) if isinstance(body, bytes) else body,
        model="minilm",
        stream=stream,
        request_id="req-1",
    )
    call.route = "embed"
    return call


def a_chat(
    body: bytes = b'{"model": "small", "messages": []}',
    *,
    operation: str = "chat",
    target: bytes = b"/v1/chat/completions",
    stream: bool = False,
) -> Call:
    call = Call(
        protocol="openai",
        operation=operation,
        method=b"POST",
        target=target,
        headers=[(b"content-type", b"application/json")],
        body=WholeBody(body),
        model="small",
        stream=stream,
        request_id="req-1",
    )
    call.route = "chat"
    return call


def a_call_for(backend: Backend) -> Call:
    """A call of the first protocol that this backend speaks."""
    return next(call for call in (a_call(), a_chat()) if backend.cannot_carry(call) is None)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another task or the other end of a socket is about to do."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)
