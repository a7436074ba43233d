from random import Random

import pytest

from gateway.breaker import TRANSITIONS, Breaker, Event, State
from gateway.vocab import Verdict

FAILURE, SUCCESS, NEUTRAL = Verdict.FAILURE, Verdict.SUCCESS, Verdict.NEUTRAL


def attempt(breaker: Breaker, verdict: Verdict, now: float) -> bool:
    return breaker.note(verdict, breaker.enter(now), now)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(Random(1))
    for _ in range(5):
        attempt(breaker, FAILURE, now)
    assert breaker.state(now) is State.OPEN
    return breaker


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    breaker = Breaker(Random(1))
    assert [attempt(breaker, FAILURE, 0.0) for _ in range(5)] == [False] * 4 + [True]
    assert not breaker.allows(0.0)
    with pytest.raises(RuntimeError):
        breaker.enter(0.0)


def test_a_success_ends_the_row() -> None:
    breaker = Breaker(Random(1))
    for verdict in (*[FAILURE] * 4, SUCCESS, *[FAILURE] * 4):
        attempt(breaker, verdict, 0.0)
    assert breaker.state(0.0) is State.CLOSED


def test_neutral_endings_neither_trip_it_nor_end_a_row() -> None:
    breaker = Breaker(Random(1))
    for _ in range(100):
        attempt(breaker, NEUTRAL, 0.0)
    for verdict in (*[FAILURE] * 4, *[NEUTRAL] * 3):
        attempt(breaker, verdict, 0.0)
    assert breaker.state(0.0) is State.CLOSED
    assert attempt(breaker, FAILURE, 0.0)
    assert breaker.state(0.0) is State.OPEN


def test_half_of_twenty_attempts_within_the_window_open_it() -> None:
    breaker = Breaker(Random(1))
    for n in range(19):
        assert not attempt(breaker, SUCCESS if n % 2 else FAILURE, n * 0.5)
    assert not attempt(breaker, SUCCESS, 9.5)
    assert breaker.state(9.5) is State.CLOSED  # twenty attempts, ten failed; the last one was fine
    assert attempt(breaker, FAILURE, 9.6)


def test_failures_older_than_the_window_are_forgotten() -> None:
    breaker = Breaker(Random(1))
    for n in range(18):
        attempt(breaker, SUCCESS if n % 2 else FAILURE, 0.0)
    for n in range(11):
        assert not attempt(breaker, SUCCESS if n % 2 else FAILURE, 20.0)


def test_fewer_failures_than_half_leave_it_closed_whatever_their_number() -> None:
    breaker = Breaker(Random(1))
    for n in range(3000):
        attempt(breaker, FAILURE if n % 3 == 0 else SUCCESS, n * 0.001)
    assert breaker.state(3.0) is State.CLOSED


def test_open_times_double_up_to_thirty_seconds_within_a_tenth() -> None:
    now = 0.0
    breaker = opened(now)
    lengths = []
    for _ in range(8):
        lengths.append(breaker.retry_at - now)
        assert not breaker.allows(breaker.retry_at - 0.001)
        now = breaker.retry_at
        assert breaker.state(now) is State.HALF_OPEN
        attempt(breaker, FAILURE, now)
    for length, base in zip(lengths, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert 0.9 * base <= length <= 1.1 * base
    assert len({length / round(length) for length in lengths}) > 1, "the lengths vary"


def test_half_open_lets_exactly_one_trial_through() -> None:
    breaker = opened()
    now = breaker.retry_at
    ticket = breaker.enter(now)
    assert not breaker.allows(now)
    assert breaker.note(SUCCESS, ticket, now)
    assert breaker.state(now) is State.CLOSED
    assert [breaker.allows(now) for _ in range(3)] == [True] * 3


def test_a_neutral_trial_makes_room_for_the_next_and_counts_for_nothing() -> None:
    breaker = opened()
    now = breaker.retry_at
    assert attempt(breaker, NEUTRAL, now), "the place of the trial is free again"
    assert breaker.state(now) is State.HALF_OPEN
    assert breaker.allows(now)


def test_after_a_recovery_the_open_time_starts_small_again() -> None:
    breaker = opened()
    for _ in range(4):
        attempt(breaker, FAILURE, breaker.retry_at)
    now = breaker.retry_at
    attempt(breaker, SUCCESS, now)
    for _ in range(5):
        attempt(breaker, FAILURE, now)
    assert breaker.retry_at - now <= 1.1


def test_attempts_from_before_an_outage_say_nothing_about_the_time_after() -> None:
    breaker = Breaker(Random(1))
    early = [breaker.enter(0.0) for _ in range(20)]
    for ticket in early[:5]:
        breaker.note(FAILURE, ticket, 0.0)
    assert not breaker.note(SUCCESS, early[5], 0.1)
    assert breaker.state(0.1) is State.OPEN, "a late success does not close it"
    attempt(breaker, SUCCESS, breaker.retry_at)
    for ticket in early[6:]:
        breaker.note(FAILURE, ticket, 5.0)
    assert breaker.state(5.0) is State.CLOSED, "late failures do not trip it again"


def test_a_probe_that_saw_the_outage_ends_it() -> None:
    breaker = opened()
    assert not breaker.note_probe(False, 0.1)
    assert breaker.note_probe(True, 0.2)
    assert breaker.state(0.2) is State.CLOSED


def test_a_probe_that_was_content_all_along_does_not_close_it() -> None:
    breaker = opened()
    assert not breaker.note_probe(True, 0.1)
    assert breaker.state(0.1) is State.OPEN


def test_the_table_names_every_state_and_only_moves_between_them() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {event for moves in TRANSITIONS.values() for event in moves} == set(Event)
    for state, moves in TRANSITIONS.items():
        assert state not in moves.values()
