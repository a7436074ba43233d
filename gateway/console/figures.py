"""Figures of the metrics, put together as people read them: dollars per 1,000, budgets, sums by label.

Every number is one of `/metrics`, or a sum or quotient of such. What no price is known of is None, never
zero. Pure; knows no HTTP.
"""

from collections.abc import Iterable, Mapping

from prometheus_client.core import Metric

Labels = Mapping[str, str]


class Figures:
    """The samples of one look, by their names as `/metrics` shows them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._samples: dict[str, list[tuple[Labels, float]]] = {}
        for family in metrics:
            if family.type == "histogram":
                continue
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append((sample.labels, sample.value))

    def of(self, name: str, **labels: str) -> list[tuple[Labels, float]]:
        """The samples of `overspill_NAME` that have these labels."""
        return [
            (said, value)
            for said, value in self._samples.get(f"overspill_{name}", ())
            if all(said.get(key) == wanted for key, wanted in labels.items())
        ]

    def total(self, name: str, **labels: str) -> float:
        """Their sum."""
        return sum((value for _, value in self.of(name, **labels)), 0.0)

    def one(self, name: str, **labels: str) -> float | None:
        """The first of them; None where there is none."""
        found = self.of(name, **labels)
        return found[0][1] if found else None

    def started(self) -> float | None:
        """Unix time at which the process began, the first of several."""
        found = self._samples.get("process_start_time_seconds")
        return found[0][1] if found else None


class Money:
    """Dollars and answered calls, fleet and rented apart."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        backends = {said["backend"]: said for said, _ in figures.of("backend_info")}
        self._owned = {name for name, said in backends.items() if said.get("owned") == "true"}
        self._unpriced = {said["backend"] for said, value in figures.of("price_known") if not value}

    def usd(self, *, owned: bool, **labels: str) -> float | None:
        """What calls cost there; None where calls were answered at a price that is not known."""
        used = {said["backend"] for said, value in self._figures.of("served_total", **labels) if value}
        if any((name in self._owned) is owned for name in used & self._unpriced):
            return None
        return self._sum("cost_usd_total", owned, labels)

    def served(self, *, owned: bool, **labels: str) -> float:
        """Calls that were answered there."""
        return self._sum("served_total", owned, labels)

    def idle_usd(self) -> float | None:
        """What the fleet cost while nobody used it; None where no owned backend has a price."""
        found = self._figures.of("fleet_idle_usd_total")
        return sum(value for _, value in found) if found else None

    def _sum(self, name: str, owned: bool, labels: Mapping[str, str]) -> float:
        found = self._figures.of(name, **labels)
        return sum((value for said, value in found if (said["backend"] in self._owned) is owned), 0.0)

    def per_thousand(self) -> dict[str, float | None]:
        """Of everything: warm with the idle time of the fleet, spill, and both over all answers."""
        warm, spill, idle = self.usd(owned=True), self.usd(owned=False), self.idle_usd()
        fleet = None if warm is None else warm + (idle or 0.0)
        kept, spilled = self.served(owned=True), self.served(owned=False)
        return {
            "warm": _over(fleet, kept),
            "spill": _over(spill, spilled),
            "blended": _over(None if fleet is None or spill is None else fleet + spill, kept + spilled),
        }

    def per_thousand_of(self, route: str) -> dict[str, float | None]:
        """Of one route; the idle time of the fleet is in the blended figure only."""
        return {
            "warm": _over(self.usd(owned=True, route=route), self.served(owned=True, route=route)),
            "spill": _over(self.usd(owned=False, route=route), self.served(owned=False, route=route)),
            "blended": self._figures.one("cost_per_1k_requests_usd", route=route),
        }


def _over(usd: float | None, calls: float) -> float | None:
    return 1000.0 * usd / calls if usd is not None and calls else None


def spill_budget(figures: Figures, label: str, name: str) -> dict[str, float | None] | None:
    """Dollars of its limit, left and spent; how often it was used up, and the attempts that it did not
    grant, and those that it granted all the same. None without a budget; dollars are None without a limit.
    """
    prefix, of = "" if label == "route" else "backend_", {label: name}
    if not figures.of(f"{prefix}spill_budget_exhaustions_total", **of):
        return None
    limit = figures.one(f"{prefix}spill_budget_limit_usd", **of)
    left = figures.one(f"{prefix}spill_budget_remaining_usd", **of)
    return {
        "limit_usd": limit,
        "left_usd": left,
        "spent_usd": None if limit is None or left is None else limit - left,
        "exhaustions": figures.total(f"{prefix}spill_budget_exhaustions_total", **of),
        "refused": figures.total(f"{prefix}spill_budget_refused_total", **of),
        "overrun": figures.total(f"{prefix}spill_budget_overrun_total", **of),
    }
