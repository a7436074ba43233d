"""`cheapest_in_budget`: the cheapest way to answer inside the latency budget, queue and cold start included.

What is owned is free: it is filled first, and a call waits for it as long as it will start there in time.
When it will not, in this order, the first that helps:

    1  an instance that idles, since it is paid for
    2  capacity that is on its way: instances that serve, or that boot
    3  new instances, as few as can work off what is too much, opened at once: early ones have more time,
       so fewer are needed, and each costs a boot and an idle time-out beside its work
    4  where a boot takes longer than the budget, nothing: paying for a late answer would help nobody.
       Only a queue that would still stand when the instance is up opens some

Calls wait in the queue whatever is opened for them, and the first slot that is free takes the first of them
(late binding). An open instance is fed while the queue is longer than the owned slots, not just while
somebody is at risk: to stop early is to open again. A call that cannot be in time any more stands behind
those that can, and runs where it costs nothing.

Source: deadline-aware placement with elastic slots; the arithmetic is in `prediction.py`. `when_full` of the
tiers is not looked at, nor is their order among rented ones: what they cost is.
"""

from collections.abc import Sequence
from itertools import islice
from math import ceil, hypot, inf
from random import Random
from typing import ClassVar

from pydantic import Field

from gateway.vocab import WARM, Reason
from policies.base import (
    Action,
    Hold,
    Open,
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
from policies.openings import DEAR, call_usd, may_be_late, opening_usd, openings
from policies.prediction import FAR_S, latest_start, open_slots, owned_work, rented_work, speed

PATIENCE = 0.5
"""Share of the time until it must start, for which a call that was found to be in time is not looked at."""
AGAIN_S = 0.001
"""Soonest that a call is looked at again."""
VICTIMS = 8
"""Waiting calls that are looked at for the one whose service elsewhere frees most of the fleet per dollar."""
LOOKED_THROUGH = 64
"""Waiting calls among which one is looked for that the owned tiers cannot take."""


class CheapestInBudgetOptions(PolicyOptions):
    """How far to go."""

    drain: float = Field(default=1.0, ge=0, le=100, allow_inf_nan=False)
    """Waiting calls for each owned slot, down to which an open instance goes on serving."""


@policies.add("cheapest_in_budget")
class CheapestInBudget(Policy):
    """The cheapest backend that still answers inside the budget."""

    Options: ClassVar[type[PolicyOptions]] = CheapestInBudgetOptions
    learns: ClassVar[bool] = True

    def __init__(self, options: PolicyOptions) -> None:
        super().__init__(options)
        assert isinstance(options, CheapestInBudgetOptions)
        self._drain = options.drain

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """A free owned slot, else whatever is cheapest in time."""
        for tier in pool.tiers:
            if tier.owned and tier.free and tier.blocked is None:
                name = tier.name
                if not request.attempt:
                    if request.may_use(name):
                        return Run(name, WARM)
                elif request.may_use(name) and request.free_on(tier):
                    return Run(name, Reason.FALLBACK)
        return self._place(request, pool, now)

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The same for a call that waits, with what stands before it."""
        for place, tier in enumerate(pool.tiers):
            if tier.owned and tier.free and usable(tier, request) and request.free_on(tier):
                return Run(tier.name, reason(pool.tiers, place, request, queued=True))
        if request.late:
            rented = [tier for tier in pool.tiers if not tier.owned and usable(tier, request)]
            return _overdue(request, pool, rented, now)
        return self._place(request, pool, now)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """Owned: the first in the queue. Rented: the same while the queue is too long for the fleet, and
        after that those for whom there is no fleet. Where nothing is left that serves, the first boots one.
        """
        tiers = pool.tiers
        place = 0
        while tiers[place].name != backend:
            place += 1
        freed = tiers[place]
        if freed.blocked is not None or not freed.free:
            return None
        if freed.owned:
            for request in pool.waiting:
                if request.may_use(backend) and request.free_on(freed):
                    return Take(request, reason(tiers, place, request, queued=True))
            return None
        if not freed.warm and any(open_slots(tier) for tier in tiers if tier.blocked is None):
            return None
        chosen = _victim(freed, pool) if self._feeds(pool, now) else _stranded(freed, pool)
        return None if chosen is None else Take(chosen, _rented(tiers, place, chosen))

    def explain(self, action: Action, request: RequestView, pool: PoolView, now: float) -> str:
        """Which of its steps gave the answer."""
        if isinstance(action, Shed):
            return "No backend can take this call, now or later."
        if isinstance(action, Run):
            tier = next(tier for tier in pool.tiers if tier.name == action.backend)
            if tier.owned:
                return "A free slot that is owned costs nothing more."
            if tier.warm:
                return "What is owned would be too late; an idle instance is paid for already."
            return "What is there would be too late; this is the cheapest instance that boots in time for it."
        if action.late:
            return "Nothing can be counted on to be in time any more; it runs where it costs nothing."
        if action.opens:
            return "What is there and on its way would be too late; as few new instances as it takes are not."
        if now + min(tier.answer(request).mean for tier in pool.tiers) > request.due:
            return "Nothing can be counted on to be in time; to pay for a late answer would help nobody."
        return "It waits for what is there or on its way: to open more would be dearer or too late."

    # -- where to --------------------------------------------------------------------------------

    def _place(self, request: RequestView, pool: PoolView, now: float) -> Action:
        ahead = pool.ahead(request)
        work = 0.0
        start = None
        rented = []
        for tier in pool.tiers:
            if tier.blocked is not None or not request.may_use(tier.name):
                continue
            if not tier.owned:
                rented.append(tier)
                continue
            if start is None:
                start = latest_start(request, tier, pool)
            work += owned_work(tier, pool, start, now)
        if start is not None and work > ahead:
            return _hold(request, pool, now, start, work - ahead)
        # (1) what is paid for already
        idle: list[TierView] = []
        there: list[tuple[TierView, int]] = []
        time_left = start is None or start > now  # else nothing on its way would come in time
        for tier in rented:
            warm = tier.warm if tier.idle else 0
            if warm:
                idle.append(tier)
            if time_left and (warm or tier.in_flight):
                there.append((tier, warm))
        if idle:
            place = _cheapest_warm(request, pool, idle, now)
            if place is not None:
                return Run(pool.tiers[place].name, _rented(pool.tiers, place, request))
        # (2) what is on its way
        anything = start is not None
        if start is None:
            if not rented:
                return Shed(Reason.SHED_FULL, contended=False)
            start = latest_start(request, rented[0], pool)
        for tier, warm in there:
            anything = True
            work += rented_work(tier, pool, start, now, warm)
        if work > ahead:
            return _hold(request, pool, now, start, work - ahead)
        # (3) what would help in time
        opens, wasted = openings(request, pool, rented, start, ahead - work, now)
        # Where nothing is there that could ever take the call, it is not a question of being in time.
        dear = anything and wasted > DEAR * pool.reference.overall.mean
        if dear and _not_worth_it(request, pool, start, ahead - work, wasted, now):
            return _hold(request, pool, now, start, 0.0)
        if opens:
            until = _soonest(pool, now)
            if start > until:
                until = start
            return Hold(until if until < request.deadline else request.deadline, opens)
        # A backend that only a call can make boot: the call goes there itself.
        place = _bound(request, pool, now)
        if place is not None:
            return Run(pool.tiers[place].name, _rented(pool.tiers, place, request))
        # (4) nothing does
        return _overdue(request, pool, rented, now)

    def _feeds(self, pool: PoolView, now: float) -> bool:
        """Is the queue too long for the owned tiers, so that an instance that is free goes on serving?"""
        waiting, in_time = pool.waiting, pool.in_time
        if not waiting:
            return False
        slots = 0
        for tier in pool.tiers:
            if tier.owned and tier.blocked is None:
                slots += tier.free + tier.in_flight
        if in_time > self._drain * slots or not slots:
            return True
        if in_time and pool.load(now) > slots:
            # More comes than the owned slots can do: what they do not do now is left for later, and an
            # instance that stops would be opened again.
            return True
        if not in_time:
            # Too late all of them: they wait for what costs nothing, unless that would be for ever.
            return len(waiting) * pool.reference.overall.mean > slots * 0.5 * (waiting[0].deadline - now)
        last = waiting[in_time - 1]
        start = latest_start(last, pool.reference, pool)
        work = 0.0
        for tier in pool.tiers:
            if tier.owned and tier.blocked is None:
                work += owned_work(tier, pool, start, now)
        return work <= pool.work - last.work


def _not_worth_it(
    request: RequestView, pool: PoolView, start: float, lacking: float, wasted: float, now: float
) -> bool:
    """What is dear is not done out of caution alone, nor for few while the objective allows them."""
    allowed = request.due - pool.reference.answer(request).mean - (start if start > now else now)
    if allowed > 0.0:
        lacking -= allowed * (pool.in_flight + pool.opening)
        if lacking <= 0.0:
            return True
    return may_be_late(pool, wasted, lacking, now)


def _soonest(pool: PoolView, now: float) -> float:
    """When a call is looked at again whose moment has come: nothing changes much faster than calls end."""
    again = 0.2 * pool.reference.overall.mean
    return now + (again if again > AGAIN_S else AGAIN_S)


def _hold(request: RequestView, pool: PoolView, now: float, start: float, margin: float) -> Hold:
    """Wait, and look again when the prediction would not hold if the queue moved at half its pace.

    Not at once where that is soon: as long as calls come, the last of them sees what became of the queue.
    """
    wait, patience = 2.0 * margin / (pool.in_flight or 1), PATIENCE * (start - now)
    until = now + (wait if wait > patience else patience)
    if until > start:
        until = start
    if until < now + AGAIN_S:
        until = _soonest(pool, now)
    return Hold(until if until < request.deadline else request.deadline)


def _rented(tiers: Sequence[TierView], place: int, request: RequestView) -> Reason:
    """`spill_slow` where the owned tiers work, and would be too slow; else what the simple policies say."""
    word = reason(tiers, place, request, queued=True)
    return Reason.SPILL_SLOW if word is Reason.SPILL_FULL else word


def _cheapest_warm(
    request: RequestView, pool: PoolView, rented: Sequence[TierView], now: float
) -> int | None:
    """Of rented tiers with an idle instance the cheapest on which a call that began `now` would be in time.

    One that has idled for long may be gone by now, as far as was seen: then it boots, and that is paid for.
    """
    best, least = None, inf
    for tier in rented:
        if not request.free_on(tier):
            continue
        gone = 1.0 - tier.alive(now)
        if now + tier.answer(request).mean + gone * tier.cold.mean <= request.due:
            usd = call_usd(tier, tier.service(request).mean)
            if gone:
                usd += gone * opening_usd(tier)
            if best is None or usd < least:
                best, least = tier, usd
    return None if best is None else pool.tiers.index(best)


def _bound(request: RequestView, pool: PoolView, now: float) -> int | None:
    """The cheapest tier on which the call would be in time although it has to boot for it."""
    best, least = None, inf
    for place, tier in enumerate(pool.tiers):
        if tier.owned or tier.room or tier.free <= tier.warm:
            continue
        if not (usable(tier, request) and request.free_on(tier)):
            continue
        cold, answer = tier.cold, tier.answer(request)
        spread = pool.caution * hypot(cold.deviation, answer.deviation)
        if now + cold.mean + answer.mean + spread > request.due:
            continue
        usd = opening_usd(tier) + call_usd(tier, tier.service(request).mean)
        if best is None or usd < least:
            best, least = place, usd
    return best


def _overdue(request: RequestView, pool: PoolView, rented: Sequence[TierView], now: float) -> Action:
    """Nothing can be counted on to be in time. The call waits for what there is.

    Instances are opened only if the queue would still stand when they are up and have had one budget's
    time, or if there is nothing else at all: for the calls that come after.
    """
    owned = [tier for tier in pool.tiers if tier.owned and usable(tier, request)]
    tiers = [*owned, *rented]
    if not tiers:
        return Shed(Reason.SHED_FULL, contended=False)
    if not owned:  # no fleet to wait for: an instance that idles anyway serves it, late or not
        place = _cheapest_warm(request, pool, [tier for tier in rented if tier.warm], -inf)
        if place is not None:
            return Run(pool.tiers[place].name, _rented(pool.tiers, place, request))
    late = request.late or now > request.due - min(tier.answer(request).mean for tier in tiers)
    until = request.deadline if late else max(_soonest(pool, now), request.due - pool.reference.overall.mean)
    opens: tuple[Open, ...] = ()
    nothing = not any(map(open_slots, tiers))
    closed = [tier for tier in rented if tier.room > 0]
    if closed:
        cheapest = min(closed, key=opening_usd)
        budget = max(request.due - request.since, cheapest.overall.mean)
        horizon = now + cheapest.cold.mean + min(budget, FAR_S)
        work = sum(owned_work(tier, pool, horizon, now) for tier in owned)
        work += sum(rented_work(tier, pool, horizon, now) for tier in rented)
        behind = pool.work + (len(pool.waiting) - pool.in_time + 1) * pool.reference.overall.mean
        count = ceil((behind - work) / budget / speed(cheapest, pool))
        count = min(max(count, int(nothing)), cheapest.room, len(pool.waiting) + 1 - len(cheapest.opening))
        if count > 0:
            opens = (Open(cheapest.name, count),)
    elif nothing:
        for place, tier in enumerate(pool.tiers):
            if not tier.owned and usable(tier, request) and request.free_on(tier):
                return Run(tier.name, _rented(pool.tiers, place, request))
    if not closed:
        # Nothing more can be had. Who is not in time by what stands before it must not make others late: in
        # order of deadlines alone, of too many calls each gets a slot at the last moment: none is in time.
        return Hold(request.deadline, opens, late=True)
    return Hold(min(until, request.deadline), opens, late)


def _victim(freed: TierView, pool: PoolView) -> RequestView | None:
    """Of the first few that may run there, the one that frees most of the fleet for its price.

    With slots of one speed that is the first; else the one whose service there is shortest beside its
    service on the reference tier: the order of the linear program's densities.
    """
    backend = freed.name
    best: RequestView | None = None
    least = inf
    seen = 0
    for request in pool.waiting:
        seen += 1
        if best is not None and (request.bucket == best.bucket or seen > VICTIMS):
            if seen > VICTIMS:
                break
            continue
        if request.may_use(backend) and request.free_on(freed):
            if freed is pool.reference:
                return request
            price = freed.service(request).mean / (request.work or 1.0)
            if best is None or price < 0.9 * least:  # small differences are noise, and order is not
                best, least = request, price
    return best


def _stranded(freed: TierView, pool: PoolView) -> RequestView | None:
    """The first waiting call that no owned tier could take: all of them failed it, or cannot carry it."""
    owned = [tier.name for tier in pool.tiers if tier.owned and tier.blocked is None]
    for request in islice(pool.waiting, LOOKED_THROUGH):
        if any(map(request.may_use, owned)):
            continue
        if request.may_use(freed.name) and request.free_on(freed):
            return request
    return None
