"""`queue_threshold`: wait for the owned tiers while the queue is short, else the first rented one.

A baseline: the rule that most gateways spill by. Short means fewer calls waiting than `threshold`
times the slots of the owned tiers that can take calls. It knows neither how long a call may wait nor
how long a cold start takes.

A call that finds the queue too long and every rented slot taken waits as well: nothing is given up
while some tier could take it. `when_full` is not looked at.
"""

from collections.abc import Sequence
from random import Random
from typing import ClassVar

from pydantic import Field

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
    policies,
)
from policies.choice import reason, usable


class QueueThresholdOptions(PolicyOptions):
    """How long a queue may be."""

    threshold: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    """Waiting calls for each owned slot, from which on calls are spilled."""


@policies.add("queue_threshold")
class QueueThreshold(Policy):
    """Spill when the queue is long."""

    Options: ClassVar[type[PolicyOptions]] = QueueThresholdOptions

    def __init__(self, options: PolicyOptions) -> None:
        super().__init__(options)
        assert isinstance(options, QueueThresholdOptions)
        self._threshold = options.threshold

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """An owned slot, else a place in a short queue, else a rented slot."""
        return self._answer(request, pool, len(pool.waiting), queued=False)

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The same, with the calls that wait before this one as the queue."""
        ahead = len(pool.waiting)
        for place, other in enumerate(pool.waiting):
            if other is request:
                ahead = place
                break
        return self._answer(request, pool, ahead, queued=True)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """Owned: the earliest deadline. Rented: the first call for which the queue is too long."""
        tiers = pool.tiers
        place = next(i for i, tier in enumerate(tiers) if tier.options.backend == backend)
        freed = tiers[place]
        if freed.blocked is not None or not freed.free:
            return None
        owned = [] if freed.owned else [tier for tier in tiers if tier.owned and tier.blocked is None]
        names = [tier.options.backend for tier in owned]
        short = self._threshold * sum(tier.capacity for tier in owned)
        for ahead, request in enumerate(pool.waiting):
            if ahead < short and _may_use_any(request, names):
                continue
            if request.free_on(freed) and request.may_use(backend):
                return Take(request, reason(tiers, place, request, queued=True))
        return None

    def _answer(self, request: RequestView, pool: PoolView, ahead: int, *, queued: bool) -> Action:
        tiers = pool.tiers
        possible = False
        for owned in (True, False):
            for place, tier in enumerate(tiers):
                if tier.owned is owned and usable(tier, request):
                    if request.free_on(tier):
                        return Run(tier.options.backend, reason(tiers, place, request, queued=queued))
                    possible = True
            if owned and possible:
                slots = sum(tier.capacity for tier in tiers if tier.owned and tier.blocked is None)
                if ahead < self._threshold * slots:
                    break
        if possible:
            return Hold(request.deadline)
        return Shed(Reason.SHED_FULL, contended=False)


def _may_use_any(request: RequestView, backends: Sequence[str]) -> bool:
    for name in backends:  # noqa: SIM110 - any() would make a generator for every call in the queue
        if request.may_use(name):
            return True
    return False
