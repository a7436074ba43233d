"""The fleet behind every emulated provider, on virtual time: cold and warm, full and empty, and its bill."""

import asyncio
import math
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from backends.emulators.fleet import ServerlessFleet
from backends.emulators.instance import (
    BootFailed,
    BootTimes,
    FleetFull,
    FleetOptions,
    InstanceDied,
    OnCue,
    Phase,
    RanOut,
)
from backends.emulators.tariff import PerInvocation, PerLife, Tariff
from tests.support.virtual_time import LoopClock

RUNPOD = PerLife(usd_per_second=0.0000944, whole_seconds=True)
MODAL = PerLife(usd_per_second=0.5, whole_seconds=False)
LAMBDA = PerInvocation(memory_mb=1024)
TWO_SECONDS = BootTimes(2.0, 2.0, 1.0, 0.0)

pytestmark = pytest.mark.virtual_time


def working(seconds: float) -> Callable[[str], Any]:
    """Handlers that take so long and answer with their instance and the event."""

    def make(name: str) -> Any:
        async def handler(event: Any) -> Any:
            await asyncio.sleep(seconds)
            return name, event

        return handler

    return make


def fleet(tariff: Tariff = RUNPOD, *, work_s: float = 1.0, seed: int = 1, **options: Any) -> ServerlessFleet:
    figures: dict[str, Any] = {"boot": TWO_SECONDS, "idle_after_s": 5.0} | options
    return ServerlessFleet(
        working(work_s), tariff, options=FleetOptions(**figures), clock=LoopClock(), chance=Random(seed)
    )


async def call(the: ServerlessFleet, event: Any = None, *, wait: bool = True) -> tuple[float, bool]:
    """Seconds from the arrival to the answer, and whether it was cold."""
    began = the.clock.now()
    async with the.slot(wait=wait) as slot:
        await slot.run(event)
        cold = slot.cold
    return the.clock.now() - began, cold


async def test_first_call_is_cold_and_the_next_is_warm() -> None:
    the = fleet()
    assert await call(the) == (3.0, True)
    assert await call(the) == (1.0, False)
    assert the.bill().cold_starts == 1


async def test_idle_instance_is_gone_after_its_time_and_not_before() -> None:
    the = fleet()
    await call(the)
    await asyncio.sleep(4.999)
    assert the.count(Phase.IDLE) == 1
    assert (await call(the))[1] is False
    await asyncio.sleep(5.0)
    assert the.count(Phase.IDLE) == 0
    assert the.count(Phase.GONE) == 1
    assert (await call(the))[1] is True


async def test_queued_calls_never_exceed_the_cap_and_all_are_served_oldest_first() -> None:
    the = fleet(cap=2)
    order: list[int] = []

    async def one(number: int) -> None:
        async with the.slot() as slot:
            assert the.count(Phase.BUSY) <= 2
            _, event = await slot.run(number)
            order.append(event)

    await asyncio.gather(*(one(number) for number in range(6)))
    assert order == [0, 1, 2, 3, 4, 5]
    assert the.bill().cold_starts == 2
    assert the.clock.now() == pytest.approx(1000 + 2 + 3)


async def test_waiting_call_takes_an_instance_that_frees_before_its_own_has_started() -> None:
    the = fleet(work_s=0.5)
    await call(the)
    first = asyncio.ensure_future(call(the))
    await asyncio.sleep(0)
    assert await call(the) == (1.0, False)  # half a second behind the first, not two of starting
    await first
    assert the.count(Phase.BOOTING) == 1
    await asyncio.sleep(2)
    assert the.count(Phase.IDLE) == 2


async def test_without_a_queue_a_call_above_the_cap_is_refused() -> None:
    the = fleet(LAMBDA, cap=1)
    first = asyncio.ensure_future(call(the, wait=False))
    await asyncio.sleep(0)
    with pytest.raises(FleetFull):
        await call(the, wait=False)
    assert await first == (3.0, True)
    assert await call(the, wait=False) == (1.0, False)
    assert the.bill().requests == 2


async def test_queue_above_its_limit_is_refused() -> None:
    the = fleet(cap=1, queue_limit=2)
    waiting = [asyncio.ensure_future(call(the)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(FleetFull):
        await call(the)
    await asyncio.gather(*waiting)


async def test_runpod_bills_whole_seconds_of_each_life_with_start_and_idle_tail() -> None:
    the = fleet(boot=BootTimes(1.2, 1.2, 1.0, 0.0), work_s=0.25, idle_after_s=3.0)
    await call(the)  # 1.2 s of start, 0.25 s of work, then 3 s idle: 4.45 s, billed as 5
    await asyncio.sleep(10)
    bill = the.bill()
    assert bill.billed_seconds == 5
    assert bill.usd == pytest.approx(0.000472)  # 5 s at $0.34 an hour
    await call(the)
    await asyncio.sleep(10)
    assert the.bill().billed_seconds == 10


async def test_running_life_is_billed_up_to_now() -> None:
    the = fleet()
    call_one = asyncio.ensure_future(call(the))
    await asyncio.sleep(1.5)
    assert the.bill().billed_seconds == 2  # starting is paid for
    await call_one
    await asyncio.sleep(0.5)
    assert the.bill().billed_seconds == 4  # 2 + 1 + 0.5, rounded up


async def test_modal_bills_container_seconds_exactly() -> None:
    the = fleet(MODAL, boot=BootTimes(1.25, 1.25, 1.0, 0.0), work_s=0.125, idle_after_s=2.0)
    await call(the)
    await asyncio.sleep(100)
    assert the.bill().billed_seconds == pytest.approx(1.25 + 0.125 + 2.0)
    assert the.bill().usd == pytest.approx(3.375 * 0.5)


async def test_lambda_bills_init_and_duration_in_milliseconds_and_no_idle_time() -> None:
    the = fleet(LAMBDA, boot=BootTimes(0.9002, 0.9002, 1.0, 0.0), work_s=0.2)
    await call(the, wait=False)
    assert the.bill().billed_seconds == pytest.approx(1.101)  # 900.2 + 200 ms, rounded up
    await call(the, wait=False)
    await asyncio.sleep(3)
    bill = the.bill()
    assert bill.gb_seconds == pytest.approx(1.301)
    assert bill.usd == pytest.approx(1.301 * 0.0000166667 + 2 * 0.0000002)


def test_one_gigabyte_for_200_ms_is_a_fifth_of_a_gb_second() -> None:
    assert LAMBDA.gb_seconds(LAMBDA.invocation_s(0.0, 0.2)) == pytest.approx(0.2)
    assert PerInvocation(memory_mb=2048).gb_seconds(0.2) == pytest.approx(0.4)


def test_float_noise_is_not_billed_as_another_second() -> None:
    assert RUNPOD.life_s(5.0 + 1e-12) == 5
    assert RUNPOD.life_s(5.001) == 6


async def test_boot_times_have_two_modes_in_the_given_shares() -> None:
    boot = BootTimes(fast_s=1.0, slow_s=10.0, fast_share=1 / 3, spread=0.1)
    chance = Random(3)
    times = [boot.draw(chance) for _ in range(3000)]
    fast = [seconds for seconds in times if seconds < 5]
    assert all(0.9 <= seconds <= 1.1 for seconds in fast)
    assert all(9.0 <= seconds <= 11.0 for seconds in times if seconds >= 5)
    assert math.isclose(len(fast) / 3000, 1 / 3, abs_tol=0.03)


async def test_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    async def run(seed: int) -> list[Any]:
        the = fleet(seed=seed, boot=BootTimes(1.0, 4.0, 0.5, 0.1), cap=8)
        answers = await asyncio.gather(*(call(the, number) for number in range(8)))
        return [*answers, sorted(each["id"] for each in the.state()["instances"])]

    first, second, other = await run(1), await run(1), await run(2)
    # Each run begins at another moment of one clock, which costs the last bits of a difference.
    assert first[-1] == second[-1] != other[-1]
    assert [a for a, _ in first[:-1]] == pytest.approx([a for a, _ in second[:-1]])


async def test_killed_instance_is_gone_and_billed_until_its_death() -> None:
    the = fleet()
    the.cues.add("kill", after_s=0.5)
    with pytest.raises(InstanceDied):
        await call(the)
    assert the.count(Phase.GONE) == 1
    await asyncio.sleep(10)
    assert the.bill().billed_seconds == 3  # 2 + 0.5, rounded up
    assert await call(the) == (3.0, True)


async def test_death_brings_up_another_instance_for_those_who_wait() -> None:
    the = fleet(cap=1)
    the.cues.add("kill")
    results = await asyncio.gather(call(the), call(the), return_exceptions=True)
    assert isinstance(results[0], InstanceDied)
    assert results[1] == (5.0, True)


async def test_handler_error_on_cue_leaves_the_instance_alive() -> None:
    the = fleet()
    the.cues.add("error", 2)
    for _ in range(2):
        with pytest.raises(OnCue):
            await call(the)
    assert await call(the) == (1.0, False)


async def test_stalled_call_runs_out_of_time_and_its_instance_is_killed() -> None:
    the = fleet()
    the.cues.add("stall")
    with pytest.raises(RanOut):
        async with the.slot() as slot:
            await slot.run(None, timeout_s=7.0)
    assert slot.run_s == pytest.approx(7.0)
    assert the.count(Phase.GONE) == 1


async def test_released_stall_goes_on_as_usual() -> None:
    the = fleet()
    the.cues.add("stall")
    stalled = asyncio.ensure_future(call(the))
    await asyncio.sleep(20)
    assert not stalled.done()
    the.cues.release()
    assert await stalled == (21.0, True)


async def test_failed_boot_fails_the_call_that_it_was_for() -> None:
    the = fleet(LAMBDA)
    the.cues.add("boot")
    with pytest.raises(BootFailed):
        await call(the, wait=False)
    assert await call(the, wait=False) == (3.0, True)


async def test_failed_boot_only_delays_a_queued_call() -> None:
    the = fleet()
    the.cues.add("boot")
    assert await call(the) == (5.0, True)
    assert the.bill().cold_starts == 2


async def test_handler_that_cannot_be_made_fails_the_boot() -> None:
    weights = iter([False, True])

    def make(name: str) -> Any:
        if not next(weights):
            raise RuntimeError("no weights")
        return working(1.0)(name)

    the = ServerlessFleet(
        make, RUNPOD, options=FleetOptions(boot=TWO_SECONDS), clock=LoopClock(), chance=Random(1)
    )
    waited, cold = await call(the)
    assert cold
    assert waited == pytest.approx(5.0)


async def test_call_given_up_in_the_queue_leaves_nothing_behind() -> None:
    the = fleet(cap=1)
    given_up = asyncio.ensure_future(call(the))
    await asyncio.sleep(0.5)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert the.waiting == 0
    await asyncio.sleep(2)
    assert the.count(Phase.IDLE) == 1
    assert (await call(the))[0] == 1.0


async def test_call_given_up_at_the_moment_it_gets_its_instance_gives_it_back() -> None:
    the = fleet(cap=1)
    given_up = asyncio.ensure_future(call(the))

    def give_up() -> None:
        assert the.count(Phase.BUSY) == 1, "the instance was not handed over yet"
        given_up.cancel()

    await asyncio.sleep(1.9)
    while the.count(Phase.BUSY) == 0:
        await asyncio.sleep(0.1 if the.clock.now() < 1002 else 0)
    give_up()
    await asyncio.gather(given_up, return_exceptions=True)
    assert the.count(Phase.BUSY) == 0
    assert the.count(Phase.IDLE) == 1


async def test_given_up_call_in_the_handler_frees_the_instance() -> None:
    the = fleet()
    given_up = asyncio.ensure_future(call(the))
    await asyncio.sleep(2.5)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert the.count(Phase.IDLE) == 1


async def test_pace_is_a_floor_under_every_call() -> None:
    the = fleet(work_s=0.1, pace_s=0.4)
    await call(the)
    assert (await call(the))[0] == pytest.approx(0.4)


async def test_retired_instance_serves_nobody_else() -> None:
    the = fleet()
    async with the.slot() as slot:
        await slot.run(None)
        slot.retire()
    assert the.count(Phase.GONE) == 1
    assert (await call(the))[1] is True


async def test_unknown_cue_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="boot, error, kill, stall"):
        fleet().cues.add("explode")


async def test_state_tells_what_is_there() -> None:
    the = fleet()
    await call(the)
    await asyncio.sleep(1)
    state = the.state()
    assert [each["phase"] for each in state["instances"]] == ["idle"]
    assert state["instances"][0]["served"] == 1
    assert state["instances"][0]["age_s"] == pytest.approx(4.0)
    assert (state["gone"], state["waiting"]) == (0, 0)
