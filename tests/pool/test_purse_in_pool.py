"""Spill budgets where calls are decided: what each `on_exhausted` does, and where every reserved dollar goes."""

import asyncio
from collections.abc import Sequence
from math import fsum
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policies
from backends.base import SpillBudget
from gateway.clock import Clock, TimerHost
from gateway.errors import Contended, NoCapacity, OverspillError
from gateway.estimates import BackendEstimates, Expectation, Prior
from gateway.lease import Lease
from gateway.pool import Opened, Pool
from gateway.slot import Slot
from gateway.spending import HOUR_S, Budget, Purse
from gateway.tier import PursedTier, Tier
from gateway.vocab import Reason, Verdict
from policies.base import Policy, TierOptions
from tests.pool.parts import FIRST, NOW, Attempt, Rig, call, holding, rented
from tests.support.virtual_time import LoopClock

USD = 0.001
EXPECTED = Expectation(service=Prior(1.0, 2.0), cold=Prior(3.0, 4.0), idle_s=30.0)


def policy(name: str, **options: Any) -> Policy:
    cls = policies.policies.get(name)
    return cls(cls.Options.model_validate(options))


class Later:
    """Instances that boot until the test says what became of them."""

    def __init__(self) -> None:
        self.under_way: list[tuple[Slot, Opened]] = []

    def open(self, slot: Slot, *, route: str, kind: str, done: Opened) -> None:
        self.under_way.append((slot, done))


class Bench:
    """One fleet slot, and rented ones for which a budget allows so many attempts."""

    def __init__(
        self, attempts: float, mode: str = "queue", *, rule: Policy | None = None, slots: int = 8,
        share: float | None = None, clock: Clock | None = None, timers: TimerHost | None = None,
    ) -> None:  # fmt: skip
        self.rig = Rig(clock=clock, timers=timers)
        here: dict[str, Any] = {"clock": self.rig.clock, "chance": self.rig.chance}
        backend = rented("burst", slots=slots, price={"usd_per_second": USD}, boot="3s", **here)
        self.supply = type(self.rig.burst)(backend, timers=self.rig.timers, **here)
        self.later = Later()
        self.tier = PursedTier(
            TierOptions(backend="burst"), self.supply, BackendEstimates(EXPECTED), None,
            route="embed", purse=Purse([]), clock=self.rig.clock, requested=self.requested,
            fleet_usable=lambda: self.rig.fleet.blocked is None,
        )  # fmt: skip
        usd = self.tier.price()
        assert usd is not None
        self.usd = usd
        options = SpillBudget.model_validate({"usd_per_hour": (attempts + 1e-3) * usd, "on_exhausted": mode})
        self.budget = Budget("route embed", options, share_of_requests=share)
        self.tier.purse = Purse([self.budget])
        self.limit = self.left
        self.pool = Pool(
            "embed", rule or policy("queue_threshold", threshold=0),
            [Tier(TierOptions(backend="fleet"), self.rig.fleet, BackendEstimates(EXPECTED)), self.tier],
            clock=self.rig.clock, chance=self.rig.chance, timers=self.rig.timers, opener=self.later,
        )  # fmt: skip

    def requested(self, route: str, now: float) -> None:
        assert route == "embed"
        self.budget.requested(now)

    @property
    def left(self) -> float:
        """Dollars that may still be reserved."""
        left = self.budget.remaining_usd(self.rig.clock.now())
        assert left is not None
        return left

    def ask(self, until: float = 2 * HOUR_S, attempt: Attempt = FIRST) -> Lease:
        lease = self.pool.slot(call(deadline=self.rig.clock.now() + until), attempt)
        lease.ask()
        return lease

    def reserved(self) -> float:
        """How much is set aside or gone, in attempts."""
        return (self.limit - self.left) / self.usd


def places(leases: Sequence[Lease]) -> list[str | None]:
    return [None if lease.slot is None else lease.slot.backend.name for lease in leases]


# -- used up -----------------------------------------------------------------------------------------


def test_queue_a_call_waits_for_the_fleet_and_gets_it() -> None:
    bench = Bench(1, "queue")
    first, spilled, waiting = bench.ask(), bench.ask(), bench.ask()
    assert places([first, spilled, waiting]) == ["fleet", "burst", None]
    assert waiting.waiting
    first.release(Verdict.SUCCESS)
    slot = waiting.result()
    assert (slot.backend.name, slot.reason) == ("fleet", Reason.WARM_QUEUED)


def test_queue_a_rented_slot_that_frees_is_not_offered_while_there_is_no_money_for_it() -> None:
    bench = Bench(1, "queue")
    _, spilled, waiting = bench.ask(), bench.ask(), bench.ask()
    assert spilled.slot is not None
    assert spilled.slot.reservation is not None
    spilled.slot.reservation.settle(bench.usd, NOW)
    spilled.release(Verdict.SUCCESS)
    assert waiting.waiting
    assert bench.supply.in_flight == 0


def test_queue_a_call_that_waits_goes_there_when_the_money_comes_back() -> None:
    bench = Bench(1, "queue")
    _, spilled, waiting = bench.ask(), bench.ask(), bench.ask()
    assert spilled.slot is not None
    assert spilled.slot.reservation is not None
    spilled.slot.reservation.settle(bench.usd, NOW)
    spilled.release(Verdict.SUCCESS)
    bench.rig.manual.advance(HOUR_S - 1.0)
    assert waiting.waiting
    bench.rig.manual.advance(32.0)
    assert places([waiting]) == ["burst"]


def test_shed_a_call_that_would_need_it_is_refused_with_what_is_wrong_and_when_to_come_again() -> None:
    bench = Bench(1, "shed")
    bench.ask()
    spilled = bench.ask()
    assert spilled.slot is not None
    with pytest.raises(Contended, match="spill budget is used up") as caught:
        bench.ask()
    assert (caught.value.status, caught.value.reason) == (429, Reason.SHED_BUDGET)
    assert (caught.value.retry_after or 0.0) >= 1.0
    assert (bench.pool.in_flight, bench.pool.queue_depth, bench.budget.refused) == (2, 0, 1)


def test_shed_without_a_fleet_there_is_no_capacity_at_all() -> None:
    bench = Bench(0, "shed")
    bench.rig.unready(bench.rig.fleet)
    with pytest.raises(NoCapacity, match="spill budget") as caught:
        bench.ask()
    assert (caught.value.status, caught.value.reason) == (503, Reason.SHED_BUDGET)


def test_warn_spends_on_and_counts_it() -> None:
    bench = Bench(1, "warn")
    leases = [bench.ask() for _ in range(5)]
    assert places(leases) == ["fleet", "burst", "burst", "burst", "burst"]
    assert (bench.budget.overrun, bench.budget.refused) == (3, 0)
    assert bench.reserved() == pytest.approx(4.0)


def test_questions_and_the_fleet_need_no_money() -> None:
    bench = Bench(0, "shed")
    assert places([bench.ask()]) == ["fleet"]
    question = bench.pool.slot(call(inference=False), FIRST)
    assert question.ask() is not None
    assert bench.reserved() == 0.0


def test_a_share_counts_first_attempts_and_lets_no_more_spill() -> None:
    bench = Bench(99, "queue", share=0.25)
    leases = [bench.ask() for _ in range(9)]
    assert sum(place == "burst" for place in places(leases)) == 3, "a quarter of nine, rounded up"
    again = [bench.ask(attempt=Attempt(1, {("fleet", 0)})) for _ in range(9)]
    assert places(again) == [None] * 9, "a second attempt is no second call"


# -- never twice -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["cheapest_in_budget", "queue_threshold", "serverless_only"])
def test_calls_that_come_together_cannot_spend_the_same_dollar(rule: str) -> None:
    options = {"threshold": 0} if rule == "queue_threshold" else {}
    bench = Bench(3, "queue", rule=policy(rule, **options))
    leases = [bench.ask(until=8.0) for _ in range(20)]
    spilled = [lease for lease in leases if lease.slot is not None and not lease.slot.backend.owned]
    slots = [lease.slot for lease in spilled] + [slot for slot, _ in bench.later.under_way]
    aside = fsum(slot.reservation.usd or 0.0 for slot in slots if slot and slot.reservation)
    assert 0.0 < aside <= bench.limit
    assert bench.limit - bench.left == pytest.approx(aside)


# -- every way out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_was_never_sent_costs_nothing_however_it_ended(verdict: Verdict) -> None:
    bench = Bench(1)
    _, spilled = bench.ask(), bench.ask()
    assert bench.reserved() == pytest.approx(1.0)
    spilled.release(verdict)
    assert bench.left == bench.limit


def test_what_was_settled_is_not_given_back() -> None:
    bench = Bench(1)
    _, spilled = bench.ask(), bench.ask()
    assert spilled.slot is not None
    assert spilled.slot.reservation is not None
    spilled.slot.reservation.settle(0.25 * bench.usd, NOW)
    spilled.release(Verdict.SUCCESS)
    assert bench.reserved() == pytest.approx(0.25)


def test_who_hangs_up_while_waiting_has_reserved_nothing() -> None:
    bench = Bench(1, slots=1)
    _, _, waiting = bench.ask(), bench.ask(), bench.ask()
    assert bench.reserved() == pytest.approx(1.0)
    waiting.abandon()
    assert bench.reserved() == pytest.approx(1.0)
    assert (bench.pool.queue_depth, bench.rig.manual.live) == (0, [])


@pytest.mark.virtual_time
@pytest.mark.parametrize("handed_over", [False, True])
async def test_a_hang_up_gives_the_money_back_even_in_the_tick_in_which_the_slot_came(
    handed_over: bool,
) -> None:
    bench = Bench(1, slots=1, clock=LoopClock(), timers=asyncio.get_running_loop())
    _, spilled = bench.ask(), bench.ask()

    async def wait() -> None:
        async with holding(bench.pool.slot(call(deadline=LoopClock().now() + 60), FIRST)):
            raise AssertionError("it hung up before it ran")

    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(wait())
        await asyncio.sleep(1.0)
        assert bench.pool.queue_depth == 1
        if handed_over:
            spilled.release(Verdict.NEUTRAL)
            assert bench.reserved() == pytest.approx(1.0), "reserved anew, for the one that waited"
        task.cancel()
    assert bench.reserved() == pytest.approx(0.0 if handed_over else 1.0)
    assert bench.supply.in_flight == (0 if handed_over else 1)


def test_one_that_wakes_up_after_its_deadline_gives_the_money_back() -> None:
    bench = Bench(1, slots=1)
    _, spilled, waiting = bench.ask(), bench.ask(), bench.ask(until=5.0)
    bench.rig.fake.advance(4.0)
    spilled.release(Verdict.NEUTRAL)
    assert bench.reserved() == pytest.approx(1.0)
    bench.rig.fake.advance(2.0)
    with pytest.raises(OverspillError, match="deadline"):
        waiting.result()
    assert bench.left == bench.limit


def test_a_slot_that_is_not_there_after_all_leaves_the_money_where_it_was() -> None:
    bench = Bench(5, slots=1)
    assert bench.tier.take((), NOW, Reason.SPILL_FULL, 0.0) is not None
    assert bench.tier.take((), NOW, Reason.SPILL_FULL, 0.0) is None
    assert bench.reserved() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("verdict", "counts"), [(Verdict.SUCCESS, True), (Verdict.FAILURE, False), (Verdict.NEUTRAL, False)]
)
def test_an_instance_that_boots_has_its_money_set_aside_until_it_is_known_what_became_of_it(
    verdict: Verdict, counts: bool
) -> None:
    bench = Bench(5)
    assert bench.pool.open("burst", 2) == 2
    aside = bench.limit - bench.left
    assert 0.0 < aside < 2 * bench.usd, "its boot, without a call's service"
    for _, done in bench.later.under_way:
        done(verdict, 3.0 if verdict is Verdict.SUCCESS else None)
    assert bench.limit - bench.left == pytest.approx(aside if counts else 0.0)
    assert bench.pool.opening == 0


def test_no_more_instances_are_opened_than_there_is_money_for() -> None:
    bench = Bench(1)
    opened = bench.pool.open("burst", 8)
    each = bench.tier.price(opening=True)
    assert each is not None
    assert 0 < opened < 8
    assert bench.left < each
    assert bench.tier.room == 0


# -- whatever happens --------------------------------------------------------------------------------


class Step(NamedTuple):
    kind: str
    which: int
    share: float


steps = st.builds(
    Step,
    st.sampled_from(["ask", "ask", "ask", "end", "settle", "cut", "abandon", "open", "up", "fail", "pass"]),
    st.integers(0, 30),
    st.sampled_from([0.0, 0.5, 1.0]),
)


@settings(max_examples=80, deadline=None)
@given(script=st.lists(steps, max_size=50), mode=st.sampled_from(["queue", "shed"]),
       rule=st.sampled_from(["cheapest_in_budget", "queue_threshold"]), seed=st.integers(0, 9))  # fmt: skip
def test_the_budget_is_what_was_spent_and_what_is_set_aside_for_who_holds_a_slot(
    script: list[Step], mode: str, rule: str, seed: int
) -> None:
    bench = Bench(4, mode, rule=policy(rule), slots=4)
    bench.rig.chance.seed(Random(seed).random())
    leases, spent, refused = list[Lease](), 0.0, set[Reason | None]()
    for step in script:
        holding = [lease for lease in leases if lease.slot is not None]
        if step.kind == "ask":
            lease = bench.pool.slot(call(deadline=bench.rig.fake.now() + 90), FIRST)
            try:
                lease.ask()
            except OverspillError as error:
                refused.add(error.reason)
            else:
                leases.append(lease)
        elif step.kind == "pass":
            bench.rig.manual.advance(step.which * step.share)
        elif step.kind == "abandon" and leases:
            leases.pop(step.which % len(leases)).abandon()
        elif step.kind == "open":
            bench.pool.open("burst", 1)
        elif step.kind in {"up", "fail"} and bench.later.under_way:
            slot, done = bench.later.under_way.pop(step.which % len(bench.later.under_way))
            if step.kind == "up":
                assert slot.reservation is not None
                spent += slot.reservation.usd or 0.0
                done(Verdict.SUCCESS, 3.0)
            else:
                done(Verdict.FAILURE, None)
        elif step.kind in {"end", "settle", "cut"} and holding:
            lease = holding[step.which % len(holding)]
            leases.remove(lease)
            spent += _end(bench, lease, step)
        check(bench, leases, spent)
    assert refused <= ({Reason.SHED_BUDGET} if mode == "shed" else set())
    for lease in leases:
        lease.abandon()
    for _, done in bench.later.under_way:
        done(Verdict.FAILURE, None)
    assert bench.pool.in_flight == bench.pool.opening == bench.supply.in_flight == 0


def _end(bench: Bench, lease: Lease, step: Step) -> float:
    """The attempt ends; what it cost."""
    assert lease.slot is not None
    reservation, cost = lease.slot.reservation, 0.0
    if reservation is not None and step.kind == "settle":
        cost = step.share * (reservation.usd or 0.0)
        reservation.settle(cost, bench.rig.fake.now())
    elif reservation is not None and step.kind == "cut":
        cost = reservation.usd or 0.0
        reservation.cut_off(bench.rig.fake.now())
    lease.release(Verdict.SUCCESS)
    return cost


def check(bench: Bench, leases: Sequence[Lease], spent: float) -> None:
    slots = [lease.slot for lease in leases if lease.slot is not None]
    slots += [slot for slot, _ in bench.later.under_way]
    for slot in slots:
        assert (slot.reservation is None) is slot.backend.owned
    aside = fsum(slot.reservation.usd or 0.0 for slot in slots if slot.reservation and slot.reservation.open)
    assert bench.limit - bench.left == pytest.approx(spent + aside, abs=1e-9)
    assert bench.left >= 0.0
