"""A fleet that is asked for five times what it can do, on virtual time: who is answered, and who is told at once."""

from random import Random

from gateway.capacity import Capacity
from gateway.clock import FakeClock
from gateway.errors import Contended, DeadlinePassed
from gateway.estimates import Estimates
from gateway.lease import Lease
from gateway.pool import Pool
from gateway.tier import Tier
from gateway.vocab import Reason, Verdict
from policies.base import TierOptions
from policies.cheapest_in_budget import CheapestInBudget, CheapestInBudgetOptions
from tests.pool.parts import FIRST, call, fleet
from tests.support.timers import ManualTimers

SLOTS, SERVICE_S, BUDGET_S, TIMEOUT_S = 8, 0.04, 0.4, 2.0


class Scene:
    """One fleet behind `cheapest_in_budget`; every call takes the same time."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.timers = ManualTimers(self.clock)
        self.chance = Random(3)
        backend = fleet("fleet", slots=SLOTS, clock=self.clock, chance=self.chance)
        supply = Capacity(backend, clock=self.clock, chance=self.chance, timers=self.timers)
        known = Estimates().of("overload", "fleet")
        for _ in range(50):
            known.learn_service(0, SERVICE_S, self.clock.now())
        self.pool = Pool(
            "overload", CheapestInBudget(CheapestInBudgetOptions()), [Tier(TierOptions(backend="fleet"), supply, known)],
            clock=self.clock, chance=self.chance, timers=self.timers, within=BUDGET_S,
        )  # fmt: skip
        self.offered = {"critical": 0, "default": 0, "best_effort": 0}
        self.in_budget = dict.fromkeys(self.offered, 0)
        self.served = 0
        self.told_at_once = 0
        self.told_after: list[float] = []

    def send(self, priority: str = "default", timeout_s: float = TIMEOUT_S) -> Contended | None:
        now = self.clock.now()
        made = call(deadline=now + timeout_s)
        made.arrived, made.priority = now, priority
        lease = Lease(self.pool, made, FIRST)
        self.offered[priority] += 1
        try:
            if lease.ask(lambda: self._settled(lease)) is not None:
                self._began(lease)
        except Contended as error:
            self.told_at_once += 1
            return error
        return None

    def _settled(self, lease: Lease) -> None:
        if lease.slot is not None:
            assert self.clock.now() < lease.deadline, "a call whose deadline is over takes no slot"
            self._began(lease)
        else:
            assert isinstance(lease.error, Contended | DeadlinePassed)
            self.told_after.append(self.clock.now() - lease.call.arrived)

    def _began(self, lease: Lease) -> None:
        self.timers.call_at(self.clock.now() + SERVICE_S, lambda: self._end(lease))

    def _end(self, lease: Lease) -> None:
        self.served += 1
        self.in_budget[lease.call.priority] += self.clock.now() - lease.call.arrived <= BUDGET_S + 1e-9
        lease.release(Verdict.SUCCESS)

    def offer(self, factor: float, seconds: float) -> None:
        ends = self.clock.now() + seconds
        while self.clock.now() < ends:
            lot = self.chance.random()
            priority = "critical" if lot < 0.1 else "default" if lot < 0.8 else "best_effort"
            self.send(priority, BUDGET_S if self.chance.random() < 0.5 else TIMEOUT_S)
            self.timers.advance(self.chance.expovariate(factor * SLOTS / SERVICE_S))


def test_goodput_at_five_times_the_capacity_is_that_at_one_and_critical_calls_do_not_notice() -> None:
    goodput = {}
    for factor in (1, 5):
        scene = Scene()
        scene.offer(factor, 12.0)
        goodput[factor] = sum(scene.in_budget.values())
        assert scene.in_budget["critical"] >= 0.99 * scene.offered["critical"]
    assert goodput[5] >= 0.9 * goodput[1]
    assert goodput[5] >= 0.9 * 12.0 * SLOTS / SERVICE_S


def test_most_of_those_that_have_no_chance_are_told_when_they_come_and_few_wait() -> None:
    scene = Scene()
    scene.offer(5, 6.0)
    longest = 0
    for _ in range(8):
        scene.offer(5, 0.5)
        longest = max(longest, scene.pool.queue_depth)
    assert longest <= TIMEOUT_S * SLOTS / SERVICE_S
    assert scene.told_at_once >= 0.5 * sum(scene.offered.values())


def test_a_call_without_a_chance_is_refused_with_the_time_after_which_to_come_back() -> None:
    scene = Scene()
    scene.offer(5, 5.0)
    error = scene.send("best_effort", BUDGET_S)
    assert error is not None
    assert error.status == 429
    assert error.reason is Reason.SHED_DEADLINE
    assert error.retry_after is not None
    assert error.retry_after >= 1.0


def test_a_body_that_has_yet_to_come_is_not_waited_for_where_there_will_be_no_slot() -> None:
    scene = Scene()
    made = call(deadline=scene.clock.now() + BUDGET_S)
    made.arrived = scene.clock.now()
    scene.pool.look_ahead(made)
    scene.offer(5, 5.0)
    refused = 0
    for priority in ("best_effort", "default"):
        made = call(deadline=scene.clock.now() + BUDGET_S)
        made.arrived, made.priority = scene.clock.now(), priority
        try:
            scene.pool.look_ahead(made)
        except Contended:
            refused += 1
    assert refused >= 1
    made.priority = "critical"
    scene.pool.look_ahead(made)


def test_late_calls_are_served_once_there_is_room_again() -> None:
    scene = Scene()
    for _ in range(120):
        scene.send("default", 60.0)
    scene.timers.advance(10.0)
    assert scene.served == 120
    assert not scene.told_after
