"""Who is turned away when the event loop is late, and that a pause for once turns nobody away."""

from typing import Any

import pytest

from gateway.clock import FakeClock
from gateway.doorkeeper import Doorkeeper
from gateway.exchange import Exchange
from gateway.pressure import LIMITS, TICK_S, Pressure
from gateway.vocab import Headers
from tests.support.timers import ManualTimers

CRITICAL = (b"x-overspill-priority", b"critical")
BEST_EFFORT = (b"x-overspill-priority", b"best_effort")


class Loop:
    """An event loop whose turns take as long as the test says, `share` of it with a CPU."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.timers = ManualTimers(self.clock)
        self.cpu = 0.0
        self.pressure = Pressure(clock=self.clock, timers=self.timers, cpu=lambda: self.cpu)
        self.pressure.watch()

    def work(self, seconds: float, *, share: float = 1.0) -> None:
        self.clock.advance(seconds)
        self.cpu += seconds * share

    def turn(self, seconds: float, *, share: float = 1.0) -> None:
        self.work(seconds, share=share)
        self.timers.ring()


def test_a_loop_in_time_turns_nobody_away() -> None:
    loop = Loop()
    for _ in range(500):
        loop.turn(TICK_S)
    assert not loop.pressure.late
    assert all(loop.pressure.refusal(priority) is None for priority in LIMITS)


def test_under_lasting_pressure_the_least_important_are_turned_away_first() -> None:
    loop = Loop()
    for _ in range(20):
        loop.turn(0.3)
    seen = []
    for seconds in (0.0, 0.12, 0.1, 0.2):
        loop.work(seconds)
        seen.append({priority for priority in LIMITS if loop.pressure.refusal(priority) is not None})
    assert seen == [set(), {"best_effort"}, {"best_effort", "default"}, set(LIMITS)]
    assert loop.pressure.refused == {"critical": 1, "default": 2, "best_effort": 3}


@pytest.mark.parametrize("pause", [0.05, 0.3, 30.0])
def test_nobody_who_was_read_during_a_single_pause_is_turned_away(pause: float) -> None:
    loop = Loop()
    loop.turn(TICK_S)
    loop.work(pause)
    assert not loop.pressure.late
    assert loop.pressure.refusal("best_effort") is None


def test_a_loop_that_had_no_cpu_is_not_overloaded() -> None:
    loop = Loop()
    for _ in range(50):
        loop.turn(0.2, share=0.02)
    loop.work(1.0, share=0.0)
    assert loop.pressure.refusal("best_effort") is None


def test_it_passes_within_a_second_or_two() -> None:
    loop = Loop()
    for _ in range(100):
        loop.turn(0.1)
    for _ in range(150):
        loop.turn(TICK_S)
    loop.work(0.5)
    assert loop.pressure.refusal("best_effort") is None


def test_whoever_is_turned_away_is_told_when_to_come_back_and_critical_calls_go_before() -> None:
    loop = Loop()
    for _ in range(20):
        loop.turn(0.3)
    loop.work(0.3)
    keeper = Doorkeeper(loop.pressure)
    refusals = [keeper.refusal(asking(fields)) for fields in ([], [CRITICAL], [BEST_EFFORT])]
    assert [error and (error.status, error.retry_after) for error in refusals] == [
        (429, 1.0),
        None,
        (429, 1.0),
    ]
    counted = {s.labels["priority"]: s.value for f in keeper.collect() for s in f.samples}
    assert counted == {"default": 1, "critical": 0, "best_effort": 1}


def asking(headers: Headers) -> Exchange:
    """A request of which no more than its head is looked at."""
    nowhere: Any = None
    return Exchange(nowhere, b"", 0.0, 1, headers=headers)
