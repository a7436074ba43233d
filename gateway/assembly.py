"""From the options of a route to its pool: tiers with their slots, estimates and money, and the queue.

Knows the parts of a pool and how they go together; never a concrete policy or backend, and no call.
"""

from collections.abc import Callable, Mapping
from typing import Any

from backends.base import Backend
from gateway.capacity import Capacity
from gateway.clock import Clock
from gateway.config.schema import RouteOptions
from gateway.estimates import Estimates
from gateway.expectations import expectation
from gateway.pool import Opener, Pool
from gateway.spending import Spending
from gateway.tier import PursedTier, Tier
from policies.base import Policy, TierOptions

NewPool = Callable[..., Pool]


class Assembly:
    """Makes the pool of one route after the other. `estimates` holds what all of them have learned."""

    def __init__(
        self,
        *,
        backends: Mapping[str, Backend],
        capacities: Mapping[str, Capacity],
        spending: Spending,
        opener: Opener,
        clock: Clock,
        new_pool: NewPool,
        estimates: Estimates | None = None,
    ) -> None:
        self.estimates = estimates or Estimates()
        self._backends = backends
        self._capacities = capacities
        self._spending = spending
        self._opener = opener
        self._clock = clock
        self._new_pool = new_pool

    def pool(self, name: str, options: RouteOptions, policy: Policy) -> Pool:
        """The pool of route `name`."""
        budget = options.latency_budget
        limits: dict[str, Any] = {}
        if budget is not None:
            limits = {
                "within": budget.within,
                "first_byte": budget.first_byte,
                "objective": budget.objective,
            }
        return self._new_pool(
            name,
            policy,
            [self._tier(name, options, tier) for tier in options.tiers],
            opener=self._opener,
            best_effort_limit=options.best_effort_limit,
            **limits,
        )

    def _tier(self, route: str, options: RouteOptions, tier: TierOptions) -> Tier:
        backend, supply = self._backends[tier.backend], self._capacities[tier.backend]
        budget = options.latency_budget
        stated = expectation(
            backend,
            within=None if budget is None else budget.within,
            objective=None if budget is None else budget.objective,
        )
        service = self.estimates.of(route, tier.backend, stated)
        first_byte = self.estimates.of(f"{route} first byte", tier.backend, stated)
        purse = None if backend.owned else self._spending.purse(route, tier.backend)
        if purse is None:
            return Tier(tier, supply, service, first_byte)
        owned = [
            self._capacities[each.backend] for each in options.tiers if self._backends[each.backend].owned
        ]
        return PursedTier(
            tier,
            supply,
            service,
            first_byte,
            route=route,
            purse=purse,
            clock=self._clock,
            requested=self._spending.requested,
            fleet_usable=lambda: any(capacity.blocked is None for capacity in owned),
        )
