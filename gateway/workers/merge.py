"""Several workers' accounts of themselves as one: pure functions on plain values.

Counters and histograms are added up. Of gauges, what each worker counts for itself is added up too; what all
of them see of the same thing is said once, by the rule in `_GAUGES`, or else the largest. A worker that has
ended goes on counting with what it said last, because a counter must not fall.

Knows no process and no socket.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from prometheus_client.core import Metric

from gateway.histogram import Histogram
from gateway.metric_families import latest, plain
from gateway.metrics import BREAKER_STATES
from gateway.reports import quantiles

Report = Mapping[str, Any]
"""What `desk` says of one worker."""

_GAUGES: Mapping[str, Callable[[Iterable[float]], float]] = {
    "overspill_in_flight": sum,
    "overspill_event_loop_tasks": sum,
    "overspill_config_draining_calls": sum,
    "overspill_queue_depth": sum,
    "overspill_retry_budget_tokens": sum,
    "overspill_price_known": min,
    "overspill_certificate_expires_seconds": min,
    "overspill_certificate_last_renewal_successful": min,
    "overspill_spill_budget_remaining_usd": min,
    "overspill_backend_spill_budget_remaining_usd": min,
    "process_virtual_memory_bytes": sum,
    "process_resident_memory_bytes": sum,
    "process_open_fds": sum,
    "process_max_fds": min,
    "process_start_time_seconds": min,
}
_COST = "overspill_cost_per_1k_requests_usd"
_SLOTS = "overspill_slots"
_ADDED = ("counter", "histogram")


def merge_metrics(alive: Sequence[Report], gone: Sequence[Report] = ()) -> list[Metric]:
    """One family for each name. Of the reports in `gone` only what is added up counts."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
    traced: dict[tuple[str, tuple[tuple[str, str], ...]], list[Any]] = {}
    for place, report in enumerate((*alive, *gone)):
        for family in report["metrics"]:
            if place >= len(alive) and family["type"] not in _ADDED:
                continue
            name = family["name"]
            if name not in families:
                families[name] = Metric(name, family["help"], family["type"])
                values[name] = {}
            for sample, labels, value, *exemplars in family["samples"]:
                key = (sample, tuple(labels.items()))
                values[name].setdefault(key, []).append(value)
                if exemplars:
                    traced.setdefault(key, []).extend(exemplars)
    costs = {name: _cost(sums) for name, sums in add_sums((*alive, *gone)).items()}
    for name, family in families.items():
        if name == _SLOTS:
            _slots(family, values[name])
            continue
        rule = sum if family.type in _ADDED else _GAUGES.get(name, max)
        for (sample, labels), several in values[name].items():
            said: float | None = rule(several)
            if name == _COST:
                said = costs.get(dict(labels)["route"])
            if said is not None:
                exemplar = latest(traced.get((sample, labels), ()))
                family.add_sample(sample, dict(labels), said, exemplar=exemplar)
    return list(families.values())


def _slots(family: Metric, values: Mapping[tuple[str, tuple[tuple[str, str], ...]], Sequence[float]]) -> None:
    """Slots by state: each worker knows its own busy ones and instances, and all see the same capacity.

    What is left of the capacity is what no worker uses: the closed slots, or the idle ones of a backend that
    has none to close.
    """
    backends: dict[str, dict[str, Sequence[float]]] = {}
    for (_, labels), several in values.items():
        said = dict(labels)
        backends.setdefault(said["backend"], {})[said["state"]] = several
    for name, states in backends.items():
        capacity = max(map(sum, zip(*states.values(), strict=False)))
        rest = "closed" if "closed" in states else "idle"
        counts = {
            state: max(several) if state == "gone" else sum(several)
            for state, several in states.items()
            if state != rest
        }
        counts[rest] = max(0.0, capacity - sum(counts.values()))
        for state, count in counts.items():
            family.add_sample(_SLOTS, {"backend": name, "state": state}, count)


def merge_routes(alive: Sequence[Report], gone: Sequence[Report] = ()) -> list[dict[str, Any]]:
    """One entry for each route, in the shape of `gateway.reports.report_routes`."""
    sums = add_sums((*alive, *gone))
    entries = []
    for first in (alive or gone)[0]["routes"] if alive or gone else ():
        name = first["name"]
        living, all_of_it = _entries(alive, "routes", name), _entries((*alive, *gone), "routes", name)
        entry = dict(first)
        entry["ready"] = any(each["ready"] for each in living)
        entry["queue_depth"] = sum(each["queue_depth"] for each in living)
        entry["requests"] = sum(each["requests"] for each in all_of_it)
        for word in ("requests_by_backend", "outcomes", "reasons", "start"):
            entry[word] = _added(each[word] for each in all_of_it)
        if first["latency_budget"] is not None:
            entry["latency_budget"] = _budget([each["latency_budget"] for each in all_of_it])
        placed = sum(entry["requests_by_backend"].values())
        spilled = sum(
            (each["spill_share"] or 0.0) * sum(each["requests_by_backend"].values()) for each in all_of_it
        )
        entry["spill_share"] = spilled / placed if placed else None
        whole = Histogram(sums[name]["edges"])
        whole.counts = sums[name]["counts"]
        entry["latency_s"] = quantiles(whole)
        entry["cost_per_1k_requests_usd"] = _cost(sums[name])
        entries.append(entry)
    return entries


def merge_backends(alive: Sequence[Report], gone: Sequence[Report] = ()) -> list[dict[str, Any]]:
    """One entry for each backend, in the shape of `gateway.reports.report_backends`."""
    entries = []
    for first in alive[0]["backends"] if alive else ():
        all_of_it = _entries(alive, "backends", first["name"])
        entry = dict(first)
        entry["ready"] = any(each["ready"] for each in all_of_it)
        entry["blocked"] = None if any(each["blocked"] is None for each in all_of_it) else first["blocked"]
        entry["in_flight"] = sum(each["in_flight"] for each in all_of_it)
        left = max(0, entry["capacity"] - entry["in_flight"])
        entry["free"] = min(left, max(each["free"] for each in all_of_it))
        entry["held_s"] = _mean(each["held_s"] for each in all_of_it)
        entry["replicas"] = _replicas([each["replicas"] for each in all_of_it])
        entry["instances"] = _added(each["instances"] for each in all_of_it)
        idle = [each["idle_usd"] for each in (*all_of_it, *_entries(gone, "backends", first["name"]))]
        entry["idle_usd"] = None if None in idle else sum(idle)
        entries.append(entry)
    return entries


def merge_health(alive: Sequence[Report]) -> tuple[str, dict[str, dict[str, str]]]:
    """Ready as long as one worker is; the reasons are those that all of them give."""
    if not alive:
        return "not_ready", {}
    states = [report["health"] for report in alive]
    order = ("ready", "draining", "not_ready")
    status = min((state["status"] for state in states), key=order.index)
    common = set(states[0]["reasons"]).intersection(*(state["reasons"] for state in states))
    return status, {name: dict(states[0]["reasons"][name]) for name in sorted(common)}


def fold(gone: Sequence[Report], last: Report) -> list[Report]:
    """The accounts of ended workers with one more, as one: so that any number of them takes the same room."""
    several = [*gone, last]
    families = [
        {
            "name": family.name,
            "type": family.type,
            "help": family.documentation,
            "samples": [plain(sample) for sample in family.samples],
        }
        for family in merge_metrics(several)
        if family.type in _ADDED
    ]
    return [
        {
            "metrics": families,
            "routes": merge_routes(several),
            "sums": add_sums(several),
            "backends": merge_backends(several),
        }
    ]


def add_sums(reports: Iterable[Report]) -> dict[str, dict[str, Any]]:
    """Dollars, served calls and latencies of each route; dollars None where some worker cannot know them."""
    whole: dict[str, dict[str, Any]] = {}
    for report in reports:
        for name, sums in report["sums"].items():
            if name not in whole:
                whole[name] = {**sums, "counts": list(sums["counts"])}
                continue
            into = whole[name]
            into["usd"] = None if None in (into["usd"], sums["usd"]) else into["usd"] + sums["usd"]
            into["served"] += sums["served"]
            into["total"] += sums["total"]
            into["counts"] = [a + b for a, b in zip(into["counts"], sums["counts"], strict=True)]
    return whole


def _cost(sums: Mapping[str, Any]) -> float | None:
    """Dollars per 1,000 served calls."""
    if sums["usd"] is None or not sums["served"]:
        return None
    return 1000.0 * float(sums["usd"]) / float(sums["served"])


def _entries(reports: Iterable[Report], what: str, name: str) -> list[dict[str, Any]]:
    return [entry for report in reports for entry in report[what] if entry["name"] == name]


def _added(several: Iterable[Mapping[str, float]]) -> dict[str, float]:
    whole: dict[str, float] = {}
    for each in several:
        for word, count in each.items():
            whole[word] = whole.get(word, 0) + count
    return whole


def _mean(several: Iterable[float | None]) -> float | None:
    known = [value for value in several if value is not None]
    return sum(known) / len(known) if known else None


def _budget(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    calls, missed = (sum(each[word] for each in several) for word in ("calls", "missed"))
    attained = 1.0 - missed / calls if calls else None
    return {**several[0], "calls": calls, "missed": missed, "attained": attained}


def _replicas(several: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The same replicas as each worker sees them."""
    merged = []
    for views in zip(*several, strict=False):
        ready = [view["ready"] for view in views]
        merged.append(
            {
                **views[0],
                "ready": True if True in ready else False if False in ready else None,
                "breaker": max((view["breaker"] for view in views), key=BREAKER_STATES.__getitem__),
                "in_flight": sum(view["in_flight"] for view in views),
                "latency_s": _mean(view["latency_s"] for view in views),
            }
        )
    return merged
