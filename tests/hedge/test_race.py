"""Who wins, what becomes of the other attempt, and when there is no hedge at all."""

import asyncio
from typing import Any

import pytest

from gateway.config.problems import ConfigProblems
from gateway.errors import BackendBroke, BackendDown, BackendError, BackendFull
from gateway.record import Record
from gateway.vocab import Outcome, Reason, Usage
from tests.hedge.parts import PRICED, Rig

pytestmark = pytest.mark.virtual_time


def outcomes(rig: Rig) -> list[tuple[str, Reason | None, Outcome, int]]:
    return [
        (tally.lane.backend, tally.reason, tally.outcome, tally.count)
        for tally in rig.gateway.ledger.tallies.values()
    ]


async def test_the_faster_second_answers_and_the_first_is_gone_at_once() -> None:
    rig = Rig()
    answer = await rig.call()
    assert answer.took == pytest.approx(0.3)
    assert (answer.status, answer.wire.done_times) == (200, 1)
    assert answer.field("x-overspill-reason") == "hedge"
    assert answer.field("x-overspill-backend") == "fast"
    assert rig.slow.running == [0]  # not a second later
    await rig.settle()
    rig.assert_nothing_left()
    assert rig.hedges == {"won": 1, "lost": 0}
    assert outcomes(rig) == [("fast", Reason.HEDGE, Outcome.OK, 1)]


async def test_the_faster_first_answers_and_the_hedge_is_gone_at_once() -> None:
    rig = Rig(more="hedge: {after: 950ms, share: 100%}")
    answer = await rig.call()
    assert answer.took == pytest.approx(1.0)
    assert answer.field("x-overspill-reason") == "warm"
    await rig.settle()
    assert rig.fast.running == [0]
    rig.assert_nothing_left()
    assert rig.hedges == {"won": 0, "lost": 1}
    assert outcomes(rig) == [("slow", Reason.WARM, Outcome.OK, 1)]


async def test_an_answer_in_time_is_never_hedged() -> None:
    rig = Rig(more="hedge: {after: 1001ms, share: 100%}")
    assert (await rig.call()).field("x-overspill-reason") == "warm"
    await asyncio.sleep(1)
    assert rig.hedges == {"won": 0, "lost": 0}
    assert rig.granted == 0


async def test_the_loser_teaches_nothing_and_trips_no_breaker() -> None:
    rig = Rig()
    for _ in range(30):
        assert (await rig.call()).field("x-overspill-reason") == "hedge"
        await rig.settle()
    learned = rig.gateway.estimates.of("one", "slow")
    assert learned.service.samples == 0
    assert rig.gateway.estimates.of("one", "fast").service.samples > 20
    slow = rig.gateway.capacities["slow"]
    assert (slow.breaker_state(0), slow.held_s) == ("closed", None)


@pytest.mark.parametrize("error", [BackendBroke, BackendDown, BackendFull])
async def test_a_hedge_that_fails_changes_nothing_for_the_call_but_counts_as_a_failure(
    error: type[BackendError],
) -> None:
    rig = Rig()
    rig.fast.script.extend(error("no") for _ in range(9))
    for _ in range(5):
        answer = await rig.call()
        assert answer.status == 200
        assert answer.took == pytest.approx(1.0)
        assert answer.field("x-overspill-reason") == "warm"
    await rig.settle()
    rig.assert_nothing_left()
    opened = rig.gateway.capacities["fast"].blocked
    assert opened == (None if error is BackendFull else Reason.SPILL_BREAKER)


async def test_a_first_that_fails_leaves_its_slot_and_the_hedge_goes_on_alone() -> None:
    rig = Rig(fast_more=", jitter: 0", more="hedge: {after: 950ms, share: 100%}")
    rig.slow.script.append(BackendBroke("late"))
    task = rig.start()
    await asyncio.sleep(1.01)
    assert rig.gateway.capacities["slow"].in_flight == 0
    answer = await task
    assert answer.took == pytest.approx(1.05)
    assert answer.field("x-overspill-reason") == "hedge"
    assert rig.hedges == {"won": 1, "lost": 0}
    assert rig.granted == 1  # the hedge's; nothing was tried a third time
    await rig.settle()
    rig.assert_nothing_left()


async def test_when_both_fail_the_call_is_tried_again_elsewhere_or_fails_as_ever() -> None:
    rig = Rig(more="hedge: {after: 950ms, share: 100%}")
    rig.slow.script.append(BackendBroke("late"))
    rig.fast.script.append(BackendBroke("too"))
    answer = await rig.call()
    assert answer.status == 502
    await rig.settle()
    rig.assert_nothing_left()
    assert rig.hedges == {"won": 0, "lost": 1}
    assert rig.slow.script == rig.fast.script == type(rig.slow.script)()

    rig = Rig(fast_more=", replicas: 2", more="hedge: {after: 950ms, share: 100%}")
    rig.slow.script.append(BackendBroke("late"))
    rig.fast.script.append(BackendBroke("too"))
    answer = await rig.call()
    assert (answer.status, answer.field("x-overspill-backend")) == (200, "fast")
    assert answer.took == pytest.approx(1.15)
    await rig.settle()
    rig.assert_nothing_left()


async def test_what_must_not_run_twice_is_refused_in_the_file_and_left_alone_in_the_race() -> None:
    with pytest.raises(ConfigProblems, match="runs calls twice"):
        Rig(more="hedge: {after: 200ms}\n    idempotent: false")


async def test_a_body_that_is_not_held_is_left_alone() -> None:
    rig = Rig()
    task = rig.start(complete=False)
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.hedges == {"won": 0, "lost": 0}
    assert not any(rig.fast.running)
    rig.assert_nothing_left()


async def test_a_client_that_leaves_takes_both_with_it() -> None:
    for left_at in (0.1, 0.2, 0.25):
        rig = Rig()
        task = rig.start()
        await asyncio.sleep(left_at)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await rig.settle()
        rig.assert_nothing_left()
        assert [outcome for _, _, outcome, _ in outcomes(rig)] == [Outcome.CLIENT_GONE]


async def test_a_deadline_ends_both() -> None:
    rig = Rig(fast_more=", jitter: 0", more="hedge: {after: 200ms, share: 100%}")
    answer = await rig.call(deadline_ms=250)
    assert answer.status == 504
    assert answer.took == pytest.approx(0.25)
    await rig.settle()
    rig.assert_nothing_left()


async def test_no_hedge_starts_that_the_deadline_would_end_at_once() -> None:
    rig = Rig()
    assert (await rig.call(deadline_ms=200)).status == 504
    await asyncio.sleep(1)
    assert rig.hedges == {"won": 0, "lost": 0}


NEVER: dict[str, dict[str, Any]] = {
    "off": {"more": ""},
    "no token": {"tokens": "0%", "floor": 0},
    "elsewhere is full": {"fast_more": ", full_share: 0%", "busy": True},
    "no money": {
        "fast": "loopback_rented",
        "fast_more": PRICED,
        "more": "hedge: {after: 200ms, share: 100%}\n    spill_budget: {usd_per_hour: 0, on_exhausted: shed}",
    },
    "no money, and waiting for it": {
        "fast": "loopback_rented",
        "fast_more": PRICED,
        "more": "hedge: {after: 200ms, share: 100%}\n    spill_budget: {usd_per_hour: 0}",
    },
    "only place": {"policy": "{type: pinned, backend: slow}"},
}


@pytest.mark.parametrize("why", NEVER)
async def test_without_a_place_a_token_or_money_there_is_no_hedge_and_no_error(why: str) -> None:
    options = dict(NEVER[why])
    busy = options.pop("busy", False)
    rig = Rig(**options)
    held = []
    if busy:
        supply = rig.gateway.capacities["fast"]
        while (slot := supply.take((), rig.clock.now(), Reason.WARM, 0.0)) is not None:
            held.append(slot)
    answer = await rig.call()
    assert (answer.status, answer.field("x-overspill-backend")) == (200, "slow")
    assert rig.hedges == {"won": 0, "lost": 0}
    assert rig.granted == 0
    assert not any(rig.fast.running)


async def test_best_effort_calls_and_questions_are_left_alone() -> None:
    rig = Rig()
    answer = await rig.call(x_overspill_priority="best_effort")
    assert answer.field("x-overspill-backend") == "slow"
    question = await rig.call(method=b"GET", target=b"/v2/models/one/config")
    assert question.took == pytest.approx(1.0)
    assert rig.hedges == {"won": 0, "lost": 0}


async def test_the_share_bounds_the_hedges() -> None:
    rig = Rig(more="hedge: {after: 200ms, share: 10%}", floor=1000)
    for _ in range(41):
        await rig.call()
    assert sum(rig.hedges.values()) == 5
    assert rig.granted == 5


async def test_a_rented_hedge_sets_money_aside_and_settles_it() -> None:
    rig = Rig(
        fast="loopback_rented",
        fast_more=PRICED,
        more="hedge: {after: 200ms, share: 100%}\n    spill_budget: {usd_per_hour: 1}",
    )
    budget = rig.gateway.spending.routes["one"]
    task = rig.start()
    await asyncio.sleep(0.25)
    held = budget.remaining_usd(rig.clock.now())
    assert held is not None
    assert held < 1.0
    answer = await task
    assert answer.field("x-overspill-reason") == "hedge"
    await rig.settle()
    assert budget.remaining_usd(rig.clock.now()) == pytest.approx(1.0 - 0.1 * 0.01)
    assert rig.usd("fast")["spill"] == pytest.approx(0.1 * 0.01)
    rig.assert_nothing_left()


async def test_what_a_failed_hedge_cost_is_booked_as_a_hedge() -> None:
    rig = Rig(fast="loopback_rented", fast_more=PRICED)
    rig.fast.script.append(BackendBroke("billed", usage=Usage(1.0, 0.0, 0.25)))
    assert (await rig.call()).field("x-overspill-backend") == "slow"
    assert rig.usd("fast") == {"spill": 0.0, "hedge": 0.25}


async def test_only_one_hedge_for_each_call() -> None:
    rig = Rig(fast_more=", replicas: 3", more="hedge: {after: 200ms, share: 100%}")
    rig.fast.script.append(BackendBroke("the hedge"))
    answer = await rig.call()
    assert answer.field("x-overspill-backend") == "slow"
    assert answer.took == pytest.approx(1.0)
    assert sum(rig.hedges.values()) == 1


async def test_the_decisions_say_that_a_call_was_hedged_and_who_won() -> None:
    rig = Rig()
    await rig.call()
    explaining = rig.gateway.explaining
    await rig.call()
    told = explaining.answer(b'{"request_id": "v-2"}').body["decisions"]
    assert [decision["action"]["backend"] for decision in told] == ["slow", "fast"]
    assert told[1]["action"]["reason"] == "hedge"
    assert told[1]["hedged"] == "won"
    assert "hedged" not in told[0]


def test_a_record_without_a_hedge_says_nothing_of_one() -> None:
    assert Record("r", "", 0.0).hedge is None
