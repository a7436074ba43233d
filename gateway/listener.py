"""Step 1, the port: own the socket and all its connections, sweep out the stuck ones, drain.

What happens on one connection is in `connection.py`. Knows nothing of routes or backends.

Timers: every connection carries the moment at which it has waited too long, and one sweep looks at
all of them. A timer per request would cost more than the request.
"""

import asyncio
import contextlib
import logging
import random
from functools import partial

from gateway.accepting import Accepting, Doors
from gateway.clock import Clock
from gateway.connection import LAST_REQUEST_S, Connection, Handler, ListenerLimits
from gateway.cork import Cork
from gateway.doorkeeper import Doorkeeper
from gateway.exchange import Certificate, Exchange
from gateway.heads import MOST, Head
from gateway.kept_fields import HeadTable
from gateway.tls import PortTls, TlsServer

log = logging.getLogger("overspill.listener")

_NOT_ZERO = 1 << 64 | 1
"""W3C Trace Context forbids a trace id or a span id of zeros only."""


_HANDLES = 4
"""Handles of the event loop on each socket that listens (`gateway.accepting`)."""


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
    cork:          by which answers are written; None: each by itself
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
        cork: Cork | None = None,
    ) -> None:
        self.doorkeeper = doorkeeper
        self.cork = cork or Cork(at_once=True)
        self.handler = handler
        self.limits = limits
        self.clock = clock
        self.draining = False
        self.heads = HeadTable[Head](MOST)
        self._chance = chance
        self._names_traces = names_traces
        self._connections: set[Connection] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._id_prefix = f"{chance.getrandbits(64):016x}-"
        self._id_count = 0
        self._empty = asyncio.Event()
        self._empty.set()
        encrypted = None if tls is None else partial(
            TlsServer,
            tls,
            partial(TlsConnection, self),
            handshake_timeout=lambda: self.limits.head_timeout,
            room=lambda coming: len(self._connections) + coming < self.limits.connections,
        )  # fmt: skip
        self._accepting = Accepting(lambda: Connection(self), encrypted, handles=_HANDLES)

    async def open(self, host: str, port: int, *, doors: Doors | None = None) -> tuple[str, int]:
        """Listen; returns the address really bound (port 0 asks the system for one).

        doors:  sockets that are bound already and outlive this listener, in place of the address
        """
        self.loop = asyncio.get_running_loop()
        address = await self._accepting.open(host, port, doors=doors)
        limits = self.limits
        shortest = min(limits.head_timeout, limits.body_timeout, limits.idle_timeout, limits.write_timeout)
        period = min(0.5, shortest / 4)
        if self.doorkeeper is not None:
            self.doorkeeper.pressure.watch()
        self._sweeper = self.loop.create_task(self._sweep(period))
        return address

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
        if not (exchange.request_id and exchange.traceparent):
            request_id, traceparent = self.names()
            exchange.request_id = exchange.request_id or request_id
            exchange.traceparent = exchange.traceparent or traceparent

    def names(self) -> tuple[str, str]:
        """The id and the traceparent of a request whose client gave none."""
        self._id_count = count = self._id_count + 1
        request_id = f"{self._id_prefix}{count:x}"
        if not self._names_traces:
            return request_id, ""
        ids = "%048x" % (self._chance.getrandbits(192) | _NOT_ZERO)
        return request_id, f"00-{ids[:32]}-{ids[32:]}-01"

    async def drain(self, timeout: float) -> None:
        """Take no new connection, finish what is in flight for at most `timeout` seconds, then close.

        A connection that waits for a request stays for a moment, and so does one that was accepted just now:
        what is on its way is answered, with `connection: close` (RFC 9112 section 9.6).
        """
        self.draining = True
        await self._accepting.leave()
        grace = min(LAST_REQUEST_S, timeout / 2)
        by = self.clock.now() + grace
        for connection in list(self._connections):
            connection.retire(by)
        await self._accepting.shaken(lambda: self.clock.now() >= by)
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
            await self._accepting.attend()
            now = self.clock.now()
            for connection in list(self._connections):
                connection.sweep(now)
