import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.histogram import GENERAL_EDGES, Histogram, budget_edges, merged, quantile

SECONDS = st.floats(min_value=0.0, max_value=100.0)


@settings(deadline=None)
@given(st.floats(min_value=0.001, max_value=600.0))
def test_the_budget_itself_is_an_edge_and_edges_rise(within: float) -> None:
    edges = budget_edges(within)
    assert within in edges
    assert list(edges) == sorted(set(edges))
    assert edges[0] < within / 10
    assert edges[-1] > within * 10


def test_without_a_budget_the_edges_are_general() -> None:
    assert budget_edges(None) == GENERAL_EDGES


@settings(deadline=None)
@given(st.lists(SECONDS))
def test_every_value_is_counted_once_and_edges_are_inclusive(values: list[float]) -> None:
    histogram = Histogram(budget_edges(0.25))
    for value in values:
        histogram.observe(value)
    assert histogram.count == len(values)
    for edge, count in histogram.cumulative():
        assert count == sum(value <= edge for value in values)


@settings(deadline=None)
@given(st.lists(SECONDS, min_size=1), st.floats(min_value=0.0, max_value=1.0))
def test_a_quantile_lies_in_the_bucket_of_the_exact_one(values: list[float], share: float) -> None:
    edges = budget_edges(0.25)
    histogram = Histogram(edges)
    for value in values:
        histogram.observe(value)
    estimate = quantile(histogram, share)
    assert estimate is not None
    rank = max(1, -int(-share * len(values) // 1))
    exact = sorted(values)[rank - 1]
    above = [edge for edge in edges if edge >= exact]
    below = [edge for edge in edges if edge < exact]
    assert (below[-1] if below else 0.0) - 1e-9 <= estimate <= (above[0] if above else edges[-1]) + 1e-9


def test_quantiles_are_linear_inside_a_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for _ in range(10):
        histogram.observe(1.5)
    assert quantile(histogram, 0.5) == pytest.approx(1.5)
    assert quantile(histogram, 1.0) == pytest.approx(2.0)
    assert quantile(Histogram((1.0,)), 0.5) is None
    with pytest.raises(ValueError):
        quantile(histogram, 1.5)


@settings(deadline=None)
@given(st.lists(SECONDS), st.lists(SECONDS))
def test_adding_histograms_is_counting_all_values_in_one(left: list[float], right: list[float]) -> None:
    parts, whole = [Histogram((0.5, 5.0)) for _ in range(2)], Histogram((0.5, 5.0))
    for part, values in zip(parts, (left, right), strict=True):
        for value in values:
            part.observe(value)
            whole.observe(value)
    total = merged(parts, (0.5, 5.0))
    assert total.counts == whole.counts
    assert total.total == pytest.approx(whole.total)


def test_histograms_with_different_edges_are_not_added() -> None:
    with pytest.raises(ValueError, match="edges"):
        merged([Histogram((1.0,))], (2.0,))


@given(
    st.sampled_from([None, 0.25]),
    st.lists(
        st.tuples(
            st.floats(min_value=0.0, max_value=20.0) | st.sampled_from(budget_edges(0.25)),
            st.floats(min_value=0.0, max_value=20.0) | st.sampled_from(budget_edges(0.25)),
            st.sampled_from(["", "00-trace-01"]),
        ),
        max_size=20,
    ),
)
def test_a_duration_and_a_part_of_it_are_counted_as_if_each_came_alone(
    within: float | None, seen: list[tuple[float, float, str]]
) -> None:
    edges = budget_edges(within)
    outer, inner, alone, part_alone = (Histogram(edges) for _ in range(4))
    for at, (whole, part, trace) in enumerate(seen):
        outer.observe_both(whole, inner, part, trace, at)
        alone.observe(whole, trace, at)
        part_alone.observe(part, trace, at)
    for mine, right in ((outer, alone), (inner, part_alone)):
        assert (mine.counts, mine.total, mine.examples) == (right.counts, right.total, right.examples)
