"""A raw client: bytes out, bytes in, nothing hidden. And a listener with a scripted handler behind it."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import ClassVar

from gateway.clock import Clock, SystemClock
from gateway.connection import ListenerLimits
from gateway.errors import OverspillError
from gateway.exchange import Exchange
from gateway.listener import Listener

PATIENCE = 5.0


class Peer:
    """One TCP connection used by hand."""

    connected: ClassVar[list["Peer"]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> "Peer":
        peer = cls(*await asyncio.open_connection("127.0.0.1", port))
        cls.connected.append(peer)
        return peer

    @classmethod
    async def close_all(cls) -> None:
        while cls.connected:
            writer = cls.connected.pop().writer
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE)

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """One answer with a declared length or chunks; a chunked body comes back joined."""
        head = await self.head()
        lines = head.split(b"\r\n")
        status = int(lines[0].split(b" ")[1])
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines[1:] if line)
        }
        if fields.get(b"transfer-encoding") == b"chunked":
            return status, fields, b"".join([chunk async for chunk in self._chunks()])
        return status, fields, await self.exactly(int(fields.get(b"content-length", b"0")))

    async def exactly(self, size: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(size), PATIENCE)

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await asyncio.wait_for(self.reader.readline(), PATIENCE), 16):
            yield await self.exactly(size)
            assert await self.exactly(2) == b"\r\n"
        assert await self.exactly(2) == b"\r\n"

    async def rest(self) -> bytes:
        """Everything until the other side closes."""
        return await asyncio.wait_for(self.reader.read(), PATIENCE)

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        self.writer.transport.abort()


Behaviour = Callable[[Exchange], Awaitable[None]]


async def echo(exchange: Exchange) -> None:
    body = await exchange.body.read(exchange.max_body)
    exchange.send(
        200, [(b"content-type", b"text/plain")], b"", exchange.method + b" " + exchange.target + b" " + body
    )


@dataclass
class Scripted:
    """A handler that does what the test says and remembers what it saw."""

    behaviour: Behaviour = echo
    seen: list[Exchange] = field(default_factory=list)
    cancelled: int = 0
    refused: list[OverspillError] = field(default_factory=list)

    async def handle(self, exchange: Exchange) -> None:
        self.seen.append(exchange)
        try:
            await self.behaviour(exchange)
        except OverspillError as error:
            exchange.keep_alive = False
            self.refuse(exchange, error)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def refuse(self, exchange: Exchange, error: OverspillError) -> None:
        self.refused.append(error)
        if not exchange.ended:
            exchange.send(error.status, [], b"", str(error).encode())


@asynccontextmanager
async def listening(
    behaviour: Behaviour = echo, limits: ListenerLimits | None = None, clock: Clock | None = None
) -> AsyncIterator[tuple[int, Scripted, Listener]]:
    handler = Scripted(behaviour)
    listener = Listener(
        handler, limits=limits or ListenerLimits(), clock=clock or SystemClock(), chance=random.Random(1)
    )
    _, port = await listener.open("127.0.0.1", 0)
    try:
        yield port, handler, listener
    finally:
        await listener.drain(0.2)
        await Peer.close_all()


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that another socket's event loop turn brings about."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never happened: {what}")


async def dead_port() -> int:
    """A port of this machine on which nobody listens."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port
