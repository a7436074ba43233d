import asyncio
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.admin import expose
from gateway.errors import Contended
from gateway.metrics import GatewayCollector, build_registry
from gateway.vocab import Charge, Outcome, Reason, Start, Usage
from tests.ledger.support import FLEET, T0, State, answered, ledger, parse_openmetrics

PROMISED = {
    "requests_total": {"route", "backend", "outcome"},
    "decisions_total": {"route", "reason"},
    "request_duration_seconds_bucket": {"route", "backend", "le"},
    "request_duration_seconds_count": {"route", "backend"},
    "request_duration_seconds_sum": {"route", "backend"},
    "time_to_first_byte_seconds_bucket": {"route", "backend", "le"},
    "overhead_seconds_bucket": {"route", "le"},
    "latency_budget_seconds": {"route"},
    "latency_budget_objective": {"route"},
    "latency_budget_missed_total": {"route"},
    "latency_budget_requests_total": {"route"},
    "starts_total": {"route", "backend", "start"},
    "cold_start_seconds_bucket": {"backend", "le"},
    "cost_usd_total": {"route", "backend", "kind"},
    "unpriced_attempts_total": {"route", "backend"},
    "cost_per_1k_requests_usd": {"route"},
    "fleet_idle_usd_total": {"backend"},
    "in_flight": {"backend"},
    "capacity": {"backend"},
    "queue_depth": {"route"},
    "backend_ready": {"backend"},
    "breaker_state": {"backend"},
    "spill_budget_remaining_usd": {"route"},
    "spill_budget_exhaustions_total": {"route"},
    "backend_spill_budget_remaining_usd": {"backend"},
    "backend_spill_budget_exhaustions_total": {"backend"},
    "retry_budget_tokens": {"route"},
    "retry_budget_refused_total": {"route"},
    "config_reloads_total": {"result"},
    "access_log_lost_total": set(),
    "build_info": {"version"},
}


def registry(state: State) -> CollectorRegistry:
    return build_registry(GatewayCollector(state, version="1.2.3"))


def busy() -> State:
    state = State()
    book = state.ledger
    answered(book, seconds=0.1)
    answered(book, backend="burst", seconds=9.0, usage=Usage(9.0, 8.0, 0.002), start=Start.COLD)
    record = book.open("b", "", T0)
    record.route = "embed"
    record.fail(Contended("full"))
    book.close(record, T0 + 0.01)
    book.charge("burst", Charge("embed", "prewarm", 0.5))
    book.reloaded(ok=True)
    state.clock.advance(100.0)
    return state


def samples(families: Iterable[Metric]) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(state: State, name: str, **labels: str) -> float | None:
    return registry(state).get_sample_value(f"overspill_{name}", labels)


@pytest.mark.parametrize(
    ("accept", "parse"),
    [
        ("", parse_text),
        ("text/plain;version=0.0.4", parse_text),
        ("application/openmetrics-text;version=1.0.0", parse_openmetrics),
    ],
)
async def test_every_promised_name_is_there_after_traffic(
    accept: str, parse: Callable[[str], Iterable[Metric]]
) -> None:
    body, content_type = await expose(registry(busy()), accept)
    assert content_type.startswith(accept.split(";")[0] or "text/plain")
    found = samples(parse(body.decode()))
    for name, labels in PROMISED.items():
        assert f"overspill_{name}" in found, name
        assert all(set(each) == labels for each, _ in found[f"overspill_{name}"]), name
    assert "process_resident_memory_bytes" in found
    ours = {name for name in found if name.startswith("overspill_")}
    rest = {f"overspill_{name}" for name in PROMISED}
    assert all(name in rest or name.endswith(("_count", "_sum")) for name in ours)


async def test_every_metric_says_what_it_is() -> None:
    body, _ = await expose(registry(busy()), "")
    for family in parse_text(body.decode()):
        assert family.documentation, family.name


async def test_both_formats_tell_the_same_figures() -> None:
    state = busy()
    text, _ = await expose(registry(state), "")
    openmetrics, _ = await expose(registry(state), "application/openmetrics-text;version=1.0.0")
    assert openmetrics.count(b"# EOF") == 1

    def ours(families: Iterable[Metric]) -> dict[str, list[tuple[dict[str, str], float]]]:
        return {name: of for name, of in samples(families).items() if name.startswith("overspill_")}

    assert ours(parse_text(text.decode())) == ours(parse_openmetrics(openmetrics.decode()))


async def test_requests_go_on_while_the_text_is_made() -> None:
    page = asyncio.get_running_loop().create_task(expose(registry(busy()), ""))
    turns = 0
    while not page.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 20


def test_figures_of_a_known_day() -> None:
    state = busy()
    assert value(state, "requests_total", route="embed", backend="fleet", outcome="ok") == 1
    assert value(state, "requests_total", route="embed", backend="burst", outcome="ok") == 1
    assert value(state, "requests_total", route="embed", backend="none", outcome="shed") == 1
    assert value(state, "decisions_total", route="embed", reason="warm") == 1
    assert value(state, "decisions_total", route="embed", reason="spill_full") == 1
    assert value(state, "decisions_total", route="embed", reason="shed_full") == 1
    assert value(state, "starts_total", route="embed", backend="burst", start="cold") == 1
    assert value(state, "starts_total", route="embed", backend="fleet", start="warm") == 1
    assert value(state, "latency_budget_seconds", route="embed") == 0.25
    assert value(state, "latency_budget_objective", route="embed") == 0.99
    assert value(state, "latency_budget_missed_total", route="embed") == 2
    assert value(state, "latency_budget_requests_total", route="embed") == 3
    assert value(state, "request_duration_seconds_bucket", route="embed", backend="fleet", le="0.25") == 1
    assert value(state, "request_duration_seconds_bucket", route="embed", backend="burst", le="0.25") == 0
    assert value(state, "request_duration_seconds_count", route="embed", backend="burst") == 1
    assert value(state, "cold_start_seconds_sum", backend="burst") == 8.0
    assert value(state, "cost_usd_total", route="embed", backend="burst", kind="spill") == 0.002
    assert value(state, "cost_usd_total", route="embed", backend="burst", kind="prewarm") == 0.5
    fleet = value(state, "cost_usd_total", route="embed", backend="fleet", kind="fleet")
    idle = value(state, "fleet_idle_usd_total", backend="fleet")
    assert fleet == pytest.approx(0.1 * 0.00025)
    assert fleet is not None
    assert idle is not None
    assert fleet + idle == pytest.approx(100 * 0.002)
    assert value(state, "cost_per_1k_requests_usd", route="embed") == pytest.approx(1000 * (0.2 + 0.502) / 2)
    assert value(state, "queue_depth", route="embed") == 3
    assert value(state, "capacity", backend="fleet") == 8
    assert value(state, "config_reloads_total", result="ok") == 1
    assert value(state, "config_reloads_total", result="rejected") == 0
    assert value(state, "build_info", version="1.2.3") == 1


def test_counters_begin_at_zero_before_the_first_call() -> None:
    state = State()
    for backend, kind in (("fleet", "fleet"), ("burst", "spill")):
        assert value(state, "requests_total", route="embed", backend=backend, outcome="ok") == 0
        assert value(state, "cost_usd_total", route="embed", backend=backend, kind=kind) == 0
        assert value(state, "request_duration_seconds_count", route="embed", backend=backend) == 0
    assert value(state, "latency_budget_missed_total", route="embed") == 0
    assert value(state, "cost_per_1k_requests_usd", route="embed") is None


def test_a_cost_that_is_not_known_is_absent() -> None:
    state = State(ledger(FLEET._replace(usd_per_replica_hour=None)))
    answered(state.ledger)
    assert value(state, "requests_total", route="embed", backend="fleet", outcome="ok") == 1
    assert value(state, "cost_usd_total", route="embed", backend="fleet", kind="fleet") is None
    assert value(state, "fleet_idle_usd_total", backend="fleet") is None
    assert value(state, "cost_per_1k_requests_usd", route="embed") is None


def test_readiness_and_breakers_of_a_backend() -> None:
    state = State()
    assert value(state, "backend_ready", backend="fleet") == 1
    assert value(state, "breaker_state", backend="fleet") == 0
    state.fleet.probed = [False, True]
    state.fleet.breakers = ["half_open", "closed"]
    assert value(state, "backend_ready", backend="fleet") == 1
    assert value(state, "breaker_state", backend="fleet") == 1
    state.fleet.breakers = ["half_open", "open"]
    assert value(state, "breaker_state", backend="fleet") == 2
    state.fleet.lose()
    assert value(state, "backend_ready", backend="fleet") == 0
    assert value(state, "backend_ready", backend="burst") == 1


def test_slots_taken_are_in_flight() -> None:
    state = State()
    state.fleet.in_flight = 5
    assert value(state, "in_flight", backend="fleet") == 5
    assert value(state, "in_flight", backend="burst") == 0


NAMES = st.text(max_size=8) | st.sampled_from(("embed", "fleet", "burst", "other", "none"))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            NAMES,
            NAMES,
            st.none() | st.sampled_from(Reason),
            st.none() | st.sampled_from(Start),
            st.sampled_from(Outcome),
        ),
        max_size=30,
    ),
    st.lists(st.tuples(NAMES, NAMES), max_size=5),
)
def test_label_values_come_from_closed_lists(
    calls: list[tuple[str, str, Reason | None, Start | None, Outcome]], charges: list[tuple[str, str]]
) -> None:
    state = State()
    for route, backend, reason, start, outcome in calls:
        record = state.ledger.open("a", "", T0)
        record.took(backend, "replica", reason or Reason.WARM, T0)
        record.route, record.reason, record.start, record.outcome = route, reason, start, outcome
        state.ledger.close(record, T0 + 1)
    for route, backend in charges:
        state.ledger.charge(backend, Charge(route, "spill", 0.1))
    allowed: dict[str, set[str]] = {
        "route": {"embed", "other"},
        "backend": {"fleet", "burst", "none"},
        "reason": set(map(str, Reason)),
        "start": set(map(str, Start)),
        "outcome": set(map(str, Outcome)),
        "kind": {"fleet", "spill", "retry"},
        "result": {"ok", "rejected"},
        "version": {"1.2.3"},
    }
    total = 0.0
    for family in registry(state).collect():
        if family.name.startswith("overspill_"):
            for sample in family.samples:
                for label, text in sample.labels.items():
                    assert label == "le" or text in allowed[label]
                total += sample.value if sample.name == "overspill_requests_total" else 0
    assert total == len(calls)
