"""Why a policy answered as it did: every way in which the call could have been answered, and why it lost.

    tier        ways
    owned       a free slot, or its turn in the queue
    rented      an idle instance, one that is busy or boots (in the queue's order), one that must boot first
    either      closed: unhealthy, breaker open, or it cannot carry the call

The answer is the policy's own: it is asked, or was recorded when it was. What is predicted beside it follows
from `prediction.py`, as `cheapest_in_budget` predicts; policies that never look ahead are explained by what
they do look at. Nothing is predicted from what was not learned, and a price that is not known has no number.

Pure functions over the views of `policies.base`; knows no policy.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from math import hypot, sqrt
from random import Random
from statistics import NormalDist
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, cast

from gateway.vocab import Reason
from policies.amounts import dollars, seconds
from policies.base import (
    Action,
    Candidate,
    Estimate,
    Hold,
    Policy,
    PoolView,
    RequestView,
    Run,
    Shed,
    TierView,
    Way,
)
from policies.prediction import open_slots, owned_work, rented_work
from policies.price import Costs, cost
from policies.spread import Either, Spread

WAITING = ("after queueing", "busy instance")
"""Ways that begin with a wait for a slot."""
FAR_S = 1e6
"""A wait that is longer than this has no end."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_CLOSED = {
    Reason.SPILL_UNHEALTHY: "unhealthy: no replica passes its probes",
    Reason.SPILL_BREAKER: "breaker open: its last calls failed",
}


class Beside(NamedTuple):
    """What a policy is not shown and a reader wants to know, by the name of the backend.

    objective:  share of the calls that is to be in time
    idle_s:     seconds for which the idle instance that serves next has idled
    survival:   the chance that it is still there, 0 to 1
    cannot:     why it cannot carry the call
    spent:      which spill budget would refuse the call there
    """

    objective: float = 0.99
    idle_s: Mapping[str, float] = _NOTHING
    survival: Mapping[str, float] = _NOTHING
    cannot: Mapping[str, str] = _NOTHING
    spent: Mapping[str, str] = _NOTHING


class Explanation(NamedTuple):
    """An answer, every candidate in the order of the tiers, and the rule in the policy's words."""

    action: Action
    candidates: tuple[Candidate, ...]
    rule: str


def explain(
    policy: Policy,
    request: RequestView,
    pool: PoolView,
    now: float,
    *,
    chance: Random,
    beside: Beside = Beside(),  # noqa: B008 - immutable
) -> Explanation:
    """What the policy answers to this call now. A call that is in the queue is one whose moment came."""
    queued = any(other is request for other in pool.waiting)
    action = (policy.recheck if queued else policy.arrive)(request, pool, now, chance)
    return explained(policy, action, request, pool, now, beside=beside)


def explained(
    policy: Policy,
    action: Action,
    request: RequestView,
    pool: PoolView,
    now: float,
    *,
    beside: Beside = Beside(),  # noqa: B008 - immutable
) -> Explanation:
    """The same for an answer that was given on this view."""
    scene = _Scene(policy, action, request, pool, now, beside=beside)
    lines = [line for tier in pool.tiers for line in scene.ways(tier)]
    chosen = scene.chosen(lines)
    first = lines[chosen[0]] if chosen else None
    told = tuple(
        line._replace(chosen=True, why=scene.won(line)) if place in chosen
        else line if line.why
        else line._replace(why=scene.lost(line, first))
        for place, line in enumerate(lines)
    )  # fmt: skip
    return Explanation(action, told, policy.explain(action, request, pool, now))


class _Scene:
    """One answer and everything it was given on."""

    def __init__(
        self,
        policy: Policy,
        action: Action,
        request: RequestView,
        pool: PoolView,
        now: float,
        *,
        beside: Beside,
    ) -> None:
        self.policy = policy
        self.action = action
        self.request = request
        self.pool = pool
        self.now = now
        self.beside = beside
        self.left = request.due - now
        self.places = {tier.options.backend: place for place, tier in enumerate(pool.tiers)}
        self.ahead = _work_before(request, pool)

    # -- the ways --------------------------------------------------------------------------------

    def ways(self, tier: TierView) -> list[Candidate]:
        """Every way to a slot of a tier; at least one."""
        backend = tier.options.backend
        if word := self._closed(tier):
            return [Candidate(backend, "closed", "warm" if tier.owned else "unknown", why=word)]
        free = self.request.free_on(tier)
        if tier.owned:
            return [self._now(tier, "free slot") if free else self._later(tier, "after queueing")]
        found = []
        if free and tier.warm:
            found.append(self._now(tier, "warm instance"))
        if tier.in_flight or not free:
            found.append(self._later(tier, "busy instance"))
        if free and tier.free > tier.warm:
            found.append(self._cold(tier))
        return found

    def _closed(self, tier: TierView) -> str:
        backend = tier.options.backend
        if tier.blocked is not None:
            return _CLOSED.get(tier.blocked, str(tier.blocked))
        if self.request.may_use(backend):
            return ""
        if backend in self.beside.cannot:
            return f"cannot carry this call: {self.beside.cannot[backend]}"
        return "cannot carry this call, or has failed it already"

    def _now(self, tier: TierView, way: Way) -> Candidate:
        """On a slot that is free; a rented one may turn out to have gone."""
        answer, cold = tier.answer(self.request), tier.cold
        gone = 0.0 if tier.owned else 1.0 - self.beside.survival.get(tier.options.backend, 1.0)
        spread: Spread | Either | None = None
        if answer.mean > 0.0:
            spread = warm = self._spread(answer.mean, answer.tail - answer.mean)
            if gone > 0.0:
                spread = Either(warm, self._spread(answer.mean + cold.mean, _both(answer, cold)), gone)
        return self._line(tier, way, "warm", 0.0, spread, gone=gone)

    def _later(self, tier: TierView, way: Way) -> Candidate:
        """On the slot that is this call's in the order of the queue."""
        tiers = [
            each
            for each in self.pool.tiers
            if each.blocked is None and (each.owned or not tier.owned) and self._known(each)
        ]
        answer = tier.answer(self.request)
        wait = self._turn(tiers) if answer.mean > 0.0 else None
        spread = None
        if wait is not None:
            slots = sum(map(open_slots, tiers)) or 1
            deviation = self.pool.reference.overall.deviation * sqrt(self.pool.in_time + 1) / slots
            beyond = hypot(_z(self.beside.objective) * deviation, answer.tail - answer.mean)
            spread = self._spread(wait + answer.mean, beyond)
        return self._line(tier, way, "warm", wait, spread)

    def _cold(self, tier: TierView) -> Candidate:
        """On an instance that boots first."""
        answer, cold = tier.answer(self.request), tier.cold
        wait, spread = None, None
        if answer.mean > 0.0 and cold.mean > 0.0:
            wait = cold.mean
            spread = self._spread(wait + answer.mean, _both(answer, cold))
        return self._line(tier, "new instance", "unknown" if tier.rent is None else "cold", wait, spread)

    def _spread(self, mean: float, beyond: float) -> Spread:
        return Spread(mean, beyond, self.beside.objective)

    def _line(
        self,
        tier: TierView,
        way: Way,
        start: Literal["warm", "cold", "unknown"],
        wait: float | None,
        spread: Spread | Either | None,
        gone: float = 0.0,
    ) -> Candidate:
        backend = tier.options.backend
        opens = self.action.opens if isinstance(self.action, Hold) else ()
        opened = next((each.instances for each in opens if each.backend == backend), 1)
        costs = Costs(
            boots=1.0 if way == "new instance" else gone,
            shared_by=max(1.0, (self.pool.in_time + 1) / (len(tier.opening) + opened)) if tier.room else 1.0,
            idled_s=self.beside.idle_s.get(backend) if way == "warm instance" else 0.0,
        )
        usd = cost(tier, self.request, costs)
        if spread is None:
            return Candidate(backend, way, start, wait, usd=usd)
        chance = spread.chance(self.left) if self.left < FAR_S else None
        tail = spread.quantile(self.beside.objective)
        return Candidate(backend, way, start, wait, spread.mean, tail, chance, usd)

    def _known(self, tier: TierView) -> bool:
        return tier.answer(self.request).mean > 0.0

    def _turn(self, tiers: Sequence[TierView]) -> float | None:
        """Seconds until `tiers` have worked off what stands before the call; None if they never will."""

        def done(seconds: float) -> float:
            until = self.now + seconds
            return sum(
                (owned_work if tier.owned else rented_work)(tier, self.pool, until, self.now)
                for tier in tiers
            )

        high = 0.001
        while done(high) <= self.ahead:
            high *= 2.0
            if high > FAR_S:
                return None
        low = 0.0
        for _ in range(50):
            middle = 0.5 * (low + high)
            if done(middle) <= self.ahead:
                low = middle
            else:
                high = middle
        return high

    # -- which one, and why ----------------------------------------------------------------------

    def chosen(self, lines: Sequence[Candidate]) -> list[int]:
        """The places of what the policy answered; of a call that is held, of what it counts on."""
        action = self.action
        if isinstance(action, Run):
            # An idle instance is used before one is booted; and what is run on now is waited for by nobody.
            order = ("free slot", "warm instance", "new instance", *WAITING, "closed")
            own = [place for place, line in enumerate(lines) if line.backend == action.backend]
            return sorted(own, key=lambda place: order.index(lines[place].way))[:1]
        if isinstance(action, Shed):
            return []
        if action.opens:
            names = [each.backend for each in action.opens]
            opened = [
                place
                for place, line in enumerate(lines)
                if line.way == "new instance" and line.backend in names
            ]
            return sorted(opened, key=lambda place: names.index(lines[place].backend))
        waits = [place for place, line in enumerate(lines) if line.way in WAITING]
        if not self.policy.learns:
            return [place for place in waits if self._would_take(lines[place].backend)][:1] or waits[:1]
        sure = [place for place in waits if (lines[place].chance or 0.0) >= self.beside.objective]
        if sure:
            return [min(sure, key=lambda place: (_or_inf(lines[place].usd), place))]
        return sorted(waits, key=lambda place: _or_inf(lines[place].finish_s))[:1]

    def _would_take(self, backend: str) -> bool:
        """Would the policy give the call a slot of this backend, if one came free now?"""
        view = _Freed(self.pool, self.request, backend)
        take = self.policy.slot_freed(backend, cast("PoolView", view), self.now, Random(0))  # noqa: S311
        return take is not None

    def won(self, line: Candidate) -> str:
        """Why the chosen one."""
        action = self.action
        if isinstance(action, Run):
            return "runs here"
        if line.way == "new instance":
            return "opened; the call takes whichever slot is free first"
        if isinstance(action, Hold) and action.late:
            return "waited for, behind the calls that can still be in time"
        return "waited for"

    def lost(self, line: Candidate, first: Candidate | None) -> str:
        """Why not this one."""
        tier = self.pool.tiers[self.places[line.backend]]
        if not tier.owned and line.backend in self.beside.spent:
            return f"budget exhausted: {self.beside.spent[line.backend]}"
        full = _full(tier) if line.way in WAITING and not self.request.free_on(tier) else ""
        word = self._too_late(line) if self.policy.learns else ""
        if full and (word or first is None or isinstance(self.action, Run)):
            return f"{full}; {word}" if word else full
        if word:
            return word
        if first is None:
            return "free, and this policy does not use it for this call"
        if first.backend == line.backend:
            return _same_backend(line, first)
        return self._beaten(line, first, full) if self.policy.learns else self._passed(line, first, full)

    def _too_late(self, line: Candidate) -> str:
        if line.finish_s is None or self.left >= FAR_S:
            return ""
        after = line.finish_s - self.left
        if after > 0.0:
            return f"would finish {seconds(after)} after the budget"
        if line.chance is not None and line.chance < self.beside.objective:
            return f"in time in {line.chance:.0%} of such cases, the objective is {self.beside.objective:.4g}"
        return ""

    def _beaten(self, line: Candidate, first: Candidate, full: str) -> str:
        if line.usd is None and line.start == "unknown":
            return "neither its price nor its start is known"
        if line.usd is None:
            return "its price is not known"
        if first.usd is not None and line.usd > first.usd:
            return f"dearer than {first.backend} by {dollars(line.usd - first.usd)}"
        if line.finish_s is None:
            return "how long it takes is not known"
        if first.finish_s is not None and line.finish_s > first.finish_s:
            return f"slower than {first.backend} by {seconds(line.finish_s - first.finish_s)}"
        return full or f"not better than {first.backend}"

    def _passed(self, line: Candidate, first: Candidate, full: str) -> str:
        if full:
            return full
        if isinstance(self.action, Hold):
            return f"not used before the wait for {first.backend} is over"
        if self.places[line.backend] > self.places[first.backend]:
            return f"comes after {first.backend}"
        return f"this policy uses {first.backend} for this call"


class _Freed:
    """The pool as it would be if a slot of one backend came free and only this call waited."""

    def __init__(self, pool: PoolView, request: RequestView, backend: str) -> None:
        self._pool = pool
        self.waiting = (request,)
        self.in_time = 1
        self.tiers = [_FreedTier(tier) if tier.options.backend == backend else tier for tier in pool.tiers]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


class _FreedTier:
    """A tier with one free slot."""

    free = 1
    warm = 1

    def __init__(self, tier: TierView) -> None:
        self._tier = tier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tier, name)


def _work_before(request: RequestView, pool: PoolView) -> float:
    """Work of the calls in time that stand before this one, or would."""
    work = 0.0
    for other in islice(pool.waiting, pool.in_time):
        if other is request or (not request.late and other.due > request.due):
            break
        work += other.work
    return work


def _both(answer: Estimate, cold: Estimate) -> float:
    """How far the tail of a boot and an answer together is beyond their means."""
    return hypot(answer.tail - answer.mean, cold.tail - cold.mean)


def _z(objective: float) -> float:
    return NormalDist().inv_cdf(min(max(objective, 0.5), 0.9999))


def _or_inf(value: float | None) -> float:
    return float("inf") if value is None else value


def _full(tier: TierView) -> str:
    if tier.free:
        return "its free slots are on replicas that failed this call"
    boots = len(tier.opening)
    return f"full: {tier.in_flight} of {tier.capacity} slots taken" + (
        f", {boots} of them boot" if boots else ""
    )


def _same_backend(line: Candidate, first: Candidate) -> str:
    if first.way == "warm instance":
        return "an idle instance is there"
    if line.way in WAITING:
        return "too slow on its own" if first.way == "new instance" else "not waited for"
    return "not needed: one on its way is waited for"
