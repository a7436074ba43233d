"""No schedule costs less than the bound: tried against every schedule of small cases, and many of large."""

from __future__ import annotations

import heapq
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulator.bound import SolverMissing, lower_bound
from gateway.simulator.distributions import draws, parse
from gateway.simulator.expression import compile_expression
from gateway.simulator.generators import burst
from gateway.simulator.traces import load

RECORDED = Path(__file__).parents[2].parent / "shared" / "traces"

pytest.importorskip("scipy", reason="the bound is an optional part that needs scipy")


def elastic_cost(
    row: Sequence[int], arrivals: Sequence[float], services: Sequence[float], *, budget: float, idle: float,
    cold: float, premium: float,
) -> float:  # fmt: skip
    """One instance serves these requests in that order, each as late as it may, without missing any."""
    finish, latest = math.inf, []
    for request in reversed(row):
        start = min(arrivals[request] + budget, finish) - services[request]
        if start < arrivals[request] - 1e-12:
            return math.inf
        latest.append((start, start + services[request]))
        finish = start
    cost, last = 0.0, -math.inf
    for start, end in reversed(latest):
        # A gap up to the time-out is idle time; after it the instance is gone and there is a new start.
        cost += start - last if start - last <= idle else cold + idle
        cost += end - start
        last = end
    return premium * cost


def fleet_serves(
    rows: Sequence[Sequence[int]], arrivals: Sequence[float], services: Sequence[float], budget: float
) -> bool:
    for row in rows:
        free = 0.0
        for request in row:
            free = max(free, arrivals[request]) + services[request]
            if free > arrivals[request] + budget + 1e-12:
                return False
    return True


def dealt(requests: Sequence[int], hands: int) -> list[list[list[int]]]:
    """Every way of giving the requests to that many servers, each in every order."""
    deals: list[list[list[int]]] = [[[] for _ in range(hands)]]
    for request in requests:
        deals = [
            [*deal[:hand], [*deal[hand][:place], request, *deal[hand][place:]], *deal[hand + 1 :]]
            for deal in deals
            for hand in range(hands)
            for place in range(len(deal[hand]) + 1)
        ]
    return deals


seconds = st.floats(0, 6).map(lambda value: round(value, 2))
requests = st.lists(
    st.tuples(seconds, st.floats(0.05, 3).map(lambda value: round(value, 2))), min_size=1, max_size=3
)


@settings(max_examples=40, deadline=None)
@given(
    requests=requests,
    budget=st.sampled_from([1.0, 2.5, 4.0]),
    premium=st.sampled_from([0.5, 1.5, 3.0]),
    cold=st.sampled_from([0.0, 0.7, 2.0]),
    idle=st.sampled_from([0.0, 0.5, 2.0]),
    slots=st.integers(0, 1),
    dt=st.sampled_from([None, 0.1, 0.37, 1.0, 5.0]),
)
def test_no_schedule_of_a_small_case_is_cheaper(
    requests: list[tuple[float, float]], budget: float, premium: float, cold: float, idle: float, slots: int,
    dt: float | None,
) -> None:  # fmt: skip
    arrivals = [at for at, _ in sorted(requests)]
    services = [work for _, work in sorted(requests)]
    count, duration = len(requests), arrivals[-1]
    cheapest = dict.fromkeys(range(count + 1), math.inf)
    for missed in range(count + 1):
        for kept in itertools.combinations(range(count), count - missed):
            for deal in dealt(kept, slots + 2):
                if not fleet_serves(deal[:slots], arrivals, services, budget):
                    continue
                spilled = math.fsum(
                    elastic_cost(
                        row, arrivals, services, budget=budget, idle=idle, cold=cold, premium=premium
                    )
                    for row in deal[slots:] if row
                )  # fmt: skip
                cheapest[missed] = min(cheapest[missed], slots * duration + spilled)
    for missed, cost in cheapest.items():
        for replicas in (slots, None):
            bound = lower_bound(
                arrivals, services, budget=budget, attained=1 - missed / count, premium=premium,
                cold_mean=cold, idle=idle, duration=duration, replicas=replicas, dt=dt,
            )  # fmt: skip
            assert bound.cost <= cost + 1e-9
            assert replicas is None or bound.replicas == replicas


def fleet_only(arrivals: Sequence[float], services: Sequence[float], slots: int) -> list[float]:
    free = [0.0] * slots
    latencies = []
    for at, work in zip(arrivals, services, strict=True):
        end = max(at, heapq.heappop(free)) + work
        heapq.heappush(free, end)
        latencies.append(end - at)
    return latencies


def wave(seed: int) -> tuple[Sequence[float], Sequence[float]]:
    arrivals = burst(1.0, 12.0, 120.0, seed=seed).arrivals
    return arrivals, draws(parse("lognormal:0.6s:0.5"), seed, len(arrivals))


@pytest.mark.parametrize("seed", range(3))
def test_neither_fleet_alone_nor_serverless_alone_is_cheaper(seed: int) -> None:
    arrivals, services = wave(seed)
    common = {"budget": 4.0, "premium": 1.5, "cold_mean": 0.0, "idle": 0.0, "duration": arrivals[-1]}
    for slots in range(1, 12):
        attained = sum(latency <= 4.0 for latency in fleet_only(arrivals, services, slots)) / len(arrivals)
        bound = lower_bound(arrivals, services, attained=attained, **common)  # type: ignore[arg-type]
        assert bound.cost <= slots * arrivals[-1]
    everything = lower_bound(arrivals, services, attained=1.0, **common)  # type: ignore[arg-type]
    assert 0.5 * math.fsum(services) < everything.cost <= 1.5 * math.fsum(services)


@pytest.fixture
def bound_of() -> Callable[..., float]:
    arrivals, services = wave(5)

    def compute(**changed: float | None) -> float:
        settings = {
            "budget": 4.0, "attained": 0.99, "premium": 1.5, "cold_mean": 3.0, "idle": 2.0,
            "duration": arrivals[-1], "dt": 0.25,
        } | changed  # fmt: skip
        return lower_bound(arrivals, services, **settings).cost  # type: ignore[arg-type]

    return compute


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("attained", [0.0, 0.5, 0.9, 0.99, 1.0]),
        ("premium", [0.0, 0.5, 1.0, 1.5, 3.0, 50.0]),
        ("cold_mean", [0.0, 1.0, 5.0, 60.0]),
        ("idle", [0.0, 1.0, 5.0, 60.0]),
        ("duration", [0.0, 60.0, 120.0, 240.0]),
        ("budget", [60.0, 10.0, 4.0, 1.0, 0.1]),
    ],
)
def test_what_makes_life_harder_never_lowers_the_bound(
    bound_of: Callable[..., float], name: str, values: list[float]
) -> None:
    costs = [bound_of(**{name: value}) for value in values]
    for lower, higher in itertools.pairwise(costs):
        assert higher >= lower * (1 - 1e-6) - 1e-9
    assert costs[-1] > costs[0]


def test_the_best_number_of_slots_is_no_worse_than_any_other(bound_of: Callable[..., float]) -> None:
    fixed = [bound_of(replicas=slots) for slots in range(8)]
    assert bound_of(replicas=None) == pytest.approx(min(fixed), rel=1e-5)
    assert fixed[0] > min(fixed) < fixed[7]


def test_a_finer_grid_only_raises_the_bound(bound_of: Callable[..., float]) -> None:
    costs = [bound_of(dt=dt) for dt in (4.0, 2.0, 1.0, 0.5, 0.25)]  # each contains the one before it
    for coarse, fine in itertools.pairwise(costs):
        assert fine >= coarse * (1 - 1e-6)


def test_one_request_alone_costs_its_work_and_one_activation() -> None:
    bound = lower_bound(
        [0.0], [2.0], budget=2.0, attained=1.0, premium=1.5, cold_mean=6.0, idle=5.0, duration=100.0
    )
    assert bound.replicas == 0
    assert bound.cost == pytest.approx(1.5 * (2 + 6 + 5), rel=1e-4)


def test_a_busy_slot_is_owned_and_an_idle_one_rented() -> None:
    arrivals = [float(at) for at in range(100)]
    busy = lower_bound(
        arrivals, [0.95] * 100, budget=1.0, attained=1.0, premium=1.5, cold_mean=0, idle=0, duration=100
    )
    idle = lower_bound(
        arrivals, [0.1] * 100, budget=1.0, attained=1.0, premium=1.5, cold_mean=0, idle=0, duration=100
    )
    assert (busy.replicas, idle.replicas) == (1, 0)
    assert busy.cost == pytest.approx(100, rel=1e-5)
    assert idle.cost == pytest.approx(15, rel=1e-5)


def test_nothing_to_do_costs_the_fleet() -> None:
    for arrivals in ([], [0.0]):
        services = [0.0] * len(arrivals)
        for replicas, cost in ((None, 0.0), (3, 30.0)):
            bound = lower_bound(
                arrivals, services, budget=1, attained=1, premium=1, cold_mean=1, idle=1, duration=10,
                replicas=replicas,
            )  # fmt: skip
            assert bound.cost == cost


def test_a_long_quiet_trace_is_as_tight_as_a_short_one() -> None:
    """Gaps cost no bins: a day with a request per ten minutes is priced request by request."""
    one, day = (
        lower_bound(
            [600.0 * number for number in range(count)], [2.0] * count, budget=3.0, attained=1.0, premium=1.5,
            cold_mean=4, idle=1, duration=86400,
        )
        for count in (1, 144)
    )  # fmt: skip
    assert day.cost == pytest.approx(144 * one.cost, rel=0.03)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"attained": 1.1}, "attained"),
        ({"budget": -1.0}, "budget"),
        ({"premium": math.nan}, "premium"),
        ({"cold_mean": math.inf}, "cold_mean"),
        ({"replicas": -1}, "replicas"),
        ({"dt": 0.0}, "dt"),
    ],
)
def test_arguments_that_make_no_sense(
    bound_of: Callable[..., float], changed: dict[str, float], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        bound_of(**changed)


def test_rows_that_make_no_sense() -> None:
    def bound(arrivals: list[float], services: list[float]) -> None:
        lower_bound(
            arrivals, services, budget=1, attained=1, premium=1, cold_mean=1, idle=1, duration=1
        )  # fmt: skip

    with pytest.raises(ValueError, match="2 arrivals but 1"):
        bound([0, 1], [1])
    with pytest.raises(ValueError, match="request 1: its service time is nan"):
        bound([0, 1], [1, math.nan])


def test_without_scipy_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import gateway.simulator

    monkeypatch.delattr(gateway.simulator, "fluid", raising=False)
    monkeypatch.setitem(sys.modules, "gateway.simulator.fluid", None)
    with pytest.raises(SolverMissing, match="numpy and scipy"):
        lower_bound([0.0], [1.0], budget=1, attained=1, premium=1, cold_mean=1, idle=1, duration=1)


def test_the_recorded_burst_has_the_known_magnitude() -> None:
    path = RECORDED / "azure_llm_2023_code.csv.gz"
    if not path.exists():
        pytest.skip("the recorded traces are not part of the project and not here")
    trace = load(path)
    services = compile_expression("0.15+0.0002*input_tokens+0.012*output_tokens")(trace)
    bound = lower_bound(
        trace.arrivals, services, budget=15.0, attained=0.99, premium=1.5,
        cold_mean=parse("lognormal:6s:0.4").mean(), idle=5.0, duration=trace.span,
    )  # fmt: skip
    assert 13_100 < bound.cost < 13_500
    assert bound.replicas == 0
