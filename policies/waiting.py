"""What the baseline policies share: take a free slot of some tiers, else wait for one until the deadline.

They stand for rules that are common elsewhere, and take no notice of `when_full`: that a call may
not wait, or not for long, would be a rule of another kind.

Pure functions over the views of `policies.base`; knows no policy.
"""

from collections.abc import Sequence

from gateway.vocab import Reason
from policies.base import Action, Hold, PoolView, RequestView, Run, Shed, Take, TierView
from policies.choice import reason, usable


def run_or_wait(request: RequestView, pool: PoolView, *, owned: bool, queued: bool) -> Action:
    """Run on the first owned (rented) tier that has a slot; wait while one of them could have; else shed."""
    possible = False
    for place, tier in enumerate(pool.tiers):
        name = tier.name
        if tier.owned is owned and tier.blocked is None and request.may_use(name):
            if tier.free and (not request.attempt or request.free_on(tier)):
                if owned and not request.attempt:
                    return Run(name, Reason.WARM_QUEUED if queued else Reason.WARM)
                return Run(name, _reason(pool.tiers, place, request, queued=queued))
            possible = True
    if possible:
        return Hold(request.deadline)
    return Shed(Reason.SHED_FULL, contended=any(usable(tier, request) for tier in pool.tiers))


def first_in_queue(backend: str, pool: PoolView, *, owned: bool) -> Take | None:
    """The freed slot of `backend`, if that is an owned (rented) tier, goes to the earliest deadline."""
    for place, tier in enumerate(pool.tiers):
        if tier.name == backend:
            if tier.owned is owned and tier.free and tier.blocked is None:
                for request in pool.waiting:
                    if request.may_use(backend) and (not request.attempt or request.free_on(tier)):
                        if owned and not request.attempt:
                            return Take(request, Reason.WARM_QUEUED)
                        return Take(request, _reason(pool.tiers, place, request, queued=True))
            break
    return None


def _reason(tiers: Sequence[TierView], place: int, request: RequestView, *, queued: bool) -> Reason:
    """As if only the rented tiers, or only the owned ones, were listed."""
    if tiers[place].owned:
        return Reason.FALLBACK if request.attempt else Reason.WARM_QUEUED if queued else Reason.WARM
    rented = [other for other in tiers[: place + 1] if not other.owned]
    return reason(rented, len(rented) - 1, request, queued=queued)
