"""Which kind of slots and state a replica gets: the plain ones where nothing about them ever changes.

Knows the backend contract and the parts it chooses among; never a policy, a queue or a call.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from backends.base import Backend
from gateway.breaker import Breaker
from gateway.limited_slots import LimitedSlots
from gateway.limiter import GradientLimiter
from gateway.options import Auto
from gateway.replica import ReplicaState
from gateway.slots import CounterSlots, SlotSource


class LearningReplica(ReplicaState):
    """A replica whose number of slots is learned from its calls (`max_in_flight: auto`)."""

    __slots__ = ("limiter",)

    slots: LimitedSlots
    limiter: GradientLimiter

    def learn(self, seconds: float, now: float) -> None:
        """A call succeeded; its slot is back already."""
        super().learn(seconds, now)
        if self.limiter.answered(seconds, self.slots.in_flight + 1, now):
            self.slots.resize(self.limiter.limit)

    def pushed_back(self, now: float) -> None:
        """The replica refused a call as one too many, whose slot is not back yet."""
        if self.limiter.pushed_back(self.slots.in_flight, now):
            self.slots.resize(self.limiter.limit)


def new_replica(
    backend: Backend, index: int, name: str, *, slots: SlotSource | None, chance: Random, now: float
) -> ReplicaState:
    """The state of a replica; `slots` are its slots if they come from elsewhere."""
    most = backend.options.max_in_flight
    breaker = Breaker(chance)
    if slots is not None:
        return ReplicaState(index, name, slots, breaker)
    if isinstance(most, Auto):
        learning = LearningReplica(index, name, LimitedSlots(most), breaker)
        learning.limiter = GradientLimiter(chance=chance, now=now, start=most)
        return learning
    return ReplicaState(index, name, LimitedSlots(most) if backend.moves else CounterSlots(most), breaker)


class FleetSize(NamedTuple):
    """Replicas that are there, usable or not, and the calls that one of them can have at once."""

    replicas: int
    slots: int


def size_of(backend: Backend, replicas: Sequence[ReplicaState]) -> FleetSize | None:
    """How large a fleet is now; None where that never changes. Replicas that leave are not counted."""
    most = backend.options.max_in_flight
    if not backend.moves and not isinstance(most, Auto):
        return None
    limits = [limited(replica).limit for replica in replicas if not replica.retired]
    return FleetSize(len(limits), max(1, round(sum(limits) / len(limits))) if limits else int(most))


def limited(replica: ReplicaState) -> LimitedSlots:
    """The slots of a replica of a backend that `moves`. TypeError for others."""
    slots = replica.slots
    if not isinstance(slots, LimitedSlots):
        raise TypeError(f"the slots of {replica.name} cannot change: they are {type(slots).__name__}")
    return slots
