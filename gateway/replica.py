"""What is known about one replica: its slots, its breaker, its readiness, its latency.

Holds and averages values; choosing between replicas is `capacity.py`'s job. Knows no other replica.
"""

from typing import Any

from backends.base import Load
from gateway.breaker import Breaker
from gateway.clock import Timer
from gateway.slots import SlotSource

LATENCY_MEMORY_S = 10.0
"""Time constant of the latency average; the decay time of Finagle's peak-EWMA balancer."""
LATENCY_STALE_S = 3 * LATENCY_MEMORY_S
"""A replica not measured for this long counts as unknown, so that one slow spell is not for ever."""


class ReplicaState:
    """What is known about one replica.

    ready:    None until a probe has said something; treated like True, so that a gateway that has
              just started serves at once and learns from what happens
    latency:  moving average in seconds from taking the slot to the answer's head; None if unknown
    load:     what the replica itself said last; None if it was not asked, or not lately
    retired:  it gets no new calls any more; it is gone once those it has are over
    """

    __slots__ = (
        "breaker", "failed_probes", "index", "latency", "latency_at", "load", "looks", "name", "place",
        "ready", "retired", "room", "samples", "slots", "timer", "usable",
    )  # fmt: skip

    def __init__(self, index: int, name: str, slots: SlotSource, breaker: Breaker) -> None:
        self.index = index
        self.name = name
        self.slots = slots
        self.breaker = breaker
        self.ready: bool | None = None
        self.failed_probes = 0
        self.latency: float | None = None
        self.latency_at = 0.0
        self.samples = 0
        self.usable = False
        self.room = 0
        self.place = -1  # its index in Capacity._open, -1 when it has no room
        self.timer: Timer | None = None
        self.load: Load | None = None
        self.retired = False
        self.looks = 0  # times in a row that it stood out from its siblings

    @property
    def in_flight(self) -> int:
        """Calls running on it."""
        return self.slots.in_flight

    def learn(self, seconds: float, now: float) -> None:
        """Take a measured latency into the average.

        The first measurements count alike, so that one slow first answer does not stand for the
        replica; later on older ones fade by age (`LATENCY_MEMORY_S`), not by the number that followed.
        """
        age, before = now - self.latency_at, self.latency
        if before is None or age > LATENCY_STALE_S:
            self.latency = seconds
            self.samples = 1
        else:
            self.samples = samples = self.samples + 1
            # The first-order form of 1 - exp(-age / memory): near enough, and this runs for every call.
            weight = age / (age + LATENCY_MEMORY_S) if age > 0.0 else 0.0
            if weight * samples < 1.0:
                weight = 1.0 / samples
            self.latency = before + weight * (seconds - before)
        self.latency_at = now

    def known_latency(self, samples: int, now: float) -> float | None:
        """The average, if it is of so many measurements and not too old."""
        if self.samples < samples or now - self.latency_at > LATENCY_STALE_S:
            return None
        return self.latency

    def forget(self) -> None:
        """What was measured says nothing about the time that comes."""
        self.latency = None
        self.samples = 0

    def pushed_back(self, now: float) -> None:
        """The replica refused a call as one too many; whoever learns its slots takes note."""

    def view(self, now: float) -> dict[str, Any]:
        """The replica for people: plain values only."""
        load = self.load
        return {
            "name": self.name,
            "ready": self.ready,
            "breaker": str(self.breaker.state(now)),
            "in_flight": self.in_flight,
            "capacity": self.slots.capacity,
            "latency_s": self.latency,
            "leaving": self.retired,
            "load": None if load is None else load.view(now),
        }
