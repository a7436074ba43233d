"""Small parts for the tests of this folder: calls, attempts, backends in memory, a pool on manual time."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from random import Random
from typing import Any, NamedTuple

import policies
from backends.base import Kit
from backends.loopback import Loopback, LoopbackOptions, LoopbackRented, LoopbackRentedOptions
from gateway.capacity import Capacity
from gateway.clock import Clock, FakeClock, TimerHost
from gateway.lease import Lease
from gateway.pool import Pool
from gateway.slot import Slot
from gateway.tier import Tier
from gateway.vocab import Call, WholeBody
from policies.base import Policy, PolicyOptions, TierOptions
from tests.support.timers import ManualTimers

NOW = 1_000.0


class Attempt(NamedTuple):
    number: int = 0
    tried: Collection[tuple[str, int]] = frozenset()


FIRST = Attempt()


def call(*, deadline: float = NOW + 60, inference: bool = True, body: bytes = b"") -> Call:
    made = Call(
        protocol="kserve",
        operation="infer",
        method=b"POST",
        target=b"/v2/models/m/infer",
        headers=[],
        body=WholeBody(body),
        model="m",
        inference=inference,
    )
    made.deadline = deadline
    return made


def kit(clock: Clock, chance: Random) -> Kit:
    def spawn(work: Any, /, *, name: str) -> None:
        raise AssertionError("a loopback has no background work")

    return Kit(clock, chance, spawn)


def fleet(
    name: str, *, slots: int = 1, replicas: int = 1, clock: Clock, chance: Random, **options: Any
) -> Loopback:
    plan = LoopbackOptions(type="loopback", max_in_flight=slots, replicas=replicas, **options)
    return Loopback(name, plan, kit(clock, chance))


def rented(name: str, *, slots: int = 1, clock: Clock, chance: Random, **options: Any) -> LoopbackRented:
    plan = LoopbackRentedOptions(type="loopback_rented", max_in_flight=slots, **options)
    return LoopbackRented(name, plan, kit(clock, chance))


def policy(name: str) -> Policy:
    return policies.policies.get(name)(PolicyOptions())


class Rig:
    """A fleet and a rented backend behind one pool, on a clock that stands still."""

    def __init__(
        self,
        *,
        fleet_slots: int = 1,
        fleet_replicas: int = 1,
        burst_slots: int = 1,
        fleet_full: Any = "spill",
        burst_full: Any = "spill",
        rule: Policy | None = None,
        clock: Clock | None = None,
        timers: TimerHost | None = None,
    ) -> None:
        self.fake = FakeClock(NOW)
        self.clock: Clock = clock or self.fake
        self.manual = ManualTimers(self.fake)
        self.timers: TimerHost = timers or self.manual
        self.chance = Random(7)
        here: dict[str, Any] = {"clock": self.clock, "chance": self.chance}
        self.fleet_backend = fleet("fleet", slots=fleet_slots, replicas=fleet_replicas, **here)
        self.burst_backend = rented("burst", slots=burst_slots, **here)
        here["timers"] = self.timers
        self.fleet = Capacity(self.fleet_backend, **here)
        self.burst = Capacity(self.burst_backend, **here)
        self.tiers = [
            Tier(TierOptions(backend="fleet", when_full=fleet_full), self.fleet),
            Tier(TierOptions(backend="burst", when_full=burst_full), self.burst),
        ]
        self.pool = self.another("embed", rule or policy("spill_when_full"))

    def another(self, route: str, rule: Policy | None = None) -> Pool:
        """One more pool on the same two backends."""
        rule = rule or policy("spill_when_full")
        return Pool(route, rule, self.tiers, clock=self.clock, chance=self.chance, timers=self.timers)

    def unready(self, supply: Capacity) -> None:
        """Two failed probes on every replica."""
        for _ in range(2):
            for index in range(len(supply.replicas)):
                supply.note_ready(index, False, self.clock.now())


@asynccontextmanager
async def holding(lease: Lease) -> AsyncIterator[Slot]:
    """What a call does with its lease: it waits for the slot, and gives it back."""
    with lease:
        yield await lease.granted()
