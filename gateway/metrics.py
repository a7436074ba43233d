"""The ledger and the gauges as Prometheus metrics: names, labels and help texts, all in this file.

Reads the ledger, capacities and pools when it is scraped and keeps nothing. Requests never pass through
here: a scrape costs time in proportion to the label sets that exist, and these are closed.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from backends.base import Backend
from gateway.backend_metrics import backend_metrics
from gateway.clock import Clock
from gateway.event_loop import EventLoopCollector
from gateway.histogram import BOOT_EDGES, Histogram, merged
from gateway.ledger import Ledger
from gateway.metric_families import Stamp, buckets, counted, gauged
from gateway.retry_budget import RetryBudgets
from gateway.spending import Spending
from gateway.tallies import NONE, Lane
from gateway.vocab import Reason

BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}


class CapacityView(Protocol):
    """What is shown of the slots of one backend."""

    @property
    def backend(self) -> Backend: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    @property
    def blocked(self) -> Reason | None:
        """Why no replica can take calls; None when one can."""
        ...

    def ready(self, replica: int) -> bool | None:
        """What probes say; None when they have said nothing."""
        ...

    def breaker_state(self, replica: int) -> str:
        """`closed`, `half_open` or `open`."""
        ...

    def view(self, now: float) -> Mapping[str, Any]:
        """All of it for people: plain values, `replicas` among them."""
        ...


class QueueView(Protocol):
    """What is shown of the pool of one route."""

    @property
    def route(self) -> str: ...
    @property
    def queue_depth(self) -> int: ...


class Observed(Protocol):
    """What is scraped. Asked anew each time, so it may be swapped whole."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def capacities(self) -> Mapping[str, CapacityView]: ...
    @property
    def pools(self) -> Mapping[str, QueueView]: ...
    @property
    def spending(self) -> Spending: ...
    @property
    def retries(self) -> RetryBudgets: ...


class GatewayCollector(Collector):
    """Everything under `overspill_`."""

    def __init__(self, observed: Observed, *, version: str) -> None:
        self._observed = observed
        self._version = version

    @property
    def _ledger(self) -> Ledger:
        return self._observed.ledger

    def collect(self) -> Iterator[Metric]:
        """One pass over the counters."""
        yield from self._requests()
        yield from self._latencies()
        yield from self._budgets()
        yield from self._money()
        yield from self._spending()
        yield from self._gauges()
        yield counted(
            "config_reloads", "Configurations read again, by what became of them.", ["result"],
            {(result,): count for result, count in self._ledger.reloads.items()},
        )  # fmt: skip
        log = self._ledger.access_log
        yield CounterMetricFamily(
            "overspill_access_log_lost",
            "Access log lines that could not be written.",
            value=0 if log is None else log.lost,
        )
        traced = self._ledger.traced
        yield counted(
            "traced_calls", "Sampled calls by what became of their spans.", ["result"],
            {} if traced is None else {(result,): count for result, count in traced().items()},
        )  # fmt: skip
        yield InfoMetricFamily("overspill_build", "What is running.", value={"version": self._version})

    def _requests(self) -> Iterator[Metric]:
        requests: dict[tuple[str, ...], float] = defaultdict(float)
        decisions: dict[tuple[str, ...], float] = defaultdict(float)
        starts: dict[tuple[str, ...], float] = defaultdict(float)
        for lane in self._used():
            requests[lane.route.facts.name, lane.backend, "ok"] = 0
        for tally in self._ledger.tallies.values():
            route, backend = tally.lane.route.facts.name, tally.lane.backend
            requests[route, backend, tally.outcome] += tally.count
            if tally.reason is not None:
                decisions[route, tally.reason] += tally.count
            if tally.start is not None:
                starts[route, backend, tally.start] += tally.count
        yield counted(
            "requests", "Calls that ended, by how they ended for their client.",
            ["route", "backend", "outcome"], requests,
        )  # fmt: skip
        yield counted(
            "decisions", "Calls by the reason why they went where they went, or were not served.",
            ["route", "reason"], decisions,
        )  # fmt: skip
        yield counted(
            "starts", "Answers by whether the instance that gave them had to start first.",
            ["route", "backend", "start"], starts,
        )  # fmt: skip
        yield counted(
            "served", "Inference calls that were answered.", ["route", "backend"],
            {(lane.route.facts.name, lane.backend): lane.served for lane in self._used()},
        )  # fmt: skip
        yield counted(
            "hedges", "Calls with a second attempt beside the first, by whether its answer was used.",
            ["route", "result"],
            {
                (route.facts.name, result): count
                for route in self._ledger.routes.values() if route.facts.hedged
                for result, count in route.hedges.items()
            },
        )  # fmt: skip

    def _latencies(self) -> Iterator[Metric]:
        durations = HistogramMetricFamily(
            "overspill_request_duration_seconds",
            "From the arrival of a call to its last byte.",
            labels=["route", "backend"],
        )
        first_bytes = HistogramMetricFamily(
            "overspill_time_to_first_byte_seconds",
            "From the arrival of a call to the first byte of its answer.",
            labels=["route", "backend"],
        )
        overheads = HistogramMetricFamily(
            "overspill_overhead_seconds",
            "The gateway's own share of a call's time: without waiting for slots and backends.",
            labels=["route"],
        )
        boots = HistogramMetricFamily(
            "overspill_cold_start_seconds",
            "How long rented instances took to start, where it is known.",
            labels=["backend"],
        )
        booted: dict[str, list[Histogram]] = defaultdict(list)
        stamp = Stamp(self._observed.clock)
        for lane in self._ledger.lanes.values():
            labels = [lane.route.facts.name, lane.backend]
            durations.add_metric(labels, buckets(lane.duration, stamp), lane.duration.total)
            first_bytes.add_metric(labels, buckets(lane.ttfb, stamp), lane.ttfb.total)
            if lane.kind == "spill":
                booted[lane.backend].append(lane.boots)
        for name, route in self._ledger.routes.items():
            overheads.add_metric([name], buckets(route.overhead), route.overhead.total)
        for backend, histograms in booted.items():
            whole = merged(histograms, BOOT_EDGES)
            boots.add_metric([backend], buckets(whole), whole.total)
        yield from (durations, first_bytes, overheads, boots)

    def _budgets(self) -> Iterator[Metric]:
        routes = [route for route in self._ledger.routes.values() if route.within is not None]
        yield gauged(
            "latency_budget_seconds", "Time within which a call should be answered.", ["route"],
            {(route.facts.name,): route.within or 0.0 for route in routes},
        )  # fmt: skip
        yield gauged(
            "latency_budget_objective", "Share of calls that should be answered within it.", ["route"],
            {
                (route.facts.name,): route.facts.objective
                for route in routes
                if route.facts.objective is not None
            },
        )  # fmt: skip
        yield counted(
            "latency_budget_missed",
            "Calls answered too late or not at all, unless the client gave up or was wrong.", ["route"],
            {(route.facts.name,): route.missed for route in routes},
        )  # fmt: skip
        yield counted(
            "latency_budget_requests", "Calls that count for the latency budget, missed or kept.", ["route"],
            {(route.facts.name,): route.budget_calls for route in routes},
        )  # fmt: skip

    def _money(self) -> Iterator[Metric]:
        now = self._observed.clock.now()
        costs: dict[tuple[str, ...], float] = {}
        unpriced: dict[tuple[str, ...], float] = {}
        outside: dict[tuple[str, ...], float] = {}
        for lane in self._used():
            if lane.cost_known:
                labels = (lane.route.facts.name, lane.backend)
                # From zero on, or the first dollar of a kind would be no increase.
                for kind in ("retry",) if lane.owned else ("retry", "prewarm"):
                    costs[*labels, kind] = 0.0
                if lane.route.facts.hedged:
                    costs[*labels, "hedge"] = 0.0
                for kind, usd in lane.usd.items():
                    costs[*labels, kind] = usd
                if not lane.owned:
                    unpriced[labels] = lane.unpriced
                    outside[labels] = lane.outside_usd
        yield counted(
            "cost_usd", "Dollars that calls cost; absent where a price is not known.",
            ["route", "backend", "kind"], costs,
        )  # fmt: skip
        yield counted(
            "unpriced_attempts",
            "Attempts that broke off without telling their cost: cost_usd is a lower bound by them.",
            ["route", "backend"], unpriced,
        )  # fmt: skip
        yield counted(
            "cost_outside_calls_usd",
            "The part of cost_usd that no call answers for: instances that idle, pings, abandoned starts.",
            ["route", "backend"], outside,
        )  # fmt: skip
        yield counted(
            "billed_seconds", "Seconds that rented backends billed for attempts, start-up included.",
            ["route", "backend"],
            {
                (lane.route.facts.name, lane.backend): lane.billed_s
                for lane in self._used() if lane.kind == "spill"
            },
        )  # fmt: skip
        yield counted(
            "fleet_idle_usd", "Dollars that owned replicas cost while no call held their slots.", ["backend"],
            {(backend,): usd for backend, usd in self._ledger.idle_usd(now).items()},
        )  # fmt: skip
        yield gauged(
            "cost_per_1k_requests_usd",
            "Dollars per 1,000 served calls since the start, with the route's share of idle replicas.",
            ["route"],
            {(route,): usd for route, usd in self._ledger.cost_per_thousand(now).items()},
        )  # fmt: skip

    def _spending(self) -> Iterator[Metric]:
        now = self._observed.clock.now()
        for prefix, label, budgets in (
            ("", "route", self._observed.spending.routes),
            ("backend_", "backend", self._observed.spending.backends),
        ):
            left = {name: budget.remaining_usd(now) for name, budget in budgets.items()}
            yield gauged(
                f"{prefix}spill_budget_remaining_usd",
                "Dollars that may still be spent on rented backends now; below zero when overspent.", [label],
                {(name,): usd for name, usd in left.items() if usd is not None},
            )  # fmt: skip
            yield gauged(
                f"{prefix}spill_budget_limit_usd", "The lower of the spill budget's limits in dollars.",
                [label],
                {
                    (name,): budget.limit_usd
                    for name, budget in budgets.items() if budget.limit_usd is not None
                },
            )  # fmt: skip
            yield counted(
                f"{prefix}spill_budget_exhaustions", "How often the spill budget was used up.", [label],
                {(name,): budget.exhaustions for name, budget in budgets.items()},
            )  # fmt: skip
            yield counted(
                f"{prefix}spill_budget_refused", "Attempts that the spill budget did not grant.", [label],
                {(name,): budget.refused for name, budget in budgets.items()},
            )  # fmt: skip
            yield counted(
                f"{prefix}spill_budget_overrun",
                "Attempts that were granted beyond the spill budget, as it only warns.", [label],
                {(name,): budget.overrun for name, budget in budgets.items()},
            )  # fmt: skip
        retries = self._observed.retries.routes
        yield gauged(
            "retry_budget_tokens", "Extra attempts that would be made now, if needed.", ["route"],
            {(name,): budget.tokens(now) for name, budget in retries.items()},
        )  # fmt: skip
        yield counted(
            "retry_budget_refused", "Extra attempts that were not made for want of a token.", ["route"],
            {(name,): budget.refused for name, budget in retries.items()},
        )  # fmt: skip

    def _gauges(self) -> Iterator[Metric]:
        capacities = list(self._observed.capacities.values())
        yield gauged(
            "in_flight", "Slots taken.", ["backend"],
            {(each.backend.name,): each.in_flight for each in capacities},
        )  # fmt: skip
        yield gauged(
            "capacity", "Slots of all replicas, usable now or not.", ["backend"],
            {(each.backend.name,): each.capacity for each in capacities},
        )  # fmt: skip
        yield gauged(
            "backend_ready", "1 while some replica is ready, or nothing else is known.", ["backend"],
            {(each.backend.name,): float(is_ready(each)) for each in capacities},
        )  # fmt: skip
        yield gauged(
            "breaker_state", "Worst breaker of its replicas: 0 closed, 1 half open, 2 open.", ["backend"],
            {(each.backend.name,): worst_breaker(each) for each in capacities},
        )  # fmt: skip
        yield from backend_metrics(capacities, self._ledger.backends, self._observed.clock.now())
        advice = self._ledger.advice
        yield gauged(
            "recommended_replicas",
            "Replicas that would have met the objective for the last calls at least cost; absent till known.",
            ["backend"],
            {} if advice is None else {(name,): float(n) for name, n in advice.recommended.items()},
        )
        yield gauged(
            "queue_depth", "Calls waiting in the gateway for a slot.", ["route"],
            {(pool.route,): pool.queue_depth for pool in self._observed.pools.values()},
        )  # fmt: skip

    def _used(self) -> Iterator[Lane]:
        return (lane for lane in self._ledger.lanes.values() if lane.backend != NONE)


def build_registry(collector: GatewayCollector) -> CollectorRegistry:
    """A registry of its own, with the usual process_* and python_info beside the gateway's metrics."""
    registry = CollectorRegistry()
    registry.register(collector)
    registry.register(EventLoopCollector())
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def is_ready(capacity: CapacityView) -> bool:
    """Is some replica ready, as far as is known?"""
    return any(capacity.ready(index) is not False for index in range(len(capacity.backend.replicas)))


def worst_breaker(capacity: CapacityView) -> int:
    """0 when every breaker is closed, 1 when one is half open, 2 when one is open."""
    states = [capacity.breaker_state(index) for index in range(len(capacity.backend.replicas))]
    return max((BREAKER_STATES[state] for state in states), default=0)
