"""Opening ahead on one route: what the controller sees of the pool, and how the pool does what it decides.

Knows the pool and the controller; it decides nothing and pays nothing. The live gateway and the simulator
use the same object: one runs its loop, the other calls `step` on virtual time.
"""

from collections.abc import Mapping
from math import exp, log1p, sqrt

from gateway import prewarm_loop
from gateway.clock import Clock
from gateway.config.schema import LatencyBudget, Prewarm, Settings
from gateway.demand import Demand
from gateway.forecast import Season
from gateway.pool import Pool
from gateway.prewarm import KIND, TAIL_Z, Controller, Plan, State
from gateway.tier import PursedTier, Tier
from gateway.vocab import Charge
from policies.base import Estimate

MONDAY_S = 3 * 86400.0
"""From Monday to the weekday of the Unix epoch, a Thursday."""


class Prewarming:
    """The controller of one pool, attached to it (`gateway.prewarm_loop.Prewarmable`).

    options:      the route's `prewarm`
    budget_s:     how soon a call must be answered; None: no call can be late
    first_bytes:  that speaks of first bytes only
    """

    def __init__(
        self,
        pool: Pool,
        options: Prewarm,
        *,
        clock: Clock,
        budget_s: float | None,
        first_bytes: bool = False,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._budget_s = budget_s
        self._first_bytes = first_bytes
        self._stopped = False
        now = clock.now()
        self.controller = Controller(
            pool.route, options, now=now, season=Season(clock.wall() - now + MONDAY_S)
        )
        pool.demand = Demand(self.controller.arrived, self.controller.gap)

    def inherit(self, earlier: "Prewarming", options: Prewarm) -> None:
        """Go on with what this route learned, and spent, under an earlier configuration."""
        self.controller = earlier.controller
        self.controller.options = options
        self.controller.cap.limit(options.usd_per_hour)
        self._pool.demand = Demand(self.controller.arrived, self.controller.gap)

    # -- life ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tick every second until cancelled."""
        await prewarm_loop.run(self.controller, self, self._clock)

    def step(self, now: float) -> Plan | None:
        """One tick: what was decided and begun; None while there is nothing to warm."""
        return prewarm_loop.step(self.controller, self, now)

    def stop(self) -> None:
        """Nothing is opened or kept any more."""
        self._stopped = True

    def charged(self, charge: Charge, now: float) -> None:
        """A charge outside attempts was booked on this route."""
        if charge.kind == KIND:
            self.controller.charged(charge.usd, now)

    # -- what the loop needs of a pool ---------------------------------------------------------

    def prewarm_state(self, now: float) -> State | None:
        """The pool beside the first rented tier that takes calls and can open an instance without one.

        Owned slots count as this route's though other routes may hold some: it then opens too little.
        Demand is measured in slots of the reference tier, so `service_mean_s` is how long a call holds one.
        """
        pool = self._pool
        tier = self._tier()
        if tier is None or tier.supply.warmth is None:
            return None
        owned = [each.supply for each in pool.tiers if each.owned]
        opening = len(tier.opening)
        answered = tier.overall
        if self._first_bytes and tier.answers is not None:
            answered = tier.answers.service
        return State(
            backend=tier.name,
            fleet_slots=sum(
                replica.slots.capacity for supply in owned for replica in supply.replicas if replica.usable
            ),
            fleet_busy=sum(supply.in_flight for supply in owned),
            opening=opening,
            serving=max(0, tier.supply.in_flight - opening),
            idle=tier.supply.warmth.idling(now),
            queued=len(pool.waiting),
            room=tier.room,
            rent=tier.rent,
            cold_mean_s=tier.cold.mean,
            cold_tail_s=_p99(tier.cold),
            service_mean_s=pool.reference.overall.mean,
            service_tail_s=_p99(answered),
            budget_s=self._budget_s,
            spill_usd=_left(tier, now),
        )

    def open(self, backend: str, count: int, *, kind: str) -> None:
        """Have `count` instances boot, or as many as there is room and money for."""
        self._pool.open(backend, count, kind=kind)

    def ping(self, backend: str, count: int, *, kind: str) -> None:
        """Keep the `count` instances that have idled longest from going."""
        self._pool.open(backend, count, kind=kind, fresh=False)

    def _tier(self) -> Tier | None:
        if self._stopped or not self._pool.policy.rents:
            return None
        rented = (tier for tier in self._pool.tiers if not tier.owned and tier.blocked is None)
        return next((tier for tier in rented if tier.supply.backend.can_open), None)


def of_routes(settings: Settings, pools: Mapping[str, Pool], clock: Clock) -> dict[str, Prewarming]:
    """One for each route whose section asks for it."""
    return {
        name: _of(pools[name], options.prewarm, options.latency_budget, clock)
        for name, options in settings.routes.items()
        if options.prewarm is not None
    }


def _of(pool: Pool, options: Prewarm, budget: LatencyBudget | None, clock: Clock) -> Prewarming:
    if budget is None:
        return Prewarming(pool, options, clock=clock, budget_s=None)
    only = budget.first_byte == budget.within  # where one of them is written it stands for both
    return Prewarming(pool, options, clock=clock, budget_s=budget.within, first_bytes=only)


def _p99(known: Estimate) -> float:
    """Its 99 % quantile, as if it were log-normal; never below what is promised, the objective's quantile."""
    if known.mean <= 0.0:
        return known.tail
    variance = log1p((known.deviation / known.mean) ** 2)
    return max(known.tail, known.mean * exp(TAIL_Z * sqrt(variance) - variance / 2.0))


def _left(tier: Tier, now: float) -> float | None:
    """Dollars that the spill budgets allow; None where none of them limits anything."""
    if not isinstance(tier, PursedTier):
        return None
    budgets = [budget for budget in tier.purse.budgets if budget.on_exhausted != "warn"]
    left = [usd for budget in budgets if (usd := budget.remaining_usd(now)) is not None]
    return min(left, default=None)
