"""Replicas that come, go and are shared, and slots that are learned: what the capacity makes of it."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from backends.base import Load, Places
from backends.loopback import Loopback, LoopbackOptions
from gateway.capacity import Capacity
from gateway.clock import FakeClock
from gateway.limited_slots import LimitedSlots
from gateway.new_replica import FleetSize, size_of
from gateway.options import AUTO
from gateway.slot import Slot
from gateway.vocab import Reason, Verdict
from tests.pool.parts import NOW, kit
from tests.support.timers import ManualTimers

SUCCESS, NEUTRAL, FAILURE = Verdict.SUCCESS, Verdict.NEUTRAL, Verdict.FAILURE


class Moving(Loopback):
    """A fleet in memory whose replicas the test adds and removes."""

    places: Places

    @property
    def replicas(self) -> Sequence[str]:
        return self.there

    @property
    def moves(self) -> bool:
        return True

    def attach(self, places: Places) -> None:
        self.places = places

    there: list[str]


class Bench:
    def __init__(self, *replicas: str, slots: int = 2) -> None:
        self.clock = FakeClock(NOW)
        chance = Random(3)
        options = LoopbackOptions(type="loopback", max_in_flight=1, replicas=1)
        options = options.model_copy(update={"max_in_flight": slots})
        self.backend = Moving("fleet", options, kit(self.clock, chance))
        self.backend.there = list(replicas)
        timers = ManualTimers(self.clock)
        self.supply = Capacity(self.backend, clock=self.clock, chance=chance, timers=timers)

    def take(self) -> Slot | None:
        return self.supply.take((), self.clock.now(), Reason.WARM, 0.0)

    def come(self, index: int, name: str, *, ready: bool = True) -> None:
        self.backend.there[index : index + 1] = [name]
        self.backend.places.join(index)
        if ready:
            self.supply.note_ready(index, True, self.clock.now())

    def blocked(self) -> str | None:
        word = self.supply.view(NOW)["blocked"]
        return None if word is None else str(word)

    def consistent(self) -> None:
        """The running counts are what counting anew gives."""
        supply = self.supply
        assert supply.in_flight == sum(each.in_flight for each in supply.replicas)
        assert supply.free_slots == sum(each.slots.free for each in supply.replicas if each.usable)
        assert (supply.blocked is None) is any(each.usable for each in supply.replicas)
        assert not any(each.usable or each.slots.free for each in supply.replicas if each.retired)


def test_a_fleet_without_replicas_is_blocked_until_one_comes_and_is_ready() -> None:
    bench = Bench()
    assert bench.blocked() == Reason.SPILL_UNHEALTHY
    assert bench.take() is None
    bench.come(0, "a", ready=False)
    assert bench.blocked() == Reason.SPILL_UNHEALTHY
    assert bench.take() is None
    bench.supply.note_ready(0, True, NOW)
    assert bench.blocked() is None
    assert bench.take() is not None
    bench.consistent()


def test_a_replica_that_left_finishes_what_it_has_and_gets_nothing_new() -> None:
    bench = Bench("a", "b")
    slots = [bench.take() for _ in range(4)]
    on_b = [slot for slot in slots if slot is not None and slot.replica == 1]
    assert len(on_b) == 2
    bench.backend.places.retire(1)
    bench.consistent()
    assert (bench.supply.in_flight, bench.supply.capacity) == (4, 2)
    assert not bench.backend.places.vacant(1)
    on_b[0].give_back(SUCCESS, NOW)
    assert bench.take() is None, "a is full, and what b gives back is gone"
    bench.supply.note_ready(1, True, NOW)
    assert bench.take() is None, "a late probe does not bring it back"
    on_b[1].give_back(FAILURE, NOW)
    assert bench.backend.places.vacant(1)
    assert [each["name"] for each in bench.supply.view(NOW)["replicas"]] == ["a"]
    bench.consistent()


def test_an_index_is_used_again_and_starts_without_a_past() -> None:
    bench = Bench("a", "b")
    for _ in range(2):
        bench.supply.note_ready(1, False, NOW)
    bench.backend.places.retire(1)
    bench.come(1, "c")
    replica = bench.supply.replicas[1]
    assert (replica.name, replica.ready, replica.latency, replica.slots.in_flight) == ("c", True, None, 0)
    assert bench.supply.capacity == 4
    bench.consistent()


def test_one_that_comes_back_while_its_calls_run_keeps_count_of_them() -> None:
    bench = Bench("a")
    slots = [bench.take() for _ in range(2)]
    bench.backend.places.retire(0)
    assert bench.supply.blocked is Reason.SPILL_UNHEALTHY
    bench.come(0, "a")
    assert bench.take() is None
    assert slots[0] is not None
    slots[0].give_back(SUCCESS, NOW)
    assert bench.take() is not None
    bench.consistent()


def test_a_call_that_every_replica_that_is_left_has_failed_is_not_kept_waiting_for_those_that_left() -> None:
    bench = Bench("a", "b")
    bench.backend.places.retire(1)
    assert bench.supply.exhausted({("fleet", 0)})


def test_other_clients_take_slots_but_never_the_last_one() -> None:
    bench = Bench("a", slots=8)
    bench.backend.places.note_load(0, Load(pending=3, elsewhere=3, at=NOW))
    assert (bench.supply.free_slots, bench.supply.capacity) == (5, 5)
    taken = [bench.take() for _ in range(5)]
    assert None not in taken
    assert bench.take() is None
    bench.backend.places.note_load(0, Load(pending=90, elsewhere=90, at=NOW))
    assert (bench.supply.free_slots, bench.supply.capacity) == (0, 1)
    for slot in taken:
        assert slot is not None
        slot.give_back(SUCCESS, NOW)
    assert bench.supply.free_slots == 1
    bench.clock.advance(2.5)
    view = bench.supply.view(bench.clock.now())["replicas"][0]
    assert view["load"] == {"pending": 90, "elsewhere": 90, "kv_cache": None, "age_s": 2.5}
    bench.backend.places.note_load(0, None)
    assert bench.supply.free_slots == 8
    assert bench.supply.view(NOW)["replicas"][0]["load"] is None
    bench.consistent()


def test_slots_that_others_leave_are_offered_at_once_to_who_waits() -> None:
    offered: list[int] = []

    class Waiting:
        head = (0.0, 0.0)

        def offer(self, supply: Capacity, now: float) -> bool:
            offered.append(supply.free_slots)
            return False

        def reconsider(self, now: float) -> None: ...

    bench = Bench("a", slots=2)
    bench.backend.places.note_load(0, Load(9, 9, NOW))
    bench.take()
    bench.supply.subscribe(Waiting())
    bench.backend.places.note_load(0, Load(0, 0, NOW))
    assert offered == [1]


def test_anything_that_can_happen_leaves_the_counts_right() -> None:
    for seed in range(20):
        chance = Random(seed)
        bench = Bench("r0", "r1", slots=3)
        held: list[Slot] = []
        for step in range(300):
            index = chance.randrange(len(bench.backend.there))
            retired = bench.supply.replicas[index].retired
            happens = chance.randrange(6)
            if happens == 0 and (slot := bench.take()) is not None:
                assert not slot.state.retired
                held.append(slot)
            elif happens == 1 and held:
                held.pop(chance.randrange(len(held))).give_back(
                    chance.choice([SUCCESS, NEUTRAL, FAILURE]), NOW
                )
            elif happens == 2:
                bench.backend.places.note_load(index, Load(5, chance.randrange(6), NOW))
            elif happens == 3 and not retired:
                bench.backend.places.retire(index)
            elif happens == 4 and retired:
                new = bench.backend.places.vacant(index)
                bench.come(index, f"n{step}" if new else bench.backend.there[index])
            elif happens == 5 and len(bench.backend.there) < 6:
                bench.come(len(bench.backend.there), f"n{step}", ready=chance.random() < 0.5)
            bench.consistent()
        for slot in held:
            slot.give_back(SUCCESS, NOW)
        assert bench.supply.in_flight == 0


class Learning(Bench):
    def __init__(self, *replicas: str) -> None:
        super().__init__(*replicas, slots=AUTO)

    def round(self, seconds: float) -> None:
        """As many calls as fit, all at once."""
        slots: list[Any] = []
        while (slot := self.take()) is not None:
            slots.append(slot)
        self.clock.advance(seconds)
        for slot in slots:
            slot.give_back(SUCCESS, self.clock.now())


def test_auto_raises_the_slots_of_a_replica_while_calls_do_not_take_longer() -> None:
    bench = Learning("a")
    assert bench.supply.capacity == 4
    for _ in range(60):
        bench.round(0.05)
        bench.consistent()
    assert bench.supply.capacity > 16
    assert size_of(bench.backend, bench.supply.replicas) == FleetSize(1, bench.supply.capacity)


def test_auto_lowers_them_when_calls_take_longer_or_are_refused() -> None:
    bench = Learning("a")
    for _ in range(60):
        bench.round(0.05)
    high = bench.supply.capacity
    slot = bench.take()
    assert slot is not None
    while bench.take() is not None:
        pass
    slot.pushed_back(bench.clock.now())
    slot.give_back(NEUTRAL, bench.clock.now())
    assert bench.backend.pushbacks == 1
    assert bench.supply.capacity == pytest.approx(0.9 * high, abs=1)
    bench.consistent()


def test_what_failed_or_was_given_up_teaches_nothing() -> None:
    bench = Learning("a")
    for _ in range(500):
        slot = bench.take()
        assert slot is not None
        bench.clock.advance(0.1)
        slot.give_back(NEUTRAL, bench.clock.now())
    assert bench.supply.capacity == 4


def test_a_number_is_counted_without_any_of_this() -> None:
    bench = Bench("a")
    assert isinstance(bench.supply.replicas[0].slots, LimitedSlots)
    plain = Loopback(
        "fleet", LoopbackOptions(type="loopback", max_in_flight=2, replicas=2), bench.backend.kit
    )
    timers = ManualTimers(bench.clock)
    supply = Capacity(plain, clock=bench.clock, chance=Random(1), timers=timers)
    assert size_of(plain, supply.replicas) is None
    with pytest.raises(TypeError, match="cannot change: they are CounterSlots"):
        supply.retire(0)
