"""The plain counters that the ledger books into: everything a scrape reads, nothing it has to compute twice.

Knows the leaves, the backend contract, pricing and histograms. It never knows how a counter is shown.
Booking one call must cost about two microseconds, so these are bare attributes, resolved once per
combination of labels. The sets of labels are closed: names of routes and backends come from the
configuration, everything else is `other` or `none`.
"""

from typing import NamedTuple, Self

from backends.base import Backend
from gateway import pricing
from gateway.histogram import BOOT_EDGES, OVERHEAD_EDGES, Histogram, budget_edges
from gateway.vocab import Outcome, Reason, Start

OTHER = "other"
"""Label of calls whose route is not in the configuration."""

NONE = "none"
"""Label of calls that no backend was chosen for."""

Labels = tuple[str, str, Reason | None, Start | None, Outcome]
"""Route, backend, reason, start and outcome: what the closed label sets distinguish."""

KINDS = frozenset(("fleet", "spill", "prewarm", "hedge", "retry"))
"""What money was spent for: the closed list of the `kind` label."""


class BackendFacts(NamedTuple):
    """What the ledger must know of one backend.

    usd_per_replica_hour:  standing price of an owned replica; None when the file does not say
    slots_per_replica:     calls that one replica runs at once
    price_known:           False when what a call costs there cannot be known
    share:                 part of the standing price that this process answers for, with others beside it
    """

    name: str
    owned: bool
    usd_per_replica_hour: float | None = None
    replicas: int = 1
    slots_per_replica: int = 1
    price_known: bool = True
    share: float = 1.0

    @classmethod
    def of(cls, backend: Backend, share: float = 1.0) -> Self:
        """The facts of a configured backend."""
        return cls(
            backend.name,
            backend.owned,
            backend.usd_per_replica_hour,
            len(backend.replicas),
            backend.options.max_in_flight,
            backend.price_known,
            share,
        )

    @property
    def priced(self) -> bool:
        """Can the cost of a call there be known? An owned replica's needs its hourly price."""
        return self.price_known and (self.usd_per_replica_hour is not None or not self.owned)


class RouteFacts(NamedTuple):
    """What the ledger must know of one route.

    within:     latency budget in seconds; None when the route has none
    first_byte: the same for streamed answers; None: as `within`
    objective:  share of answers that must come within it
    backends:   names of its tiers' backends, in order
    match:      what the route matches, as text for people
    hedged:     second attempts may be started beside the first
    """

    name: str
    within: float | None = None
    first_byte: float | None = None
    objective: float | None = None
    backends: tuple[str, ...] = ()
    match: str = ""
    hedged: bool = False


class Standing:
    """The standing cost of one owned backend, and who answers for how much of it.

    At every moment: standing == attributed + idle + in progress. Idle is shown as a counter, so it may
    not shrink: what has once been shown as idle cannot be attributed afterwards (`shown_idle`), and what
    slots cost beyond that (more held than there are) is not charged, or the fleet would be paid for twice.
    """

    __slots__ = ("attributed", "base", "rate", "shown_idle", "since", "slot_usd")

    def __init__(self, facts: BackendFacts, now: float) -> None:
        self.base = 0.0
        self.since = now
        self.attributed = 0.0
        self.shown_idle = 0.0
        self.rate = 0.0
        self.slot_usd = 0.0
        self.price(facts, now)

    def price(self, facts: BackendFacts | None, now: float) -> None:
        """From `now` on the backend stands there as `facts` say; None: it is gone."""
        self.base = self.standing(now)
        self.since = now
        if facts is None:
            self.rate = 0.0
            return
        hourly = facts.usd_per_replica_hour or 0.0
        self.rate = pricing.standing_usd(hourly, facts.replicas, 1.0) * facts.share
        self.slot_usd = pricing.slot_second(hourly, facts.slots_per_replica)

    def standing(self, now: float) -> float:
        """Dollars that standing there has cost so far."""
        return self.base + self.rate * max(0.0, now - self.since)

    def attribute(self, held_s: float, now: float) -> float:
        """Charge a request for holding a slot; returns the dollars."""
        usd = held_s * self.slot_usd
        attributed = self.attributed
        # standing(now), written out: this line runs for every request
        room = self.base + self.rate * (now - self.since) - attributed - self.shown_idle
        if usd > room:
            usd = room if room > 0.0 else 0.0
        self.attributed = attributed + usd
        return usd

    def attribute_all(self, held_s: float, now: float) -> float | None:
        """Charge several requests, of which the first was over at `now`, for slot time `held_s` in all.

        None, and nothing is charged, where it might be too much for one of them.
        """
        usd = held_s * self.slot_usd
        if self.attributed + usd + self.shown_idle > self.standing(now):
            return None
        self.attributed += usd
        return usd

    def idle(self, held_s: float, now: float) -> float:
        """Dollars that no request answers for, with `held_s` slot-seconds held by running requests."""
        idle = pricing.idle_usd(self.standing(now), self.attributed, held_s * self.slot_usd)
        self.shown_idle = max(self.shown_idle, idle)
        return self.shown_idle


class RouteTally:
    """Counters of one route.

    budget_calls:   calls that count for the latency budget; `missed` of them missed it
    served:         inference calls that were answered
    hedges:         calls with a second attempt beside the first, by whether its answer was used
    """

    __slots__ = ("budget_calls", "facts", "first_byte", "hedges", "missed", "overhead", "served", "within")

    def __init__(self, facts: RouteFacts) -> None:
        self.facts = facts
        self.within = facts.within
        self.first_byte = facts.within if facts.first_byte is None else facts.first_byte
        self.overhead = Histogram(OVERHEAD_EDGES)
        self.budget_calls = 0
        self.missed = 0
        self.served = 0
        self.hedges = {"won": 0, "lost": 0}

    def configure(self, facts: RouteFacts) -> None:
        """Take over what the configuration says now; sums stay."""
        self.facts = facts
        self.within = facts.within
        self.first_byte = facts.within if facts.first_byte is None else facts.first_byte


class Lane:
    """Counters of one route on one backend.

    usd:           dollars by kind
    slot_seconds:  slot time that requests of the route held there
    unknown:       True when an answer came whose cost cannot be known: there is no sum to show then
    unpriced:      attempts that broke off without telling their cost: the sum is a lower bound by them
    outside_usd:   the part of `usd` that fell due outside any attempt, and is in no line of the access log
    billed_s:      seconds that a rented backend billed for attempts
    served:        inference calls that were answered
    """

    __slots__ = (
        "backend", "billed_s", "boots", "duration", "kind", "outside_usd", "owned", "priced", "route",
        "served", "slot_seconds", "standing", "ttfb", "unknown", "unpriced", "usd",
    )  # fmt: skip

    def __init__(
        self, route: RouteTally, backend: str, facts: BackendFacts | None, standing: Standing | None
    ) -> None:
        self.route = route
        self.backend = backend
        self.duration = Histogram(budget_edges(route.within))
        self.ttfb = Histogram(budget_edges(route.within))
        self.boots = Histogram(BOOT_EDGES)
        self.slot_seconds = 0.0
        self.billed_s = 0.0
        self.outside_usd = 0.0
        self.served = 0
        self.unknown = False
        self.unpriced = 0
        self.usd: dict[str, float] = {}
        self.describe(facts, standing)

    def describe(self, facts: BackendFacts | None, standing: Standing | None) -> None:
        """Take over what the configuration says of route and backend; sums stay."""
        edges = budget_edges(self.route.within)
        if edges != self.duration.edges:
            self.duration = Histogram(edges)
            self.ttfb = Histogram(edges)
        self.standing = standing
        self.priced = facts is not None and facts.priced
        self.owned = facts is not None and facts.owned
        self.kind = "" if facts is None else "fleet" if facts.owned else "spill"
        if self.kind:
            self.usd.setdefault(self.kind, 0.0)

    def hold(self, held_s: float, now: float, kind: str = "") -> float:
        """Charge a call for holding a slot of an owned backend; the dollars. `kind`: else the lane's own."""
        assert self.standing is not None
        self.slot_seconds += held_s
        usd = self.standing.attribute(held_s, now)
        if kind:
            self.usd[kind] = self.usd.get(kind, 0.0) + usd
        else:
            self.usd[self.kind] += usd
        return usd

    @property
    def cost_known(self) -> bool:
        """May the sums in `usd` be shown?"""
        return self.priced and not self.unknown


class Tally:
    """Calls with one combination of labels. `log_…` is what a log line says, as plain text."""

    __slots__ = (
        "count", "lane", "log_backend", "log_outcome", "log_reason", "log_route", "log_start", "outcome",
        "reason", "start",
    )  # fmt: skip

    def __init__(self, lane: Lane, reason: Reason | None, start: Start | None, outcome: Outcome) -> None:
        self.lane = lane
        self.reason = reason
        self.start = start
        self.outcome = outcome
        self.count = 0
        route = lane.route.facts.name
        self.log_route = None if route == OTHER else route
        self.log_backend = None if lane.backend == NONE else lane.backend
        self.log_reason = None if reason is None else reason.value
        self.log_start = None if start is None else start.value
        self.log_outcome = outcome.value
