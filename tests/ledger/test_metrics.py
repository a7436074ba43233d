import asyncio
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families as parse_text

from backends.base import SpillBudget
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
    "cost_outside_calls_usd_total": {"route", "backend"},
    "cost_per_1k_requests_usd": {"route"},
    "served_total": {"route", "backend"},
    "billed_seconds_total": {"route", "backend"},
    "pushbacks_total": {"backend"},
    "slots": {"backend", "state"},
    "replicas": {"backend"},
    "replica_usd_per_hour": {"backend"},
    "price_known": {"backend"},
    "backend_info": {"backend", "type", "owned"},
    "spill_budget_limit_usd": {"route"},
    "backend_spill_budget_limit_usd": {"backend"},
    "fleet_idle_usd_total": {"backend"},
    "in_flight": {"backend"},
    "capacity": {"backend"},
    "queue_depth": {"route"},
    "backend_ready": {"backend"},
    "breaker_state": {"backend"},
    "spill_budget_remaining_usd": {"route"},
    "spill_budget_exhaustions_total": {"route"},
    "spill_budget_refused_total": {"route"},
    "spill_budget_overrun_total": {"route"},
    "backend_spill_budget_refused_total": {"backend"},
    "backend_spill_budget_overrun_total": {"backend"},
    "backend_spill_budget_remaining_usd": {"backend"},
    "backend_spill_budget_exhaustions_total": {"backend"},
    "retry_budget_tokens": {"route"},
    "retry_budget_refused_total": {"route"},
    "config_reloads_total": {"result"},
    "event_loop_tasks": set(),
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


def slots(state: State, backend: str) -> dict[str, float]:
    family = next(each for each in registry(state).collect() if each.name == "overspill_slots")
    return {
        sample.labels["state"]: sample.value
        for sample in family.samples
        if sample.labels["backend"] == backend
    }


def test_slots_by_state_are_all_the_slots_of_a_backend() -> None:
    state = State()
    state.fleet.in_flight = 3
    assert slots(state, "fleet") == {"busy": 3, "idle": 5, "gone": 0}
    state.fleet.breakers = ["open", "closed"]
    assert slots(state, "fleet") == {"busy": 3, "idle": 1, "gone": 4}
    state.fleet.lose()
    assert slots(state, "fleet") == {"busy": 3, "idle": 0, "gone": 5}
    state.burst.capacity = 9
    assert slots(state, "burst") == {"opening": 1, "busy": 2, "idle": 3, "closed": 3}


def test_what_a_backend_is_and_what_its_replicas_cost() -> None:
    state = State()
    assert value(state, "backend_info", backend="fleet", type="nothing", owned="true") == 1
    assert value(state, "backend_info", backend="burst", type="nothing", owned="false") == 1
    assert value(state, "replicas", backend="fleet") == 2
    assert value(state, "replicas", backend="burst") is None
    assert value(state, "replica_usd_per_hour", backend="fleet") == 3.6
    assert value(state, "price_known", backend="fleet") == 1
    unknown = State(ledger(FLEET._replace(usd_per_replica_hour=None)))
    assert value(unknown, "price_known", backend="fleet") == 0
    assert value(unknown, "replica_usd_per_hour", backend="fleet") is None


def test_what_no_call_answers_for_is_told_apart() -> None:
    state = busy()
    assert value(state, "cost_outside_calls_usd_total", route="embed", backend="burst") == 0.5
    assert value(state, "billed_seconds_total", route="embed", backend="burst") == 9.0
    assert value(state, "served_total", route="embed", backend="burst") == 1
    assert value(state, "served_total", route="embed", backend="fleet") == 1


def test_refusals_and_limits_are_shown() -> None:
    state = State()
    state.burst.backend.pushbacks = 3
    assert value(state, "pushbacks_total", backend="burst") == 3
    assert value(state, "pushbacks_total", backend="fleet") == 0
    assert value(state, "spill_budget_limit_usd", route="embed") == 5
    budget = state.spending.routes["embed"]
    budget.change(SpillBudget(usd_per_hour=5, usd_per_day=3), None, None)
    assert value(state, "spill_budget_limit_usd", route="embed") == 3


async def test_a_bucket_shows_the_last_sampled_trace_that_fell_into_it() -> None:
    state = State()
    for at, trace, flags in ((0.0, "a" * 32, "01"), (1.0, "b" * 32, "01"), (2.0, "c" * 32, "00")):
        record = state.ledger.open("x", f"00-{trace}-{'d' * 16}-{flags}", T0 + at)
        record.route, record.outcome = "embed", Outcome.OK
        record.took("fleet", "fleet-0", Reason.WARM, T0 + at)
        record.first_byte_at = T0 + at + 0.19
        state.ledger.close(record, T0 + at + 0.19)
    body, _ = await expose(registry(state), "application/openmetrics-text;version=1.0.0")
    seen = {
        (sample.name, sample.labels["le"]): sample.exemplar
        for family in parse_openmetrics(body.decode())
        for sample in family.samples
        if sample.exemplar is not None
    }
    assert {name for name, _ in seen} == {
        "overspill_request_duration_seconds_bucket",
        "overspill_time_to_first_byte_seconds_bucket",
    }
    exemplar = seen["overspill_request_duration_seconds_bucket", "0.2"]
    assert exemplar.labels == {"trace_id": "b" * 32}
    assert exemplar.value == pytest.approx(0.19)
    assert exemplar.timestamp is not None
    assert float(exemplar.timestamp) == pytest.approx(state.clock.wall() + 1.19, abs=1e-6)
    plain, _ = await expose(registry(state), "")
    assert b"trace_id" not in plain


def test_slots_taken_are_in_flight() -> None:
    state = State()
    state.fleet.in_flight = 5
    assert value(state, "in_flight", backend="fleet") == 5
    assert value(state, "in_flight", backend="burst") == 0


def test_what_a_budget_refused_and_let_through_is_counted() -> None:
    state = State()
    budget = state.spending.routes["embed"]
    assert not budget.reserve(1e9, state.clock.now())
    for _ in range(2):
        assert budget.reserve(1e9, state.clock.now(), force=True)
    assert value(state, "spill_budget_refused_total", route="embed") == 1
    assert value(state, "spill_budget_overrun_total", route="embed") == 2


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
        "kind": {"fleet", "spill", "retry", "prewarm"},
        "state": {"busy", "idle", "opening", "closed", "gone"},
        "type": {"nothing"},
        "owned": {"true", "false"},
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
