"""Fuzz target: HTTP/2, as a server of gRPC calls and as a client of a gRPC server.

The first byte says which side hears the rest. In that, the byte F1 stands for settings, and F2 with a type,
flags, stream and size for the head of a frame: chance alone hardly finds them.
"""

import asyncio
from collections.abc import Collection
from typing import Any

from backends.grpc_client import GrpcClient
from gateway.clock import Clock
from gateway.cork import Cork
from gateway.errors import OverspillError
from gateway.grpc_connection import GrpcConnection, GrpcLimits, Rpc
from gateway.http2.frames import PREFACE, frame, settings
from loadtests.fuzz.memory_wire import MemoryTransport, StillClock
from loadtests.fuzz.pieces import chance_of, cut
from loadtests.fuzz.target import Target

_HELLO, _FRAME = 0xF1, 0xF2
_MOST_SAID = 1 << 20
_LIMITS = GrpcLimits(body=4096, head=1024, calls=8)
_METHOD = b"/m"


class _Transport(MemoryTransport):
    """All is taken at once."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is none."""


class _Port:
    """A server whose calls are answered by the first bytes of their message, and refused when told."""

    limits = _LIMITS
    clock: Clock = StillClock()
    scheme = b"http"
    methods: Collection[bytes] = (_METHOD, b"/s")
    streamed: Collection[bytes] = (b"/s",)
    full = False
    draining = False
    cork = Cork(at_once=True)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.started = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def admit(self, connection: GrpcConnection) -> bool:
        """Yes."""
        return True

    def forget(self, connection: GrpcConnection) -> None:
        """Nothing is kept."""

    def start(self, rpc: Rpc) -> "asyncio.Task[None]":
        """Answer it."""
        self.started += 1
        task = self._loop.create_task(self._answer(rpc))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def cancel(self, task: asyncio.Task[None]) -> None:
        """Its client has gone."""
        task.cancel()

    def refuse(self, rpc: Rpc, error: OverspillError) -> None:
        """Say so."""
        rpc.send_fields(b"\x88", last=True)

    async def _answer(self, rpc: Rpc) -> None:
        if not rpc.streamed:
            rpc.answer(b"\x88", rpc.message, b"\x88")
            return
        try:
            while (message := await rpc.next()) is not None:
                assert len(message) <= _LIMITS.body
                rpc.send(message)
        except OverspillError:
            pass
        rpc.send_fields(b"\x88", last=True)


def _spelled(data: bytes) -> bytes:
    """The bytes with the short forms written out."""
    found, place = bytearray(), 0
    while place < len(data):
        octet = data[place]
        place += 1
        if octet == _HELLO:
            found += settings({})
        elif octet == _FRAME and len(data) - place >= 4:
            kind, flags, stream, size = data[place : place + 4]
            place += 4
            found += frame(kind % 11, flags, stream % 16, data[place : place + size])
            place += size
        else:
            found.append(octet)
    return bytes(found)


class Http2(Target):
    """Whatever is heard: nothing is raised, what is said is bounded, and the end is told to all."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._errors: list[str] = []
        self._loop.set_exception_handler(lambda _, context: self._errors.append(str(context)))

    def close(self) -> None:
        """Its loop."""
        self._loop.close()

    def __call__(self, data: bytes) -> None:
        """The bytes of one connection, after that which says whose."""
        self._loop.run_until_complete(self._hear(data[:1], _spelled(data[1:])))
        assert not self._errors, self._errors

    async def _hear(self, side: bytes, data: bytes) -> None:
        transport = _Transport()
        port = _Port(self._loop)
        calls: list[Any] = []
        connection: GrpcConnection | GrpcClient
        if side[:1] < b"\x80":
            connection = GrpcConnection(port)
            connection.connection_made(transport)
            connection.data_received(PREFACE)
        else:
            connection = GrpcClient("fuzz:1")
            connection.connection_made(transport)
            connection.ready()
            calls = [await connection.begin(b"\x83", b"one" if unary else None) for unary in (True, False)]
        for piece in cut(data, chance_of(data)):
            if transport.closing:
                break
            connection.data_received(piece)
            for call in calls:
                call.send(b"more" * 100)
            await asyncio.sleep(0)
        assert len(transport.sent) <= _MOST_SAID + 100 * len(data)
        assert len(connection.streams) <= 16
        connection.connection_lost(None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not connection.streams
        assert not port.tasks, "a call goes on without its client"
        for call in calls:
            assert call.code is not None or call._error is not None
        if isinstance(connection, GrpcClient) and connection.settling.done():
            connection.settling.exception()
