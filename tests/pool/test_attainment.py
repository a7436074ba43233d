"""How caution follows from late answers: up with them, down again without."""

from statistics import NormalDist

import pytest

from gateway.attainment import AHEAD_S, GRACE, WINDOW_S, Attainment

NOW = 500.0


def noted(attainment: Attainment, in_time: int, late: int, now: float = NOW) -> Attainment:
    for _ in range(late):
        attainment.note(now, in_time=False)
    for _ in range(in_time):
        attainment.note(now, in_time=True)
    return attainment


def test_one_standard_deviation_is_enough_for_99_of_100_and_others_scale() -> None:
    assert Attainment(0.99, NOW).caution == pytest.approx(1.0)
    normal = NormalDist()
    assert Attainment(0.9, NOW).caution == pytest.approx(normal.inv_cdf(0.9) / normal.inv_cdf(0.99))
    assert Attainment(0.5, NOW).caution == pytest.approx(0.0)
    assert Attainment(0.2, NOW).caution == 0.0, "never less than expected"
    assert 1.0 < Attainment(1.0, NOW).caution <= 3.0


def test_answers_in_time_change_nothing() -> None:
    attainment = noted(Attainment(0.99, NOW), 1000, 0)
    assert attainment.caution == pytest.approx(1.0)
    assert (attainment.seen, attainment.late) == (1000, 0)


def test_caution_rises_with_the_share_that_was_late_up_to_its_most() -> None:
    steps = []
    for late in (0, 4, 8, 10, 12, 16, 40):
        steps.append(noted(Attainment(0.99, NOW), 1000 - late, late).caution)
    # The last 64 in time are looked at together: it is a matter of the share, not of who was late last.
    assert steps == sorted(steps)
    assert steps[0] == pytest.approx(1.0)
    assert 1.0 < steps[3] < steps[4] < 3.0
    assert steps[-1] == pytest.approx(3.0)


def test_a_first_late_answer_is_no_reason_for_panic_where_the_objective_allows_some() -> None:
    attainment = Attainment(0.9, NOW)
    attainment.note(NOW, in_time=False)
    assert GRACE * 0.1 > 1
    assert attainment.caution == pytest.approx(NormalDist().inv_cdf(0.9) / NormalDist().inv_cdf(0.99))


def test_caution_falls_again_when_answers_are_in_time() -> None:
    attainment = noted(Attainment(0.99, NOW), 0, 3)
    high = attainment.caution
    noted(attainment, 256, 0)
    middle = attainment.caution
    noted(attainment, 1000, 0)
    assert high == pytest.approx(3.0)
    assert high >= middle > attainment.caution
    assert attainment.caution == pytest.approx(1.0)


def test_late_answers_are_forgotten_after_two_windows() -> None:
    attainment = noted(Attainment(0.99, NOW), 100, 20)
    noted(attainment, 1, 0, NOW + WINDOW_S)
    assert (attainment.seen, attainment.late) == (121, 20), "the window before still counts"
    noted(attainment, 128, 0, NOW + 2 * WINDOW_S + 1)
    assert (attainment.seen, attainment.late) == (129, 0)
    assert attainment.caution == pytest.approx(1.0)


def test_a_pause_of_two_windows_forgets_all() -> None:
    attainment = noted(Attainment(0.99, NOW), 100, 20)
    noted(attainment, 1, 0, NOW + 5 * WINDOW_S)
    assert (attainment.seen, attainment.late) == (1, 0)


def test_an_objective_of_everything_leaves_no_budget() -> None:
    attainment = noted(Attainment(1.0, NOW), 999, 1)
    assert attainment.caution == pytest.approx(3.0)
    assert attainment.spare(NOW + 1.0) == -1.0


def test_what_may_be_late_is_the_share_of_what_was_seen_and_of_as_much_time_to_come_again() -> None:
    attainment = noted(Attainment(0.9, NOW), 95, 5)
    assert attainment.spare(NOW + 100.0) == pytest.approx(0.1 * (100 + 100) - 5)
    long = noted(Attainment(0.9, NOW), 1195, 5)
    # Later no further ahead than AHEAD_S, at the pace so far: 2 a second for 600 s, of which 600 s have passed.
    assert long.spare(NOW + 600.0) == pytest.approx(0.1 * (1200 + 2.0 * AHEAD_S) - 5)
    assert long.spare(NOW + 1200.0) == pytest.approx(0.1 * (1200 + 1.0 * AHEAD_S) - 5)


def test_nothing_seen_nothing_to_spare_and_too_many_late_is_negative() -> None:
    assert Attainment(0.99, NOW).spare(NOW) == 0.0
    assert noted(Attainment(0.99, NOW), 50, 50).spare(NOW + 10.0) < 0.0
