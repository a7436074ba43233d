"""Cold starts: how long, of how many kinds, and how likely after how much idling."""

import math
from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.estimates import BackendEstimates, Expectation, Prior
from gateway.survival import Survival, falling

Draw = Callable[[Random], float]


def learned(draw: Draw, count: int, seed: int = 1) -> BackendEstimates:
    chance = Random(seed)
    estimates = BackendEstimates(Expectation(cold=Prior(8.0, 20.0)))
    for start in range(count):
        estimates.learn_cold(30.0, draw(chance), start * 600.0)
    estimates.refresh()
    return estimates


def lognormal(median: float, sigma: float) -> Draw:
    return lambda chance: median * math.exp(chance.gauss(0, sigma))


def mixed(share: float, fast: Draw, slow: Draw) -> Draw:
    return lambda chance: (fast if chance.random() < share else slow)(chance)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("share", "fast", "slow"), [(0.5, 1.4, 80.0), (0.34, 2.8, 34.0), (0.85, 2.0, 60.0)])
def test_two_ways_of_starting_are_told_apart(share: float, fast: float, slow: float, seed: int) -> None:
    modes = learned(mixed(share, lognormal(fast, 0.3), lognormal(slow, 0.3)), 200, seed).cold_modes()
    assert modes is not None
    assert modes.share_fast == pytest.approx(share, abs=0.15)
    assert modes.fast_mean == pytest.approx(fast * math.exp(0.045), rel=0.15)
    assert modes.slow_mean == pytest.approx(slow * math.exp(0.045), rel=0.15)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "draw",
    [lognormal(6, 0.2), lognormal(6, 0.6), lognormal(6, 1.0), lambda _: 5.0],
    ids=["narrow", "wide", "very wide", "constant"],
)
def test_one_way_of_starting_is_not_split(draw: Draw, seed: int) -> None:
    assert learned(draw, 200, seed).cold_modes() is None


def test_modes_appear_with_the_samples() -> None:
    estimates = BackendEstimates(Expectation())
    assert estimates.cold_modes() is None
    for start in range(40):
        estimates.learn_cold(None, 1.0 if start % 2 else 50.0, start * 60.0)
    estimates.refresh()
    assert estimates.cold_modes() is not None


def test_cold_starts_are_kept_by_idle_age() -> None:
    estimates = BackendEstimates(Expectation(cold=Prior(8.0, 20.0)))
    truth = {30.0: 1.5, 300.0: 6.0, 3_600.0: 40.0, None: 90.0}
    chance = Random(1)
    for start in range(400):
        age = list(truth)[start % 4]
        estimates.learn_cold(age, truth[age] * chance.lognormvariate(0, 0.2), start * 300.0)
    for age, seconds in truth.items():
        assert estimates.cold_at(age).mean == pytest.approx(seconds, rel=0.2)
    assert estimates.cold_at(math.inf) is estimates.cold_at(None)
    assert 20 < estimates.cold.mean < 50


def test_the_declared_time_out_is_a_step_before_anything_was_seen() -> None:
    survival = Survival(60.0)
    assert [survival.chance(age) for age in (0.0, 1.0, 59.0, 60.0)] == [1.0] * 4
    assert [survival.chance(age) for age in (60.1, 600.0, 1e9)] == [0.0] * 3


def test_without_a_declared_time_out_nothing_is_warm_until_it_was_seen() -> None:
    survival = Survival()
    assert survival.chance(0.1) == 0.0
    for _ in range(20):
        survival.learn(10.0, cold=False)
    assert survival.chance(5.0) > 0.9
    assert survival.chance(100.0) == 0.0


@pytest.mark.parametrize("declared", [5.0, 60.0, 600.0])
def test_what_is_seen_overrules_what_was_declared(declared: float) -> None:
    survival = Survival(declared)
    chance = Random(2)
    for _ in range(1_000):
        age = math.exp(chance.uniform(0, 6))
        survival.learn(age, cold=age > 60)
    assert survival.chance(20.0) > 0.85
    assert survival.chance(200.0) < 0.15


def test_survival_is_the_share_that_lived_and_not_a_product_of_shares() -> None:
    survival = Survival(30.0)
    chance = Random(3)
    for _ in range(4_000):
        age = math.exp(chance.uniform(0, 5))
        survival.learn(age, cold=chance.expovariate(1 / 40) < age)
    for age in (2.0, 10.0, 40.0):
        assert survival.chance(age) == pytest.approx(math.exp(-age / 40), abs=0.15)


@given(
    declared=st.floats(0, 3_600),
    starts=st.lists(st.tuples(st.floats(0, 1e5), st.booleans()), max_size=60),
    ages=st.lists(st.floats(0, 1e5), min_size=2, max_size=10),
)
def test_the_chance_is_a_chance_and_never_rises_with_age(
    declared: float, starts: list[tuple[float, bool]], ages: list[float]
) -> None:
    survival = Survival(declared)
    for age, cold in starts:
        survival.learn(age, cold)
    chances = [survival.chance(age) for age in sorted(ages)]
    assert chances == sorted(chances, reverse=True)
    assert all(0 <= chance <= 1 for chance in chances)


@given(values=st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 50)), min_size=1, max_size=20))
def test_pooling_keeps_the_mean_and_leaves_a_falling_curve_alone(values: list[tuple[float, float]]) -> None:
    levels, weights = [level for level, _ in values], [weight for _, weight in values]
    fit = falling(levels, weights)
    assert all(left >= right - 1e-12 for left, right in pairwise(fit))
    total = sum(level * weight for level, weight in values)
    assert sum(a * b for a, b in zip(fit, weights, strict=True)) == pytest.approx(total, abs=1e-9)
    assert falling(sorted(levels, reverse=True), weights) == sorted(levels, reverse=True)


@pytest.mark.parametrize("age", [-1.0, math.nan])
def test_an_age_that_is_none_is_refused(age: float) -> None:
    with pytest.raises(ValueError, match="an idle age"):
        Survival(5.0).learn(age, cold=True)
