"""The hedges of a route: when a second attempt is due, how many there may be, and where one goes.

A hedge never waits and is never an error: without a free slot elsewhere, a token of the retry budget, money
in the spill budget and room in the route's own share there is none. Calls that must not be sent twice are
left alone: those that are not idempotent, questions about a model, bodies that are not held, best effort.

It knows the pool; who wins is not its affair (`hedge.py`).
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from copy import copy
from random import Random
from typing import NamedTuple, Protocol

from backends.base import Spawn
from gateway.clock import Clock
from gateway.config.schema import Settings
from gateway.dispatch import Attempt, Sending
from gateway.errors import Shed
from gateway.hedge import Race, Second
from gateway.lease import Lease
from gateway.pool import Pool
from gateway.record import Hedged, Record
from gateway.sketch import Sketch
from gateway.vocab import Call, Reason, Reply
from gateway.windows import Window
from policies.base import Action, Hold, Run

SHARE_S = 600.0
"""The share of hedges is one of the calls of so many seconds."""
_SHARE_SLOTS = 60
HALF_LIFE_S = 600.0
"""How soon a service time that was seen counts half."""
RECKONED_EVERY = 16
"""A quantile is worked out anew after so many answers."""


class Learned:
    """A quantile of how long answers take to begin, kept up to date.

    An attempt that was cancelled because its hedge was faster counts with the time that it had been given. It
    would have taken longer; left out, the quantile would sink with every hedge, and make more of them.
    """

    __slots__ = ("_fresh", "_needed", "_quantile", "_seen", "_sketch", "value")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._sketch = Sketch(HALF_LIFE_S)
        self._needed = round(1.0 / (1.0 - quantile))
        self._seen = self._fresh = 0
        self.value: float | None = None
        """Seconds; None until one answer beyond it is to be expected among those seen."""

    def learn(self, seconds: float, now: float) -> None:
        """An answer began after so long, or had not begun."""
        self._sketch.insert(seconds, now)
        self._seen += 1
        self._fresh += 1
        if self._seen >= self._needed and (self.value is None or self._fresh >= RECKONED_EVERY):
            self._fresh = 0
            self.value = self._sketch.quantile(self._quantile)


class Noting(Protocol):
    """Who is told of every hedge."""

    def hedges(self, lease: Lease, action: Run, now: float, hedged: Hedged) -> None:
        """It is about to start. `hedged` says later what became of it."""
        ...


class Allotment:
    """Most calls that may be hedged: a share of those within any `SHARE_S` seconds, rounded up."""

    __slots__ = ("_calls", "_hedges", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        self._calls = Window(SHARE_S, _SHARE_SLOTS)
        self._hedges = Window(SHARE_S, _SHARE_SLOTS)

    def called(self, now: float) -> None:
        """A call has come that could be hedged."""
        self._calls.add(1, now)

    def hedged(self, now: float) -> None:
        """One was."""
        self._hedges.add(1, now)

    def with_share(self, other: "Allotment") -> "Allotment":
        """The same calls and hedges, and the share of the other."""
        other._calls, other._hedges = self._calls, self._hedges
        return other

    def permits(self, now: float) -> bool:
        """There may be one more."""
        return self._hedges.total(now) < self._share * self._calls.total(now)


class _Beside(NamedTuple):
    """What a pool must know about the second attempt (`gateway.lease.Attempt`)."""

    number: int
    tried: Collection[tuple[str, int]]


class Hedging:
    """The hedges of one route.

    after_s, quantile:  when the second attempt starts, counted from the first: after that time, or after
                        that quantile of how long such calls take on the first one's backend
    share:              most calls of any ten minutes that may be hedged, rounded up to whole calls
    """

    def __init__(
        self,
        pool: Pool,
        *,
        after_s: float | None,
        quantile: float | None,
        share: float,
        clock: Clock,
        chance: Random,
        spawn: Spawn,
    ) -> None:
        self.noting: Noting | None = None
        self.clock = clock
        self.spawn = spawn
        self._pool = pool
        self._tiers = {tier.name: tier for tier in pool.tiers}
        self._after_s = after_s
        self._quantile = quantile
        self._allotment = Allotment(share)
        self._chance = chance
        self._learned: dict[tuple[str, int], Learned] = {}

    def inherit(self, earlier: "Hedging") -> None:
        """Go on with what this route learned, and had of its share, under an earlier configuration."""
        if earlier._quantile == self._quantile:
            self._learned = earlier._learned
        self._allotment = earlier._allotment.with_share(self._allotment)

    def around(
        self,
        sending: Sending,
        call: Call,
        lease: Lease,
        attempt: Attempt,
        record: Record,
        *,
        task: asyncio.Task[None] | None,
    ) -> AbstractAsyncContextManager[Reply]:
        """A race around `sending`; itself where the call may not be sent twice or was hedged already."""
        if (
            not call.idempotent
            or not call.inference
            or record.hedge is not None
            or call.priority == "best_effort"
            or call.body.whole() is None
        ):
            return sending
        if not attempt.number:
            self._allotment.called(self.clock.now())
        return Race(self, sending, call, lease, attempt, record, task)

    # -- when ----------------------------------------------------------------------------------

    def after(self, backend: str, bucket: int) -> float | None:
        """Seconds until a hedge of such a call; None while that is not known."""
        if self._quantile is None:
            return self._after_s
        known = self._learned.get((backend, bucket))
        return None if known is None else known.value

    def learn(self, backend: str, bucket: int, seconds: float, now: float) -> None:
        """The first attempt at such a call took so long to answer, or longer."""
        if self._quantile is None:
            return
        known = self._learned.get((backend, bucket))
        if known is None:
            known = self._learned[backend, bucket] = Learned(self._quantile)
        known.learn(seconds, now)

    def permits(self, now: float) -> bool:
        """The route's share has room for one more."""
        return self._allotment.permits(now)

    # -- where ---------------------------------------------------------------------------------

    def second(self, call: Call, lease: Lease, attempt: Attempt) -> Second | None:
        """A slot for a second attempt, paid for in every currency; None where one of them is wanting.

        The policy says where, as for a call that comes now. Where it would have an instance boot for whoever
        is first, the hedge boots it; where it would let the call wait, there is no hedge.
        """
        now = self.clock.now()
        first = lease.slot
        assert first is not None
        again = copy(call)
        tried = frozenset(attempt.tried) | {(first.backend.name, first.replica)}
        beside = Lease(self._pool, again, _Beside(attempt.number + 1, tried))
        beside.due = min(call.deadline, now + lease.due - call.arrived)
        beside.since = now
        backend = _backend(self._pool.policy.arrive(beside, self._pool, now, self._chance))
        if backend is None or not self.permits(now):
            return None
        tier = self._tiers[backend]
        if not beside.free_on(tier) or not tier.affordable(now) or not attempt.may_hedge():
            return None
        try:
            slot = self._pool.take(beside, backend, Reason.HEDGE, now)
        except Shed:
            slot = None
        if slot is None:
            return None
        self._allotment.hedged(now)
        hedged = Hedged(backend, slot.replica_name, slot.taken_at)
        if self.noting is not None:
            self.noting.hedges(beside, Run(backend, Reason.HEDGE), now, hedged)
        return Second(again, beside, slot, hedged)


def of_routes(
    settings: Settings, pools: Mapping[str, Pool], *, clock: Clock, chance: Random, spawn: Spawn
) -> dict[str, Hedging]:
    """One for each route whose section asks for it."""
    return {
        name: Hedging(
            pools[name],
            after_s=options.hedge.after_s,
            quantile=options.hedge.quantile,
            share=options.hedge.share,
            clock=clock,
            chance=chance,
            spawn=spawn,
        )
        for name, options in settings.routes.items()
        if options.hedge is not None
    }


def _backend(action: Action) -> str | None:
    """Where a policy's answer leads at once."""
    if isinstance(action, Run):
        return action.backend
    return action.opens[0].backend if isinstance(action, Hold) and action.opens else None
