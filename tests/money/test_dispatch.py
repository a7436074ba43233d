"""What dispatch does with both budgets: extra attempts cost tokens, and every reservation is settled once."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from backends.base import Kit, SpillBudget
from backends.loopback import Loopback, LoopbackOptions
from gateway.dispatch import Attempt, Dispatch
from gateway.errors import (
    AnswerTruncated,
    BackendBroke,
    BackendDown,
    BackendError,
    BackendFull,
    BackendUnready,
    DeadlinePassed,
    NoCapacity,
    OverspillError,
)
from gateway.record import Record
from gateway.retry_budget import RetryBudgets
from gateway.spending import Budget, Purse, Reservation
from gateway.vocab import Call, Reason, Reply, Start, Usage, WholeBody
from tests.support.errors import told
from tests.support.virtual_time import LoopClock

pytestmark = pytest.mark.virtual_time


class Endpoint(Loopback):
    """Paid by use: a cent for a second."""

    owned = False

    def bill(self, seconds: float, boot: float) -> Usage | None:
        return Usage(seconds, boot, seconds * 0.01)


class Place:
    """A slot without a pool."""

    def __init__(
        self, backend: Loopback, now: float, reason: Reason, reservation: Reservation | None
    ) -> None:
        self.backend = backend
        self.replica = 0
        self.replica_name = backend.replicas[0]
        self.reason = reason
        self.queued_s = 0.0
        self.taken_at = now
        self.reservation = reservation
        self.used = False
        self.start: Start | None = None
        self.boot_s: float | None = None
        self.waited_s: float | None = None

    def answered(self, now: float) -> None: ...
    def pushed_back(self, now: float) -> None: ...


class Rig:
    """A fleet, an endpoint, and a dispatch with few tokens."""

    def __init__(self, *, share: float = 0.0, floor: float = 0.0, limits_outage: bool = False) -> None:
        self.clock = LoopClock()
        kit = Kit(self.clock, Random(7), _no_tasks)
        self.fleet = Loopback("fleet", LoopbackOptions(type="loopback", max_in_flight=9, replicas=2), kit)
        slow = LoopbackOptions.model_validate({"type": "loopback", "max_in_flight": 9, "latency": "2s"})
        self.burst = Endpoint("burst", slow, kit)
        self.retries = RetryBudgets(
            ["embed"], share=share, floor_per_second=floor, limits_outage=limits_outage, now=self.clock.now()
        )
        self.dispatch = Dispatch(clock=self.clock, retries=self.retries)
        self.money = Budget("route embed", SpillBudget(usd_per_hour=1.0))
        self.record = Record("r", "", self.clock.now())

    @property
    def left(self) -> float | None:
        return self.money.remaining_usd(self.clock.now())

    def attempt(self, *, idempotent: bool = True) -> tuple[Call, Attempt]:
        call = Call(
            protocol="kserve",
            operation="infer",
            method=b"POST",
            target=b"/",
            headers=[],
            body=WholeBody(b"x"),
        )
        call.route, call.idempotent = "embed", idempotent
        call.arrived = self.clock.now()
        call.deadline = call.arrived + 60
        self.record = Record("r", "", call.arrived)
        return call, self.dispatch.attempt(call, self.record)

    async def run(self, *places: Loopback, reason: Reason = Reason.WARM, **how: Any) -> list[str]:
        """One call, on these places in turn until one answers; the names of those it was sent to."""
        call, attempt = self.attempt(**how)
        sent = []
        queue = list(places)
        while attempt.again:
            with attempt:
                slot = Place(queue.pop(0), self.clock.now(), reason, None)
                async with self.dispatch.send(call, slot, attempt, self.record):
                    pass
            if slot.used:
                sent.append(slot.backend.name)
        return sent


def _no_tasks(work: Any, /, *, name: str) -> None:
    raise AssertionError("nothing here works in the background")


ERRORS: list[tuple[type[BackendError], bool, bool]] = [
    # failure, costs on another owned replica, costs on a rented backend
    (BackendBroke, True, True),
    (BackendDown, False, True),
    (BackendUnready, False, True),
    (BackendFull, False, False),
]


@pytest.mark.parametrize(("error", "owned", "rented"), ERRORS)
async def test_only_what_repeats_work_or_costs_money_after_a_failure_takes_a_token(
    error: type[BackendError], owned: bool, rented: bool
) -> None:
    for place, costs in (("fleet", owned), ("burst", rented)):
        rig = Rig(floor=1.0)
        budget = rig.retries.routes["embed"]
        rig.fleet.script.append(error("first"))
        assert await rig.run(rig.fleet, getattr(rig, place)) == ["fleet", place]
        assert budget.granted == int(costs)


@pytest.mark.parametrize(("error", "owned", "rented"), ERRORS)
async def test_without_a_token_the_client_gets_the_first_failure(
    error: type[BackendError], owned: bool, rented: bool
) -> None:
    for place, costs in (("fleet", owned), ("burst", rented)):
        if not costs:
            continue
        rig = Rig()
        first = error("first")
        rig.fleet.script.append(first)
        with pytest.raises(error) as caught:
            await rig.run(rig.fleet, getattr(rig, place))
        assert told(caught.value) == told(first)
        assert rig.record.attempts == 1
        assert rig.record.reason is Reason.SHED_BUDGET
        assert rig.retries.routes["embed"].refused == 1


async def test_a_repeated_failure_costs_one_token_for_each_further_attempt() -> None:
    rig = Rig(floor=5.0)
    rig.fleet.script.extend([BackendDown("a"), BackendBroke("b")])
    assert await rig.run(rig.fleet, rig.fleet, rig.burst) == ["fleet", "fleet", "burst"]
    assert rig.retries.routes["embed"].granted == 1


async def test_what_must_not_run_again_takes_no_token() -> None:
    rig = Rig(floor=5.0)
    rig.fleet.script.append(BackendBroke("first"))
    with pytest.raises(BackendBroke):
        await rig.run(rig.fleet, rig.fleet, idempotent=False)
    assert rig.retries.routes["embed"].granted == 0


@pytest.mark.parametrize("error", [BackendDown, BackendBroke])
async def test_an_outage_sends_no_more_elsewhere_than_the_share_and_the_floor(
    error: type[BackendError],
) -> None:
    rig = Rig(share=0.2, floor=2.0)
    rig.fleet.script.extend(error("down") for _ in range(500))
    began, calls = rig.clock.now(), []
    for _ in range(500):
        calls.append(asyncio.ensure_future(rig.run(rig.fleet, rig.burst)))
        await asyncio.sleep(0.002)
    seconds = rig.clock.now() - began
    ends = await asyncio.gather(*calls, return_exceptions=True)
    elsewhere = sum(isinstance(end, list) for end in ends)
    assert all(isinstance(end, list | error) for end in ends)
    assert 100 <= elsewhere <= 0.2 * 500 + 2.0 * seconds + 2.0


@pytest.mark.parametrize("reason", [Reason.SPILL_BREAKER, Reason.SPILL_UNHEALTHY])
@pytest.mark.parametrize(("limits", "went"), [(False, 20), (True, 6)])
async def test_calls_around_a_dead_fleet_cost_tokens_only_where_the_file_says_so(
    reason: Reason, limits: bool, went: int
) -> None:
    rig = Rig(share=0.2, floor=2.0, limits_outage=limits)
    answers = await asyncio.gather(
        *(rig.run(rig.burst, reason=reason) for _ in range(20)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, NoCapacity)]
    assert len(answers) - len(refused) == went
    for error in refused:
        assert (error.status, error.reason, error.retry_after) == (503, Reason.SHED_BUDGET, 1.0)


async def test_a_spill_from_a_full_fleet_is_no_retry() -> None:
    rig = Rig(limits_outage=True)
    assert await rig.run(rig.burst, reason=Reason.SPILL_FULL) == ["burst"]


# -- reservations --------------------------------------------------------------------------------------


async def once(
    rig: Rig, usd: float = 0.5, inside: Callable[[Reply], None] = lambda reply: None
) -> tuple[Place, Reservation]:
    """One attempt on the rented backend, with money set aside."""
    reservation = Purse([rig.money]).reserve(usd, rig.clock.now())
    assert reservation is not None
    slot = Place(rig.burst, rig.clock.now(), Reason.SPILL_FULL, reservation)
    call, attempt = rig.attempt(idempotent=False)
    try:
        with attempt:
            async with rig.dispatch.send(call, slot, attempt, rig.record) as reply:
                inside(reply)
    except OverspillError as error:
        rig.record.fail(error)
    return slot, reservation


async def test_an_answer_settles_at_its_bill_and_tells_the_slot_how_it_started() -> None:
    rig = Rig()
    slot, reservation = await once(rig)
    assert not reservation.open
    assert rig.left == pytest.approx(0.98)
    assert (slot.used, slot.start, slot.boot_s) == (True, Start.WARM, 0.0)


async def test_a_bill_that_comes_with_the_end_of_the_stream_counts() -> None:
    def told_late(reply: Reply) -> None:
        reply.usage = Usage(7.0, 0.0, 0.07)

    rig = Rig()
    await once(rig, inside=told_late)
    assert rig.left == 0.93


async def test_an_answer_without_a_bill_counts_as_reserved() -> None:
    def never_told(reply: Reply) -> None:
        reply.usage = Usage(7.0)

    rig = Rig()
    await once(rig, inside=never_told)
    assert rig.left == 0.5


@pytest.mark.parametrize(
    ("failure", "left"),
    [
        (BackendFull("full"), 1.0),
        (BackendDown("down"), 1.0),
        (BackendFull("full, and billed", usage=Usage(1.0, 0.0, 0.25)), 0.75),
        (BackendBroke("billed", usage=Usage(1.0, 0.0, 0.25)), 0.75),
        (BackendBroke("who knows"), 0.5),
    ],
)
async def test_a_failure_counts_as_far_as_it_may_be_billed(failure: BackendError, left: float) -> None:
    rig = Rig()
    rig.burst.script.append(failure)
    await once(rig)
    assert rig.left == left


async def test_a_broken_stream_counts_at_the_bill_it_left() -> None:
    def breaks(reply: Reply) -> None:
        raise AnswerTruncated("broke off", usage=Usage(1.0, 0.0, 0.125))

    rig = Rig()
    await once(rig, inside=breaks)
    assert rig.left == 0.875


async def test_a_client_that_leaves_early_costs_its_charge_once() -> None:
    rig = Rig()
    task = asyncio.ensure_future(once(rig))
    await asyncio.sleep(1.0)
    assert rig.left == 0.5
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    rig.money.spend(0.01, rig.clock.now())  # the provider's word comes as a charge
    assert rig.left == 0.5
    rig.money.spend(0.6, rig.clock.now())
    assert rig.left == pytest.approx(0.39)


async def test_a_deadline_that_passes_before_sending_leaves_the_reservation_to_the_slot() -> None:
    rig = Rig()
    reservation = Purse([rig.money]).reserve(0.5, rig.clock.now())
    slot = Place(rig.burst, rig.clock.now(), Reason.SPILL_FULL, reservation)
    call, attempt = rig.attempt()
    call.deadline = rig.clock.now()
    with pytest.raises(DeadlinePassed), attempt:
        async with rig.dispatch.send(call, slot, attempt, rig.record):
            pass
    assert reservation is not None
    assert (reservation.open, slot.used) == (True, False)
