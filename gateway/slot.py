"""One place taken on one replica, until it is given back.

Holds what is told to it; counting is its owner's job (`capacity.py`), and what became of the call its
holder's. Knows no queue and no policy.
"""

from operator import attrgetter
from typing import ClassVar, Protocol

import msgspec

from backends.base import Backend
from gateway.replica import ReplicaState
from gateway.spending import Reservation
from gateway.vocab import Reason, Start, Verdict

QUESTION = -1
"""Ticket of a place that takes no slot: a question about a model."""
_RETURNED = -2


class Owner(Protocol):
    """Whose slots they are."""

    backend: Backend

    def take_back(self, slot: "Slot", ticket: int, verdict: Verdict, now: float) -> None:
        """A slot returns."""
        ...


class Slot(msgspec.Struct, eq=False):
    """One place taken on one replica, until it is given back.

    backend:      what it is a place of
    reason:       why the call runs here
    queued_s:     seconds the call waited for it
    taken_at:     when it was taken, on the clock
    answered_at:  when the answer's head came; None before that
    age:          seconds for which the instance behind it had idled; None where none is known to be there
    opening:      it is held while an instance boots, for no call in particular
    used:         something was sent there
    behind:       instances that booted already when it went into the provider's own queue; None: it did not
    start:        whether the answer had to wait for a boot, as far as was told; `boot_s` for how long
    waited_s:     seconds in the provider's own queue, no boot among them; None where that was not told
    reservation:  the money set aside for it; None where no spill budget applies
    """

    supply: Owner
    state: ReplicaState
    ticket: int
    """The breaker's, or one of the two below zero."""
    taken_at: float
    reason: Reason
    queued_s: float
    backend: Backend
    answered_at: float | None = None
    age: float | None = None
    opening: bool = False
    used: bool = False
    behind: int | None = None
    start: Start | None = None
    boot_s: float | None = None
    waited_s: float | None = None
    reservation: Reservation | None = None

    # Read for every call: by getters without a frame of their own.
    replica: ClassVar["property"] = property(attrgetter("state.index"))
    """Index of the replica."""
    replica_name: ClassVar["property"] = property(attrgetter("state.name"))
    """What its backend calls it."""

    def answered(self, now: float) -> None:
        """The answer's head is here: what came before it is the replica's latency."""
        self.answered_at = now

    def pushed_back(self, now: float) -> None:
        """The replica refused the call as one too many. Told before the slot is given back."""
        self.backend.pushbacks += 1
        self.state.pushed_back(now)

    def give_back(self, verdict: Verdict, now: float) -> None:
        """End of the attempt. Exactly once; RuntimeError the second time."""
        ticket, self.ticket = self.ticket, _RETURNED
        if self.reservation is not None and self.reservation.open:
            self.reservation.cancel()  # nothing was sent; before the slot is offered to whoever waits
        if ticket >= 0:
            self.supply.take_back(self, ticket, verdict, now)
        elif ticket == _RETURNED:
            raise RuntimeError("this slot was given back before")


class Kept(Slot):
    """A place whose idle instance is only to be kept from going: nothing is learned from how long that takes.

    used_at:  when a call last ended on the instance, or when it was up
    """

    used_at: float = 0.0
