"""Which instance a ping keeps, and what is known of it afterwards."""

from random import Random

import pytest

from gateway.capacity import Capacity
from gateway.clock import FakeClock
from gateway.demand import Demand
from gateway.vocab import Reason, Verdict
from gateway.warmth import Warmth
from tests.pool.parts import NOW, rented
from tests.support.timers import ManualTimers

IDLE_S = 30.0


class Bench:
    """Four slots of a rented backend whose instances live on for 30 s."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOW)
        chance = Random(1)
        backend = rented("burst", slots=4, idle_after=f"{IDLE_S:g}s", clock=self.clock, chance=chance)
        self.supply = Capacity(backend, clock=self.clock, chance=chance, timers=ManualTimers(self.clock))

    def used(self, *ages: float) -> None:
        """Instances that calls have used, so long ago."""
        now = self.clock.now()
        slots = [self.supply.take((), now, Reason.SPILL_FULL, 0.0) for _ in ages]
        for slot, age in zip(slots, sorted(ages, reverse=True), strict=True):
            assert slot is not None
            slot.give_back(Verdict.SUCCESS, now - age)

    @property
    def idling(self) -> list[tuple[float, float]]:
        assert self.supply.warmth is not None
        return [
            (round(age, 6), round(unused, 6)) for age, unused in self.supply.warmth.idling(self.clock.now())
        ]

    def keep(self, verdict: Verdict = Verdict.SUCCESS, *, used: bool = True) -> bool:
        slot = self.supply.keep(self.clock.now(), Reason.SPILL_SLOW)
        if slot is None:
            return False
        assert not slot.opening
        slot.used = used
        slot.give_back(verdict, self.clock.now())
        return True


def test_the_one_that_has_idled_longest_is_kept_and_counts_as_unused_all_the_same() -> None:
    bench = Bench()
    bench.used(20.0, 10.0)
    assert bench.keep()
    assert bench.idling == [(10.0, 10.0), (0.0, 20.0)]
    bench.clock.advance(15.0)
    assert bench.idling == [(25.0, 25.0), (15.0, 35.0)]
    bench.clock.advance(5.0)
    assert bench.idling == [(20.0, 40.0)], "the other one is gone"


def test_two_that_are_kept_at_once_stay_apart() -> None:
    bench = Bench()
    bench.used(20.0, 10.0)
    assert bench.keep()
    assert bench.keep()
    assert bench.idling == [(0.0, 10.0), (0.0, 20.0)]


def test_a_call_ends_the_memory() -> None:
    bench = Bench()
    bench.used(20.0)
    bench.keep()
    bench.clock.advance(1.0)
    slot = bench.supply.take((), bench.clock.now(), Reason.SPILL_FULL, 0.0)
    assert slot is not None
    assert slot.age == pytest.approx(1.0)
    slot.give_back(Verdict.SUCCESS, bench.clock.now())
    assert bench.idling == [(0.0, 0.0)]


def test_opening_another_disturbs_none_of_them() -> None:
    bench = Bench()
    bench.used(20.0)
    bench.keep()
    bench.clock.advance(1.0)
    slot = bench.supply.open(bench.clock.now(), bench.clock.now() + 6.0, Reason.SPILL_SLOW)
    assert slot is not None
    assert bench.idling == [(1.0, 21.0)]


def test_nothing_idle_nothing_kept() -> None:
    bench = Bench()
    assert not bench.keep()
    bench.used(20.0)
    bench.clock.advance(10.0)
    assert not bench.keep(), "gone by now"
    assert bench.supply.in_flight == 0


def test_what_did_not_answer_is_not_counted_on_and_what_was_not_asked_still_idles() -> None:
    bench = Bench()
    bench.used(20.0, 10.0)
    assert bench.keep(Verdict.NEUTRAL, used=False)
    assert bench.idling == [(20.0, 20.0), (10.0, 10.0)]
    assert bench.keep(Verdict.FAILURE)
    assert bench.idling == [(10.0, 10.0)]


def test_a_ping_teaches_no_latency() -> None:
    bench = Bench()
    bench.used(20.0)
    before = bench.supply.held_s
    bench.keep()
    assert bench.supply.held_s == before


def test_what_has_gone_is_not_warm_the_first_time_either() -> None:
    warmth = Warmth(5.0)
    warmth.back(10.0)
    assert (warmth.warm(14.9), warmth.warm(15.0)) == (1, 0)


def test_gaps_are_those_of_instances_that_never_go() -> None:
    gaps = list[tuple[float, float]]()
    demand = Demand(lambda now: None, lambda gap, now: gaps.append((gap, now)))
    for moment in (0.0, 1.0):
        demand.taken(moment)
    assert gaps == [], "nothing to come back to yet"
    demand.freed(5.0)
    demand.freed(6.0)
    demand.taken(10.0)
    demand.taken(10.0)
    assert gaps == [(4.0, 10.0), (5.0, 10.0)], "the one used last serves first"
