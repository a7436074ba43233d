"""Asking the replicas of one backend whether they can serve, again and again.

All the waiting of health checks is here; what an answer means for the slots is `capacity.py`'s part.
Knows the backend contract; never a policy or a call.
"""

import asyncio
import contextlib
from random import Random

from gateway.capacity import Capacity
from gateway.clock import Clock
from gateway.replica_set import PROBE_FAILURES

PROBE_TIMEOUT_S = 2.0
"""A probe that takes longer has failed."""


class Readiness:
    """The probes of one backend."""

    def __init__(self, capacity: Capacity, *, clock: Clock, chance: Random) -> None:
        self._capacity = capacity
        self._clock = clock
        self._chance = chance
        self._asked: set[int] = set()
        self._wake = asyncio.Event()
        capacity.asks = self.ask

    def ask(self, index: int) -> None:
        """Probe this replica now, not in the next round: a breaker waits for its answer."""
        self._asked.add(index)
        self._wake.set()

    async def probe_all(self) -> None:
        """Ask every replica once, all at the same time."""
        async with asyncio.TaskGroup() as group:
            for replica in self._capacity.replicas:
                group.create_task(self._probe(replica.index))

    async def run(self, interval: float) -> None:
        """Probe for ever, every `interval` seconds give or take a tenth; a first failure is checked sooner.

        Returns only by cancellation.
        """
        while True:
            await self.probe_all()
            replicas = self._capacity.replicas
            suspected = any(0 < replica.failed_probes < PROBE_FAILURES for replica in replicas)
            seconds = interval / 4 if suspected else interval
            await self._rest(seconds * (0.9 + 0.2 * self._chance.random()))

    async def _rest(self, seconds: float) -> None:
        """Until the next round, which takes over what is not answered by then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    asked, self._asked = self._asked, set()
                    async with asyncio.TaskGroup() as group:
                        for index in asked:
                            group.create_task(self._probe(index))

    async def _probe(self, index: int) -> None:
        answer: bool | None
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                answer = await self._capacity.backend.probe(index)
        except Exception:
            # Probes promise not to raise. For one that does, no answer is vouched for, and the other
            # replicas' probes go on.
            answer = False
        self._capacity.note_ready(index, answer, self._clock.now())
