"""The provider's own queue: who is taken to run, to wait, to boot and to idle, beside an endpoint that has one."""

from functools import partial
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.aws_lambda import AwsLambda
from backends.base import Kit
from backends.cloud_run import CloudRun
from backends.modal import Modal
from backends.runpod import RunPod
from gateway.capacity import Capacity
from gateway.lessons import learn
from gateway.provider_queue import ProviderQueue
from gateway.simulator.engine import VirtualTime
from gateway.simulator.queued_endpoint import QueuedEndpoint
from gateway.simulator.world import no_background
from gateway.slot import Slot
from gateway.vocab import Reason, Rent, Start, Verdict
from tests.pool.parts import NOW

BOOT_S, IDLE_S = 6.0, 5.0


class World:
    """An endpoint with a queue, and what the gateway makes of the calls that it sends there."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        kit = Kit(clock=self.time, chance=Random(1), spawn=no_background)
        rent = Rent(1.0, idle_s=IDLE_S, boot_s=BOOT_S)
        self.endpoint = QueuedEndpoint(
            "burst", kit, limit=50, rent=rent, colds=lambda index: BOOT_S, time=self.time
        )
        self.supply = Capacity(self.endpoint, clock=self.time, chance=Random(1), timers=self.time)
        self.begun: list[tuple[int, float, Start]] = []

    def send(self, ticket: int, seconds: float) -> None:
        now = self.time.instant
        slot = self.supply.take((), now, Reason.SPILL_FULL, 0.0)
        assert slot is not None
        slot.used = True
        self.endpoint.send_call(_Call(self, slot, ticket), ticket, seconds, now)

    def counts(self) -> tuple[int, int, int]:
        """Instances that idle and that boot, and calls in the provider's queue, as the gateway sees it."""
        assert self.supply.warmth is not None
        assert self.supply.provider_queue is not None
        return self.supply.warm, len(self.supply.warmth.opening), self.supply.provider_queue.calls

    def truth(self) -> tuple[int, int, int]:
        """The same as it is."""
        now = self.time.instant
        idle = [life for life in self.endpoint._idle if now < life.free_since + IDLE_S]
        return len(idle), self.endpoint._booting, len(self.endpoint._queue)


class _Call(NamedTuple):
    world: World
    slot: Slot
    ticket: int

    def served_from(self, now: float, seconds: float, *, boot_s: float, waited_s: float) -> None:
        self.slot.start = Start.COLD if boot_s else Start.WARM
        self.slot.boot_s, self.slot.waited_s = boot_s, waited_s
        self.world.begun.append((self.ticket, now, self.slot.start))
        self.world.time.at(now + seconds, self.ended)

    def ended(self) -> None:
        now = self.world.time.instant
        self.world.endpoint.end(self.ticket, now)
        self.slot.give_back(Verdict.SUCCESS, now)


# -- the queue ---------------------------------------------------------------------------------------


def test_an_instance_that_becomes_free_serves_the_call_for_which_another_boots() -> None:
    world = World()
    world.time.run([0.0, 5.5], lambda ticket: world.send(ticket, 1.0))
    assert world.begun == [(0, 6.0, Start.COLD), (1, 7.0, Start.WARM)]
    assert len(world.endpoint.lives) == 2


def test_a_boot_that_nobody_waits_for_any_more_is_there_for_the_next_call() -> None:
    world = World()
    seen: list[tuple[int, int, int]] = []
    world.time.at(7.5, lambda: seen.append(world.counts()))
    world.time.at(12.0, lambda: seen.append(world.counts()))
    world.time.run([0.0, 5.5, 8.5], lambda ticket: world.send(ticket, 4.0 if ticket == 2 else 1.0))
    assert seen == [(0, 1, 0), (1, 0, 0)], "the second instance, first on its way, then idle"
    assert len(world.endpoint.lives) == 2, "the third call made none boot"


def test_a_call_that_gives_up_leaves_its_boot_to_others() -> None:
    world = World()
    slot = world.supply.take((), 0.0, Reason.SPILL_FULL, 0.0)
    assert slot is not None
    slot.used = True
    slot.give_back(Verdict.NEUTRAL, 1.0)
    assert world.counts() == (0, 1, 0)
    world.time.run([2.0], lambda _: None)
    assert world.counts() == (1, 0, 0), "it has come up all the same"


def test_nothing_boots_for_a_call_that_was_never_sent() -> None:
    world = World()
    slot = world.supply.take((), 0.0, Reason.SPILL_FULL, 0.0)
    assert slot is not None
    slot.give_back(Verdict.NEUTRAL, 0.0)
    assert world.counts() == (0, 0, 0)


def test_how_long_boots_take_is_learned_from_those_that_were_waited_for() -> None:
    world = World()
    queue = world.supply.provider_queue
    assert isinstance(queue, ProviderQueue)
    for _ in range(40):
        slot = world.supply.take((), 0.0, Reason.SPILL_FULL, 0.0)
        assert slot is not None
        slot.used, slot.start, slot.boot_s = True, Start.COLD, 2.0
        slot.give_back(Verdict.SUCCESS, 0.0)
        assert world.supply.warmth is not None
        world.supply.warmth.take(0.0)
    assert queue.boot_s == pytest.approx(2.0, abs=0.01)


steps = st.lists(
    st.tuples(st.sampled_from([0.0, 0.01, 0.7, 2.9, 11.3]), st.sampled_from([0.013, 0.4, 1.7, 8.9])),
    min_size=1,
    max_size=40,
)


@given(steps)
def test_where_boots_take_as_long_as_said_nothing_is_guessed_wrong(moves: list[tuple[float, float]]) -> None:
    world = World()
    arrivals, now = [], 0.0
    for gap, _ in moves:
        now += gap
        arrivals.append(now)
    looks = [at + 0.003 + step for at in arrivals for step in (0.0, 0.111, 3.0)]

    def look() -> None:
        assert world.counts() == world.truth()

    for moment in looks:
        world.time.at(moment, look)
    world.time.run(arrivals, lambda ticket: world.send(ticket, moves[ticket][1]))
    assert sorted(ticket for ticket, _, _ in world.begun) == list(range(len(moves)))
    assert world.counts()[1:] == (0, 0)


# -- what is learned there ---------------------------------------------------------------------------


class _Learned:
    """Estimates that remember what they were told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def learn_served(self, bucket: int, seconds: float, now: float) -> None:
        self.told.append(("served", seconds))

    def learn_cold(self, age: float | None, seconds: float, now: float) -> None:
        self.told.append(("boot", seconds))

    def learn_start(self, age: float, cold: bool) -> None:
        self.told.append(("start", cold))


class _Attainment:
    def note(self, now: float, *, in_time: bool) -> None:
        pass


class _Tier(NamedTuple):
    estimates: _Learned
    owned: bool = False
    answers: None = None


class _Past(NamedTuple):
    arrived: float = NOW
    stream: bool = False


class _Lease(NamedTuple):
    tier: _Tier
    call: _Past = _Past()
    due: float = NOW + 100
    bucket: int = 0


def taught(start: Start, *, boot_s: float | None, waited_s: float | None) -> list[tuple[str, Any]]:
    world = World()
    slot = world.supply.take((), NOW, Reason.SPILL_FULL, 0.0)
    assert slot is not None
    slot.start, slot.boot_s, slot.waited_s = start, boot_s, waited_s
    learned = _Learned()
    lease: Any = _Lease(_Tier(learned))
    attainment: Any = _Attainment()
    learn(lease, slot, attainment, NOW + 10.0)
    return learned.told


def test_the_wait_in_the_providers_queue_is_no_part_of_the_service() -> None:
    assert taught(Start.WARM, boot_s=0.0, waited_s=7.5) == [("served", 2.5)]
    assert taught(Start.COLD, boot_s=6.0, waited_s=None) == [("boot", 6.0), ("served", 4.0)]


def test_where_the_wait_is_not_told_nothing_is_learned_of_the_service() -> None:
    assert taught(Start.WARM, boot_s=0.0, waited_s=None) == []


# -- where it exists ---------------------------------------------------------------------------------


def backend(cls: Any, **options: Any) -> Any:
    kit = Kit(clock=VirtualTime(), chance=Random(1), spawn=no_background)
    plan = cls.Options.model_validate({**cls.example("http://127.0.0.1:9"), **options})
    return cls("burst", plan, kit)


def test_runpod_and_modal_have_one() -> None:
    for cls in (RunPod, Modal):
        made = backend(cls, late_binding="provider")
        assert (made.can_open, made.binds_late) == (False, True)
        assert not backend(cls).binds_late
        assert not backend(cls, late_binding="none").binds_late


def test_jobs_of_a_handler_that_nobody_can_ping_bind_late_at_runpod() -> None:
    raw = partial(backend, RunPod, envelope="raw")
    assert (raw().can_open, raw().binds_late) == (False, True)
    assert not raw(late_binding="none").binds_late


def test_a_provider_without_a_queue_has_none_to_wait_in() -> None:
    for cls in (AwsLambda, CloudRun):
        with pytest.raises(ValidationError, match="late_binding: provider is for providers with a queue"):
            backend(cls, late_binding="provider")
