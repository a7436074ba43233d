"""Step 1 for gRPC: own the port, hand every RPC to the pipeline as one exchange, sweep, drain.

What happens on one connection is in `grpc_connection.py`, on the wire in `gateway/http2`. Messages come and
go as bytes. Knows nothing of routes or backends.

A stream is one call, from its first message to its end: it takes its slot with the first message, on one
replica, and holds it for as long as it lives. One that was opened and never used holds nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from gateway.accepting import Accepting, Doors
from gateway.clock import Clock
from gateway.cork import Cork
from gateway.errors import ClientGone, OverspillError
from gateway.exchange import Conversation
from gateway.grpc_connection import GrpcConnection, GrpcLimits, Rpc
from gateway.grpc_exchange import GrpcExchange, GrpcStream
from gateway.http2.frames import ErrorCode
from gateway.message_stream import MessageStream
from gateway.protocols.grpc import METHODS, STREAM, Grpc
from gateway.tls import PortTls, TlsServer
from gateway.vocab import WholeBody

log = logging.getLogger("overspill.grpc")

_SWEEP_EVERY_S = 0.5
_LAST_STREAMS_S = 1.0
"""How long a client may take to hear that it is to open no stream any more."""
_LOOK_S = 0.02
_AFTER_CANCEL_S = 5.0


class Handler(Protocol):
    """What is needed of the pipeline."""

    def handle(self, exchange: Conversation) -> Awaitable[None]:
        """Answer one request. Must answer or abort the exchange before it returns."""
        ...

    def refuse(self, exchange: Conversation, error: OverspillError) -> None:
        """Answer and record a request that could not even be read."""
        ...


class GrpcServer:
    """All gRPC clients of one port.

    name:  gives an exchange an id and a trace where its client gave none
    tls:   what it shows its clients; None: it speaks in the clear
    cork:  by which frames are written; None: each by itself
    """

    def __init__(
        self,
        handler: Handler,
        protocol: Grpc,
        *,
        limits: GrpcLimits,
        clock: Clock,
        name: Callable[[Any], None],
        tls: PortTls | None = None,
        cork: Cork | None = None,
    ) -> None:
        self.cork = cork or Cork(at_once=True)
        self.limits = limits
        self.clock = clock
        self.methods = frozenset(method.encode("ascii") for method in METHODS)
        self.streamed = frozenset((STREAM.encode("ascii"),))
        self.scheme = b"http" if tls is None else b"https"
        self.draining = False
        self._handler = handler
        self._protocol = protocol
        self._name = name
        self._connections: set[GrpcConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        encrypted = None if tls is None else partial(
            TlsServer,
            tls,
            self._connection,
            http2=True,
            handshake_timeout=lambda: self.limits.head_timeout,
            room=lambda coming: len(self._connections) + coming < self.limits.connections,
        )  # fmt: skip
        self._accepting = Accepting(self._connection, encrypted)

    @property
    def calls(self) -> int:
        """RPCs that are being answered."""
        return len(self._tasks)

    @property
    def connections(self) -> int:
        """Open client connections."""
        return len(self._connections)

    async def open(self, host: str, port: int, *, doors: Doors | None = None) -> tuple[str, int]:
        """Listen; returns the address really bound (port 0 asks the system for one). Raises OSError.

        doors:  sockets that are bound already and outlive this server, in place of the address
        """
        loop = asyncio.get_running_loop()
        address = await self._accepting.open(host, port, doors=doors)
        self._sweeper = loop.create_task(self._sweep())
        return address

    async def drain(self, timeout: float) -> None:
        """Take no new RPC, finish what is in flight for at most `timeout` seconds, then cancel it.

        A stream on which nothing was said by the time at which clients must have heard of it is given back:
        they open it elsewhere by themselves.
        """
        if self._sweeper is None:
            return
        self.draining = True
        await self._accepting.leave()
        began = self.clock.now()
        for connection in list(self._connections):
            connection.retire()
        by = began + min(_LAST_STREAMS_S, timeout / 2)
        await self._accepting.shaken(lambda: self.clock.now() >= by)
        await self._emptied(by)
        for connection in list(self._connections):
            connection.leave()
        await self._emptied(began + timeout)
        for task in list(self._tasks):
            log.warning("cancelling a call that did not finish within the drain timeout")
            self.cancel(task)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_AFTER_CANCEL_S)
        for connection in list(self._connections):
            connection.give_up(ErrorCode.NO_ERROR, "the gateway has stopped")
        await self._emptied(self.clock.now() + _LAST_STREAMS_S)
        for connection in list(self._connections):
            connection.abort()  # its client does not even take the end
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _emptied(self, by: float) -> None:
        while self._connections and self.clock.now() < by:  # noqa: ASYNC110 - with a limit
            await asyncio.sleep(_LOOK_S)

    # -- for connections

    @property
    def full(self) -> bool:
        """Are there more RPCs than calls and waiting streams could be?"""
        return len(self._tasks) >= 2 * self.limits.calls

    def admit(self, connection: GrpcConnection) -> bool:
        """Count a new connection in, unless there are too many."""
        if len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: GrpcConnection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)

    def start(self, rpc: Rpc) -> asyncio.Task[None]:
        """Have an RPC answered."""
        work: Coroutine[Any, Any, None] = self._stream(rpc) if rpc.streamed else self._unary(rpc)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        return task

    def cancel(self, task: asyncio.Task[None]) -> None:
        """Nobody waits for the answer of an RPC any more."""
        task.add_done_callback(self._tasks.discard)  # it may end before it has begun
        task.cancel()

    def refuse(self, rpc: Rpc, error: OverspillError) -> None:
        """Answer an RPC that cannot be handed on."""
        exchange = self._exchange(rpc, b"", None)
        self._handler.refuse(exchange, error)

    # -- answering

    def _connection(self) -> GrpcConnection:
        return GrpcConnection(self)

    def _exchange(self, rpc: Rpc, message: bytes, task: asyncio.Task[None] | None) -> GrpcExchange:
        rpc.used = True
        exchange = GrpcExchange(
            rpc,
            rpc.head,
            body=WholeBody(message),
            arrived=rpc.arrived,
            max_body=self.limits.body,
            task=task,
        )
        self._name(exchange)
        return exchange

    # A task that keeps an error keeps all that was at work, which holds the task in turn: so these end well
    # even when they are cancelled.

    async def _unary(self, rpc: Rpc) -> None:
        try:
            await self._handler.handle(self._exchange(rpc, rpc.message, rpc.task))
        except asyncio.CancelledError:
            return
        finally:
            self._over(rpc)

    async def _stream(self, rpc: Rpc) -> None:
        try:
            await self._converse(rpc)
        except asyncio.CancelledError:
            return
        finally:
            self._over(rpc)

    def _over(self, rpc: Rpc) -> None:
        # Here and not as a callback of the task, which would cost a turn of the loop.
        assert rpc.task is not None
        self._tasks.discard(rpc.task)

    async def _converse(self, rpc: Rpc) -> None:
        try:
            first = await rpc.next()
        except OverspillError as error:
            self.refuse(rpc, error)
            return
        if first is None:
            self._exchange(rpc, b"", rpc.task).end_empty()
            return
        rpc.used = True
        body = MessageStream(first, buffer=self.limits.body_buffer)
        exchange = GrpcStream(
            rpc,
            rpc.head,
            body=body,
            arrived=self.clock.now(),
            max_body=self.limits.body,
            task=rpc.task,
        )
        self._name(exchange)
        reading = asyncio.get_running_loop().create_task(self._read(rpc, body, first))
        try:
            await self._handler.handle(exchange)
            with contextlib.suppress(ClientGone):  # the pipeline has booked the call by now
                await exchange.drain()
        finally:
            reading.cancel()

    async def _read(self, rpc: Rpc, body: MessageStream, first: bytes) -> None:
        """Feed the messages after the first, each checked."""
        try:
            check = self._protocol.follows(first)
            while (message := await rpc.next()) is not None:
                check(message)
                await body.feed(message)
        except OverspillError as error:
            body.fail(error)
        else:
            body.finish()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_EVERY_S)
            await self._accepting.attend()
            now = self.clock.now()
            for connection in list(self._connections):
                connection.sweep(now)
