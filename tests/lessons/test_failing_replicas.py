"""A replica that fails or drags is left out, asked before it is trusted, and never one too many."""

import asyncio
from random import Random

import pytest

from backends.loopback import Loopback
from gateway.breaker import ANSWER_S, EJECTED_MAX_S, EJECTED_S, Breaker, State
from gateway.capacity import Capacity
from gateway.outliers import LOOKS, SAMPLES
from gateway.readiness import Readiness
from gateway.vocab import Reason, Verdict
from tests.pool.parts import NOW, fleet
from tests.pool.test_capacity import Bench
from tests.support.virtual_time import LoopClock

SUCCESS, FAILURE, NEUTRAL = Verdict.SUCCESS, Verdict.FAILURE, Verdict.NEUTRAL


def half_open(*, probed: bool = True) -> tuple[Breaker, float]:
    breaker = Breaker(Random(1))
    if probed:
        breaker.note_probe(True, 0.0)
    for _ in range(5):
        breaker.note(FAILURE, breaker.enter(0.0), 0.0)
    now = breaker.retry_at
    assert breaker.state(now) is State.HALF_OPEN
    return breaker, now


# -- the gateway asks first


def test_a_trial_waits_until_the_gateways_own_question_is_answered() -> None:
    breaker, now = half_open()
    assert not breaker.allows(now)
    with pytest.raises(RuntimeError):
        breaker.enter(now)
    assert breaker.note_probe(True, now + 0.1)
    assert breaker.state(now + 0.1) is State.HALF_OPEN, "the server is up, the model may still be broken"
    assert breaker.note(SUCCESS, breaker.enter(now + 0.1), now + 0.2)
    assert breaker.state(now + 0.2) is State.CLOSED


def test_a_question_that_fails_is_the_trial_and_no_client_pays_for_it() -> None:
    breaker, now = half_open()
    assert breaker.note_probe(False, now)
    assert breaker.state(now) is State.OPEN
    assert breaker.retry_at - now > 1.5, "the open time doubles as after any trial that is lost"
    assert breaker.note_probe(True, now + 0.1)
    assert breaker.state(now + 0.1) is State.CLOSED, "it has seen the outage end"


def test_a_question_that_is_never_answered_keeps_nobody_out() -> None:
    breaker, now = half_open()
    assert not breaker.allows(now + ANSWER_S - 0.01)
    assert breaker.allows(now + ANSWER_S)


def test_a_trial_that_is_given_up_needs_no_second_question() -> None:
    breaker, now = half_open()
    breaker.note_probe(True, now)
    assert breaker.note(NEUTRAL, breaker.enter(now), now)
    assert breaker.allows(now)


def test_a_probe_that_fails_during_a_trial_leaves_the_verdict_to_the_trial() -> None:
    breaker, now = half_open()
    breaker.note_probe(True, now)
    ticket = breaker.enter(now)
    assert not breaker.note_probe(False, now)
    assert breaker.note(SUCCESS, ticket, now)
    assert breaker.state(now) is State.CLOSED


def test_where_nothing_can_be_asked_a_call_is_the_trial() -> None:
    breaker, now = half_open(probed=False)
    assert breaker.allows(now)


def test_what_waits_for_an_answer_is_offered_once_it_has_waited_long_enough() -> None:
    bench = Bench()
    bench.supply.note_ready(0, True, NOW)
    bench.trip(0)
    asked: list[int] = []
    bench.supply.asks = asked.append
    bench.timers.advance(1.2)
    assert asked == [0], "asked at the moment, not in the next round"
    assert bench.supply.free() == 0
    bench.timers.advance(ANSWER_S)
    assert bench.supply.free() == 1
    bench.supply.close()
    assert bench.timers.live == []


class _Slow(Loopback):
    """Answers probes late, and says when it was asked."""

    def __init__(self, plain: Loopback) -> None:
        super().__init__("fleet", plain.options, plain.kit)
        self.asked: list[float] = []

    async def probe(self, replica: int) -> bool | None:
        self.asked.append(self.kit.clock.now())
        await asyncio.sleep(0.2)
        return await super().probe(replica)


@pytest.mark.virtual_time
async def test_the_probing_loop_asks_at_once_when_a_breaker_has_cooled() -> None:
    clock, chance = LoopClock(), Random(3)
    backend = _Slow(fleet("fleet", clock=clock, chance=chance))
    supply = Capacity(backend, clock=clock, chance=chance, timers=asyncio.get_running_loop())
    readiness = Readiness(supply, clock=clock, chance=chance)
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(readiness.run(60.0))
        await asyncio.sleep(1.0)
        assert len(backend.asked) == 1
        for _ in range(5):
            slot = supply.take((), clock.now(), Reason.WARM, 0.0)
            assert slot is not None
            slot.give_back(FAILURE, clock.now())
        await asyncio.sleep(1.15)
        assert len(backend.asked) == 2
        assert supply.free() == 0, "it has not answered yet"
        await asyncio.sleep(0.25)
        assert supply.free() == 1
        loop.cancel()
    supply.close()


# -- held against its siblings


class Fleet(Bench):
    """Replicas that take each so long, or fail so often."""

    def serve(self, *seconds: float, calls: int = SAMPLES, failing: int = 0) -> None:
        """`calls` on each replica; of those on the first, every `failing`-th fails."""
        for number in range(calls):
            for index, each in enumerate(seconds):
                verdict = FAILURE if failing and index == 0 and number % failing == 0 else SUCCESS
                self.run(each, verdict, on=index)

    def look(self, index: int = 0, times: int = LOOKS) -> State:
        for _ in range(times):
            self.supply.note_ready(index, True, self.clock.now())
        return self.supply.breaker_state(index)


def test_one_that_is_much_slower_than_its_siblings_is_left_out_for_a_while() -> None:
    bench = Fleet(replicas=3)
    bench.serve(0.4, 0.02, 0.02)
    assert bench.look(times=LOOKS - 1) is State.CLOSED, "once is no sign"
    assert bench.look(times=1) is State.OPEN
    assert [replica.room for replica in bench.supply.replicas] == [0, 4, 4]
    assert bench.supply.blocked is None
    bench.timers.advance(1.1 * EJECTED_S)
    assert bench.look(times=1) is State.HALF_OPEN  # what was asked first was answered well
    bench.run(0.02, on=0)
    assert bench.supply.breaker_state(0) is State.CLOSED
    assert bench.supply.replicas[0].samples == 1, "judged anew, by what it does from now on"


def test_one_that_fails_now_and_then_while_its_siblings_do_not_is_left_out() -> None:
    bench = Fleet(replicas=2)
    bench.serve(0.01, 0.01, failing=5)
    assert bench.look() is State.OPEN
    assert bench.look(1) is State.CLOSED


def test_what_all_do_alike_is_nobodys_fault() -> None:
    bench = Fleet(replicas=3)
    bench.serve(0.4, 0.4, 0.4)
    assert {bench.look(index) for index in range(3)} == {State.CLOSED}
    bench = Fleet(replicas=2)
    for _ in range(SAMPLES // 4):
        for index in (0, 1):
            for verdict in (FAILURE, SUCCESS, SUCCESS, SUCCESS, SUCCESS):
                bench.run(0.01, verdict, on=index)
    assert {bench.look(index) for index in range(2)} == {State.CLOSED}


def test_a_difference_that_nobody_would_notice_is_no_reason() -> None:
    bench = Fleet(replicas=2)
    bench.serve(0.02, 0.002)
    assert bench.look() is State.CLOSED


def test_too_few_answers_say_nothing() -> None:
    bench = Fleet(replicas=2)
    bench.serve(0.4, 0.02, calls=SAMPLES - 1)
    assert bench.look() is State.CLOSED


def test_half_of_the_replicas_stay_whatever_they_do() -> None:
    bench = Fleet(replicas=4)
    bench.serve(0.5, 0.5, 0.01, 0.01)
    bench.trip(3)
    bench.supply.replicas[1].latency = 0.01
    assert bench.look(0) is State.OPEN
    bench.supply.replicas[1].latency = 0.5
    assert bench.look(1) is State.CLOSED, "two of four are missing already"
    assert bench.supply.blocked is None


def test_the_only_replica_is_never_held_against_anybody() -> None:
    bench = Fleet(replicas=1)
    bench.serve(9.0)
    assert bench.look() is State.CLOSED


def test_nobody_is_left_out_whose_calls_the_others_could_not_take() -> None:
    bench = Fleet(replicas=2, slots=2)
    bench.serve(0.4, 0.02)
    held = [bench.take(1), bench.take(0), bench.take(0)]
    assert bench.look() is State.CLOSED
    for slot in held[1:]:
        assert slot is not None
        slot.give_back(NEUTRAL, bench.clock.now())
    assert bench.look() is State.OPEN


def test_each_further_time_is_longer_until_it_fits_in_again() -> None:
    breaker = Breaker(Random(1))
    now, lengths = 0.0, []
    for _ in range(8):
        breaker.eject(now)
        lengths.append(breaker.retry_at - now)
        now = breaker.retry_at
        breaker.note(SUCCESS, breaker.enter(now), now)
    for length, base in zip(lengths, [5, 10, 20, 40, 80, 160, EJECTED_MAX_S, EJECTED_MAX_S], strict=True):
        assert 0.9 * base <= length <= 1.1 * base
    breaker.fits_in()
    breaker.eject(now)
    assert breaker.retry_at - now <= 1.1 * EJECTED_S


def test_a_fleet_whose_breakers_are_all_open_is_tried_again_one_call_each() -> None:
    bench = Bench(replicas=3)
    bench.trip(0, 1, 2)
    assert bench.supply.view(NOW)["blocked"] == Reason.SPILL_BREAKER
    assert bench.supply.retry_in(bench.clock.now()) is not None
    bench.timers.advance(1.2)
    assert bench.supply.view(NOW)["blocked"] is None
    assert bench.supply.free() == 3


def test_where_all_are_out_none_stays_out_for_long() -> None:
    bench = Bench(replicas=2)
    bench.trip(0)
    for _ in range(4):  # each trial is lost: 2 s, 4 s, 8 s, 16 s
        bench.timers.advance(bench.supply.replicas[0].breaker.retry_at - bench.clock.now())
        bench.run(0.0, FAILURE, on=0)
    away = bench.supply.retry_in(bench.clock.now())
    assert away is not None
    assert away > 10.0, "its sibling carries the load meanwhile"
    bench.trip(1)
    assert bench.supply.free() == 0
    bench.timers.advance(1.2)
    assert bench.supply.free() == 2
    bench.run(0.0, FAILURE, on=0)
    bench.run(0.0, FAILURE, on=1)
    bench.timers.advance(1.2)
    assert bench.supply.free() == 2, "a second later all are tried again, one call each"
    bench.supply.close()
    assert bench.timers.live == []


def test_a_single_place_stays_out_for_longer_and_longer() -> None:
    bench = Bench(replicas=1)
    bench.trip(0)
    for _ in range(3):
        bench.timers.advance(bench.supply.replicas[0].breaker.retry_at - bench.clock.now())
        bench.run(0.0, FAILURE)
    away = bench.supply.retry_in(bench.clock.now())
    assert away is not None
    assert away > 6.0
