"""Step 1, the port: own the socket and all its connections, sweep out the stuck ones, drain.

What happens on one connection is in `connection.py`. Knows nothing of routes or backends.

Timers: every connection carries the moment at which it has waited too long, and one sweep looks at
all of them. A timer per request would cost more than the request.
"""

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Sequence
from functools import partial
from socket import socket
from typing import Any, Protocol

from gateway.clock import Clock
from gateway.connection import LAST_REQUEST_S, Connection, Handler, ListenerLimits
from gateway.doorkeeper import Doorkeeper
from gateway.exchange import Certificate, Exchange
from gateway.heads import KnownHeads
from gateway.tls import PortTls, TlsServer

log = logging.getLogger("overspill.listener")

_NOT_ZERO = 1 << 64 | 1
"""W3C Trace Context forbids a trace id or a span id of zeros only."""


_BACKLOG = 2048
_HANDLES = 4
"""Handles of the event loop on each socket that listens. libuv accepts one connection for each in a turn of
the loop, so that with one handle a thousand connections that come at once wait for a thousand turns, each as
long as the requests of those before them take. Every handle more costs about 3 us for a connection that
comes alone, because all of them are woken for it.
"""
_ACCEPTED_ROUNDS = 3
_HANDSHAKES_S = 0.02


class Doors(Protocol):
    """Listening sockets that belong to somebody who outlives this listener, so that no queue dies with it."""

    def wanted(self) -> Sequence[socket]:
        """Those at which this process is to take connections now."""
        ...

    def close(self) -> None:
        """Hold none of them any longer here."""
        ...


class TlsConnection(Connection):
    """One client connection that is encrypted."""

    __slots__ = ("_certificate", "_looked")

    scheme = b"https"

    def __init__(self, listener: "Listener") -> None:
        super().__init__(listener)
        self._looked = False
        self._certificate: Certificate | None = None

    @property
    def certificate(self) -> Certificate | None:  # type: ignore[override]  # nobody sets it
        """The client's, which was verified when it connected; None where it has shown none."""
        if not self._looked:
            self._looked = True
            encryption = self._transport.get_extra_info("ssl_object")
            self._certificate = encryption.getpeercert() or None
        return self._certificate


class Listener:
    """All client connections of one port.

    tls:           what it shows its clients; None: it speaks in the clear
    doorkeeper:    who turns requests away when there are too many; None: nobody
    names_traces:  whether requests that come without a trace get one here; else their traceparent stays ""
    """

    def __init__(
        self,
        handler: Handler,
        *,
        limits: ListenerLimits,
        clock: Clock,
        chance: random.Random,
        names_traces: bool = True,
        tls: PortTls | None = None,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        self._tls = tls
        self.doorkeeper = doorkeeper
        self.handler = handler
        self.limits = limits
        self.clock = clock
        self.draining = False
        self.heads = KnownHeads()
        self._chance = chance
        self._names_traces = names_traces
        self._connections: set[Connection] = set()
        self._servers: dict[int, list[Any]] = {}  # by descriptor of the door
        self._doors: Doors | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._id_prefix = f"{chance.getrandbits(64):016x}-"
        self._id_count = 0
        self._empty = asyncio.Event()
        self._empty.set()

    async def open(self, host: str, port: int, *, doors: Doors | None = None) -> tuple[str, int]:
        """Listen; returns the address really bound (port 0 asks the system for one).

        doors:  sockets that are bound already and outlive this listener, in place of the address
        """
        self.loop = asyncio.get_running_loop()
        self._doors = doors
        if doors is not None:
            await self._attend(doors)
        elif self._tls is not None:
            server = self._encrypted(self._tls)
            await server.open(host, port)
            self._servers[-1] = [server]
        else:
            first = await self.loop.create_server(
                lambda: Connection(self), host, port, backlog=_BACKLOG, reuse_address=True
            )
            self._servers[-1] = [first]
            for bound in first.sockets:
                copies = [socket(fileno=os.dup(bound.fileno())) for _ in range(_HANDLES - 1)]
                self._servers[-1] += await self._accepting(copies)
        limits = self.limits
        shortest = min(limits.head_timeout, limits.body_timeout, limits.idle_timeout, limits.write_timeout)
        period = min(0.5, shortest / 4)
        if self.doorkeeper is not None:
            self.doorkeeper.pressure.watch()
        self._sweeper = self.loop.create_task(self._sweep(period))
        name = next(iter(self._servers.values()))[0].sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def _attend(self, doors: Doors) -> None:
        """Take connections at the doors at which this process is wanted now, and at no others."""
        wanted = {door.fileno(): door for door in doors.wanted()}
        for number, door in wanted.items():
            if number in self._servers:
                continue
            copy = door.dup()  # a server closes its socket; the door's own queue stays
            copy.listen(_BACKLOG)
            if self._tls is not None:
                encrypted = self._encrypted(self._tls)
                encrypted.serve(copy)
                self._servers[number] = [encrypted]
            else:
                copies = [copy, *(copy.dup() for _ in range(_HANDLES - 1))]
                self._servers[number] = servers = await self._accepting(copies)
                if self.draining:  # meanwhile
                    self._leave(servers)
        for number in [number for number in self._servers if number not in wanted]:
            self._leave(self._servers.pop(number))

    async def _accepting(self, sockets: Sequence[socket]) -> list[Any]:
        """One server for each of these, which closes it."""
        return [
            await self.loop.create_server(lambda: Connection(self), sock=each, backlog=_BACKLOG)
            for each in sockets
        ]

    @staticmethod
    def _leave(servers: Sequence[Any]) -> None:
        """Take no new connection there; those that were accepted go on."""
        for server in servers:
            if isinstance(server, TlsServer):
                server.leave()
            else:
                server.close()

    def _encrypted(self, tls: PortTls) -> TlsServer:
        return TlsServer(
            tls,
            partial(TlsConnection, self),
            handshake_timeout=lambda: self.limits.head_timeout,
            room=lambda coming: len(self._connections) + coming < self.limits.connections,
        )

    def admit(self, connection: Connection) -> bool:
        """Count a new connection in, unless there are too many."""
        if len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        self._empty.clear()
        return True

    def forget(self, connection: Connection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    @property
    def connections(self) -> int:
        """Open client connections."""
        return len(self._connections)

    def name(self, exchange: Exchange) -> None:
        """Give the request an id and a trace where its client gave none (or an unusable one)."""
        if not exchange.request_id:
            self._id_count += 1
            exchange.request_id = f"{self._id_prefix}{self._id_count:x}"
        if not exchange.traceparent and self._names_traces:
            ids = "%048x" % (self._chance.getrandbits(192) | _NOT_ZERO)
            exchange.traceparent = f"00-{ids[:32]}-{ids[32:]}-01"

    async def drain(self, timeout: float) -> None:
        """Take no new connection, finish what is in flight for at most `timeout` seconds, then close.

        A connection that waits for a request stays for a moment, and so does one that was accepted just now:
        what is on its way is answered, with `connection: close` (RFC 9112 section 9.6).
        """
        self.draining = True
        servers = [server for each in self._servers.values() for server in each]
        self._servers.clear()
        self._leave(servers)
        if self._doors is not None:
            self._doors.close()
        for _ in range(_ACCEPTED_ROUNDS):
            await asyncio.sleep(0)  # what was accepted in this moment becomes a connection
        grace = min(LAST_REQUEST_S, timeout / 2)
        by = self.clock.now() + grace
        for connection in list(self._connections):
            connection.retire(by)
        while any(isinstance(server, TlsServer) and server.handshakes for server in servers):
            if self.clock.now() >= by:
                break
            await asyncio.sleep(_HANDSHAKES_S)
        for server in servers:
            server.close()
        await self._emptied(by - self.clock.now())
        for connection in list(self._connections):
            connection.sweep(self.clock.now())
        await self._emptied(timeout - grace)
        for connection in list(self._connections):
            log.warning("closing a connection whose request did not finish within the drain timeout")
            connection.abandon()
        await self._empty.wait()
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self.doorkeeper is not None:
            self.doorkeeper.pressure.close()

    async def _emptied(self, within: float) -> None:
        """Wait for the last connection to close, for so many seconds at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), max(0.0, within))

    async def _sweep(self, period: float) -> None:
        while True:
            await asyncio.sleep(period)
            if self._doors is not None and not self.draining:
                await self._attend(self._doors)
            now = self.clock.now()
            for connection in list(self._connections):
                connection.sweep(now)
