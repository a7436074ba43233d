"""A decision that was noted, as the views that it was made on: for explaining it afterwards.

Takes the numbers of a `Noted` and what never changes from the pool. What was not noted, because an owned slot
was free and nothing else was looked at, is taken as it is known now. Knows no HTTP.
"""

from collections.abc import Collection, Sequence
from math import inf
from typing import Any, NamedTuple, cast

from gateway.explain.ring import Noted
from gateway.pool import Pool
from gateway.tier import Tier
from gateway.vocab import Reason, Rent
from policies.base import Estimate, PoolView, RequestView, TierOptions, TierView
from policies.explanation import Beside, Explanation, explained


class Known(NamedTuple):
    """An estimate as it was (`policies.base.Estimate`)."""

    mean: float
    tail: float
    deviation: float


class NotedQueue(NamedTuple):
    """The provider's queue as it was."""

    calls: int


class NotedTier:
    """A tier as it was (`policies.base.TierView`)."""

    def __init__(self, tier: Tier, noted: Noted, row: Sequence[Any]) -> None:
        self.options: TierOptions = tier.options
        self.name = tier.name
        self.owned: bool = tier.owned
        self.rent: Rent | None = tier.rent
        self.capacity: int = tier.capacity
        self.free: int = row[0]
        self.in_flight: int = row[1]
        self.blocked: Reason | None = None
        self.opening: Collection[float] = ()
        self.idle_for: float | None = None
        self.claimants = 1
        self.provider_queue: NotedQueue | None = None
        self.calibration: float = tier.calibration
        self.may_use = True
        self.cannot: str | None = None
        if len(row) > 2:
            self.blocked, self.warm, self.opening, since, self.claimants, self.cannot, queued = row[2]
            self.provider_queue = None if queued is None else NotedQueue(queued)
            self.idle_for = None if since is None else noted.at - since
            self.may_use = row[3]
        else:
            self.warm = min(tier.warm, self.free)
        self._service = self._answer = self.overall = self.cold = Known(0.0, 0.0, 0.0)
        if len(row) > 4:
            self._service, self._answer = Known(*row[4:7]), Known(*row[12:15])
            self.overall, self.cold = Known(row[7], row[7], row[8]), Known(*row[9:12])
        elif len(row) <= 2 and tier.estimates is not None:
            self._service = self._answer = _known(tier.estimates.profiles[noted.bucket])
            if noted.stream and tier.answers is not None:
                self._answer = _known(tier.answers.profiles[noted.bucket])
            self.overall, self.cold = _known(tier.estimates.service), _known(tier.estimates.cold)
        self._alive = 1.0
        if self.idle_for is not None and tier.estimates is not None:
            self._alive = tier.estimates.warm_chance(self.idle_for)
        opens = not self.owned and tier.supply.backend.can_open
        self.room = self.free - self.warm if opens else 0

    @property
    def idle(self) -> range:
        """As many as idled."""
        return range(self.warm)

    def alive(self, now: float) -> float:
        """The chance that the instance which had idled was still there, as far as is known by now."""
        return self._alive

    def up_by(self, until: float, now: float) -> float:
        """Seconds for which the instances that booted would have been up by then."""
        slow = now + 0.5 * self.cold.deviation
        return sum(max(0.0, until - (up_at if up_at > now else slow)) for up_at in self.opening)

    def service(self, request: RequestView) -> Estimate:
        """How long the call was expected to hold a slot."""
        return self._service

    def answer(self, request: RequestView) -> Estimate:
        """How long until what its budget speaks of."""
        return self._answer


def _known(estimate: Estimate) -> Known:
    return Known(estimate.mean, estimate.tail, estimate.deviation)


class _Earlier(NamedTuple):
    """All that stood before the call, as one."""

    work: float
    late: bool = False
    due: float = -inf


class NotedRequest:
    """The call as it was (`policies.base.RequestView`)."""

    bucket = 0
    work = 0.0

    def __init__(self, noted: Noted, tiers: Sequence[NotedTier]) -> None:
        self.since = noted.at if noted.waiting is None else noted.since
        self.deadline = noted.deadline
        self.due = noted.due
        self.stream = noted.stream
        self.priority = "default"
        self.late = noted.late
        self.attempt = noted.attempt
        self.lot = 0.0 if noted.lot is None else noted.lot
        self._may = {tier.options.backend: tier.may_use for tier in tiers}

    def may_use(self, backend: str) -> bool:
        """Whether it could run there."""
        return self._may[backend]

    def free_on(self, tier: TierView) -> bool:
        """Whether it could have taken a slot there."""
        return tier.free > 0

    def header(self, name: bytes) -> bytes | None:
        """Headers are not noted."""
        return None


class NotedPool:
    """The pool as it was (`policies.base.PoolView`), the calls before this one as one."""

    def __init__(self, noted: Noted, pool: Pool, tiers: Sequence[NotedTier]) -> None:
        self.tiers = tiers
        before = 0.0 if noted.waiting is None else noted.waiting[2]
        self.in_time = 0 if noted.waiting is None else noted.waiting[1]
        self.waiting = (_Earlier(before),) if before > 0.0 else ()
        self.work = before
        self.in_flight = pool.in_flight
        self.opening = pool.opening
        self.caution = pool.caution
        place = next((place for place, tier in enumerate(pool.tiers) if tier is pool.reference), 0)
        self.reference = tiers[place]

    def load(self, now: float) -> float:
        """Not noted."""
        return 0.0

    def spare(self, now: float) -> float:
        """Not noted."""
        return 0.0

    def ahead(self, request: RequestView) -> float:
        """Work that stood before the call."""
        return self.work


def explain_noted(noted: Noted, pool: Pool, objective: float | None) -> Explanation:
    """Why it was decided so."""
    tiers = [NotedTier(tier, noted, row) for tier, row in zip(pool.tiers, noted.tiers, strict=True)]
    idle = {tier.options.backend: tier.idle_for for tier in tiers if tier.idle_for is not None}
    cannot = {tier.options.backend: tier.cannot for tier in tiers if tier.cannot is not None}
    beside = Beside(0.99 if objective is None else objective, idle_s=idle, cannot=cannot)
    return explained(
        pool.policy,
        noted.action,
        cast("RequestView", NotedRequest(noted, tiers)),
        cast("PoolView", NotedPool(noted, pool, tiers)),
        noted.at,
        beside=beside,
    )
