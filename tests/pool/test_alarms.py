"""Promised moments: kept in order, with one timer at a time, and forgotten once nobody waits for them."""

from collections.abc import Iterator

import pytest

from gateway.alarms import Alarms
from gateway.clock import FakeClock
from tests.support.timers import ManualTimers

NOW = 1_000.0


class Bench:
    """Alarms for words; those in `wanted` still wait, for the moment that stands there."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOW)
        self.timers = ManualTimers(self.clock)
        self.wanted: dict[str, float] = {}
        self.rung: list[tuple[str, float, float]] = []
        self.alarms = Alarms[str](self.clock, self.timers, self.ring, self.matters)

    def ring(self, word: str, moment: float) -> None:
        del self.wanted[word]
        self.rung.append((word, moment - NOW, self.clock.now() - NOW))

    def matters(self, word: str, moment: float) -> bool:
        return self.wanted.get(word) == moment

    def add(self, word: str, after: float) -> None:
        self.wanted[word] = NOW + after
        self.alarms.add(NOW + after, word)

    @property
    def set_for(self) -> list[float]:
        return [when - NOW for when in self.timers.live]

    @property
    def words(self) -> list[str]:
        return [word for word, _, _ in self.rung]


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    assert len(made.timers.live) <= 1, "one timer for all of them"


def test_each_rings_at_its_moment_and_those_of_one_moment_in_the_order_of_their_asking(bench: Bench) -> None:
    for word, after in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("b2", 2.0)):
        bench.add(word, after)
        assert len(bench.set_for) == 1
    assert bench.set_for == [1.0]
    bench.timers.advance(2.5)
    assert bench.rung == [("a", 1.0, 1.0), ("b", 2.0, 2.0), ("b2", 2.0, 2.0)]
    assert bench.set_for == [3.0]
    bench.timers.advance(1.0)
    assert bench.words == ["a", "b", "b2", "c"]
    assert bench.set_for == []


def test_an_earlier_moment_moves_the_timer_and_a_later_one_does_not(bench: Bench) -> None:
    bench.add("late", 5.0)
    bench.add("later", 9.0)
    assert bench.set_for == [5.0]
    bench.add("soon", 1.0)
    assert bench.set_for == [1.0]


def test_moments_that_nobody_waits_for_any_more_are_passed_over(bench: Bench) -> None:
    for word, after in (("gone", 1.0), ("moved", 2.0), ("there", 3.0)):
        bench.add(word, after)
    del bench.wanted["gone"]
    bench.add("moved", 7.0)
    bench.timers.advance(1.0)
    assert bench.rung == []
    assert bench.set_for == [3.0], "not for a moment that was moved"
    bench.timers.advance(9.0)
    assert bench.rung == [("there", 3.0, 3.0), ("moved", 7.0, 7.0)]


def test_a_timer_that_rings_a_little_early_means_its_moment(bench: Bench) -> None:
    bench.add("a", 1.0)
    bench.clock.advance(0.875)
    bench.timers.ring()
    assert bench.rung == [("a", 1.0, 0.875)]
    assert bench.set_for == []


def test_a_timer_that_rings_late_rings_all_that_is_due(bench: Bench) -> None:
    for word, after in (("a", 1.0), ("b", 2.0), ("c", 30.0)):
        bench.add(word, after)
    bench.clock.advance(5.0)
    bench.timers.ring()
    assert bench.words == ["a", "b"]
    assert bench.set_for == [30.0]


def test_what_is_asked_for_while_it_rings_is_kept_too() -> None:
    bench = Bench()

    def ring(word: str, moment: float) -> None:
        bench.rung.append((word, moment - NOW, bench.clock.now() - NOW))
        del bench.wanted[word]
        if len(word) < 3:
            bench.wanted[word + "!"] = moment + 1.0
            alarms.add(moment + 1.0, word + "!")

    alarms = Alarms[str](bench.clock, bench.timers, ring, bench.matters)
    for word, after in (("a", 1.0), ("b", 1.5)):
        bench.wanted[word] = NOW + after
        alarms.add(NOW + after, word)
    bench.timers.advance(10.0)
    assert [(word, at) for word, at, _ in bench.rung] == [
        ("a", 1.0), ("b", 1.5), ("a!", 2.0), ("b!", 2.5), ("a!!", 3.0), ("b!!", 3.5),
    ]  # fmt: skip
    assert not bench.timers.live


def test_clear_forgets_all_of_them_and_it_goes_on_afterwards(bench: Bench) -> None:
    bench.add("a", 1.0)
    bench.alarms.clear()
    assert bench.set_for == []
    bench.add("b", 4.0)
    assert bench.set_for == [4.0], "later than the one that was forgotten"
    bench.timers.advance(9.0)
    assert bench.words == ["b"]
