"""The gateway's own figures, read from its /metrics page. Pure: text in, sums out.

Must never know how the page was fetched. Metric names are those that users meet.
"""

from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

Sums = Mapping[tuple[str, ...], float]
"""Values by the labels that matter here."""

_WANTED = {
    "overspill_cost_usd_total": ("backend", "kind"),
    "overspill_fleet_idle_usd_total": ("backend",),
    "overspill_decisions_total": ("reason",),
    "overspill_starts_total": ("backend", "start"),
    "overspill_in_flight": ("backend",),
    "overspill_queue_depth": ("route",),
    "overspill_cost_per_1k_requests_usd": ("route",),
}


class Figures(NamedTuple):
    """One reading of /metrics."""

    sums: Mapping[str, Sums]

    def get(self, name: str) -> Sums:
        """The samples of `overspill_NAME`; empty when the page has none."""
        return self.sums.get(f"overspill_{name}", {})

    @property
    def idle_usd(self) -> float:
        """What the fleet cost while nothing ran on it."""
        return sum(self.get("fleet_idle_usd_total").values())

    @property
    def spent_usd(self) -> float:
        """Everything: calls, rented seconds, and the fleet's idle time."""
        return sum(self.get("cost_usd_total").values()) + self.idle_usd

    def usd_by_kind(self) -> dict[str, float]:
        """Dollars by kind, the fleet's idle time as `fleet_idle`; no kind that nothing was spent on."""
        kinds: dict[str, float] = {}
        for (_, kind), usd in self.get("cost_usd_total").items():
            kinds[kind] = kinds.get(kind, 0.0) + usd
        spent = {kind: usd for kind, usd in kinds.items() if usd or kind in ("fleet", "spill")}
        return {**spent, "fleet_idle": self.idle_usd}

    def usd_by_backend(self) -> dict[str, float]:
        """Dollars by backend, idle time included."""
        names: dict[str, float] = {}
        for (name, _), usd in self.get("cost_usd_total").items():
            names[name] = names.get(name, 0.0) + usd
        for (name,), usd in self.get("fleet_idle_usd_total").items():
            names[name] = names.get(name, 0.0) + usd
        return names

    def with_tails(self, later: "Figures", owned: str) -> "Figures":
        """These figures, with what rented backends cost taken from a later reading.

        Their idle tails fall due after the last request; the fleet's own time must not go on counting.
        """
        name = "overspill_cost_usd_total"
        tails = {labels: usd for labels, usd in later.sums.get(name, {}).items() if labels[0] != owned}
        return Figures({**self.sums, name: {**self.sums.get(name, {}), **tails}})

    def since(self, earlier: "Figures") -> "Figures":
        """What was added between two readings of the counters; gauges are those of the later one."""
        return Figures(
            {
                name: {
                    labels: value - earlier.sums.get(name, {}).get(labels, 0.0)
                    if name.endswith("_total")
                    else value
                    for labels, value in sums.items()
                }
                for name, sums in self.sums.items()
            }
        )


NOTHING = Figures({})
"""Before the first reading."""


def read(page: str) -> Figures:
    """Parse a page in the Prometheus text format. Raises ValueError if it is not one."""
    sums: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = _WANTED.get(sample.name)
            if labels is None:
                continue
            key = tuple(sample.labels.get(label, "") for label in labels)
            of = sums.setdefault(sample.name, {})
            of[key] = of.get(key, 0.0) + sample.value
    return Figures(sums)
