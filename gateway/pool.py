"""Everything that serves one route: its tiers, its policy and one queue in deadline order.

    arrive ──► policy ──► Run    a slot is taken in the same step
                     ├──► Hold   into the queue, until a slot frees or the promised moment comes
                     └──► Shed   Contended (429) or NoCapacity (503)

The gateway holds the call; a backend gets at most its slots. Between deciding and taking nothing
awaits, so no decision rests on a stale view. What is taken is given back on every way out, and the
freed slot is offered at once to whoever waits, in this pool or in another on the same backend.

The policy is asked, never trusted with anything but choosing: what it returns is checked by
carrying it out, and an error in it costs its own call. Knows no concrete policy and no backend.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from math import ceil, inf
from operator import attrgetter
from random import Random
from typing import Any

from gateway.capacity import Capacity, Slot
from gateway.clock import Clock, TimerHost
from gateway.errors import Contended, DeadlinePassed, NoCapacity, OverspillError
from gateway.lease import Attempt, Lease, Tier
from gateway.vocab import Call, Reason, Verdict
from policies.base import Action, Hold, Policy, Run, Shed

SHORTEST_HOLD_S = 0.001
"""A policy that asks to be asked again at once is asked again after this long."""

_in_order: Callable[[Lease], tuple[float, int]] = attrgetter("order")


class Pool:
    """The tiers, the policy and the queue of one route (`policies.base.PoolView`)."""

    def __init__(
        self,
        route: str,
        policy: Policy,
        tiers: Sequence[Tier],
        *,
        clock: Clock,
        chance: Random,
        timers: TimerHost,
    ) -> None:
        self.route = route
        self.policy = policy
        self.tiers = tuple(tiers)
        self.clock = clock
        self._chance = chance
        self._timers = timers
        self.supplies: Mapping[str, Capacity] = {tier.options.backend: tier.supply for tier in self.tiers}
        if len(self.supplies) != len(self.tiers):
            raise ValueError(f"route {route}: a backend may be only one of its tiers")
        self._queue: list[Lease] = []
        self._arrivals = 0
        self.in_flight = 0
        """Slots that calls of this pool hold."""

    @property
    def waiting(self) -> Sequence[Lease]:
        """The queue, earliest deadline first; first come first where deadlines are equal."""
        return self._queue

    @property
    def queue_depth(self) -> int:
        """Calls waiting."""
        return len(self._queue)

    def draw(self) -> float:
        """A random number from [0, 1)."""
        return self._chance.random()

    def slot(self, call: Call, attempt: Attempt) -> Lease:
        """`async with pool.slot(call, attempt) as slot`: a place to run this attempt on."""
        return Lease(self, call, attempt)

    def view(self, now: float) -> dict[str, Any]:
        """The pool for people: plain values only."""
        return {
            "route": self.route,
            "in_flight": self.in_flight,
            "waiting": len(self._queue),
            "longest_wait_s": max((now - lease.since for lease in self._queue), default=0.0),
            "tiers": [tier.supply.view(now) for tier in self.tiers],
        }

    def __repr__(self) -> str:
        return f"<Pool {self.route}: {self.in_flight} in flight, {len(self._queue)} waiting>"

    # -- one call ------------------------------------------------------------------------------

    def arrive(self, lease: Lease, now: float) -> Slot | None:
        """A call has come: its slot, or None when it was put into the queue. Raises Shed errors."""
        if now >= lease.deadline:
            raise self.too_late(now)
        if not lease.call.inference:
            return self._question(lease, now)
        action = self.policy.arrive(lease, self, now, self._chance)
        if isinstance(action, Run):  # the common case, without a detour
            slot = self._take(lease, action.backend, action.reason, now)
            if slot is not None:
                return slot
            action = self.policy.recheck(lease, self, now, self._chance)
        return self._carry_out(lease, action, now)

    def release(self, slot: Slot, verdict: Verdict) -> None:
        """An attempt has ended."""
        if slot.ticket >= 0:  # not a question's
            self.in_flight -= 1
        slot.give_back(verdict, self.clock.now())

    def leave(self, lease: Lease) -> None:
        """A waiting call was given up by its caller."""
        self._dequeue(lease)
        lease.settle(None, None)

    def due(self, lease: Lease) -> None:
        """The moment came at which a waiting call was to be looked at again."""
        if lease.waiting:
            lease.timer = None
            # Hosts round: a timer that rings a little early still means the moment it was set for.
            self._look_again(lease, max(lease.wake_at, self.clock.now()))

    def _question(self, lease: Lease, now: float) -> Slot:
        """A question about a model: no slot, no queue, and no rented backend, since it is not work."""
        for tier in self.tiers:
            if tier.owned and lease.may_use(tier.options.backend):
                slot = tier.supply.question(lease.tried, now)
                if slot is not None:
                    lease.slot = slot
                    return slot
        raise NoCapacity(
            f"no backend of route {self.route} that is paid for anyway can answer questions now",
            retry_after=self._retry_after(now, contended=False),
        )

    def _carry_out(self, lease: Lease, action: Action, now: float) -> Slot | None:
        """Do what the policy said. None: the call is in the queue."""
        for _ in range(len(self.tiers) + 1):
            if isinstance(action, Run):
                slot = self._take(lease, action.backend, action.reason, now)
                if slot is not None:
                    return slot
                # A shared slot source may have run dry since it was last heard of; it says so now.
                action = self.policy.recheck(lease, self, now, self._chance)
            elif isinstance(action, Hold):
                self._hold(lease, action.until, now)
                return None
            else:
                raise self._shed(action, now)
        raise RuntimeError(f"the policy of route {self.route} keeps choosing backends without a free slot")

    def _take(self, lease: Lease, backend: str, reason: Reason, now: float) -> Slot | None:
        slot = self.supplies[backend].take(lease.tried, now, reason, now - lease.since)
        if slot is not None:
            lease.slot = slot
            self.in_flight += 1
        return slot

    def _hold(self, lease: Lease, until: float, now: float) -> None:
        if not lease.waiting:
            if not self._queue:
                for tier in self.tiers:
                    tier.supply.subscribe(self)
            self._arrivals += 1
            lease.join((lease.deadline, self._arrivals))
            insort(self._queue, lease, key=_in_order)
        elif lease.timer is not None:
            lease.timer.cancel()
        lease.timer = None
        lease.wake_at = min(until if until > now else now + SHORTEST_HOLD_S, lease.deadline)
        if lease.wake_at < inf:
            lease.timer = self._timers.call_at(lease.wake_at, lease.due)

    def _shed(self, action: Shed, now: float) -> OverspillError:
        retry_after = self._retry_after(now, contended=action.contended)
        error: OverspillError
        if action.contended:
            error = Contended(
                f"every slot of route {self.route} is taken; try again in {retry_after:.0f} s",
                retry_after=retry_after,
            )
        else:
            error = NoCapacity(
                f"no backend of route {self.route} can take calls now", retry_after=retry_after
            )
        error.reason = action.reason
        return error

    def too_late(self, now: float) -> DeadlinePassed:
        """The error for a call whose deadline is over."""
        return DeadlinePassed(
            f"the deadline passed before a slot of route {self.route} was free",
            retry_after=self._retry_after(now, contended=True),
        )

    def _retry_after(self, now: float, *, contended: bool) -> float:
        """Whole seconds, at least one, after which trying again is sensible.

        Contended: when the slots that are turning over now will have served everyone in the queue and
        one more, at the pace of the recent past. No capacity: when the first breaker lets a trial through.
        """
        seconds = 0.0
        if contended:
            pace = sum(
                tier.supply.capacity / tier.supply.held_s
                for tier in self.tiers
                if tier.supply.blocked is None and tier.supply.held_s
            )
            if pace:
                seconds = (len(self._queue) + 1) / pace
        else:
            waits = (tier.supply.retry_in(now) for tier in self.tiers)
            seconds = min((wait for wait in waits if wait is not None), default=0.0)
        return float(max(1, ceil(seconds)))

    # -- the queue -----------------------------------------------------------------------------

    @property
    def head(self) -> tuple[float, float]:
        """(deadline, waiting since) of the first waiting call."""
        first = self._queue[0] if self._queue else None
        return (inf, inf) if first is None else (first.deadline, first.since)

    def offer(self, supply: Capacity, now: float) -> bool:
        """A slot of `supply` is free. True when a waiting call took it."""
        while self._queue and self._queue[0].deadline <= now:
            self._finish(self._queue[0], None, self.too_late(now))
        if not self._queue:
            return False
        try:
            take = self.policy.slot_freed(supply.name, self, now, self._chance)
            if take is None:
                return False
            lease = take.request
            if not isinstance(lease, Lease) or not lease.waiting:
                raise RuntimeError(f"the policy of route {self.route} chose a call that does not wait")
            slot = self._take(lease, supply.name, take.reason, now)
            if slot is None:
                if supply.free(lease.tried):
                    raise RuntimeError(f"{supply.name} says it has slots and hands out none")
                return False
        except Exception as error:
            # It is this pool's policy that failed, not the call whose end freed the slot.
            self._finish(self._queue[0], None, error)
            return False
        self._finish(lease, slot, None)
        return True

    def reconsider(self, now: float) -> None:
        """Some backend has become usable or unusable: look at every waiting call again."""
        for lease in list(self._queue):
            if lease.waiting:
                self._look_again(lease, now)

    def _look_again(self, lease: Lease, now: float) -> None:
        if now >= lease.deadline:
            self._finish(lease, None, self.too_late(now))
            return
        try:
            action = self.policy.recheck(lease, self, now, self._chance)
            slot = self._carry_out(lease, action, now)
        except Exception as error:
            self._finish(lease, None, error)
            return
        if slot is not None:
            self._finish(lease, slot, None)

    def _finish(self, lease: Lease, slot: Slot | None, error: Exception | None) -> None:
        self._dequeue(lease)
        lease.settle(slot, error)

    def _dequeue(self, lease: Lease) -> None:
        del self._queue[bisect_left(self._queue, lease.order, key=_in_order)]
        if not self._queue:
            for tier in self.tiers:
                tier.supply.unsubscribe(self)


__all__ = ["Attempt", "Lease", "Pool", "Slot", "Tier"]
