"""When demand will outgrow the fleet again, from the intervals at which it did."""

from random import Random

import pytest

from gateway.overflows import Overflows


def seen(begins: list[int], *, until: int, height: float = 3.0, lasts: int = 5) -> Overflows:
    overflows = Overflows()
    for second in range(until):
        inside = any(begin <= second < begin + lasts for begin in begins)
        overflows.second(second, height if inside else -1.0)
    return overflows


def test_a_regular_overflow_is_expected_when_it_is_due() -> None:
    overflows = seen([100, 200, 300, 400, 500], until=595)
    assert overflows.chance(1, 10.0, 595.0) == pytest.approx(4 / 6)
    assert overflows.chance(3, 10.0, 595.0) == pytest.approx(4 / 6)
    assert overflows.chance(5, 10.0, 595.0) == 0.0  # never so high
    assert overflows.duration_s == pytest.approx(5.0)


def test_not_long_before_and_not_after_it_stayed_away() -> None:
    early = seen([100, 200, 300, 400, 500], until=530)
    assert early.chance(1, 10.0, 530.0) == 0.0
    late = seen([100, 200, 300, 400, 500], until=620)
    assert late.chance(1, 10.0, 620.0) == 0.0


def test_nothing_is_expected_of_what_came_a_few_times() -> None:
    for begins in ([], [100], [100, 200], [10, 100, 200]):
        overflows = seen(begins, until=295)
        assert overflows.chance(1, 10.0, 295.0) == 0.0


def test_nothing_new_is_expected_while_one_is_under_way() -> None:
    overflows = seen([100, 200, 300, 400, 500], until=503)
    assert overflows.chance(1, 200.0, 503.0) == 0.0


def test_irregular_overflows_are_expected_as_rarely_as_they_come() -> None:
    chance, begins, moment = Random(1), [], 0
    for _ in range(60):
        moment += 20 + int(chance.expovariate(1 / 300))
        begins.append(moment)
    overflows = seen(begins, until=begins[-1] + 60)
    assert overflows.chance(1, 10.0, begins[-1] + 60.0) < 0.15
