"""`latency_threshold`: wait for the owned tiers while they should answer soon, else the first rented one.

A baseline: what most gateways call latency-based routing. The prediction is the plainest there is, of
means alone: so long as calls are waiting, some slot frees every `mean service / slots`, so

    answer = now + (work that waits before the call + mean service) / slots + its own mean time to answer

and the call is spilled as soon as that is later than `threshold` after it came. It knows no spread (half
of what it calls in time will be late where the threshold is the budget), no cold starts and no price.

A call that would be late and finds every rented slot taken waits as well: nothing is given up while some
tier could take it. `when_full` is not looked at.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

from pydantic import Field

from gateway.options import Duration
from gateway.vocab import Reason
from policies.base import (
    Action,
    Hold,
    Policy,
    PolicyOptions,
    PoolView,
    RequestView,
    Run,
    Shed,
    Take,
    TierView,
    policies,
)
from policies.choice import reason, usable

AGAIN_S = 0.001
"""Soonest that a call is looked at again."""


class LatencyThresholdOptions(PolicyOptions):
    """How long an answer may take."""

    threshold: Duration | None = Field(default=None, gt=0)
    """Predicted time to the answer, from which on calls are spilled; the latency budget when left out."""


@policies.add("latency_threshold")
class LatencyThreshold(Policy):
    """Spill when the fleet is predicted to answer too late, by its means alone."""

    Options: ClassVar[type[PolicyOptions]] = LatencyThresholdOptions
    learns: ClassVar[bool] = True
    EXAMPLE: ClassVar[Mapping[str, Any]] = {"threshold": "250ms"}

    def __init__(self, options: PolicyOptions) -> None:
        super().__init__(options)
        assert isinstance(options, LatencyThresholdOptions)
        self._threshold = options.threshold

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """An owned slot, else a place in a queue that is fast enough, else a rented slot."""
        return self._answer(request, pool, now, queued=False)

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The same, for a call that has been waiting."""
        return self._answer(request, pool, now, queued=True)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """Owned: the first in the queue. Rented: the first for which the owned tiers are too slow."""
        tiers = pool.tiers
        place = next(i for i, tier in enumerate(tiers) if tier.options.backend == backend)
        freed = tiers[place]
        if freed.blocked is not None or not freed.free:
            return None
        ahead = 0.0
        for request in pool.waiting:
            if usable(freed, request) and request.free_on(freed):
                if freed.owned:
                    return Take(request, reason(tiers, place, request, queued=True))
                if not self._spare(request, pool, ahead, now) > 0.0:
                    return Take(request, _rented(tiers, place, request, queued=True))
            ahead += request.work
        return None

    def explain(self, action: Action, request: RequestView, pool: PoolView, now: float) -> str:
        """What the threshold is."""
        limit = "its latency budget" if self._threshold is None else f"{self._threshold:g} s"
        return f"waits for the fleet while that is predicted, by means alone, to answer within {limit}"

    def _answer(self, request: RequestView, pool: PoolView, now: float, *, queued: bool) -> Action:
        tiers = pool.tiers
        possible = False
        for place, tier in enumerate(tiers):
            if tier.owned and usable(tier, request):
                if request.free_on(tier):
                    return Run(tier.options.backend, reason(tiers, place, request, queued=queued))
                possible = True
        spare = self._spare(request, pool, pool.ahead(request), now)
        if spare > 0.0:
            # If nothing were to end until then, the prediction would reach the threshold.
            return Hold(min(max(now + spare, now + AGAIN_S), request.deadline))
        for place, tier in enumerate(tiers):
            if not tier.owned and usable(tier, request):
                if request.free_on(tier):
                    return Run(tier.options.backend, _rented(tiers, place, request, queued=queued))
                possible = True
        return Hold(request.deadline) if possible else Shed(Reason.SHED_FULL, contended=False)

    def _spare(self, request: RequestView, pool: PoolView, ahead: float, now: float) -> float:
        """Seconds by which the owned tiers are predicted to be faster than they must; negative: slower."""
        slots = 0
        first: TierView | None = None
        for tier in pool.tiers:
            if tier.owned and usable(tier, request):
                slots += tier.capacity
                first = first or tier
        if first is None or not slots:
            return -1.0
        due = request.due if self._threshold is None else request.since + self._threshold
        wait = (ahead + first.overall.mean) / slots
        return due - now - wait - first.answer(request).mean


def _rented(tiers: Sequence[TierView], place: int, request: RequestView, *, queued: bool) -> Reason:
    """`spill_slow` where owned tiers work, and are too slow; else what the other simple policies say."""
    word = reason(tiers, place, request, queued=queued)
    return Reason.SPILL_SLOW if word is Reason.SPILL_FULL and any(t.owned for t in tiers[:place]) else word
