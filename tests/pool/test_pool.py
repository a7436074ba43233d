import asyncio
import gc
import weakref
from collections.abc import Callable
from functools import partial
from random import Random

import pytest

from gateway.breaker import State
from gateway.errors import (
    BackendBroke,
    BackendFull,
    ClientGone,
    Contended,
    DeadlinePassed,
    NoCapacity,
    OverspillError,
)  # fmt: skip
from gateway.pool import Lease, Pool, Slot
from gateway.vocab import Call, Reason, Verdict
from policies.base import (
    Action,
    Hold,
    Policy,
    PolicyOptions,
    PoolView,
    RequestView,
    Run,
    Shed,
    Take,
)  # fmt: skip
from policies.spill_when_full import SpillWhenFull
from tests.pool.parts import FIRST, NOW, Attempt, Rig, call, holding
from tests.support.virtual_time import LoopClock

QUEUE_40MS = {"queue": "40ms"}


def virtual(**options: object) -> Rig:
    """A rig on the running (virtual) loop."""
    return Rig(clock=LoopClock(), timers=asyncio.get_running_loop(), **options)  # type: ignore[arg-type]


def ask(
    pool: Pool, *, deadline: float | None = None, attempt: Attempt = FIRST, inference: bool = True
) -> Lease:
    """A lease that has asked: it holds a slot or waits. A minute's time where nothing else is said."""
    deadline = pool.clock.now() + 60 if deadline is None else deadline
    lease = pool.slot(call(deadline=deadline, inference=inference), attempt)
    lease.ask()
    return lease


# -- the way in ------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_free_slot_is_taken_at_once_and_comes_back() -> None:
    rig = virtual()
    async with holding(rig.pool.slot(call(), FIRST)) as slot:
        assert isinstance(slot, Slot)
        assert (slot.backend.name, slot.replica) == ("fleet", 0)
        assert (slot.reason, slot.queued_s, slot.taken_at) == (Reason.WARM, 0.0, 1_000.0)
        assert (rig.fleet.in_flight, rig.pool.in_flight) == (1, 1)
        assert repr(rig.pool) == "<Pool embed: 1 in flight, 0 waiting>"
    assert (rig.fleet.in_flight, rig.pool.in_flight) == (0, 0)


def test_calls_wait_in_deadline_order_and_first_come_first_among_equals() -> None:
    rig = Rig(fleet_full={"queue": "10s", "then": "shed"})
    holder = ask(rig.pool)
    late, early, middle, twin = (ask(rig.pool, deadline=NOW + s) for s in (30, 10, 20, 10))
    assert list(rig.pool.waiting) == [early, twin, middle, late]
    assert repr(rig.pool) == "<Pool embed: 1 in flight, 4 waiting>"
    served = []
    for _ in range(4):
        holder.release(Verdict.SUCCESS)
        (holder,) = (lease for lease in (late, early, middle, twin) if lease.slot)
        served.append(holder)
    assert served == [early, twin, middle, late]
    holder.release(Verdict.SUCCESS)
    assert (rig.fleet.in_flight, rig.pool.queue_depth, rig.manual.live) == (0, 0, [])


def test_a_freed_slot_goes_to_the_waiting_call_in_the_same_step() -> None:
    rig = Rig(fleet_full=QUEUE_40MS)
    holder, waiting = ask(rig.pool), ask(rig.pool)
    rig.manual.advance(0.015)
    holder.release(Verdict.SUCCESS)
    slot = waiting.result()
    assert slot.reason is Reason.WARM_QUEUED
    assert slot.queued_s == pytest.approx(0.015)
    assert rig.fleet.in_flight == 1


def test_a_call_spills_when_its_patience_is_over() -> None:
    rig = Rig(fleet_full=QUEUE_40MS)
    ask(rig.pool)
    waiting = ask(rig.pool)
    rig.manual.advance(0.039)
    assert waiting.slot is None
    rig.manual.advance(0.001)
    slot = waiting.result()
    assert (slot.backend.name, slot.reason) == ("burst", Reason.SPILL_FULL)
    assert slot.queued_s == pytest.approx(0.040)


def test_a_timer_that_rings_early_still_counts_as_its_moment() -> None:
    rig = Rig(fleet_full=QUEUE_40MS)
    ask(rig.pool)
    waiting = ask(rig.pool)
    rig.fake.advance(0.0395)
    rig.manual.ring()
    assert waiting.slot is not None
    assert waiting.slot.backend.name == "burst"


@pytest.mark.virtual_time
async def test_a_call_that_finds_everything_full_is_shed_as_contended() -> None:
    rig = virtual()
    async with holding(rig.pool.slot(call(), FIRST)), holding(rig.pool.slot(call(), FIRST)):
        with pytest.raises(Contended) as caught:
            async with holding(rig.pool.slot(call(), FIRST)):
                raise AssertionError("there was no slot")
    assert caught.value.status == 429
    assert caught.value.reason is Reason.SHED_FULL
    assert caught.value.retry_after == 1.0


@pytest.mark.virtual_time
async def test_a_call_is_shed_for_want_of_capacity_when_nothing_is_usable() -> None:
    rig = virtual()
    rig.unready(rig.fleet)
    rig.unready(rig.burst)
    with pytest.raises(NoCapacity) as caught:
        async with holding(rig.pool.slot(call(), FIRST)):
            raise AssertionError("there was no slot")
    assert (caught.value.status, caught.value.retry_after) == (503, 1.0)


def test_retry_after_is_the_time_in_which_the_queue_will_have_turned_over() -> None:
    rig = Rig(fleet_slots=2, fleet_full={"queue": "50s"}, burst_slots=1, burst_full="shed")
    for _ in range(40):
        lease = ask(rig.pool)
        rig.manual.advance(8.0)
        lease.release(Verdict.SUCCESS)
    for _ in range(2):
        ask(rig.pool)
    waiting = [ask(rig.pool) for _ in range(4)]
    rig.manual.advance(49.0)
    burst = ask(rig.pool, attempt=Attempt(1, {("fleet", 0)}))
    assert burst.slot is not None
    with pytest.raises(Contended) as caught:
        ask(rig.pool, attempt=Attempt(1, {("fleet", 0)}))
    assert len([lease for lease in waiting if lease.waiting]) == 4
    # Two slots of 8 s each serve one call in 4 s: four that wait and this one take 20 s.
    assert caught.value.retry_after == 20.0


def test_retry_after_without_capacity_is_when_the_breaker_lets_a_trial_through() -> None:
    rig = Rig()
    rig.unready(rig.burst)
    for _ in range(3):
        for _ in range(5):
            if rig.fleet.blocked is None:
                ask(rig.pool).release(Verdict.FAILURE)
        rig.manual.advance(rig.fleet.replicas[0].breaker.retry_at - rig.fake.now())
    ask(rig.pool).release(Verdict.FAILURE)
    with pytest.raises(NoCapacity) as caught:
        ask(rig.pool)
    assert caught.value.retry_after in {8.0, 9.0}


# -- deadlines -------------------------------------------------------------------------------------


def test_a_call_that_arrives_too_late_takes_no_slot() -> None:
    rig = Rig()
    with pytest.raises(DeadlinePassed) as caught:
        ask(rig.pool, deadline=NOW)
    assert (caught.value.status, caught.value.retry_after) == (504, 1.0)
    assert rig.fleet.in_flight == 0


def test_a_deadline_ends_the_waiting() -> None:
    rig = Rig(fleet_full={"queue": "10s"})
    ask(rig.pool)
    waiting = ask(rig.pool, deadline=NOW + 2)
    rig.manual.advance(2.0)
    with pytest.raises(DeadlinePassed):
        waiting.result()
    assert (rig.pool.queue_depth, rig.manual.live) == (0, [])


def test_a_slot_that_frees_late_is_not_given_to_a_call_whose_deadline_is_over() -> None:
    rig = Rig(fleet_full={"queue": "10s"})
    holder = ask(rig.pool)
    expired, alive = ask(rig.pool, deadline=NOW + 1), ask(rig.pool, deadline=NOW + 5)
    rig.fake.advance(2.0)  # the timer that should have rung is late
    holder.release(Verdict.SUCCESS)
    assert expired.slot is None
    with pytest.raises(DeadlinePassed):
        expired.result()
    assert alive.result().backend.name == "fleet"


def test_a_call_that_wakes_up_late_does_not_run_and_its_slot_goes_on() -> None:
    rig = Rig(fleet_full={"queue": "10s"})
    holder = ask(rig.pool)
    first, second = ask(rig.pool, deadline=NOW + 1), ask(rig.pool, deadline=NOW + 5)
    rig.fake.advance(0.9)
    holder.release(Verdict.SUCCESS)
    assert first.slot is not None
    rig.fake.advance(0.2)  # the loop was busy before the call's task ran
    with pytest.raises(DeadlinePassed):
        first.result()
    assert second.result().replica == 0
    assert rig.fleet.in_flight == 1


# -- the way out -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "breaker_hears"),
    [
        (BackendBroke("x"), True),
        (BackendFull("x"), False),
        (ClientGone("x"), False),
        (DeadlinePassed("x"), False),
        (asyncio.CancelledError(), False),
        (GeneratorExit(), False),
        (KeyError("a bug"), False),
    ],
)
@pytest.mark.virtual_time
async def test_whatever_passes_through_gives_the_slot_back_and_only_backend_failures_count(
    error: BaseException, breaker_hears: bool
) -> None:
    rig = virtual()
    for _ in range(5):
        with pytest.raises(type(error)):
            async with holding(rig.pool.slot(call(), FIRST)):
                raise error
        assert (rig.fleet.in_flight, rig.pool.in_flight) == (0, 0)
    assert (rig.fleet.breaker_state(0) is State.OPEN) is breaker_hears
    assert rig.fleet.replicas[0].latency is None
    rig.fleet.close()


@pytest.mark.virtual_time
async def test_a_call_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    rig = virtual(fleet_full={"queue": "10s"})
    async with holding(rig.pool.slot(call(), FIRST)):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_use(rig.pool))
            await asyncio.sleep(1)
            assert rig.pool.queue_depth == 1
            task.cancel()
        assert rig.pool.queue_depth == 0
        assert rig.fleet.in_flight == 1
    assert rig.fleet.in_flight == 0


@pytest.mark.parametrize("cancel_first", [True, False])
@pytest.mark.virtual_time
async def test_a_slot_handed_over_in_the_tick_of_the_cancellation_is_not_lost(cancel_first: bool) -> None:
    rig = virtual(fleet_full={"queue": "10s"})
    holder = rig.pool.slot(call(), FIRST)
    assert holder.ask() is not None
    async with asyncio.TaskGroup() as group:
        cancelled = group.create_task(_use(rig.pool))
        next_one = group.create_task(_use(rig.pool))
        await asyncio.sleep(1)
        assert rig.pool.queue_depth == 2
        if cancel_first:
            cancelled.cancel()
            holder.release(Verdict.SUCCESS)
        else:
            holder.release(Verdict.SUCCESS)
            cancelled.cancel()
    assert cancelled.cancelled()
    assert next_one.result() == "fleet"
    assert (rig.fleet.in_flight, rig.pool.in_flight, rig.pool.queue_depth) == (0, 0, 0)


async def _use(pool: Pool) -> str:
    async with holding(pool.slot(call(), FIRST)) as slot:
        return slot.backend.name


# -- what changes while calls wait -----------------------------------------------------------------


def test_waiting_calls_move_on_at_once_when_the_tier_they_wait_for_is_lost() -> None:
    rig = Rig(fleet_full={"queue": "10s"}, burst_slots=2)
    ask(rig.pool)
    waiting = [ask(rig.pool), ask(rig.pool)]
    rig.unready(rig.fleet)
    assert [lease.result().reason for lease in waiting] == [Reason.SPILL_UNHEALTHY] * 2
    assert rig.manual.live == []


def test_waiting_calls_get_the_slots_of_a_replica_that_comes_back() -> None:
    rig = Rig(fleet_slots=2, fleet_full="spill", burst_slots=1, burst_full={"queue": "10s"})
    rig.unready(rig.fleet)
    ask(rig.pool)
    waiting = [ask(rig.pool), ask(rig.pool), ask(rig.pool)]
    assert rig.pool.queue_depth == 3
    rig.fleet.note_ready(0, True, rig.fake.now())
    assert [lease.slot is not None for lease in waiting] == [True, True, False]


def test_a_waiting_call_gets_the_trial_when_a_breaker_cools_down_with_nobody_else_about() -> None:
    rig = Rig(fleet_full="spill", burst_full={"queue": "10s"})
    for _ in range(5):
        ask(rig.pool).release(Verdict.FAILURE)
    ask(rig.pool)  # keeps the only rented slot
    waiting = ask(rig.pool)
    rig.manual.advance(1.2)
    assert waiting.result().backend.name == "fleet"
    waiting.release(Verdict.SUCCESS)
    assert rig.fleet.breaker_state(0) is State.CLOSED


def test_looking_again_replaces_the_timer_and_an_empty_queue_has_none() -> None:
    rig = Rig(fleet_full={"queue": "10s", "then": "shed"})
    holder, waiting = ask(rig.pool), ask(rig.pool)
    for _ in range(3):
        rig.pool.reconsider(rig.fake.now())
    assert rig.manual.live == [NOW + 10]
    waiting.abandon()
    assert rig.manual.live == []
    holder.release(Verdict.SUCCESS)


def test_a_backend_forgets_a_pool_in_which_nobody_waits() -> None:
    rig = Rig(fleet_full={"queue": "10s"})
    other = rig.another("retired")
    holder = ask(rig.pool)
    waiting = ask(other)
    holder.release(Verdict.SUCCESS)
    waiting.release(Verdict.SUCCESS)
    gone = weakref.ref(other)
    del other, waiting
    gc.collect()
    assert gone() is None


# -- several attempts, several pools ---------------------------------------------------------------


def test_a_second_attempt_avoids_the_replica_that_failed_and_may_use_its_sibling() -> None:
    rig = Rig(fleet_replicas=2)
    for _ in range(5):
        lease = ask(rig.pool, attempt=Attempt(1, {("fleet", 0)}))
        slot = lease.result()
        assert (slot.backend.name, slot.replica, slot.reason) == ("fleet", 1, Reason.FALLBACK)
        lease.release(Verdict.SUCCESS)


def test_a_second_attempt_goes_on_when_every_replica_failed_the_call() -> None:
    rig = Rig(fleet_replicas=2)
    slot = ask(rig.pool, attempt=Attempt(2, {("fleet", 0), ("fleet", 1)})).result()
    assert (slot.backend.name, slot.reason) == ("burst", Reason.FALLBACK)


def test_a_backend_that_cannot_carry_the_call_is_passed_over_and_asked_once_per_wait() -> None:
    asked: list[str] = []

    def carries(name: str, refusal: str | None, _: Call) -> str | None:
        asked.append(name)
        return refusal

    rig = Rig(burst_full={"queue": "1s", "then": "shed"})
    rig.fleet_backend.cannot_carry = partial(carries, "fleet", "too large")  # type: ignore[method-assign]
    rig.burst_backend.cannot_carry = partial(carries, "burst", None)  # type: ignore[method-assign]
    rig.pool.carries_all = rig.fleet.carries_all = rig.burst.carries_all = False
    first = ask(rig.pool)
    assert first.result().reason is Reason.PINNED
    waiting = ask(rig.pool)
    asked.clear()
    rig.manual.advance(0.5)
    for _ in range(3):
        rig.pool.reconsider(rig.fake.now())
    assert asked == ["fleet"], "and the rented one, asked when the call came, not again"
    first.release(Verdict.SUCCESS)
    assert waiting.result().backend.name == "burst"


def test_pools_on_one_backend_are_served_earliest_deadline_first_and_none_starves() -> None:
    rig = Rig(fleet_full={"queue": "1h", "then": "shed"})
    one, other = rig.pool, rig.another("chat")
    holder = ask(one)
    patient = ask(other, deadline=NOW + 30)
    served = []
    for second in range(40):  # a busier pool, always with tighter deadlines than its queue is long
        urgent = ask(one, deadline=rig.fake.now() + 10)
        rig.manual.advance(1.0)
        holder.release(Verdict.SUCCESS)
        holder = next(lease for lease in (patient, urgent) if lease.slot and lease not in served)
        served.append(holder)
        if holder is patient:
            assert second in {20, 21}, "its turn comes when its deadline is the earliest"
            break
    assert patient in served


def test_equal_deadlines_take_turns_by_waiting_time() -> None:
    rig = Rig(fleet_full={"queue": "1h", "then": "shed"})
    pools = [rig.pool, rig.another("chat")]
    holder = ask(rig.pool)
    waiting = []
    for n in range(6):
        rig.fake.advance(0.1)
        waiting.append(ask(pools[n % 2], deadline=NOW + 30))
    for expected in waiting:
        holder.release(Verdict.SUCCESS)
        assert [lease for lease in waiting if lease.slot] == [expected]
        holder = expected


def test_one_pool_with_a_broken_policy_costs_only_its_own_calls() -> None:
    rig = Rig(fleet_full={"queue": "1h", "then": "shed"})
    broken = rig.another("broken", _Broken(PolicyOptions()))
    holder = ask(rig.pool)
    victim = ask(broken, deadline=NOW + 1)
    sound = ask(rig.pool)
    holder.release(Verdict.SUCCESS)
    with pytest.raises(ZeroDivisionError):
        victim.result()
    assert sound.result().backend.name == "fleet"
    assert (broken.queue_depth, broken.in_flight, rig.fleet.in_flight) == (0, 0, 1)


class _Broken(SpillWhenFull):
    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        raise ZeroDivisionError


# -- questions -------------------------------------------------------------------------------------


def test_a_question_takes_no_slot_even_where_all_are_taken() -> None:
    rig = Rig()
    ask(rig.pool)
    question = ask(rig.pool, inference=False)
    slot = question.result()
    assert (slot.backend.name, slot.reason) == ("fleet", Reason.WARM)
    assert (rig.fleet.in_flight, rig.pool.in_flight) == (1, 1)
    question.release(Verdict.SUCCESS)
    assert (rig.fleet.in_flight, rig.pool.in_flight) == (1, 1)


def test_a_question_never_goes_to_a_rented_backend() -> None:
    rig = Rig()
    rig.unready(rig.fleet)
    with pytest.raises(NoCapacity):
        ask(rig.pool, inference=False)
    assert rig.burst.in_flight == 0


def test_a_question_that_failed_on_one_replica_is_asked_of_another() -> None:
    rig = Rig(fleet_replicas=2)
    attempt = Attempt(1, {("fleet", 1)})
    assert {ask(rig.pool, inference=False, attempt=attempt).result().replica for _ in range(10)} == {0}


# -- what the pool demands of a policy -------------------------------------------------------------


class _Scripted(Policy):
    def __init__(self, answer: Callable[[RequestView, PoolView, float], Action]) -> None:
        super().__init__(PolicyOptions())
        self.answer = answer

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        return self.answer(request, pool, now)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        return Take(pool.waiting[0], Reason.WARM)


def test_a_policy_that_insists_on_a_full_backend_is_stopped() -> None:
    rig = Rig(rule=_Scripted(lambda *_: Run("fleet", Reason.WARM)))
    ask(rig.pool)
    with pytest.raises(RuntimeError, match="keeps choosing"):
        ask(rig.pool)
    assert (rig.fleet.in_flight, rig.pool.queue_depth) == (1, 0)


def test_a_policy_that_names_an_unknown_backend_takes_nothing() -> None:
    rig = Rig(rule=_Scripted(lambda *_: Run("elsewhere", Reason.WARM)))
    with pytest.raises(KeyError):
        ask(rig.pool)
    assert rig.fleet.in_flight == 0


def test_a_policy_that_promises_the_past_is_not_asked_without_pause() -> None:
    asked: list[float] = []

    def answer(request: RequestView, pool: PoolView, now: float) -> Action:
        asked.append(now)
        return Hold(now - 1)

    rig = Rig(rule=_Scripted(answer))
    ask(rig.pool)
    rig.manual.advance(0.1)
    assert 2 < len(asked) <= 102


def test_a_moment_promised_is_kept_to_the_microsecond() -> None:
    rig = Rig(rule=_Scripted(lambda _request, _pool, now: Hold(now + 1e-6)))
    ask(rig.pool)
    assert rig.manual.live == [NOW + 1e-6]


def test_a_policy_may_hold_without_a_moment_and_the_deadline_still_ends_it() -> None:
    rig = Rig(rule=_Scripted(lambda *_: Hold(float("inf"))))
    waiting = ask(rig.pool)
    assert rig.manual.live == [NOW + 60]
    rig.manual.advance(60)
    with pytest.raises(DeadlinePassed):
        waiting.result()


def test_an_error_in_a_policy_while_a_call_waits_ends_that_call() -> None:
    answers: list[Action | Exception] = [Hold(NOW + 1), ZeroDivisionError()]

    def answer(*_: object) -> Action:
        told = answers.pop(0)
        if isinstance(told, Exception):
            raise told
        return told

    rig = Rig(rule=_Scripted(answer))
    waiting = ask(rig.pool)
    rig.manual.advance(1)
    with pytest.raises(ZeroDivisionError):
        waiting.result()
    assert (rig.pool.queue_depth, rig.manual.live) == (0, [])


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Shed(Reason.SHED_BUDGET, contended=True), Contended),
        (Shed(Reason.SHED_BUDGET, contended=False), NoCapacity),
    ],
)
def test_the_reason_of_a_policy_that_sheds_is_on_the_error(answer: Shed, kind: type[OverspillError]) -> None:
    rig = Rig(rule=_Scripted(lambda *_: answer))
    with pytest.raises(kind) as caught:
        ask(rig.pool)
    assert caught.value.reason is Reason.SHED_BUDGET


def test_a_backend_may_be_only_one_tier_of_a_route() -> None:
    rig = Rig()
    with pytest.raises(ValueError, match="only one of its tiers"):
        Pool(
            "twice", rig.pool.policy, [rig.tiers[0], rig.tiers[0]],
            clock=rig.clock, chance=rig.chance, timers=rig.timers,
        )  # fmt: skip


def test_the_picture_for_people_is_plain() -> None:
    rig = Rig(fleet_full=QUEUE_40MS)
    ask(rig.pool)
    ask(rig.pool)
    rig.manual.advance(0.01)
    view = rig.pool.view(rig.fake.now())
    assert (view["route"], view["in_flight"], view["waiting"]) == ("embed", 1, 1)
    assert view["longest_wait_s"] == pytest.approx(0.01)
    assert [tier["backend"] for tier in view["tiers"]] == ["fleet", "burst"]
