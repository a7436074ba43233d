"""What one configuration says, built: its backends, routes, pools and budgets. A reload swaps it whole.

`Builder.table` makes the first one and those that follow: what the file says the same of stays the same
object, with its connections, its calls and what it has learned. A call goes on under the table it came in by.
Knows how the parts go together; no socket, no file and no signal.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from backends.base import Backend
from gateway import hedging, prewarming
from gateway.admission import Admission
from gateway.assembly import Assembly, NewPool
from gateway.background import Background
from gateway.budgets import Budgets
from gateway.capacity import Capacity
from gateway.clock import Clock
from gateway.config.schema import Settings
from gateway.dispatch import Dispatch
from gateway.estimates import Estimates
from gateway.explain.ring import Ring
from gateway.hedging import Hedging
from gateway.member import Member
from gateway.opening import Opening
from gateway.pool import Pool
from gateway.prewarming import Prewarming
from gateway.registry import Registry
from gateway.retry_budget import RetryBudgets
from gateway.routes import Route, RouteTable
from gateway.spending import Spending
from gateway.tallies import RouteFacts
from policies.base import Policy


class Table(NamedTuple):
    """One configuration at work.

    admission:  counts the calls that came in by this table and are still inside
    ahead:      the tasks that open instances ahead, by route
    """

    settings: Settings
    members: Mapping[str, Member]
    spending: Spending
    retries: RetryBudgets
    pools: Mapping[str, Pool]
    prewarming: Mapping[str, Prewarming]
    hedging: Mapping[str, Hedging]
    routes: RouteTable
    admission: Admission
    dispatch: Dispatch
    ahead: dict[str, "asyncio.Task[None]"]

    @property
    def backends(self) -> dict[str, Backend]:
        """By name."""
        return {name: member.backend for name, member in self.members.items()}

    @property
    def capacities(self) -> dict[str, Capacity]:
        """The slots of each backend."""
        return {name: member.capacity for name, member in self.members.items()}

    def begin(self, background: Background, before: "Table | None" = None) -> None:
        """Open instances ahead where this table does it and the one before did not by the same object."""
        if before is not None:
            for name, task in before.ahead.items():
                if self.prewarming.get(name) is before.prewarming[name]:
                    self.ahead[name] = task
                else:
                    before.prewarming[name].stop()
                    task.cancel()
        for name, ahead in self.prewarming.items():
            if name not in self.ahead:
                self.ahead[name] = background.start(ahead.run(), name=f"open ahead for {name}")


class Builder:
    """Builds tables. What outlives them is here: estimates, budgets, what waits to be explained."""

    def __init__(
        self,
        *,
        policies: Registry[Policy],
        opener: Opening,
        budgets: Budgets,
        ring: Ring,
        new_pool: NewPool,
        clock: Clock,
        chance: Random,
        spawn: Callable[..., None],
    ) -> None:
        self.estimates = Estimates()
        self._policies = policies
        self._opener = opener
        self._budgets = budgets
        self._ring = ring
        self._new_pool = new_pool
        self._clock = clock
        self._chance = chance
        self._spawn = spawn

    def table(
        self,
        settings: Settings,
        members: Mapping[str, Member],
        *,
        before: Table | None = None,
        inside: Sequence[Admission] = (),
    ) -> Table:
        """The table of these settings. Waits for nothing, and changes no route of the one before.

        before:  the table whose place it takes
        inside:  that of every table that may still have calls
        """
        kept = set() if before is None else _kept(settings, members, before)
        for name, options in settings.backends.items():
            members[name].backend.options = options  # what the gateway reads of it may have changed
        spending = self._budgets.spending(settings)
        now = self._clock.now()
        pools = self._pools(settings, members, spending, kept, before)
        retries = _retries(settings, before, now)
        hedged = self._hedging(settings, pools, kept, before)
        return Table(
            settings=settings,
            members=members,
            spending=spending,
            retries=retries,
            pools=pools,
            prewarming=self._prewarming(settings, pools, kept, before),
            hedging=hedged,
            routes=RouteTable(
                Route.of(name, options, pools[name]) for name, options in settings.routes.items()
            ),
            admission=Admission(limit=settings.limits.calls, before=inside),
            dispatch=Dispatch(clock=self._clock, retries=retries, hedgers=hedged),
            ahead={},
        )

    def _pools(
        self,
        settings: Settings,
        members: Mapping[str, Member],
        spending: Spending,
        kept: set[str],
        before: Table | None,
    ) -> dict[str, Pool]:
        assembly = Assembly(
            backends={name: member.backend for name, member in members.items()},
            capacities={name: member.capacity for name, member in members.items()},
            spending=spending, opener=self._opener, clock=self._clock, new_pool=self._new_pool,
            estimates=self.estimates,
        )  # fmt: skip
        pools = {}
        for name, options in settings.routes.items():
            if before is not None and name in kept:
                pools[name] = before.pools[name]
                continue
            policy = self._policies.get(options.policy.type)(options.policy.options)
            pools[name] = pool = assembly.pool(name, options, policy)
            pool.witness = self._ring.of(pool)
            if before is not None and (earlier := before.pools.get(name)) is not None:
                budget = before.settings.routes[name].latency_budget
                pool.inherit(earlier, same_budget=options.latency_budget == budget)
        return pools

    def _prewarming(
        self, settings: Settings, pools: Mapping[str, Pool], kept: set[str], before: Table | None
    ) -> dict[str, Prewarming]:
        made = prewarming.of_routes(_without(settings, kept), pools, self._clock)
        if before is not None:
            for name, earlier in before.prewarming.items():
                if name in kept:
                    made[name] = earlier
                elif name in made and (options := settings.routes[name].prewarm) is not None:
                    made[name].inherit(earlier, options)
        return made

    def _hedging(
        self, settings: Settings, pools: Mapping[str, Pool], kept: set[str], before: Table | None
    ) -> dict[str, Hedging]:
        made = hedging.of_routes(
            _without(settings, kept), pools, clock=self._clock, chance=self._chance, spawn=self._spawn
        )
        for name, each in made.items():
            each.noting = self._ring.of(pools[name])
        if before is not None:
            for name, earlier in before.hedging.items():
                if name in kept:
                    made[name] = earlier
                elif name in made:
                    made[name].inherit(earlier)
        return made


def _kept(settings: Settings, members: Mapping[str, Member], before: Table) -> set[str]:
    """Routes of which nothing has changed, neither in their own section nor in those of their backends."""
    same = {
        name
        for name, options in settings.backends.items()
        if members[name] is before.members.get(name) and options == before.settings.backends[name]
    }
    return {
        name
        for name, options in settings.routes.items()
        if options == before.settings.routes.get(name) and all(tier.backend in same for tier in options.tiers)
    }


def _without(settings: Settings, kept: set[str]) -> Settings:
    routes = {name: options for name, options in settings.routes.items() if name not in kept}
    return settings.model_copy(update={"routes": routes})


def _retries(settings: Settings, before: Table | None, now: float) -> RetryBudgets:
    options = settings.retry_budget
    if before is not None and before.settings.retry_budget == options:
        return before.retries.of(settings.routes)
    return RetryBudgets(
        settings.routes,
        share=options.share,
        floor_per_second=options.floor_per_second,
        limits_outage=options.on_outage == "limit",
        now=now,
    )


def route_facts(name: str, settings: Settings) -> RouteFacts:
    """What the ledger must know of a route."""
    options = settings.routes[name]
    budget = options.latency_budget
    return RouteFacts(
        name,
        within=None if budget is None else budget.within,
        first_byte=None if budget is None else budget.first_byte,
        objective=0.99 if budget is None else budget.objective,
        backends=tuple(tier.backend for tier in options.tiers),
        match=", ".join(options.match.models) or f"/invoke/{name}",
        hedged=options.hedge is not None,
    )
