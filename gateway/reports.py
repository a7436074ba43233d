"""What the admin port says about routes and backends: the ledger's sums and the gauges as plain values.

Pure reading: it changes no counter, so asking often costs time and nothing else. It knows no HTTP.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from msgspec.structs import asdict

from gateway.advice import OneMore
from gateway.histogram import Histogram, budget_edges, merged, quantile
from gateway.ledger import Ledger
from gateway.metrics import CapacityView, QueueView, is_ready
from gateway.tallies import NONE, OTHER, RouteTally
from gateway.vocab import Reason, Start

_QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def report_routes(
    ledger: Ledger, capacities: Mapping[str, CapacityView], pools: Mapping[str, QueueView], now: float
) -> list[dict[str, Any]]:
    """One entry per configured route. Sums are since the start; shares and quantiles are null before data."""
    costs = ledger.cost_per_thousand(now)
    entries = []
    for name, route in ledger.routes.items():
        if name == OTHER or not route.facts.backends:
            continue
        pool = pools.get(name)
        entry = {
            "name": name,
            "match": route.facts.match,
            "backends": list(route.facts.backends),
            "ready": None in _blocked(route, capacities).values(),
            "queue_depth": 0 if pool is None else pool.queue_depth,
            "latency_budget": _budget(route),
            "latency_s": _latencies(ledger, route),
            "cost_per_1k_requests_usd": costs.get(name),
        }
        entry.update(_counts(ledger, name))
        entries.append(entry)
    return entries


def route_sums(ledger: Ledger, now: float) -> dict[str, dict[str, Any]]:
    """What the quantiles and the cost of `report_routes` are made of, for each route: it can be added up."""
    return {
        name: {
            "usd": usd,
            "served": served,
            "edges": list(whole.edges),
            "counts": whole.counts,
            "total": whole.total,
        }
        for name, (usd, served) in ledger.cost_and_served(now).items()
        for whole in (_durations(ledger, ledger.routes[name]),)
    }


def quantiles(durations: Histogram) -> dict[str, float | None]:
    """As `latency_s` of a route says them."""
    return {word: quantile(durations, share) for word, share in _QUANTILES.items()}


def report_backends(
    ledger: Ledger, capacities: Mapping[str, CapacityView], now: float
) -> list[dict[str, Any]]:
    """One entry per configured backend: its replicas, and its elastic instances by inferred state."""
    idle = ledger.idle_usd(now)
    return [
        {
            "name": name,
            "ready": is_ready(capacity),
            **capacity.view(now),
            **capacity.backend.report(now),
            "instances": dict(capacity.backend.instances(now)),
            "price_known": ledger.backends[name].priced if name in ledger.backends else False,
            "idle_usd": idle.get(name),
            "recommended_replicas": None if ledger.advice is None else ledger.advice.recommended.get(name),
            "one_more_replica": None if ledger.advice is None else _plain(ledger.advice.one_more.get(name)),
        }
        for name, capacity in capacities.items()
    ]


def _plain(one: OneMore | None) -> dict[str, Any] | None:
    return None if one is None else asdict(one)


def not_served(ledger: Ledger, capacities: Mapping[str, CapacityView]) -> dict[str, dict[str, str]]:
    """Routes that nothing can serve now, and for each of their backends why not."""
    reasons = {}
    for name, route in ledger.routes.items():
        tiers = _blocked(route, capacities)
        if tiers and None not in tiers.values():
            reasons[name] = {backend: str(blocked) for backend, blocked in tiers.items()}
    return reasons


def _blocked(route: RouteTally, capacities: Mapping[str, CapacityView]) -> dict[str, Reason | None]:
    return {name: capacities[name].blocked for name in route.facts.backends if name in capacities}


def _budget(route: RouteTally) -> dict[str, Any] | None:
    if route.within is None:
        return None
    calls = route.budget_calls
    return {
        "within_s": route.within,
        "objective": route.facts.objective,
        "calls": calls,
        "missed": route.missed,
        "attained": 1.0 - route.missed / calls if calls else None,
    }


def _latencies(ledger: Ledger, route: RouteTally) -> dict[str, float | None]:
    """Quantiles of the time to the last byte, over calls that some backend had."""
    return quantiles(_durations(ledger, route))


def _durations(ledger: Ledger, route: RouteTally) -> Histogram:
    lanes = [lane for lane in ledger.lanes.values() if lane.route is route and lane.backend != NONE]
    return merged((lane.duration for lane in lanes), budget_edges(route.within))


def _counts(ledger: Ledger, name: str) -> dict[str, Any]:
    requests: dict[str, int] = defaultdict(int)
    outcomes: dict[str, int] = defaultdict(int)
    reasons: dict[str, int] = defaultdict(int)
    starts = dict.fromkeys((str(start) for start in Start), 0)
    spilled = 0
    for tally in ledger.tallies.values():
        lane = tally.lane
        if lane.route.facts.name != name:
            continue
        outcomes[tally.outcome.value] += tally.count
        if tally.reason is not None:
            reasons[tally.reason.value] += tally.count
        if lane.backend == NONE:
            continue
        requests[lane.backend] += tally.count
        if tally.start is not None:
            starts[tally.start.value] += tally.count
        if not lane.owned:
            spilled += tally.count
    placed = sum(requests.values())
    return {
        "requests": sum(outcomes.values()),
        "requests_by_backend": dict(requests),
        "outcomes": dict(outcomes),
        "reasons": dict(reasons),
        "start": starts,
        "spill_share": spilled / placed if placed else None,
    }
