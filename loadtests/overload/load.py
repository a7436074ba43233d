"""Calls at a rate that waits for nobody, on as many connections as that takes.

Open loop: when the next call comes does not depend on any answer. A client that has waited `patience_s`
leaves. Cheaper than the gateway that it loads: no parser, no future for each call. Must never know what is
good or bad.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import cast

from gateway.clock import Clock
from loadtests.overload.calls import Kind, Kinds, Seen

_END = b"\r\n\r\n"
_LENGTH = b"content-length: "
_TYPE = b'"type":"'
_TURN_S = 0.002
"""How often it is looked whether calls are due."""
_SWEEP_S = 0.05


class _Line(asyncio.Protocol):
    """One connection; one call at a time."""

    _transport: asyncio.Transport

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._got = b""
        self._invited = False
        self.kind: Kind | None = None
        self.sent_at = 0.0

    def send(self, kind: Kind, now: float) -> None:
        self.kind, self.sent_at = kind, now
        self._transport.write(kind.head + kind.body)

    def leave(self) -> None:
        self._end(0, "no answer in time")
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self)
        if self.kind is not None:
            self._end(0, "reset" if error else "closed")

    def data_received(self, data: bytes) -> None:
        if self._got:
            data = self._got + data
        end = data.find(_END)
        if end >= 0:
            at = data.find(_LENGTH, 0, end)
            length = int(data[at + len(_LENGTH) : data.find(b"\r\n", at)])
            if len(data) >= end + len(_END) + length:
                self._got = b""
                self._answered(data, end)
                return
        self._got = data

    def _answered(self, data: bytes, end: int) -> None:
        status, why = int(data[9:12]), ""
        if status != 200:
            at = data.find(_TYPE, end)
            why = data[at + len(_TYPE) : data.find(b'"', at + len(_TYPE))].decode() if at > 0 else str(status)
        self._end(status, why)
        if data.find(b"connection: close", 0, end) < 0:
            self._load.idle.append(self)

    def _end(self, status: int, why: str) -> None:
        kind, self.kind = self.kind, None
        if kind is not None:
            load = self._load
            load.busy.discard(self)
            load.seen.append(Seen(kind, status, why, load.clock.now() - self.sent_at))


class Load:
    """A load on one port of 127.0.0.1; `seen` is what became of it."""

    def __init__(
        self, port: int, kinds: Kinds, *, connections: int, patience_s: float, chance: Random, clock: Clock
    ) -> None:
        self.clock = clock
        self.seen: list[Seen] = []
        self.lags: list[float] = []
        """How long its own turns took: a load that is late itself says little."""
        self.busy: set[_Line] = set()
        self.idle: list[_Line] = []
        self._port = port
        self._kinds = kinds
        self._most = connections
        self._patience_s = patience_s
        self._chance = chance
        self._lines = 0
        self._opening = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, count: int) -> None:
        """Have so many connections before it begins."""
        while self._lines < min(count, self._most):
            self._lines += 1
            line = await self._connected()
            if line is not None:
                self.idle.append(line)

    async def run(self, rate: float, seconds: float) -> None:
        """`rate` calls a second for so long, and until the last of them has ended."""
        clock, chance = self.clock, self._chance
        due = clock.now() + chance.expovariate(rate)
        ends, swept = clock.now() + seconds, clock.now()
        while due < ends or self.busy or self._opening:
            now = clock.now()
            while due <= now and due < ends:
                self._send(self._kinds.draw(chance), now)
                due += chance.expovariate(rate)
            if now >= swept + _SWEEP_S:
                swept = now
                for line in [line for line in self.busy if now - line.sent_at > self._patience_s]:
                    line.leave()
            await asyncio.sleep(_TURN_S)
            self.lags.append(clock.now() - now)

    async def saturate(self, seconds: float, at_once: int) -> None:
        """So many calls at a time, each followed by the next: what can be done at most."""
        ends = self.clock.now() + seconds
        while self.clock.now() < ends or self.busy:
            while self.idle and len(self.busy) < at_once and self.clock.now() < ends:
                self._send(self._kinds.draw(self._chance), self.clock.now())
            await asyncio.sleep(0)

    def lost(self, line: _Line) -> None:
        """A connection is gone."""
        self._lines -= 1
        if line in self.idle:
            self.idle.remove(line)

    def close(self) -> None:
        """Close what is open."""
        for line in [*self.idle, *self.busy]:
            line.leave()

    def _send(self, kind: Kind, now: float) -> None:
        if self.idle:
            line = self.idle.pop()
            self.busy.add(line)
            line.send(kind, now)
        elif self._lines < self._most:
            self._lines += 1
            self._opening += 1
            task = asyncio.get_running_loop().create_task(self._send_on_new(kind, now))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self.seen.append(Seen(kind, 0, "client has no connection left", 0.0))

    async def _send_on_new(self, kind: Kind, now: float) -> None:
        line = await self._connected()
        self._opening -= 1
        if line is None:
            self.seen.append(Seen(kind, 0, "not connected", self.clock.now() - now))
            return
        self.busy.add(line)
        line.send(kind, now)

    async def _connected(self) -> _Line | None:
        make: Callable[[], _Line] = lambda: _Line(self)  # noqa: E731
        try:
            async with asyncio.timeout(self._patience_s):
                _, line = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", self._port)
        except (OSError, TimeoutError):
            self._lines -= 1
            return None
        return line
