"""Best-effort calls: they fill owned slots that nobody else wants, and nothing is done or learned for them."""

from random import Random
from typing import NoReturn

import pytest

from gateway.errors import Contended, DeadlinePassed, NoCapacity
from gateway.estimates import BackendEstimates, Expectation
from gateway.lease import Lease
from gateway.pool import Pool
from gateway.tier import Tier
from gateway.vocab import Reason, Verdict
from policies.base import Action, Policy, PolicyOptions, PoolView, RequestView, Take, TierOptions
from tests.pool.parts import FIRST, Attempt, Rig, call, policy


class NeverAsked(Policy):
    """Nobody asks a policy about best-effort calls."""

    learns = True

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        self.never()

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        self.never()

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        self.never()

    def never(self) -> NoReturn:
        raise AssertionError("the policy was asked")


class Bench:
    """A fleet of so many replicas with one slot each, and one rented slot."""

    def __init__(
        self, *, replicas: int = 1, limit: int | None = None, rule: Policy | None = None, fleet: bool = True
    ) -> None:
        self.rig = Rig(fleet_replicas=replicas)
        self.estimates = {name: BackendEstimates(Expectation()) for name in ("fleet", "burst")}
        supplies = {"fleet": self.rig.fleet, "burst": self.rig.burst}
        self.tiers = [
            Tier(TierOptions(backend=name), supplies[name], self.estimates[name])
            for name in (("fleet", "burst") if fleet else ("burst",))
        ]
        self.pool = self.another("embed", rule or policy("fleet_only"), limit)

    def another(self, route: str, rule: Policy, limit: int | None = None) -> Pool:
        return Pool(
            route, rule, self.tiers, clock=self.rig.clock, chance=self.rig.chance, timers=self.rig.timers,
            within=10.0, best_effort_limit=limit,
        )  # fmt: skip

    def ask(
        self,
        priority: str = "best_effort",
        *,
        until: float = 60.0,
        attempt: Attempt = FIRST,
        pool: Pool | None = None,
    ) -> Lease:
        made = call(deadline=self.rig.clock.now() + until)
        made.arrived = self.rig.clock.now()
        made.priority = priority
        lease = (pool or self.pool).slot(made, attempt)
        lease.ask()
        return lease


def place(lease: Lease) -> str | None:
    return None if lease.slot is None else lease.slot.backend.name


# -- what they get -----------------------------------------------------------------------------------


def test_an_idle_owned_slot_is_taken_at_once_without_asking_the_policy() -> None:
    bench = Bench(rule=NeverAsked(PolicyOptions()))
    lease = bench.ask()
    assert lease.slot is not None
    assert (place(lease), lease.slot.reason) == ("fleet", Reason.WARM)
    assert (bench.pool.best_effort, bench.pool.in_flight) == (1, 1)
    lease.release(Verdict.SUCCESS)
    assert (bench.pool.best_effort, bench.pool.in_flight) == (0, 0)


def test_a_rented_slot_is_never_taken_and_the_call_waits_beside_it() -> None:
    bench = Bench(rule=NeverAsked(PolicyOptions()))
    first, waiting = bench.ask(), bench.ask()
    assert (place(first), place(waiting)) == ("fleet", None)
    assert bench.rig.burst.free() == 1
    bench.rig.manual.advance(30.0)
    assert waiting.waiting
    first.release(Verdict.SUCCESS)
    slot = waiting.result()
    assert (slot.backend.name, slot.reason, slot.queued_s) == ("fleet", Reason.WARM_QUEUED, 30.0)


def test_a_rented_slot_that_frees_is_not_for_them_either() -> None:
    bench = Bench(rule=policy("spill_when_full"))
    bench.ask("default")
    spilled, waiting = bench.ask("default"), bench.ask()
    assert place(spilled) == "burst"
    spilled.release(Verdict.SUCCESS)
    assert waiting.waiting


def test_everybody_else_goes_first_whoever_came_first_and_whatever_is_due() -> None:
    bench = Bench()
    holder = bench.ask("default")
    filler = bench.ask(until=0.5)
    late, later, critical = bench.ask("default", until=50), bench.ask("default"), bench.ask("critical")
    served = []
    for _ in range(4):
        holder.release(Verdict.SUCCESS)
        (holder,) = (each for each in (filler, late, later, critical) if each.slot is not None)
        served.append(holder)
    assert served == [critical, late, later, filler]


def test_one_that_comes_while_somebody_waits_does_not_overtake_and_gets_what_is_left() -> None:
    """The slot that is free is on the replica that failed the call which waits."""
    bench = Bench(replicas=2)
    running = [bench.ask("default"), bench.ask("default")]
    replicas = [each.result().replica for each in running]
    waiting = bench.ask("default", attempt=Attempt(1, {("fleet", replicas[0])}))
    running[0].release(Verdict.SUCCESS)
    filler = bench.ask()
    assert waiting.waiting
    assert filler.waiting
    running[1].release(Verdict.SUCCESS)
    assert waiting.result().replica == replicas[1]
    assert filler.result().replica == replicas[0]


def test_of_two_pools_the_one_with_other_calls_is_served_first() -> None:
    bench = Bench()
    other = bench.another("chat", policy("fleet_only"))
    holder = bench.ask("default")
    filler = bench.ask()
    bench.rig.manual.advance(5.0)
    default = bench.ask("default", pool=other)
    holder.release(Verdict.SUCCESS)
    assert (place(filler), place(default)) == (None, "fleet")
    default.release(Verdict.SUCCESS)
    assert place(filler) == "fleet"


def test_what_is_due_first_first_among_themselves() -> None:
    bench = Bench()
    holder = bench.ask("default")
    slow, quick = bench.ask(until=50), bench.ask(until=5)
    holder.release(Verdict.SUCCESS)
    assert (place(slow), place(quick)) == (None, "fleet")


# -- what they do not get ----------------------------------------------------------------------------


def test_no_more_of_them_wait_or_run_than_the_limit() -> None:
    bench = Bench(limit=2)
    running, waiting = bench.ask(), bench.ask()
    with pytest.raises(Contended, match="as many best-effort calls as it may") as caught:
        bench.ask()
    assert caught.value.status == 429
    assert (caught.value.retry_after or 0.0) >= 1.0
    assert bench.pool.best_effort == 2
    waiting.abandon()
    again = bench.ask()
    assert again.waiting
    running.release(Verdict.SUCCESS)
    assert place(again) == "fleet"
    assert bench.ask().waiting
    with pytest.raises(Contended):
        bench.ask()


def test_the_limit_is_not_for_others() -> None:
    bench = Bench(limit=1)
    bench.ask()
    assert bench.ask("default").waiting
    assert bench.ask("critical").waiting


def test_where_nothing_is_owned_they_are_refused_and_told_what_would_be_served() -> None:
    bench = Bench(fleet=False, rule=NeverAsked(PolicyOptions()))
    with pytest.raises(NoCapacity, match="x-overspill-priority: default") as caught:
        bench.ask()
    assert caught.value.status == 503
    assert (bench.pool.best_effort, bench.pool.queue_depth, bench.rig.burst.in_flight) == (0, 0, 0)


def test_so_they_are_while_the_fleet_is_lost_and_where_it_failed_them() -> None:
    bench = Bench()
    with pytest.raises(NoCapacity):
        bench.ask(attempt=Attempt(1, {("fleet", 0)}))
    bench.rig.unready(bench.rig.fleet)
    with pytest.raises(NoCapacity):
        bench.ask()
    assert bench.pool.best_effort == 0


def test_a_deadline_ends_their_waiting_too() -> None:
    bench = Bench()
    bench.ask("default")
    waiting = bench.ask(until=3.0)
    bench.rig.manual.advance(3.0)
    with pytest.raises(DeadlinePassed):
        waiting.result()
    assert (bench.pool.best_effort, bench.pool.queue_depth, bench.rig.manual.live) == (0, 0, [])


def test_one_whose_deadline_is_over_is_passed_over_when_a_slot_frees() -> None:
    bench = Bench()
    holder = bench.ask("default")
    gone, there = bench.ask(until=3.0), bench.ask(until=30.0)
    bench.rig.fake.advance(5.0)  # no timer has rung yet
    holder.release(Verdict.SUCCESS)
    assert place(there) == "fleet"
    with pytest.raises(DeadlinePassed):
        gone.result()
    assert bench.pool.best_effort == 1


# -- what is not learned from them -------------------------------------------------------------------


def test_nothing_is_learned_from_them() -> None:
    bench, taught = Bench(), Bench()
    for each, priority in ((bench, "best_effort"), (taught, "default")):
        for _ in range(50):
            lease = each.ask(priority)
            each.rig.manual.advance(30.0)  # longer than the budget
            lease.release(Verdict.SUCCESS)
        each.estimates["fleet"].refresh()
    prior = Expectation().service.mean
    assert bench.estimates["fleet"].service.mean == prior
    assert bench.pool.attainment.seen == 0
    assert taught.estimates["fleet"].service.mean > 2 * prior


def test_they_are_no_work_and_no_load_to_the_decision() -> None:
    bench = Bench()
    bench.ask()
    for _ in range(5):
        bench.ask()
    now = bench.rig.clock.now()
    assert (bench.pool.work, bench.pool.in_time, list(bench.pool.waiting)) == (0.0, 0, [])
    assert bench.pool.load(now) == 0.0
    bench.ask("default")
    assert bench.pool.load(now) > 0.0
