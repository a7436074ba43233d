"""What the run would have cost elsewhere, checked against cases that can be worked out by hand."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.demo.replay import (
    AllServerless,
    all_serverless,
    all_warm,
    attained,
    cheapest_serverless,
    fifo_latencies,
    percentile,
)

MOMENTS = st.lists(st.floats(0, 100), min_size=1, max_size=60).map(sorted)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 2.0), (0.51, 3.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0), (0.0, 1.0)]
)
def test_a_percentile_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([3.0, 1.0, 4.0, 2.0], share) == expected


def test_no_values_have_no_percentile_and_miss_nothing() -> None:
    assert percentile([], 0.99) == 0.0
    assert attained([], 0.1) == 1.0


def test_attained_counts_a_latency_exactly_on_the_budget_as_kept() -> None:
    assert attained([0.1, 0.2, 0.3, 0.4], 0.2) == 0.5


def test_one_server_makes_the_second_of_two_calls_wait() -> None:
    assert fifo_latencies([0.0, 1.0, 10.0], [4.0], 1) == [4.0, 7.0, 4.0]


def test_two_servers_run_two_calls_side_by_side() -> None:
    assert fifo_latencies([0.0, 0.0, 0.0], [4.0], 2) == [4.0, 4.0, 8.0]


@given(MOMENTS, st.integers(1, 8))
def test_more_servers_never_make_a_call_slower(moments: list[float], servers: int) -> None:
    fewer = fifo_latencies(moments, [1.0, 3.0], servers)
    more = fifo_latencies(moments, [1.0, 3.0], servers + 1)
    assert all(later <= earlier + 1e-9 for earlier, later in zip(fewer, more, strict=True))


def test_the_fleet_is_the_smallest_that_meets_the_objective() -> None:
    # Four calls at once, one second each: one slot ends the last after 4 s, two slots after 2 s.
    fleet = all_warm(
        [0.0] * 4, [1.0], slots=1, within=2.0, objective=1.0, seconds=60.0, usd_per_replica_hour=0.79
    )
    assert fleet is not None
    assert fleet.replicas == 2
    assert fleet.attained == 1.0
    assert fleet.usd == pytest.approx(2 * 0.79 / 60)


def test_slots_count_per_replica() -> None:
    fleet = all_warm(
        [0.0] * 4, [1.0], slots=4, within=1.0, objective=1.0, seconds=3600.0, usd_per_replica_hour=1.0
    )
    assert fleet is not None
    assert (fleet.replicas, fleet.usd) == (1, 1.0)


def test_a_looser_objective_needs_fewer_replicas() -> None:
    fleet = all_warm(
        [0.0] * 4, [1.0], slots=1, within=1.0, objective=0.25, seconds=1.0, usd_per_replica_hour=1.0
    )
    assert fleet is not None
    assert fleet.replicas == 1


def test_no_fleet_meets_a_budget_shorter_than_the_service_itself() -> None:
    assert (
        all_warm([0.0], [1.0], slots=1, within=0.5, objective=0.9, seconds=1.0, usd_per_replica_hour=1.0)
        is None
    )


def test_without_a_measured_service_time_nothing_is_modelled() -> None:
    assert (
        all_warm([0.0], [], slots=1, within=1, objective=0.9, seconds=1.0, usd_per_replica_hour=1.0) is None
    )
    assert (
        all_serverless([0.0], [], boot=lambda: 1.0, idle_after=1.0, usd_per_second=1.0, within=1.0, cap=99)
        is None
    )


def test_one_call_pays_for_boot_service_and_idle_tail() -> None:
    rented = all_serverless(
        [5.0], [1.0], boot=lambda: 2.0, idle_after=3.0, usd_per_second=0.5, within=3.0, cap=99
    )
    assert rented is not None
    assert rented.cold == 1
    assert rented.billed_s == pytest.approx(6.0)
    assert rented.usd == pytest.approx(3.0)
    assert rented.attained == 1.0  # 2 s of boot and 1 s of service are just inside 3 s


def test_the_life_of_every_instance_is_rounded_up_as_the_provider_does() -> None:
    rented = all_serverless(
        [0.0, 100.0],
        [0.25],
        boot=lambda: 2.0,
        idle_after=3.0,
        usd_per_second=1.0,
        within=9.0,
        cap=99,
        billed_in=1.0,
    )
    assert rented is not None
    assert rented.billed_s == 12.0  # twice 5.25 s, each billed as 6 s


def test_a_call_inside_the_idle_time_is_warm_and_moves_the_end() -> None:
    rented = all_serverless(
        [0.0, 5.0], [1.0], boot=lambda: 2.0, idle_after=3.0, usd_per_second=1.0, within=1.0, cap=99
    )
    assert rented is not None
    # Open at 0, ready at 2, busy to 3, idle to 5 when the second call comes, busy to 6, idle to 9.
    assert rented.cold == 1
    assert rented.billed_s == pytest.approx(9.0)
    assert rented.attained == 0.5


def test_a_call_after_the_idle_time_starts_a_new_instance() -> None:
    rented = all_serverless(
        [0.0, 6.5], [1.0], boot=lambda: 2.0, idle_after=3.0, usd_per_second=1.0, within=1.0, cap=99
    )
    assert rented is not None
    assert rented.cold == 2
    assert rented.billed_s == pytest.approx(12.0)


def test_a_waiting_call_runs_on_whichever_instance_is_free_first() -> None:
    boots = iter([1.0, 10.0])
    rented = all_serverless(
        [0.0, 0.5], [1.0], boot=lambda: next(boots), idle_after=1.0, usd_per_second=1.0, within=2.5, cap=99
    )
    assert rented is not None
    # The first instance is done at 2 and takes the second call, long before the second one has booted.
    assert rented.attained == 1.0
    assert rented.billed_s == pytest.approx((1 + 1 + 1 + 1) + (10 + 1))


@given(MOMENTS, st.integers(0, 99))
def test_every_call_is_answered_and_all_service_is_billed(moments: list[float], seed: int) -> None:
    chance = Random(seed)
    rented = all_serverless(
        moments,
        [0.5],
        boot=lambda: chance.uniform(0.1, 2),
        idle_after=1.0,
        usd_per_second=1.0,
        within=1e9,
        cap=99,
    )
    assert rented is not None
    assert rented.attained == 1.0
    assert 1 <= rented.cold <= len(moments)
    least = 0.5 * len(moments) + rented.cold * (0.1 + 1.0)
    assert rented.billed_s >= least - 1e-6


def test_a_cap_makes_calls_wait_instead_of_opening_more() -> None:
    rented = all_serverless(
        [0.0, 0.0, 0.0], [1.0], boot=lambda: 1.0, idle_after=1.0, usd_per_second=1.0, within=3.0, cap=1
    )
    assert rented is not None
    assert rented.cold == 1
    assert rented.billed_s == pytest.approx(1 + 3 + 1)
    assert rented.attained == pytest.approx(2 / 3)  # done after 2, 3 and 4 s


@given(MOMENTS, st.integers(1, 5))
def test_there_are_never_more_instances_than_the_cap(moments: list[float], cap: int) -> None:
    rented = all_serverless(
        moments, [0.5], boot=lambda: 0.3, idle_after=1e9, usd_per_second=1.0, within=1e9, cap=cap
    )
    assert rented is not None
    assert rented.cold <= cap  # none ends before the last call, so all that were started live at once


def test_the_cheapest_cap_that_meets_the_objective_is_taken() -> None:
    table = {
        1: AllServerless(1, 0.5, 1, 1.0, 1.0),
        2: AllServerless(2, 0.95, 2, 3.0, 3.0),
        3: AllServerless(3, 0.99, 3, 2.0, 2.0),
    }
    assert cheapest_serverless(table.__getitem__, 0.9, [1, 2, 3]) == table[3]
    assert cheapest_serverless(table.__getitem__, 0.4, [1, 2, 3]) == table[1]
    assert cheapest_serverless(table.__getitem__, 1.0, [1, 2, 3]) == table[3]
    assert cheapest_serverless(lambda _: None, 0.9, [1]) is None
