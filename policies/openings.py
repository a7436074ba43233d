"""Which instances to open, and what that costs beside the work: the arithmetic of `cheapest_in_budget`.

Pure functions over the views of `policies.base`; knows no policy.
"""

from collections.abc import Sequence
from math import ceil, inf

from policies.base import Open, PoolView, RequestView, TierView
from policies.prediction import FAR_S

SPARE_SHARE = 0.8
"""Of the late answers that the objective still allows, how many may be late because that is cheaper."""
DEAR = 20.0
"""Services' worth of booting and idling, for each call that would be in time, above which that is dear."""
LEAST_S = 0.001
"""Least work that an instance is taken to do."""

_Offer = tuple[float, int, TierView, int, float, float]
"""Dollars, place, tier, instances it has room for, work that each of them does, its seconds beside that."""


def call_usd(tier: TierView, seconds: float) -> float:
    """Dollars for a call on an instance that is there; infinite where the price is not known."""
    rent = tier.rent
    if rent is None or rent.usd_per_second is None:
        return inf
    return seconds * rent.usd_per_second + rent.usd_per_call


def opening_s(tier: TierView, boot: float) -> float:
    """Seconds that are billed for an instance beside its work: its boot and its idle time-out."""
    rent = tier.rent
    return 0.0 if rent is None else boot * rent.bills_boot + rent.idle_s * rent.bills_idle


def opening_usd(tier: TierView) -> float:
    """The same in dollars; infinite where the price is not known."""
    rent = tier.rent
    if rent is None or rent.usd_per_second is None:
        return inf
    return rent.usd_per_second * opening_s(tier, tier.cold.mean)


def openings(
    request: RequestView, pool: PoolView, rented: Sequence[TierView], start: float, lacking: float, now: float
) -> tuple[tuple[Open, ...], float]:
    """The cheapest way to have `lacking` more slot-seconds by the time the call must start, and the seconds
    that will be paid for beside the work.

    Of each tier as many as it takes, no more than calls wait; the next tier for what one has no room for.
    """
    reference = pool.reference
    service = reference.overall.mean
    due, far = request.due, request.since + FAR_S
    if due > far:
        due = far
    allowed = due - reference.answer(request).mean - start  # what caution keeps back
    most = pool.in_time + 1
    left = due - now
    offers: list[_Offer] = []
    best: _Offer | None = None
    lowest, enough, all_of_it = inf, False, 0.0
    for tier in rented:  # this loop decides what a decision costs: as little in it as can be done with
        boot = tier.cold.mean
        own = tier.overall.mean
        rent, wasted, per_second = tier.rent, 0.0, None
        if rent is not None:
            per_second, _, idle_s, _, bills_boot, bills_idle, _ = rent
            wasted = boot * bills_boot + idle_s * bills_idle
        pace = (service / own or 1.0) if own > 0.0 else 1.0  # where nothing is known, the same
        least = 0.5 * own if own > 2.0 * LEAST_S else LEAST_S
        if enough:  # the best has room for all of it: what cannot be cheaper need not be looked at further
            each = left - boot - allowed
            at_least = lacking + lacking / (each if each > least else least) * wasted
            if per_second is None or at_least / pace * per_second >= lowest:
                continue
        # What caution leaves says how much an instance will have done by then; whether it helps at all is
        # a question of what is expected: the careful must not end up opening nothing.
        each = left - boot - tier.answer(request).mean
        if each < 0.5 * own:
            continue
        room, wanted = tier.room, most - len(tier.opening)
        if room > wanted:
            room = wanted
        if room <= 0:
            continue
        each -= allowed
        each = (each if each > least else least) * pace
        count = ceil(lacking / each) or 1
        usd = inf if per_second is None else (count * wasted + lacking / pace) * per_second
        offer = (usd, len(offers), tier, room, each, wasted)
        offers.append(offer)
        all_of_it += room * each
        if best is None or usd < lowest:
            best, lowest = offer, usd
            enough = room >= count
    if best is None:
        return (), 0.0
    if enough:  # one tier has room for all of it
        _, _, tier, _, each, wasted = best
        count = ceil(lacking / each) or 1
        return (Open(tier.name, count),), count * wasted
    return _taken(offers, lacking, all_of_it)


def _taken(offers: "list[_Offer]", lacking: float, all_of_it: float) -> tuple[tuple[Open, ...], float]:
    """The cheapest offers first, until they are enough. `all_of_it`: the work that they would do together."""
    if all_of_it <= lacking:
        whole = tuple([Open(tier.name, room) for _, _, tier, room, _, _ in offers])
        return whole, sum([room * wasted for _, _, _, room, _, wasted in offers])
    offers.sort()
    opens: list[Open] = []
    total = 0.0
    for _, _, tier, room, each, wasted in offers:
        count = ceil(lacking / each) or 1
        if count > room:
            count = room
        opens.append(Open(tier.name, count))
        total += count * wasted
        lacking -= count * each
        if lacking <= 0.0:
            break
    return tuple(opens), total


def may_be_late(pool: PoolView, wasted: float, lacking: float, now: float) -> bool:
    """Are the instances dear for the few calls that they would save, and does the objective allow these?

    The error budget is there to be used where being in time costs most: an idle time-out of a minute is
    not paid for one call.
    """
    spare = SPARE_SHARE * pool.spare(now)
    if spare <= 0.0:
        return False
    service = pool.reference.overall.mean
    late = len(pool.waiting) - pool.in_time + 1.0 + (lacking / service if service > 0.0 else 0.0)
    # What one more call in time is worth rises with what is used of the error budget already.
    return late < spare and wasted > DEAR * late / spare * (service + lacking)
