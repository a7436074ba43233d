"""The errors of a pool that has no place for a call, each with the time after which trying again is sensible.

Knows the tiers of one route and how many wait; it decides nothing.
"""

from collections.abc import Sequence
from copy import copy
from math import ceil

from gateway.errors import (
    BodyTooLarge,
    Contended,
    DeadlinePassed,
    NoCapacity,
    NotOffered,
    OverspillError,
    UnknownRoute,
)
from gateway.tier import Tier
from gateway.vocab import Call, Reason, WholeBody
from policies.base import Shed


class Refusals:
    """Refusals of one route."""

    def __init__(self, route: str, tiers: Sequence[Tier]) -> None:
        self._route = route
        self._tiers = tiers

    def shed(self, action: Shed, waiting: int, now: float) -> OverspillError:
        """The policy has given a call up."""
        error: OverspillError
        if action.contended:
            seconds = self._turn(waiting)
            error = Contended(
                f"every slot of route {self._route} is taken; try again in {seconds:.0f} s",
                retry_after=seconds,
            )
        else:
            error = NoCapacity(
                f"no backend of route {self._route} can take calls now", retry_after=self._recovery(now)
            )
        error.reason = action.reason
        return error

    def too_late(self, waiting: int) -> DeadlinePassed:
        """The deadline of a call is over."""
        return DeadlinePassed(
            f"the deadline passed before a slot of route {self._route} was free",
            retry_after=self._turn(waiting),
        )

    def hopeless(self, waiting: int) -> Contended:
        """The deadline of a call is not over, and cannot be kept."""
        seconds = self._turn(waiting)
        error = Contended(
            f"no slot of route {self._route} will be free before the deadline; try again in {seconds:.0f} s",
            retry_after=seconds,
        )
        error.reason = Reason.SHED_DEADLINE
        return error

    def no_answerer(self, now: float) -> NoCapacity:
        """Nobody is there for a question about a model."""
        return NoCapacity(
            f"no backend of route {self._route} that is paid for anyway can answer questions now",
            retry_after=self._recovery(now),
        )

    def only_filling(self) -> NoCapacity:
        """A best-effort call on a route where nothing is paid for anyway."""
        return NoCapacity(
            f"route {self._route} has no owned backend that can take calls, and best-effort calls "
            "rent nothing; send it with x-overspill-priority: default"
        )

    def enough_filling(self, waiting: int) -> Contended:
        """The limit for best-effort calls is reached."""
        seconds = self._turn(waiting)
        return Contended(
            f"route {self._route} holds as many best-effort calls as it may; try again in {seconds:.0f} s",
            retry_after=seconds,
        )

    def _turn(self, waiting: int) -> float:
        """Whole seconds, at least one: when the slots that are turning over now will have served everyone in
        the queue and one more, at the pace of the recent past.
        """
        pace = sum(
            tier.supply.capacity / tier.supply.held_s
            for tier in self._tiers
            if tier.supply.blocked is None and tier.supply.held_s
        )
        return float(max(1, ceil((waiting + 1) / pace))) if pace else 1.0

    def _recovery(self, now: float) -> float:
        """Whole seconds, at least one: when the first breaker lets a trial through."""
        waits = (tier.supply.retry_in(now) for tier in self._tiers)
        return float(max(1, ceil(min((wait for wait in waits if wait is not None), default=0.0))))


def never(call: Call, tiers: Sequence[Tier]) -> OverspillError | None:
    """What to tell a client whose call no backend of its route could ever carry: trying again is no use.

    413 where it is for its size, 404 for the version it asks for, else 501. None where some backend could.
    """
    why: list[str] = []
    for tier in tiers:  # asked of every call that is shed: the first backend that could is enough
        unfit = tier.supply.backend.unfit(call)
        if unfit is None:
            return None
        why.append(unfit)
    if not why:
        return None
    said = f"no backend of route {call.route} can carry this call: {'; '.join(why)}"
    current, empty = copy(call), copy(call)
    current.version = ""
    empty.body = WholeBody(b"")
    for other, error in ((empty, BodyTooLarge), (current, UnknownRoute)):
        if any(tier.supply.backend.unfit(other) is None for tier in tiers):
            return error(said)
    return NotOffered(said)
