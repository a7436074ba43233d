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
                if freed not in drawn or not allowed(drawn, drawn.index(freed), request, now):
                    continue
                word = reason(drawn, drawn.index(freed), request, queued=True)
                if word is Reason.PINNED:
                    word = _first_word(pool.tiers, drawn, request)
                return Take(request, word)
        return None


def _answer(request: RequestView, pool: PoolView, now: float, *, queued: bool) -> Action:
    drawn = _draw(pool.tiers, request)
    action = walk(drawn, request, now, queued=queued)
    if isinstance(action, Run) and action.reason is Reason.PINNED:
        return Run(action.backend, _first_word(pool.tiers, drawn, request))
    return action


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


def _first_word(tiers: Sequence[TierView], drawn: Sequence[TierView], request: RequestView) -> Reason:
    """The reason of a rented tier that was drawn first, so that nothing in the draw stands before it."""
    if len(drawn) > 1 and drawn[0].options.weight > 0:
        return Reason.CANARY  # a share sent there on purpose
    # Nothing else could be drawn: say why, as if all that is blocked stood before it.
    blocked = [tier for tier in tiers if tier.blocked is not None]
    return reason([*blocked, drawn[0]], len(blocked), request, queued=False)
