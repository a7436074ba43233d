import asyncio
from collections import Counter
from random import Random

import pytest

from backends.loopback import Loopback
from gateway.breaker import State
from gateway.capacity import Capacity
from gateway.clock import FakeClock
from gateway.readiness import Readiness
from gateway.replica import LATENCY_STALE_S
from gateway.slot import Slot
from gateway.slots import CounterSlots, SlotSource
from gateway.vocab import Reason, Verdict
from tests.pool.parts import NOW, fleet
from tests.support.timers import ManualTimers
from tests.support.virtual_time import LoopClock

SUCCESS, FAILURE, NEUTRAL = Verdict.SUCCESS, Verdict.FAILURE, Verdict.NEUTRAL


class Bench:
    """One capacity on manual time."""

    def __init__(self, *, replicas: int = 1, slots: int = 4, source: SlotSource | None = None) -> None:
        self.clock = FakeClock(NOW)
        self.timers = ManualTimers(self.clock)
        chance = Random(3)
        self.backend: Loopback = fleet(
            "fleet", slots=slots, replicas=replicas, clock=self.clock, chance=chance
        )
        self.supply = Capacity(
            self.backend,
            clock=self.clock,
            chance=chance,
            timers=self.timers,
            slots=(lambda _: source) if source else None,
        )

    def take(self, *excluded: int) -> Slot | None:
        places = frozenset(("fleet", index) for index in excluded)
        return self.supply.take(places, self.clock.now(), Reason.WARM, 0.0)

    def run(self, seconds: float, verdict: Verdict = SUCCESS, *, on: int = 0) -> None:
        """One attempt on one replica."""
        others = [index for index in range(len(self.supply.replicas)) if index != on]
        slot = self.take(*others)
        assert slot is not None
        self.timers.advance(seconds)
        slot.give_back(verdict, self.clock.now())

    def trip(self, *replicas: int) -> None:
        for index in replicas:
            for _ in range(5):
                self.run(0.0, FAILURE, on=index)


class LeakySource:
    """A shared source: says that it has slots, and another process was faster."""

    def __init__(self) -> None:
        self.counter = CounterSlots(2)
        self.taken_elsewhere = False
        self.capacity = 2

    @property
    def in_flight(self) -> int:
        return self.counter.in_flight

    @property
    def free(self) -> int:
        return 0 if self.taken_elsewhere and self.known else self.counter.free

    known = False

    def take(self) -> bool:
        if self.taken_elsewhere:
            self.known = True
            return False
        return self.counter.take()

    def give_back(self) -> None:
        self.counter.give_back()

    def on_free(self, callback: object) -> None:
        self.callback = callback


def test_a_slot_is_taken_on_one_replica_and_given_back_once() -> None:
    bench = Bench(slots=2)
    slot = bench.take()
    assert slot is not None
    assert slot.backend is bench.backend
    assert (slot.replica, slot.taken_at) == (0, NOW)
    assert (bench.supply.in_flight, bench.supply.free(), bench.supply.capacity) == (1, 1, 2)
    slot.give_back(SUCCESS, NOW)
    assert (bench.supply.in_flight, bench.supply.free()) == (0, 2)
    with pytest.raises(RuntimeError, match="given back before"):
        slot.give_back(SUCCESS, NOW)
    assert bench.supply.free() == 2


def test_no_more_slots_are_handed_out_than_there_are() -> None:
    bench = Bench(replicas=3, slots=4)
    slots = [bench.take() for _ in range(13)]
    assert slots[-1] is None
    assert Counter(slot.replica for slot in slots[:-1] if slot) == {0: 4, 1: 4, 2: 4}


def test_excluded_replicas_are_neither_counted_nor_picked() -> None:
    bench = Bench(replicas=2, slots=3)
    assert bench.supply.free(frozenset({("fleet", 0)})) == 3
    assert bench.take(0, 1) is None
    slots = [bench.take(0) for _ in range(4)]
    assert [slot and slot.replica for slot in slots] == [1, 1, 1, None]
    assert bench.supply.exhausted({("fleet", 0), ("fleet", 1)})
    assert not bench.supply.exhausted({("fleet", 0), ("other", 1)})


def test_calls_spread_evenly_over_replicas_of_equal_speed() -> None:
    bench = Bench(replicas=4, slots=100)
    for _ in range(100):
        assert bench.take() is not None
    assert all(20 <= replica.in_flight <= 30 for replica in bench.supply.replicas)


def test_a_slow_replica_gets_fewer_calls() -> None:
    bench = Bench(replicas=2, slots=50)
    bench.run(0.4, on=0)
    bench.run(0.1, on=1)
    for _ in range(50):
        bench.take()
    slow, quick = (replica.in_flight for replica in bench.supply.replicas)
    assert slow == 10
    assert quick == 40


def test_an_unmeasured_replica_gets_its_share_and_not_the_herd() -> None:
    bench = Bench(replicas=2, slots=50)
    bench.run(0.1, on=0)
    for _ in range(20):
        bench.take()
    assert [replica.in_flight for replica in bench.supply.replicas] == [10, 10]


def test_one_slow_spell_is_forgotten_when_nobody_measured_again() -> None:
    bench = Bench(replicas=2, slots=50)
    bench.run(5.0, on=0)
    bench.timers.advance(LATENCY_STALE_S)
    bench.run(0.1, on=1)
    for _ in range(20):
        bench.take()
    assert [replica.in_flight for replica in bench.supply.replicas] == [10, 10]


def test_only_successes_teach_and_the_head_counts_not_the_stream() -> None:
    bench = Bench()
    replica = bench.supply.replicas[0]
    bench.run(9.0, FAILURE)
    bench.run(9.0, NEUTRAL)
    assert replica.latency is None
    slot = bench.take()
    assert slot is not None
    bench.timers.advance(0.25)
    slot.answered(bench.clock.now())
    bench.timers.advance(60.0)
    slot.give_back(SUCCESS, bench.clock.now())
    assert replica.latency == pytest.approx(0.25)
    assert bench.supply.held_s == pytest.approx(60.25)


def test_latency_follows_a_change_within_some_time_constants() -> None:
    bench = Bench()
    for _ in range(50):
        bench.run(1.0)
    for _ in range(400):
        bench.run(0.1)
    latency = bench.supply.replicas[0].latency
    assert latency is not None
    assert 0.1 <= latency < 0.13


@pytest.mark.parametrize(
    ("unready", "tripped", "word"),
    [
        ((), (), None),
        ((0,), (), None),
        ((), (0,), None),
        ((0, 1), (), Reason.SPILL_UNHEALTHY),
        ((), (0, 1), Reason.SPILL_BREAKER),
        ((0,), (1,), Reason.SPILL_BREAKER),
    ],
)
def test_a_backend_is_blocked_only_when_no_replica_can_take_calls_and_says_why(
    unready: tuple[int, ...], tripped: tuple[int, ...], word: Reason | None
) -> None:
    bench = Bench(replicas=2)
    bench.trip(*tripped)
    for index in unready:
        bench.supply.note_ready(index, False, NOW)
        bench.supply.note_ready(index, False, NOW)
    assert bench.supply.blocked is word
    assert bench.supply.free() == 4 * (2 - len(unready) - len(tripped))


def test_what_blocks_is_named_anew_when_the_last_tripped_replica_turns_unready() -> None:
    bench = Bench(replicas=2)
    bench.trip(0, 1)
    for index in (0, 1, 0, 1):
        bench.supply.note_ready(index, False, NOW)
    assert bench.supply.blocked is Reason.SPILL_UNHEALTHY


def test_one_failed_probe_is_forgiven_two_in_a_row_are_not_one_success_is_enough() -> None:
    bench = Bench()
    supply = bench.supply
    assert supply.ready(0) is None
    assert supply.blocked is None, "unknown counts as usable"
    for answer, ready in [
        (False, None),
        (True, True),
        (False, True),
        (None, True),
        (False, False),
        (True, True),
    ]:
        supply.note_ready(0, answer, NOW)
        assert supply.ready(0) is ready


def test_probes_never_touch_what_is_in_flight() -> None:
    bench = Bench(slots=2)
    slot = bench.take()
    assert slot is not None
    for answer in (False, False, True):
        bench.supply.note_ready(0, answer, NOW)
        assert bench.supply.in_flight == 1
    assert bench.supply.free() == 1


def test_a_half_open_breaker_offers_one_slot_until_its_trial_ends() -> None:
    bench = Bench(slots=4)
    bench.trip(0)
    assert bench.supply.free() == 0
    bench.timers.advance(1.2)
    assert bench.supply.breaker_state(0) is State.HALF_OPEN
    assert bench.supply.free() == 1
    trial = bench.take()
    assert trial is not None
    assert bench.take() is None
    assert bench.supply.blocked is Reason.SPILL_BREAKER
    trial.give_back(NEUTRAL, bench.clock.now())
    assert bench.supply.free() == 1, "a trial that said nothing makes room for the next"
    bench.run(0.1)
    assert bench.supply.breaker_state(0) is State.CLOSED
    assert bench.supply.free() == 4


def test_an_open_breaker_leaves_no_timer_after_close() -> None:
    bench = Bench(replicas=2)
    bench.trip(0, 1)
    assert len(bench.timers.live) == 2
    assert bench.supply.retry_in(NOW) == pytest.approx(1.0, rel=0.1)
    bench.supply.close()
    assert not bench.timers.live


def test_a_question_takes_no_slot_and_teaches_nothing() -> None:
    bench = Bench(slots=1)
    assert bench.take() is not None
    question = bench.supply.question((), NOW)
    assert question is not None
    assert bench.supply.in_flight == 1
    for _ in range(10):
        asked = bench.supply.question((), NOW)
        assert asked is not None
        asked.give_back(FAILURE, NOW)
    assert bench.supply.breaker_state(0) is State.CLOSED
    question.give_back(SUCCESS, NOW + 9)
    assert bench.supply.replicas[0].latency is None
    bench.supply.note_ready(0, False, NOW)
    bench.supply.note_ready(0, False, NOW)
    assert bench.supply.question((), NOW) is None


def test_a_shared_source_that_ran_dry_is_believed_at_once() -> None:
    source = LeakySource()
    bench = Bench(source=source)
    assert bench.supply.free() == 2
    source.taken_elsewhere = True
    assert bench.take() is None
    assert bench.supply.free() == 0
    source.taken_elsewhere = False
    source.callback()  # type: ignore[operator]
    assert bench.supply.free() == 2
    assert bench.take() is not None


def test_the_picture_for_people_is_plain_and_the_debug_string_is_fixed() -> None:
    bench = Bench(replicas=2, slots=16)
    bench.take()
    assert repr(bench.supply) == "<Capacity fleet: 1 of 32 in flight, 2 of 2 replicas usable>"
    view = bench.supply.view(NOW)
    assert view["blocked"] is None
    assert [replica["name"] for replica in view["replicas"]] == ["fleet-0", "fleet-1"]
    assert {replica["breaker"] for replica in view["replicas"]} == {"closed"}


class _Probed:
    """A capacity on the loop's time, and its probing loop."""

    def __init__(self) -> None:
        clock, chance = LoopClock(), Random(3)
        self.backend = fleet("fleet", replicas=2, clock=clock, chance=chance)
        self.supply = Capacity(self.backend, clock=clock, chance=chance, timers=asyncio.get_running_loop())
        self.readiness = Readiness(self.supply, clock=clock, chance=chance)


@pytest.mark.virtual_time
async def test_the_probing_loop_follows_the_replicas_and_confirms_a_failure_sooner() -> None:
    probed = _Probed()
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(probed.readiness.run(4.0))
        await asyncio.sleep(0.1)
        assert [probed.supply.ready(index) for index in (0, 1)] == [True, True]
        probed.backend.set_ready(1, False)
        await asyncio.sleep(4.4)
        assert probed.supply.ready(1) is True, "one failure is not enough"
        await asyncio.sleep(1.2)
        assert probed.supply.ready(1) is False
        assert probed.supply.ready(0) is True
        probed.backend.set_ready(1, True)
        await asyncio.sleep(4.5)
        assert probed.supply.ready(1) is True
        loop.cancel()


@pytest.mark.virtual_time
async def test_probes_without_an_answer_leave_readiness_alone() -> None:
    probed = _Probed()
    probed.backend.set_ready(0, None)
    for _ in range(3):
        await probed.readiness.probe_all()
    assert (probed.supply.ready(0), probed.supply.ready(1)) == (None, True)


class _Hanging(Loopback):
    async def probe(self, replica: int) -> bool | None:
        if replica == 0:
            await asyncio.sleep(3600)
        if replica == 1:
            raise ValueError("probes promise not to raise; this one lies")
        return True


@pytest.mark.virtual_time
async def test_a_probe_that_hangs_or_raises_has_failed_and_harms_no_other() -> None:
    clock, chance = LoopClock(), Random(3)
    plain = fleet("fleet", replicas=3, clock=clock, chance=chance)
    hanging = _Hanging("fleet", plain.options, plain.kit)
    supply = Capacity(hanging, clock=clock, chance=chance, timers=asyncio.get_running_loop())
    readiness = Readiness(supply, clock=clock, chance=chance)
    await readiness.probe_all()
    await readiness.probe_all()
    assert [supply.ready(index) for index in range(3)] == [False, False, True]
