"""Traffic made larger and smaller, and the rule that explains the n-th replica."""

from array import array

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.simulator.distributions import parse
from gateway.simulator.loads import scaled
from gateway.simulator.marginal import marginals
from gateway.simulator.scenario import Endpoint, Fleet, Workload
from gateway.simulator.traces import Trace, from_rows

BURSTY = from_rows(
    "bursty",
    array("d", sorted([float(at) for at in range(1000)] + [500 + 0.01 * each for each in range(500)])),
    {"size": array("d", range(1500))},
)


def in_burst(trace: Trace) -> float:
    """Share of the requests within half a minute of the burst."""
    return sum(485 <= at <= 535 for at in trace.arrivals) / len(trace)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 1.5, 2.0, 3.0])
def test_the_rate_changes_and_the_burst_stays(factor: float) -> None:
    found = scaled(BURSTY, factor, seed=1)
    assert len(found) == pytest.approx(factor * len(BURSTY), rel=0.1)
    assert found.span == pytest.approx(BURSTY.span, rel=0.02)
    assert in_burst(found) == pytest.approx(in_burst(BURSTY), abs=0.05)
    assert list(found.arrivals) == sorted(found.arrivals)
    assert len(found.sizes["size"]) == len(found)


def test_copies_keep_every_gap_and_every_size_and_do_not_come_in_pairs() -> None:
    few = from_rows("few", array("d", [0.0, 10.0, 30.0, 70.0]), {"size": array("d", [1, 2, 3, 4])})
    twice = scaled(few, 2.0, seed=3)
    assert len(twice) == 8
    assert sorted(twice.sizes["size"]) == [1, 1, 2, 2, 3, 3, 4, 4]
    by_size: dict[float, list[float]] = {}
    for at, size in zip(twice.arrivals, twice.sizes["size"], strict=True):
        by_size.setdefault(size, []).append(at)
    shifts = {round(second - first, 6) for first, second in by_size.values()}
    assert len(shifts) == 1
    assert 0 < shifts.pop() <= 0.01 * 87.5


@settings(max_examples=20, deadline=None)
@example(1.000001, 0)
@given(st.floats(0.3, 5), st.integers(0, 5))
def test_equal_seeds_give_equal_traffic(factor: float, seed: int) -> None:
    one, other = scaled(BURSTY, factor, seed=seed), scaled(BURSTY, factor, seed=seed)
    assert one == other
    assert one.arrivals[0] == 0


def test_no_load_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="share is 0"):
        scaled(BURSTY, 0.0, seed=0)


def endpoint(premium: float = 1.5, fee: float = 0.0) -> Endpoint:
    return Endpoint("endpoint", premium, 3.0, parse("constant:2s"), fee)


def test_a_slot_must_be_busier_than_its_price_over_that_of_renting_it() -> None:
    calls = Workload("calls", [4.0 * number for number in range(10)], [1.0] * 10)
    first, second = marginals(calls, Fleet(), [endpoint()], 2)
    assert first.busy == pytest.approx(10 / 37)
    assert first.needs == pytest.approx(1 / (1.5 * (1 + 10 * 5 / 10))), (
        "each busy second is a start of its own"
    )
    assert first.pays
    assert (second.busy, second.pays) == (0.0, False)


def test_calls_that_follow_each_other_are_one_run() -> None:
    steady = Workload("steady", [0.5 * number for number in range(20)], [1.0] * 20)
    first, second, _ = marginals(steady, Fleet(), [endpoint()], 3)
    assert first.busy == pytest.approx(1.0)
    assert first.needs == pytest.approx(1 / (1.5 * (1 + 5 / 10.5)))
    assert second.busy == pytest.approx(9.5 / 10.5)


def test_a_replica_counts_all_its_slots_and_a_fee_makes_renting_dearer() -> None:
    steady = Workload("steady", [0.5 * number for number in range(20)], [1.0] * 20)
    whole = marginals(steady, Fleet("fleet", 2, 2.0), [endpoint()], 1)[0]
    assert whole.busy == pytest.approx((10.5 + 9.5) / 21)
    dear = marginals(steady, Fleet("fleet", 2, 2.0), [endpoint(fee=9.0)], 1)[0]
    assert dear.needs < whole.needs
    cheapest = marginals(steady, Fleet("fleet", 2, 2.0), [endpoint(fee=9.0), endpoint()], 1)[0]
    assert cheapest.needs == whole.needs
    assert marginals(steady, Fleet(), [], 3) == []
