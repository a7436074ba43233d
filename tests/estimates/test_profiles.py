"""Profiles follow what is learned: from a prior, by size, quickly after a change, and not for lack of calls."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.estimates import BackendEstimates, Expectation
from gateway.profiles import LATE, Family, HalfLives, Prior

PRIOR = Prior(0.5, 2.0)
HALF_LIVES = HalfLives(120.0, 1800.0)


def family(parts: int = 4, objective: float = 0.95) -> Family:
    return Family(parts, objective, PRIOR, HALF_LIVES)


def test_before_anything_was_seen_every_bucket_reads_the_prior() -> None:
    estimates = BackendEstimates(Expectation(service=PRIOR, cold=Prior(8.0, 20.0)))
    for bucket in range(16):
        profile = estimates.profiles[bucket]
        assert (profile.mean, profile.tail, profile.samples) == (0.5, 2.0, 0)
    assert (estimates.cold.mean, estimates.cold_at(None).tail, estimates.cold_at(5.0).mean) == (
        8.0,
        20.0,
        8.0,
    )


@pytest.mark.parametrize(
    "wrong", [Prior(0.0, 1.0), Prior(2.0, 1.0), Prior(1.0, math.inf), Prior(math.nan, 1.0)]
)
def test_a_prior_that_makes_no_sense_is_refused(wrong: Prior) -> None:
    with pytest.raises(ValueError, match="a prior wants"):
        BackendEstimates(Expectation(service=wrong))


@pytest.mark.parametrize("truth", [0.02, 0.6, 30.0])
def test_a_prior_far_off_is_soon_forgotten(truth: float) -> None:
    chance = Random(1)
    it = family()
    for second in range(20):
        it.learn(1, truth * chance.lognormvariate(0, 0.3), float(second))
    it.refresh()
    assert it.parts[1].mean == pytest.approx(truth, rel=0.3)


def test_mean_tail_and_deviation_converge_to_the_truth() -> None:
    chance = Random(2)
    it = family()
    for call in range(5_000):
        it.learn(2, chance.lognormvariate(0, 0.4), call * 0.1)
    profile = it.parts[2]
    assert profile.mean == pytest.approx(math.exp(0.08), rel=0.05)
    assert profile.tail == pytest.approx(math.exp(1.645 * 0.4), rel=0.1)
    assert profile.deviation == pytest.approx(0.451, rel=0.1)


def test_a_small_part_is_told_from_the_whole_by_a_few_samples() -> None:
    chance = Random(3)
    it = family()
    for call in range(2_000):
        it.learn(0, chance.lognormvariate(0, 0.3), call * 0.1)
    for call in range(10):
        it.learn(1, 20 * chance.lognormvariate(0, 0.3), 200.0 + call)
    it.refresh()
    assert it.parts[1].mean == pytest.approx(20, rel=0.3)
    assert it.parts[0].mean == pytest.approx(1, rel=0.1)
    assert it.parts[3] is it.whole  # nothing of its own yet
    assert it.parts[1].tail > it.parts[1].mean


def test_a_part_borrows_the_spread_within_parts_and_not_that_between_them() -> None:
    chance = Random(9)
    it = Family(8, 0.95, PRIOR, HALF_LIVES)
    for call in range(2_000):
        part = chance.randrange(7)
        it.learn(part, 4.0**part * chance.lognormvariate(0, 0.3) / 100, call * 0.1)
    for call in range(8):
        it.learn(7, 200 * chance.lognormvariate(0, 0.3), 200.0 + call)
    it.refresh()
    assert it.whole.tail > 4 * it.whole.mean
    for profile in it.parts:
        assert 1.4 < profile.tail / profile.mean < 2.2  # 1.57 in truth


def test_a_part_that_does_not_stand_out_borrows() -> None:
    chance = Random(4)
    it = family()
    for call in range(2_000):
        it.learn(0, chance.lognormvariate(0, 0.5), call * 0.1)
    for call in range(2):
        it.learn(1, 1.5, 200.0 + call)
    it.refresh()
    mean = it.whole.mean
    assert mean < it.parts[1].mean < mean + 0.3 * (1.5 - mean)
    assert it.parts[1].tail > 1.9  # two samples say nothing of a tail


def test_a_change_is_believed_within_two_minutes_and_the_worse_tail_stays() -> None:
    chance = Random(5)
    it = family()
    for call in range(6_000):
        it.learn(0, chance.lognormvariate(0, 0.3), call * 0.2)
    calm = it.parts[0].tail
    for call in range(600):
        it.learn(0, 3 * chance.lognormvariate(0, 0.3), 1_200 + call * 0.2)
    assert it.parts[0].mean > 1.8
    assert it.parts[0].tail > 2.5 * calm
    for call in range(3_000):
        it.learn(0, chance.lognormvariate(0, 0.3), 1_320 + call * 0.2)
    assert it.parts[0].mean == pytest.approx(1.05, rel=0.1)
    assert it.parts[0].tail > 1.3 * calm  # the slow sketch remembers


@pytest.mark.parametrize("pause", [600.0, 8 * 3_600.0, 30 * 86_400.0])
def test_a_quiet_time_makes_nothing_unsure(pause: float) -> None:
    chance = Random(6)
    it = family()
    for call in range(500):
        it.learn(call % 2, (1 + 9 * (call % 2)) * chance.lognormvariate(0, 0.2), float(call))
    it.refresh()
    before = [(profile.mean, profile.tail) for profile in it.parts]
    it.learn(0, 1.0, 500.0 + pause)
    it.refresh()
    for profile, (mean, tail) in zip(it.parts, before, strict=True):
        assert profile.mean == pytest.approx(mean, rel=0.05)
        assert profile.tail == pytest.approx(tail, rel=0.1)


def test_one_call_an_hour_is_enough_to_know_a_backend() -> None:
    chance = Random(7)
    it = family()
    for hour in range(200):
        it.learn(0, 3 * chance.lognormvariate(0, 0.3), hour * 3_600.0)
    assert it.parts[0].mean == pytest.approx(3.1, rel=0.2)
    assert it.parts[0].samples > 25


@settings(max_examples=40)
@given(
    calls=st.lists(
        st.tuples(st.integers(0, 3), st.floats(0.01, 100), st.floats(0, 60)), min_size=1, max_size=60
    ),
    seed=st.integers(0, 99),
)
def test_within_a_gap_the_order_of_learning_does_not_matter(
    calls: list[tuple[int, float, float]], seed: int
) -> None:
    other_order = list(calls)
    Random(seed).shuffle(other_order)
    one, other = family(), family()
    for it, order in ((one, calls), (other, other_order)):
        for call in order:
            it.learn(*call)
        it.refresh()
        it.learn(0, 1.0, 61.0)
        it.refresh()
    for left, right in zip(one.parts, other.parts, strict=True):
        # samples close in time share one weight, so equal within the 0.7 % of that, and a bin for a tail
        assert left.mean == pytest.approx(right.mean, rel=0.01)
        assert left.samples == pytest.approx(right.samples, rel=0.01)


@settings(max_examples=40)
@given(
    calls=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 5_000), st.floats(0, 1e6)), max_size=80),
    objective=st.floats(0.01, 0.999),
)
def test_a_profile_is_always_finite_and_its_tail_never_below_its_mean(
    calls: list[tuple[int, float, float]], objective: float
) -> None:
    it = family(objective=objective)
    for part, value, now in sorted(calls, key=lambda call: call[2]):
        it.learn(part, value, now)
        for profile in (*it.parts, it.whole):
            assert 0 < profile.mean <= profile.tail * (1 + 1e-12) < math.inf
            assert 0 <= profile.deviation < math.inf


def test_nothing_waits_longer_than_the_next_sample_after_the_latest_moment() -> None:
    it = family()
    for call in range(1_000):
        it.learn(0, 1.0, call * 0.01)
    for _ in range(20):
        it.learn(0, 100.0, 10.0)
    it.learn(0, 100.0, 10.0 + LATE)
    assert it.parts[0].mean > 2


def test_another_objective_keeps_what_was_learned() -> None:
    chance = Random(8)
    it = family(objective=0.5)
    for call in range(3_000):
        it.learn(0, chance.lognormvariate(0, 0.4), call * 0.1)
    mean, median = it.parts[0].mean, it.parts[0].tail
    it.retune(0.99, PRIOR)
    assert it.parts[0].mean == pytest.approx(mean, rel=0.05)
    assert it.parts[0].tail > 2 * median
    with pytest.raises(ValueError, match="an objective is a share"):
        it.retune(1.0, PRIOR)


@pytest.mark.parametrize("seconds", [math.nan, -1.0])
def test_what_is_no_duration_teaches_nothing(seconds: float) -> None:
    it = family()
    with pytest.raises(ValueError, match="a duration is a number of seconds"):
        it.learn(0, seconds, 1.0)
    it.refresh()
    assert it.whole.samples == 0


def test_sizes_fall_into_a_bucket_per_doubling_whatever_their_unit() -> None:
    for unit in (1e-3, 1.0, 1e6):
        estimates = BackendEstimates(Expectation())
        middle = estimates.bucket_of(unit)
        assert [estimates.bucket_of(unit * 2.0**power) - middle for power in (-7, -1, 0, 1, 7)] == [
            -7, -1, 0, 1, 7,
        ]  # fmt: skip
        assert estimates.bucket_of(None) == estimates.bucket_of(math.nan) == 0
        assert estimates.bucket_of(0) == estimates.bucket_of(-3) == 1
        assert estimates.bucket_of(math.inf) == 15


@given(sizes=st.lists(st.floats(allow_nan=False), min_size=2, max_size=20))
def test_a_bucket_is_never_out_of_range_and_grows_with_the_size(sizes: list[float]) -> None:
    estimates = BackendEstimates(Expectation())
    estimates.bucket_of(sizes[0])
    buckets = [estimates.bucket_of(size) for size in sorted(sizes)]
    assert buckets == sorted(buckets)
    assert all(1 <= bucket <= 15 for bucket in buckets)
