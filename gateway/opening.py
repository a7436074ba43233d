"""Makes instances boot for a pool: one background task per instance, with a time limit and one ending.

A pool takes the slot and says what for; this sends the ping and tells the pool what became of it. What it
costs is the backend's to book. It knows no pool, no policy and no concrete backend, and decides nothing.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from backends.base import Backend, Spawn
from gateway.errors import BackendError
from gateway.vocab import Usage, Verdict

log = logging.getLogger("overspill.opening")

SHORTEST_LIMIT_S = 60.0
TAILS = 2.0
"""A ping is given up after so many times the expected tail of a cold start, or after the above if that is
longer. It is generous: what is given up may boot all the same, and be paid for."""

Done = Callable[[Verdict, float | None], None]


class OpeningSlot(Protocol):
    """What is needed of the slot on which an instance boots (`gateway.capacity.Slot` is one)."""

    @property
    def backend(self) -> Backend: ...
    @property
    def replica(self) -> int: ...
    @property
    def opening(self) -> bool:
        """False where an instance that idles there is only to be kept."""
        ...

    used: bool


class Opening:
    """Opens instances (`gateway.pool.Opener`).

    spawn:      starts a background task
    cold_tail:  expected 99th percentile of a cold start, in seconds, by route and backend
    limit_s:    least seconds that a ping is given
    """

    def __init__(
        self,
        *,
        spawn: Spawn,
        cold_tail: Callable[[str, str], float],
        limit_s: float = SHORTEST_LIMIT_S,
    ) -> None:
        self._spawn = spawn
        self._cold_tail = cold_tail
        self._limit_s = limit_s
        self._waiting: dict[object, Done] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failing: set[str] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, slot: OpeningSlot, *, route: str, kind: str, done: Done) -> None:
        """Have an instance boot on the slot's place, or be kept where `slot.opening` is false.

        Returns at once. Calls `done` exactly once, never from within: as a success, with the seconds of the
        boot if there was one and they are known, or as what became of it. `route` and `kind` say who pays.
        """
        key = object()
        self._waiting[key] = done
        name = f"open {slot.backend.name} for {route}"
        self._spawn(self._run(key, slot, route, kind), name=name)

    async def close(self) -> None:
        """Give up every ping: each `done` is called. What is opened afterwards ends at once."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for key in list(self._waiting):  # a task that was cancelled before its first step never ran
            self._end(key, Verdict.NEUTRAL, None)

    async def _run(self, key: object, slot: OpeningSlot, route: str, kind: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        verdict, boot_s = Verdict.NEUTRAL, None
        try:
            if not self._closed:
                verdict, boot_s = await self._ping(slot, route, kind)
        finally:
            self._tasks.discard(task)
            self._end(key, verdict, boot_s)

    async def _ping(self, slot: OpeningSlot, route: str, kind: str) -> tuple[Verdict, float | None]:
        backend = slot.backend
        limit = max(self._limit_s, TAILS * self._cold_tail(route, backend.name))
        slot.used = True
        usage: Usage | None = None
        try:
            async with asyncio.timeout(limit):
                usage = await backend.ping(slot.replica, route=route, kind=kind, fresh=slot.opening)
        except BackendError as error:
            self._failed(backend.name, error.word)
            return error.verdict, None
        except TimeoutError:
            self._failed(backend.name, f"not up after {limit:.0f} s")
            return Verdict.FAILURE, None
        if backend.name in self._failing:
            self._failing.discard(backend.name)
            log.info("backend %s: instances can be opened again", backend.name)
        # No boot, no lesson: an instance that was up already says nothing about how long one takes.
        return Verdict.SUCCESS, (usage.boot_s or None) if usage is not None else None

    def _failed(self, backend: str, why: str) -> None:
        """Said once until one succeeds again: an outage has many pings. Never what a provider answered."""
        if backend not in self._failing:
            self._failing.add(backend)
            log.warning("backend %s: no instance could be opened (%s)", backend, why)

    def _end(self, key: object, verdict: Verdict, boot_s: float | None) -> None:
        done = self._waiting.pop(key, None)
        if done is not None:
            done(verdict, boot_s)


__all__ = ["Opening", "OpeningSlot"]
