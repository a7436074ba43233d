"""A window counts everything for its whole length, forgets it soon after, and loses nothing in between."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.windows import Window

amounts = st.lists(st.tuples(st.floats(0, 500), st.integers(0, 100)), max_size=30)


@given(amounts, st.integers(1, 20), st.floats(0, 900))
def test_counts_what_is_younger_than_the_window_and_nothing_older_than_one_slot_more(
    added: list[tuple[float, int]], slots: int, later: float
) -> None:
    window = Window(100.0, slots)
    for at, amount in sorted(added):
        window.add(amount, at)
    now = max((at for at, _ in added), default=0.0) + later
    young = sum(amount for at, amount in added if at > now - 100.0)
    alive = sum(amount for at, amount in added if at > now - 100.0 - window.granule - 1e-9)
    assert young <= window.total(now) <= alive


def test_an_amount_is_forgotten_at_the_end_of_a_slot() -> None:
    window = Window(100.0, 10)
    window.add(7, 1003.0)
    assert window.total(1109.999) == 7
    assert window.total(1110.0) == 0


@given(amounts, st.integers(0, 300))
def test_the_moment_it_names_is_the_first_at_which_the_sum_is_low_enough(
    added: list[tuple[float, int]], level: int
) -> None:
    window = Window(100.0, 10)
    for at, amount in sorted(added):
        window.add(amount, at)
    now = max((at for at, _ in added), default=0.0)
    at = window.falls_to(level, now)
    if at > now:
        assert window.total(at - 0.001) > level
    assert window.total(at) <= level


def test_no_moment_brings_a_sum_below_zero() -> None:
    assert Window(100.0, 10).falls_to(-1, 0.0) == inf


def test_what_is_added_late_counts_for_the_time_it_belongs_to() -> None:
    window = Window(100.0, 10)
    window.add(1, 1000.0)
    window.add(1, 1090.0)
    window.add(4, 1045.0)
    assert [window.total(now) for now in (1109.0, 1110.0, 1149.0, 1150.0, 1200.0)] == [6, 5, 5, 1, 0]


def test_a_correction_of_something_forgotten_changes_nothing() -> None:
    window = Window(100.0, 10)
    window.add(1, 1000.0)
    assert window.total(1500.0) == 0
    window.add(-1, 1000.0)
    assert window.total(1500.0) == 0


def test_takes_the_oldest_first_and_no_more_than_there_is() -> None:
    window = Window(100.0, 10)
    window.add(3, 1000.0)
    window.add(3, 1050.0)
    assert window.take(4, 1060.0) == 4
    assert window.total(1159.0) == 2
    assert window.take(4, 1159.0) == 2
    assert window.total(1159.0) == 0


@pytest.mark.parametrize(("seconds", "slots"), [(0.0, 1), (1.0, 0)])
def test_a_window_without_length_is_refused(seconds: float, slots: int) -> None:
    with pytest.raises(ValueError, match="length"):
        Window(seconds, slots)
