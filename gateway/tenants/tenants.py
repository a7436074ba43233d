"""All tenants: whose call it is, what they are held to when the file changes, and their metrics.

Every tenant that was ever in the file is remembered, so that what it used under one configuration counts
under the next; callers without one, and of tenants that are not in the file, share what `default` says. With
several workers all state is shared, and every limit holds for all of them together. Knows no credential and
no pipeline.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.clock import Clock
from gateway.config.tenants import DEFAULT, TenantOptions
from gateway.metric_families import counted
from gateway.record import Record
from gateway.spending import SpendSource
from gateway.tallies import Standing
from gateway.tenants.meter import Meter
from gateway.tenants.price import Prices
from gateway.tenants.tenant import Tenant
from gateway.tier import Tier
from gateway.vocab import Call


class Sources(Protocol):
    """Where shared state comes from, by the name of the account (`tenant NAME`)."""

    def spend(self, budget: str) -> SpendSource: ...

    def meter(self, budget: str) -> Meter: ...


def account_of(name: str) -> str:
    """Its name among all budgets that workers share."""
    return f"tenant {name}"


class Tenants(Collector):
    """Every tenant of the file.

    standing:  what owned backends cost, by name
    sources:   who counts for several processes; None: each counts here
    """

    def __init__(
        self,
        options: Mapping[str, TenantOptions],
        *,
        clock: Clock,
        standing: Mapping[str, Standing],
        sources: Sources | None = None,
    ) -> None:
        self._clock = clock
        self._sources = sources
        self._prices = Prices(standing)
        self._known: dict[str, Tenant] = {}
        self._named: dict[str, Tenant] = {}
        self._others = Tenant(DEFAULT, Meter(), self._prices, lambda: None)
        self.follow(options)

    @property
    def asked(self) -> "Tenants | None":
        """Itself, or None where the file has no tenants and no call needs to come here."""
        return self if self._named else None

    def follow(self, options: Mapping[str, TenantOptions]) -> None:
        """Hold them to these limits from now on. Calls that are inside stay, and count."""
        self._named = {}
        for name, each in options.items():
            tenant = self._known.get(name)
            if tenant is None:
                tenant = self._known[name] = self._made(name)
            tenant.configure(each)
            self._named[name] = tenant

    def enter(self, call: Call, record: Record, tiers: Iterable[Tier]) -> None:
        """Let a call in that knows its route, by its tenant's limits.

        Raises RateLimited, TenantBudgetSpent.
        """
        tenant = self.of(None if record.caller is None else record.caller.tenant)
        tenant.enter(call, record, tiers, self._clock.now())

    def of(self, name: str | None) -> Tenant:
        """Whose limits hold for it."""
        tenant = None if name is None else self._named.get(name)
        return tenant or self._named.get(DEFAULT) or self._others

    def collect(self) -> Iterator[Metric]:
        """Counters, once the file has tenants. Names are those of the file only."""
        tenants = {DEFAULT: self._others, **self._known}
        if not self._known:
            return
        everybody = [*tenants.values()]
        if tenants[DEFAULT] is not self._others:
            everybody.append(self._others)  # calls from before there was a `default`
        yield counted(
            "tenant_requests", "Calls that knew their route, by how they ended for their client.",
            ["tenant", "outcome"],
            _added(everybody, lambda each: {(each.label, what): n for what, n in each.outcomes.items()}),
        )  # fmt: skip
        yield counted(
            "tenant_cost_usd", "Dollars that calls cost, as far as that is known.", ["tenant"],
            _added(everybody, lambda each: {(each.label,): each.usd}),
        )  # fmt: skip
        yield counted(
            "tenant_limited", "Calls that were refused for a limit of their tenant.", ["tenant", "limit"],
            _added(everybody, lambda each: {(each.label, what): n for what, n in each.limited.items()}),
        )  # fmt: skip

    def _made(self, name: str) -> Tenant:
        sources, account = self._sources, account_of(name)
        if sources is None:
            return Tenant(name, Meter(), self._prices, lambda: None)
        return Tenant(name, sources.meter(account), self._prices, lambda: sources.spend(account))


def _added(
    tenants: Iterable[Tenant], samples: Callable[[Tenant], Mapping[tuple[str, ...], float]]
) -> dict[tuple[str, ...], float]:
    whole: dict[tuple[str, ...], float] = {}
    for tenant in tenants:
        for labels, value in samples(tenant).items():
            whole[labels] = whole.get(labels, 0.0) + value
    return whole
