"""Asks the replicas of a Triton fleet how busy they are, again and again, and counts own calls beside it.

All the waiting of it is here; what the figures mean is in `triton_load.py`. Knows no slots: it tells
`Places`, whose affair they are.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from random import Random
from types import TracebackType
from typing import NamedTuple

from pydantic import Field

from backends.base import Places
from backends.load_report import LARGEST_METRICS, ORCA, ORCA_FORMAT, from_field
from backends.replica_connections import Attempt, ReplicaConnections
from backends.triton_load import MISSED, ReplicaLoad, read_metrics
from gateway.clock import Clock
from gateway.errors import BackendBroke, BackendError
from gateway.options import Duration, Options
from gateway.vocab import Call, Reply, WholeBody

log = logging.getLogger("overspill.triton")

MOST_MODELS = 256
"""Names of models that are remembered; a server with more of them has all its models counted."""
ASKS_FOR_REPORT = ORCA_FORMAT + b": JSON\r\n"


class MetricsOptions(Options):
    """The servers' own metrics, which tell of other clients' calls."""

    port: int = Field(default=8002, ge=1, le=65535)
    """Metrics port on the host of each replica."""
    path: str = Field(default="/metrics", pattern=r"^/[!-~]*$")
    """Path of the metrics there."""
    every: Duration = Field(default=1.0, ge=0.1, le=60.0)
    """Time between two looks at each replica. What was seen counts until three were missed."""


class _Watched(NamedTuple):
    name: str
    load: ReplicaLoad
    connections: ReplicaConnections


class TritonWatch:
    """The load of each replica, by its index."""

    def __init__(
        self, options: MetricsOptions, *, clock: Clock, chance: Random, connect_timeout: float
    ) -> None:
        self._options = options
        self._clock = clock
        self._chance = chance
        self._connect_timeout = connect_timeout
        self._watched: dict[int, _Watched] = {}
        self._silent: set[str] = set()
        self._models: set[str] = set()

    def add(self, index: int, host: str) -> None:
        """A replica is there, on this host."""
        self.remove(index)
        name = f"[{host}]" if ":" in host else host
        connections = ReplicaConnections(
            f"http://{name}:{self._options.port}",
            clock=self._clock,
            connect_timeout=self._connect_timeout,
            keep_idle=30.0,
        )
        self._watched[index] = _Watched(name, ReplicaLoad(), connections)

    def remove(self, index: int) -> None:
        """It is not asked any more."""
        watched = self._watched.pop(index, None)
        if watched is not None:
            watched.connections.close()
            self._silent.discard(watched.name)

    def counted(
        self, call: Call, index: int, attempt: AbstractAsyncContextManager[Reply]
    ) -> AbstractAsyncContextManager[Reply]:
        """The attempt, told to the replica's load."""
        watched = self._watched.get(index)
        if watched is None or not call.inference:
            return attempt
        if len(self._models) < MOST_MODELS and call.model:
            self._models.add(call.model)
        return _Counted(attempt, watched.load, self._clock, strip=not _asked(call))

    def close(self) -> None:
        """Close the connections."""
        for index in list(self._watched):
            self.remove(index)

    async def run(self, places: Places) -> None:
        """Ask for ever. Returns only by cancellation."""
        while True:
            await self.poll(places)
            await asyncio.sleep(self._options.every * (0.9 + 0.2 * self._chance.random()))

    async def poll(self, places: Places) -> None:
        """Ask every replica once, all at the same time."""
        async with asyncio.TaskGroup() as group:
            for index, watched in self._watched.items():
                group.create_task(self._poll(index, watched, places))

    async def _poll(self, index: int, watched: _Watched, places: Places) -> None:
        try:
            figures = read_metrics(await self._read(watched.connections))
        except (BackendError, TimeoutError) as error:
            if self._watched.get(index) is watched and watched.load.missed():
                self._say_silent(watched, error)
                places.note_load(index, None)
            return
        if self._watched.get(index) is not watched:  # it left meanwhile
            return
        models = self._models if len(self._models) < MOST_MODELS else ()
        load = watched.load.polled(figures, models, self._clock.now())
        if watched.name in self._silent:
            self._silent.discard(watched.name)
            log.info("%s tells its load again", watched.name)
        places.note_load(index, load)

    def _say_silent(self, watched: _Watched, error: Exception) -> None:
        if watched.name not in self._silent:
            self._silent.add(watched.name)
            why = str(error) or "it did not answer in time"
            log.warning("%s has not told its load %d times in a row: %s", watched.name, MISSED, why)

    async def _read(self, connections: ReplicaConnections) -> bytes:
        """The metrics. Raises BackendError, TimeoutError."""
        head = b"GET %b HTTP/1.1\r\nhost: %b\r\naccept-encoding: identity\r\n" % (
            self._options.path.encode("ascii"),
            connections.authority,
        )
        asking = Attempt(connections, b"GET", head, WholeBody(b""), _resend=True)
        async with asyncio.timeout(self._connect_timeout + 1.0), asking as reply:
            if reply.status != 200:
                raise BackendBroke(f"its metrics answered {reply.status}")
            if reply.stream is None:
                return reply.body or b""
            parts, size = [], 0
            async for part in reply.stream:
                parts.append(part)
                size += len(part)
                if size > LARGEST_METRICS:
                    raise BackendBroke(f"its metrics are over {LARGEST_METRICS} bytes")
            return b"".join(parts)


def _asked(call: Call) -> bool:
    return any(name == ORCA_FORMAT for name, _ in call.headers)


def report_wanted(call: Call) -> bytes:
    """The field that asks for a load report, where Triton would give one and the client has not asked."""
    return ASKS_FOR_REPORT if call.operation.startswith("generate") and not _asked(call) else b""


class _Counted:
    """An attempt whose time is counted, and whose answer's load report is read."""

    __slots__ = ("_attempt", "_began", "_load", "_now", "_strip")

    def __init__(
        self, attempt: AbstractAsyncContextManager[Reply], load: ReplicaLoad, clock: Clock, *, strip: bool
    ) -> None:
        self._attempt = attempt
        self._load = load
        self._now: Callable[[], float] = clock.now
        self._strip = strip
        self._began = 0.0

    async def __aenter__(self) -> Reply:
        self._began = self._now()
        self._load.began()
        try:
            reply = await self._attempt.__aenter__()
        except BaseException:
            self._load.ended(self._now() - self._began)
            raise
        field = next((value for name, value in reply.headers if name == ORCA), None)
        if field is not None:
            report = from_field(field)
            if report is not None and report.kv_cache is not None:
                self._load.kv_cache = report.kv_cache
            if self._strip:  # a new list: the old one may stand for every answer with this head
                reply.headers = [each for each in reply.headers if each[0] != ORCA]
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await self._attempt.__aexit__(kind, error, trace)
        finally:
            self._load.ended(self._now() - self._began)
