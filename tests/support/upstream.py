"""A replica whose every byte the test decides."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Answerer = Callable[["Received", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Received:
    """One request as it came."""

    head: bytes
    body: bytes
    reader: asyncio.StreamReader

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    def field(self, name: bytes) -> list[bytes]:
        rows = [row.partition(b": ") for row in self.head.split(b"\r\n")[1:]]
        return [value for key, _, value in rows if key.lower() == name]


@dataclass
class Upstream:
    """What arrived, and on how many connections."""

    port: int = 0
    connections: int = 0
    open: int = 0
    received: list[Received] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


async def ok(received: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok")


async def _read(reader: asyncio.StreamReader) -> Received:
    head = await reader.readuntil(b"\r\n\r\n")
    received = Received(head, b"", reader)
    if lengths := received.field(b"content-length"):
        received.body = await reader.readexactly(int(lengths[0]))
    elif received.field(b"transfer-encoding"):
        while size := int(await reader.readline(), 16):
            received.body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    return received


@asynccontextmanager
async def upstream(answer: Answerer = ok) -> AsyncIterator[Upstream]:
    state = Upstream()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state.connections += 1
        state.open += 1
        writers.add(writer)
        try:
            while True:
                received = await _read(reader)
                state.received.append(received)
                await answer(received, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ValueError) as error:
            partial = isinstance(error, ValueError) or error.partial
            state.ended.append("in a request" if partial else "between requests")
        except (ConnectionError, asyncio.CancelledError):
            state.ended.append("reset")
        finally:
            state.open -= 1
            writers.discard(writer)
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        for _ in range(100):
            if not state.open:
                break
            await asyncio.sleep(0.01)
