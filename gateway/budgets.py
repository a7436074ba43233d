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


class Budgets:
    """Every budget there ever was, by its name: what was spent under one configuration counts under the next.

    sources:  who counts them for several processes; None: each counts here
    """

    def __init__(self, sources: Sources | None) -> None:
        self._sources = sources
        self._budgets: dict[str, Budget] = {}

    def spending(self, settings: Settings) -> Spending:
        """Those of this configuration, held to its limits from now on."""
        for name, limits, share in names_of(settings):
            source = None if self._sources is None else self._sources.spend(name)
            shared = None if self._sources is None else self._sources.share(name)
            if name in self._budgets:
                self._budgets[name].change(limits, share, shared)
            else:
                self._budgets[name] = Budget(
                    name, limits, share_of_requests=share, source=source, share=shared
                )
        named = {name for name, _, _ in names_of(settings)}
        return Spending(
            routes={
                name: self._budgets[key] for name in settings.routes if (key := f"route {name}") in named
            },
            backends={
                name: self._budgets[key] for name in settings.backends if (key := f"backend {name}") in named
            },
        )
