"""`weighted`: each call draws its tier, with chances in proportion to the tiers' `weight`.

For splitting traffic on purpose: a canary next to what it is to replace, two fleets of unequal
size. A tier that was drawn and is full follows its own `when_full`: `spill` draws again among the
others, `queue` waits for it first, `shed` gives up. A call keeps to its draw while it waits, unless
a tier becomes blocked or usable meanwhile, which is a new draw.

A tier that is blocked, or that cannot take the call, is not in the draw; the others share its calls.
Weight 0 is a standby: used only when no tier with a weight is left, and then in the order of the file.
"""

from collections.abc import Sequence
from random import Random

from gateway.vocab import Reason
from policies.base import Action, Policy, PoolView, RequestView, Run, Take, TierView, policies
from policies.choice import allowed, reason, usable, walk


@policies.add("weighted")
class Weighted(Policy):
    """Draw a tier by weight."""

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """Draw until a tier takes the call, makes it wait, or sheds it."""
        return _answer(request, pool, now, queued=False)

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The same, for a call that has been waiting."""
        return _answer(request, pool, now, queued=True)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """The earliest deadline among the calls that have drawn this tier by now."""
        freed = next(tier for tier in pool.tiers if tier.options.backend == backend)
        if freed.blocked is None and freed.free:
            for request in pool.waiting:
                if not request.free_on(freed):
                    continue
                drawn = _draw(pool.tiers, request)
                if freed in drawn and allowed(drawn, place := drawn.index(freed), request, now):
                    return Take(request, _word(pool.tiers, drawn, place, request, queued=True))
        return None


def _answer(request: RequestView, pool: PoolView, now: float, *, queued: bool) -> Action:
    drawn = _draw(pool.tiers, request)
    found = walk(drawn, request, now)
    if isinstance(found, int):
        word = _word(pool.tiers, drawn, found, request, queued=queued)
        return Run(drawn[found].options.backend, word)
    return found


def _draw(tiers: Sequence[TierView], request: RequestView) -> list[TierView]:
    """The tiers in the order in which this call draws them: by weight, without putting back.

    One number is enough for all draws: where it fell inside the share of the tier it hit is a
    fresh uniform number for the next draw.
    """
    candidates = [tier for tier in tiers if usable(tier, request)]
    left = [tier for tier in candidates if tier.options.weight > 0]
    if not left:
        return candidates
    order: list[TierView] = []
    lot = request.lot
    while len(left) > 1:
        mark = lot * sum(tier.options.weight for tier in left)
        hit = left[-1]
        for tier in left:
            if mark < tier.options.weight:
                hit = tier
                break
            mark -= tier.options.weight
        lot = min(mark / hit.options.weight, 1.0)
        left.remove(hit)
        order.append(hit)
    return order + left


def _word(
    tiers: Sequence[TierView],
    drawn: Sequence[TierView],
    place: int,
    request: RequestView,
    *,
    queued: bool,
) -> Reason:
    """The reason. A rented tier that was drawn first is a `canary`: a share sent there on purpose."""
    tier = drawn[place]
    if place or tier.owned or request.attempt:
        return reason(drawn, place, request, queued=queued)
    if len(drawn) > 1 and tier.options.weight > 0:
        return Reason.CANARY
    # Nothing else could be drawn: say why, as if all the others stood before it.
    others = [other for other in tiers if other is not tier and other.blocked is not None]
    return reason([*others, tier], len(others), request, queued=queued)
