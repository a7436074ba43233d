"""What can be known of rented instances: the table in the docstring, and sums over those that boot."""

from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.warmth import Idle, Warmth

DAYS = 86_400.0


# -- closed ──open──► opening ──► idle ◄──► busy, and gone after `idle_s` ------------------------------


def test_closed_nothing_is_warm_and_a_call_must_boot() -> None:
    warmth = Warmth(5.0)
    assert (warmth.warm(0.0), warmth.next_since, warmth.take(0.0)) == (0, None, None)
    assert (list(warmth.opening), warmth.up_by(100.0, 0.0, 1.0)) == ([], 0.0)


def test_opening_it_is_expected_and_not_warm() -> None:
    warmth = Warmth(5.0)
    warmth.begin_opening("a", 6.0)
    assert list(warmth.opening) == [6.0]
    assert (warmth.warm(6.0), warmth.take(6.0)) == (0, None)


def test_opening_to_idle_it_is_warm_from_then_on() -> None:
    warmth = Warmth(5.0)
    warmth.begin_opening("a", 6.0)
    warmth.end_opening("a")
    warmth.back(7.0)
    assert list(warmth.opening) == []
    assert warmth.ages(9.0) == [2.0]


def test_opening_to_closed_one_that_never_came_up_leaves_nothing() -> None:
    warmth = Warmth(5.0)
    warmth.begin_opening("a", 6.0)
    warmth.end_opening("a")
    assert (warmth.warm(7.0), warmth.up_by(100.0, 7.0, 1.0)) == (0, 0.0)


def test_idle_to_busy_the_one_that_was_used_last_serves_next() -> None:
    warmth = Warmth(5.0)
    for moment in (1.0, 2.0, 3.0):
        warmth.back(moment)
    assert warmth.next_since == 3.0
    assert [warmth.take(4.0) for _ in range(4)] == [1.0, 2.0, 3.0, None]


def test_busy_to_idle_its_time_begins_anew() -> None:
    warmth = Warmth(5.0)
    warmth.back(0.0)
    assert warmth.take(4.0) == 4.0
    warmth.back(6.0)
    assert warmth.warm(10.9) == 1


def test_idle_to_closed_each_is_gone_after_its_own_time() -> None:
    warmth = Warmth(5.0)
    for moment in (1.0, 3.0):
        warmth.back(moment)
    assert [warmth.warm(now) for now in (5.9, 6.0, 7.9, 8.0)] == [2, 1, 1, 0]


def test_a_call_that_comes_too_late_finds_none_even_if_nobody_looked_before() -> None:
    warmth = Warmth(5.0)
    for moment in (1.0, 3.0):
        warmth.back(moment)
    assert warmth.take(8.0) is None
    assert warmth.next_since is None


def test_one_that_was_taken_and_not_used_has_idled_all_along() -> None:
    warmth = Warmth(5.0)
    for moment in (1.0, 2.0):
        warmth.back(moment)
    age = warmth.take(4.0)
    assert age == 2.0
    warmth.back(3.0)
    warmth.untouched(4.0 - age)
    assert warmth.ages(4.0) == [3.0, 2.0, 1.0]


def test_one_that_was_kept_idles_anew_and_is_remembered_as_unused() -> None:
    warmth = Warmth(5.0)
    warmth.back(0.0)
    since, used_at = warmth.take_oldest()
    assert (since, used_at) == (0.0, 0.0)
    warmth.kept(used_at, 4.0)
    (idle,) = warmth.idling(6.0)
    assert idle == pytest.approx(Idle(age_s=2.0, unused_s=6.0))
    assert warmth.warm(8.9) == 1


@pytest.mark.parametrize("now", [0.0, 1_000.0, 400 * DAYS])
def test_without_a_time_out_it_still_serves_who_waits_at_that_moment_and_nobody_later(now: float) -> None:
    warmth = Warmth(0.0)
    warmth.back(now)
    assert warmth.warm(now) == 1
    assert warmth.take(now) == 0.0
    warmth.back(now)
    assert (warmth.warm(now + 0.001), warmth.take(now + 0.001)) == (0, None)


# -- seconds for which those that boot will have been up ------------------------------------------------


def test_up_by_counts_from_when_each_is_expected() -> None:
    warmth = Warmth(5.0)
    for holder, expected in (("a", 10.0), ("b", 12.0)):
        warmth.begin_opening(holder, expected)
    assert [warmth.up_by(until, 5.0, 1.0) for until in (9.0, 11.0, 15.0)] == [0.0, 1.0, 8.0]


def test_one_that_should_be_up_is_expected_a_little_later_again_and_again() -> None:
    warmth = Warmth(5.0)
    warmth.begin_opening("slow", 10.0)
    assert warmth.up_by(20.0, 12.0, 3.0) == 5.0
    assert warmth.up_by(20.0, 16.0, 3.0) == 1.0
    assert warmth.up_by(20.0, 18.0, 3.0) == 0.0


boots = st.lists(st.tuples(st.floats(0, 3), st.one_of(st.none(), st.floats(0, 30))), max_size=25)


@given(boots=boots, constant=st.one_of(st.none(), st.floats(0, 10)), windows=st.lists(st.floats(0, 60), max_size=5),
       slow_s=st.floats(0, 5))  # fmt: skip
def test_up_by_is_the_plain_sum_whichever_have_come_up(
    boots: list[tuple[float, float | None]], constant: float | None, windows: list[float], slow_s: float
) -> None:
    """One begins after each pause, and is expected after a time that is the same for all, or its own. None: the
    one that has booted longest ends instead.
    """
    warmth, expected, now = Warmth(5.0), dict[int, float](), 0.0
    for holder, (pause, boot) in enumerate(boots):
        now += pause
        if boot is not None:
            expected[holder] = now + (boot if constant is None else constant)
            warmth.begin_opening(holder, expected[holder])
        elif expected:
            first = min(expected)
            del expected[first]
            warmth.end_opening(first)
        assert sorted(warmth.opening) == sorted(expected.values())
        for window in windows:
            until = now + window
            plain = fsum(
                max(0.0, until - (up_at if up_at > now else now + slow_s)) for up_at in expected.values()
            )
            assert warmth.up_by(until, now, slow_s) == pytest.approx(plain, abs=1e-6)
