"""Series of a run: they add up to what the run says, and a peak survives however few the bins are."""

from __future__ import annotations

from math import fsum, nan
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.distributions import parse
from gateway.simulator.run import Outcome, simulate
from gateway.simulator.scenario import Endpoint, Fleet, Scenario, Workload
from gateway.simulator.series import (
    BINS,
    BUSY,
    IDLE,
    OPENING,
    Grid,
    arrivals_per_second,
    levels,
    quantile,
    run_series,
    span,
)
from policies import policies
from policies.base import TierOptions


def scenario(*, usd_per_call: float = 0.0, budget_s: float = 5.0) -> Scenario:
    return Scenario(
        fleet=Fleet("fleet", 1, 1.0),
        endpoints=(Endpoint("endpoint", 1.5, 3.0, parse("constant:2s"), usd_per_call),),
        tiers=(TierOptions(backend="fleet"), TierOptions(backend="endpoint")),
        budget_s=budget_s,
        objective=0.9,
        seed=0,
    )


def run(name: str, workload: Workload, scene: Scenario, replicas: int) -> Outcome:
    cls = policies.get(name)
    return simulate(workload, scene, cls(cls.Options()), replicas)


def crowd(requests: int = 400, seconds: float = 200.0) -> Workload:
    chance = Random(5)
    arrivals = sorted(chance.uniform(0, seconds) for _ in range(requests))
    return Workload("crowd", arrivals, [chance.uniform(0.1, 2.0) for _ in arrivals])


def area(found: list[tuple[float, ...]], column: int, grid: Grid) -> float:
    return fsum(means[column] for means in found) * grid.width


def test_a_peak_of_a_moment_survives_in_a_long_trace() -> None:
    changes = [(500_000.0, 0, 70), (500_000.001, 0, -70)]
    grid = Grid.over(0.0, 1_000_000.0)
    found = levels(changes, 1, grid)
    assert grid.count == BINS
    assert found.peak == 70
    assert found.highest == [(70, 500_000.0)]
    assert found.means[grid.at(500_000.0)][0] < 0.001


EIGHTHS = st.integers(1, 400).map(lambda eighths: eighths / 8)


@given(st.lists(st.tuples(EIGHTHS, EIGHTHS, st.integers(0, 1)), max_size=30), st.integers(1, 40))
def test_peaks_and_areas_are_the_true_ones(stays: list[tuple[float, float, int]], bins: int) -> None:
    grid = Grid.over(0.0, 101.0, bins=bins)
    changes = [c for b, lasts, column in stays for c in ((b, column, 1), (b + lasts, column, -1))]
    found = levels(changes, 2, grid)

    def most(columns: tuple[int, ...]) -> int:
        return max(
            (
                sum(b <= at < b + lasts and column in columns for b, lasts, column in stays)
                for at, _, _ in stays
            ),
            default=0,
        )

    assert found.peak == most((0, 1))
    assert [highest for highest, _ in found.highest] == [most((0,)), most((1,))]
    for column in (0, 1):
        stayed = fsum(lasts for _, lasts, each in stays if each == column)
        assert area(found.means, column, grid) == pytest.approx(stayed, abs=1e-6)


def test_what_changes_at_one_moment_is_not_counted_twice() -> None:
    """A slot that is freed and taken again, with the rounding of a sum between the two."""
    found = levels([(0.0, 0, 1), (1.0, 0, -1), (1.0 - 1e-13, 0, 1), (2.0, 0, -1)], 1, Grid.over(0.0, 2.0))
    assert found.peak == 1


def test_a_level_before_the_last_bin_ends_with_it() -> None:
    grid = Grid.over(10.0, 20.0, bins=10)
    found = levels([(12.0, 0, 3)], 1, grid)
    assert [column[0] for column in found.fullest] == [0, 0, 3, 3, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("name", ["fleet_only", "serverless_only", "spill_when_full", "queue_threshold"])
def test_series_add_up_to_the_outcome(name: str) -> None:
    workload, scene = crowd(), scenario(usd_per_call=0.25)
    outcome = run(name, workload, scene, 3)
    grid = span(workload, [outcome])
    found = run_series(workload, scene, outcome, grid)

    assert found.fleet.peak <= 3
    rented = found.rented["endpoint"]
    endpoint = outcome.endpoints[0]
    for state, seconds in ((OPENING, endpoint.cold_s), (BUSY, endpoint.exec_s), (IDLE, endpoint.idle_s)):
        assert area(rented.means, state, grid) == pytest.approx(seconds, abs=1e-6)
    assert all(count >= 0 for column in rented.fullest for count in column)
    waited = fsum(began - came for began, came in zip(outcome.begun, workload.arrivals, strict=True))
    assert area(found.waiting.means, 0, grid) == pytest.approx(waited, abs=1e-6)
    assert found.cost[0] == 0.0
    assert found.cost[-1] == pytest.approx(outcome.cost)
    assert all(before <= after + 1e-12 for before, after in zip(found.cost, found.cost[1:], strict=False))


def test_cost_is_paid_while_things_last() -> None:
    """One fleet slot-second a second; an instance opens at 10 for 2 s, serves for 1 s, idles for 3 s."""
    workload = Workload("two", [0.0, 10.0, 10.0], [1.0, 6.0, 1.0])
    scene = scenario()
    outcome = run("spill_when_full", workload, scene, 1)
    grid = Grid.over(0.0, 16.0, bins=16)
    paid = run_series(workload, scene, outcome, grid).cost
    assert paid == pytest.approx([*range(11), *(10 + 2.5 * passed for passed in range(1, 7))])


def test_misses_are_all_counted_and_the_worst_is_kept() -> None:
    workload, scene = crowd(2000, 100.0), scenario(budget_s=5.0)
    outcome = run("fleet_only", workload, scene, 2)
    found = run_series(workload, scene, outcome, span(workload, [outcome])).latency
    assert found.misses == sum(answer > 5.0 for answer in outcome.answers)
    assert found.misses > len(found.late) > 0
    assert max(answer for _, answer in found.late) == max(outcome.answers)
    assert max(band[3] for band in found.bands if band is not None) == max(outcome.answers)
    assert not found.lost


def test_lost_requests_wait_to_the_end_and_are_marked() -> None:
    workload, scene = Workload("two", [0.0, 4.0], [1.0, 1.0]), scenario()
    outcome = run("fleet_only", workload, scene, 1)
    lost = Outcome(
        **{field: getattr(outcome, field) for field in Outcome.__slots__}
        | {"answers": [1.0, nan], "begun": [0.0, nan], "places": [0, -1], "lost": 1}
    )
    found = run_series(workload, scene, lost, Grid.over(0.0, 5.0, bins=5))
    assert [column[0] for column in found.waiting.fullest] == [0, 0, 0, 0, 1]
    assert found.latency.lost == [4.0]
    assert found.latency.misses == 1


def test_arrivals_keep_the_busiest_second() -> None:
    calm = [float(second) for second in range(10_000)]
    workload = Workload("spike", sorted([*calm, *(5000.0 + n / 50 for n in range(40))]), [1.0] * 10_040)
    grid, most, means = arrivals_per_second(workload)
    assert grid.count <= BINS
    assert max(most) == 41
    assert min(most) == 1
    assert fsum(means) * grid.width == pytest.approx(10_040)


def test_one_request_is_enough() -> None:
    workload, scene = Workload("one", [3.0], [2.0]), scenario()
    outcome = run("fleet_only", workload, scene, 1)
    found = run_series(workload, scene, outcome, span(workload, [outcome]))
    assert found.fleet.peak == 1
    assert arrivals_per_second(workload)[1] == [1]
    assert len([band for band in found.latency.bands if band is not None]) == 1


@pytest.mark.parametrize(
    ("share", "value"), [(0.5, 2.0), (0.51, 3.0), (0.95, 4.0), (0.25, 1.0), (0.0, 1.0), (1.0, 4.0)]
)
def test_quantiles_are_values_that_were_there(share: float, value: float) -> None:
    assert quantile([1.0, 2.0, 3.0, 4.0], share) == value
