"""The spill budgets of a configuration, built: in this process alone, or where workers share them.

Knows the settings and budgets; no call, no price and no process.
"""

from collections.abc import Iterator
from typing import Protocol

from backends.base import SpillBudget
from gateway.config.schema import Settings
from gateway.spending import Budget, Spending, SpendSource
from gateway.spill_share import ShareSource


class Sources(Protocol):
    """Where shared budgets come from, named as `names_of` does."""

    def spend(self, budget: str) -> SpendSource: ...

    def share(self, budget: str) -> ShareSource | None: ...


def names_of(settings: Settings) -> Iterator[tuple[str, SpillBudget, float | None]]:
    """(name, limits, share of calls) of every budget in the file; the names are unique among them."""
    for name, route in settings.routes.items():
        if (limits := route.spill_budget) is not None:
            yield f"route {name}", limits, limits.share_of_requests
    for name, backend in settings.backends.items():
        if (most := backend.spill_budget) is not None:
            yield f"backend {name}", most, None


def spending_of(settings: Settings, sources: Sources | None) -> Spending:
    """Every budget. `sources`: who counts them for several processes; None: each counts here."""
    budgets = {}
    for name, limits, share in names_of(settings):
        if sources is None:
            budgets[name] = Budget(name, limits, share_of_requests=share)
        else:
            budgets[name] = Budget(name, limits, source=sources.spend(name), share=sources.share(name))
    return Spending(
        routes={name: budgets[key] for name in settings.routes if (key := f"route {name}") in budgets},
        backends={name: budgets[key] for name in settings.backends if (key := f"backend {name}") in budgets},
    )
