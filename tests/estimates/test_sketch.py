"""A sketch answers as the sorted samples would, and forgets at its pace."""

import json
import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sketch import BINS, CEILING, EDGES, FLOOR, Sketch, insert_both

seconds = st.floats(FLOOR, CEILING)
moments = st.floats(0, 3_600)
samples = st.lists(st.tuples(seconds, moments), min_size=1, max_size=60)
HALF_LIFE = 120.0


def filled(pairs: list[tuple[float, float]], half_life: float = HALF_LIFE, origin: float = 0.0) -> Sketch:
    sketch = Sketch(half_life, origin)
    for value, now in pairs:
        sketch.insert(value, now)
    return sketch


def same(one: Sketch, other: Sketch, now: float = 3_600.0, rel: float = 1e-9) -> None:
    assert one.count(now) == pytest.approx(other.count(now), rel=rel)
    assert one.mean == pytest.approx(other.mean, rel=rel)
    assert one.variance == pytest.approx(other.variance, rel=rel, abs=1e-6 * other.mean**2)
    for share in (0.013, 0.49, 0.87, 0.987):
        assert one.quantile(share) == pytest.approx(other.quantile(share), rel=0.06)


def test_the_bins_reach_from_a_millisecond_to_more_than_twenty_minutes() -> None:
    assert EDGES[0] == FLOOR == 0.001
    assert EDGES[BINS] >= CEILING >= 20 * 60
    assert BINS <= 300


@given(values=st.lists(seconds, min_size=1, max_size=200), share=st.floats(0.01, 1))
def test_a_quantile_is_within_five_percent_of_the_exact_one(values: list[float], share: float) -> None:
    sketch = filled([(value, 0.0) for value in values])
    ordered = sorted(values)
    # at a jump of the distribution both sides of it are right
    low = ordered[max(0, math.ceil(share * len(values) - 1e-6) - 1)]
    high = ordered[min(len(values) - 1, math.floor(share * len(values) + 1e-6))]
    assert low / 1.0501 <= sketch.quantile(share) <= high * 1.0501


@given(values=st.lists(seconds, min_size=2, max_size=100))
def test_mean_and_variance_are_exact(values: list[float]) -> None:
    sketch = filled([(value, 50.0) for value in values])
    mean = math.fsum(values) / len(values)
    assert sketch.mean == pytest.approx(mean)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    assert sketch.variance == pytest.approx(variance, rel=1e-6, abs=1e-9 * mean**2)


@given(pairs=samples, seed=st.integers(0, 1000))
def test_the_order_of_samples_does_not_matter(pairs: list[tuple[float, float]], seed: int) -> None:
    shuffled = list(pairs)
    Random(seed).shuffle(shuffled)
    one, other = filled(pairs), filled(shuffled)
    same(one, other)
    assert one.counts == pytest.approx(other.counts, rel=1e-9)


@given(pairs=samples, rounds=st.integers(1, 20))
def test_a_half_life_halves_what_the_samples_are_worth(pairs: list[tuple[float, float]], rounds: int) -> None:
    sketch = filled(pairs)
    assert sketch.count(3_600 + rounds * HALF_LIFE) == pytest.approx(sketch.count(3_600) / 2**rounds)


def test_a_new_sample_weighs_twice_one_that_is_a_half_life_old() -> None:
    sketch = filled([(1.0, 0.0), (4.0, HALF_LIFE)])
    assert sketch.mean == pytest.approx(3.0)
    assert sketch.quantile(0.3) == pytest.approx(1.0, rel=0.05)
    assert sketch.quantile(0.35) == pytest.approx(4.0, rel=0.05)


def test_years_on_one_clock_overflow_nothing() -> None:
    sketch = Sketch(HALF_LIFE)
    for day in range(1_000):
        sketch.insert(1.0 + day % 2, day * 86_400.0)
    assert sketch.mean == pytest.approx(2.0)
    assert sketch.count(999 * 86_400.0) == pytest.approx(1.0)


def test_values_out_of_range_are_counted_at_the_ends() -> None:
    sketch = filled([(0.0, 0.0), (math.inf, 0.0)])
    assert sketch.quantile(0.25) == pytest.approx(FLOOR, rel=0.05)
    assert sketch.quantile(1) == CEILING


@pytest.mark.parametrize("value", [math.nan, -0.5])
def test_what_is_no_duration_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="a duration is a number of seconds"):
        Sketch(HALF_LIFE).insert(value, 0.0)


def test_an_empty_sketch_knows_nothing() -> None:
    sketch = Sketch(HALF_LIFE)
    assert sketch.count(0) == 0
    assert all(math.isnan(value) for value in (sketch.mean, sketch.variance, sketch.quantile(0.5)))


@given(pairs=samples, later=st.floats(0, 600))
def test_a_sketch_survives_json_and_another_clock(pairs: list[tuple[float, float]], later: float) -> None:
    sketch = filled(pairs)
    then = 3_600.0 + later
    back = Sketch.from_dict(json.loads(json.dumps(sketch.to_dict(then))), HALF_LIFE, 17.0)
    assert back.count(17.0) == pytest.approx(sketch.count(then), rel=1e-6)
    assert back.mean == pytest.approx(sketch.mean, rel=1e-6)
    assert back.quantile(0.987) == pytest.approx(sketch.quantile(0.987), rel=0.06)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"half_life": 60.0}, "half_life is 60"),
        ({"weight": "much"}, "weight is not a number"),
        ({"weight": -1}, "weight is not a number from 0 up"),
        ({"total": 0.0}, "outside the samples"),
        ({"squares": 1e9}, "no variance"),
        ({"most": 0.0}, "outside the samples"),
        ({"bins": [1]}, "not a table"),
        ({"bins": {"900": 1.0}}, "'900' is not a bin"),
        ({"bins": {}}, "do not add up"),
    ],
)
def test_a_damaged_sketch_is_refused(change: dict[str, object], complaint: str) -> None:
    good = filled([(1.0, 0.0), (2.0, 0.0)]).to_dict(0.0)
    with pytest.raises(ValueError, match=complaint):
        Sketch.from_dict(good | change, HALF_LIFE, 0.0)


@settings(max_examples=50)
@given(pairs=samples)
def test_inserting_into_four_is_inserting_into_each(pairs: list[tuple[float, float]]) -> None:
    short, long = (Sketch(120), Sketch(120)), (Sketch(1800), Sketch(1800))
    insert_both(pairs, short, long)
    for sketch in short + long:
        same(sketch, filled(pairs, sketch.half_life), rel=0.03)


def test_sketches_that_do_not_fit_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="share half-life and origin"):
        insert_both([(1.0, 0.0)], (Sketch(60), Sketch(120)), (Sketch(60), Sketch(60)))
