"""Everything that serves one route: its tiers, its policy and one queue in deadline order.

    arrive ──► policy ──► Run    a slot is taken in the same step
                     ├──► Hold   into the queue, until a slot frees or the promised moment comes
                     └──► Shed   Contended (429) or NoCapacity (503)

The gateway holds the call; a backend gets at most its slots. An instance that a policy has opened
boots for nobody in particular, and whoever is first in the queue when a slot is free takes it: no
call is married to a cold start. Between deciding and taking nothing awaits, so no decision rests on
a stale view. What is taken is given back on every way out, and the
freed slot is offered at once to whoever waits, in this pool or in another on the same backend.

The policy is asked, never trusted with anything but choosing: what it returns is checked by
carrying it out, and an error in it costs its own call. Knows no concrete policy and no backend.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil, fsum, inf
from operator import attrgetter
from random import Random
from typing import Any, Protocol

from gateway.alarms import Alarms
from gateway.attainment import Attainment
from gateway.capacity import Capacity
from gateway.clock import Clock, TimerHost
from gateway.errors import Contended, DeadlinePassed, NoCapacity, OverspillError
from gateway.lease import Attempt, Lease
from gateway.rate import Rate
from gateway.slot import Slot
from gateway.tier import Tier
from gateway.vocab import Call, Reason, Start, Verdict
from policies.base import Action, Hold, Policy, RequestView, Run, Shed

ROUNDING_S = 1e-9
"""Sums of times round: an answer that is later by less is in time."""
RATE_MEMORY_S = 15.0
"""Time constant of the arrival rate: about what an instance takes to boot and to idle away again."""
SHORTEST_HOLD_S = 0.001
"""A policy that asks to be asked again at once is asked again after this long."""

_in_order: Callable[[Lease], tuple[int, float, int]] = attrgetter("order")

RANKS = {"critical": 0, "default": 1, "best_effort": 3}
"""Place of the classes in the queue; LATE is that of calls whose budget cannot be kept any more."""
LATE = 2


Opened = Callable[[Verdict, float | None], None]


class Opener(Protocol):
    """Who makes instances boot."""

    def open(self, slot: Slot, *, route: str, kind: str, done: Opened) -> None:
        """Have an instance boot on the slot's place; returns at once.

        Calls `done` exactly once, never from within: as a success with the seconds of the boot, if these
        are known, when it is up, else as what became of it. `route` and `kind` say who pays.
        """
        ...


class Witness(Protocol):
    """Who is told of every decision, before it is carried out."""

    def note(self, lease: Lease, action: Action, now: float) -> None:
        """The policy has answered. Changes nothing and raises nothing."""
        ...


class Pool:
    """The tiers, the policy and the queue of one route (`policies.base.PoolView`)."""

    reference: Tier
    """The tier that work is measured in. Not there without any tier: nothing ever waits then."""

    def __init__(
        self,
        route: str,
        policy: Policy,
        tiers: Sequence[Tier],
        *,
        clock: Clock,
        chance: Random,
        timers: TimerHost,
        opener: Opener | None = None,
        within: float | None = None,
        first_byte: float | None = None,
        objective: float = 0.99,
    ) -> None:
        self.route = route
        self.policy = policy
        self.tiers = tuple(tiers)
        if self.tiers:
            self.reference = next((tier for tier in self.tiers if tier.owned), self.tiers[0])
        self.clock = clock
        self.witness: Witness | None = None
        self.attainment = Attainment(objective, clock.now())
        self._within = within
        self._first_byte = within if first_byte is None else first_byte
        self._chance = chance
        self._opener = opener
        self._alarms = Alarms(clock, timers, self._wake, _waits_for)
        self._learns = any(tier.estimates is not None for tier in self.tiers)
        self._named = {tier.name: tier for tier in self.tiers}
        self.supplies: Mapping[str, Capacity] = {tier.options.backend: tier.supply for tier in self.tiers}
        if len(self.supplies) != len(self.tiers):
            raise ValueError(f"route {route}: a backend may be only one of its tiers")
        self._queue: list[Lease] = []
        self._arrivals = 0
        self.in_flight = 0
        """Slots that calls of this pool hold."""
        self.opening = 0
        """Instances that boot because this pool had them opened."""
        self.in_time = 0
        """Waiting calls that are not late."""
        self.work = 0.0
        """Seconds of a slot of the reference tier that they are expected to take."""
        self._left = 0.0  # work that has left the queue, ever
        self._arriving = Rate(RATE_MEMORY_S, clock.now())

    @property
    def waiting(self) -> Sequence[Lease]:
        """The queue: by class, late ones after those in time, what is due first, first come first."""
        return self._queue

    def load(self, now: float) -> float:
        """Work that came per second lately: the slots of the reference tier that it would keep busy."""
        return self._arriving.per_second(now)

    @property
    def caution(self) -> float:
        """Standard deviations that predictions allow for."""
        return self.attainment.caution

    def spare(self, now: float) -> float:
        """Late answers that the objective still allows."""
        return self.attainment.spare(now)

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
        if self._learns:
            self._arriving.add(self.reference.service(lease).mean, now)
        action = self.policy.arrive(lease, self, now, self._chance)
        if self.witness is not None:
            self.witness.note(lease, action, now)
        if isinstance(action, Run):  # the common case, without a detour
            slot = self._take(lease, action.backend, action.reason, now)
            if slot is not None:
                return slot
            action = self.policy.recheck(lease, self, now, self._chance)
        return self._carry_out(lease, action, now)

    def bucket_of(self, size: float) -> int:
        """Class of a size, the same for all tiers: that of the reference tier."""
        estimates = self.reference.estimates if self._learns else None
        return 0 if estimates is None else estimates.bucket_of(size)

    def due_of(self, call: Call) -> float:
        """When its latency budget is used up; its deadline where there is none or that comes first."""
        within = self._first_byte if call.stream else self._within
        if within is None:
            return call.deadline
        due = call.arrived + within
        return due if due < call.deadline else call.deadline

    def release(self, lease: Lease, slot: Slot, verdict: Verdict) -> None:
        """An attempt has ended."""
        now = self.clock.now()
        if slot.ticket >= 0:  # not a question's
            self.in_flight -= 1
            if self._learns and verdict is Verdict.SUCCESS:
                self._learn(lease, slot, now)
        slot.give_back(verdict, now)

    def _learn(self, lease: Lease, slot: Slot, now: float) -> None:
        """From a success only: what was neutral or failed says nothing about how long calls take."""
        tier = lease.tier
        head = slot.answered_at
        answered = now if head is None else head
        if answered <= lease.due + ROUNDING_S:
            self.attainment.note(True, now)
        elif answered - slot.taken_at <= lease.due - lease.call.arrived:
            # A service that is longer than the budget by itself is nobody's mistake: no caution prevents it.
            self.attainment.note(False, now)
        estimates = tier.estimates
        if estimates is None:
            return
        held = now - slot.taken_at
        boot = 0.0
        if not tier.owned:
            if slot.start is Start.COLD:
                if slot.boot_s is None:
                    return  # how much of it was the boot is not known
                boot = slot.boot_s
                estimates.learn_cold(slot.age, boot, now)
            elif slot.start is not Start.WARM:
                return
            if slot.age:  # one that has not idled at all says nothing
                estimates.learn_start(slot.age, slot.start is Start.COLD)
        estimates.learn_service(lease.bucket, max(0.0, held - boot), now)
        if tier.answers is not None and lease.call.stream and head is not None:
            tier.answers.learn_service(lease.bucket, max(0.0, head - slot.taken_at - boot), now)

    def leave(self, lease: Lease) -> None:
        """A waiting call was given up by its caller."""
        self._dequeue(lease)
        lease.settle(None, None)

    def open(self, backend: str, count: int, *, kind: str = "spill") -> int:
        """Have up to `count` instances of a rented backend boot; how many began to."""
        tier = self._named[backend]
        if self._opener is None:
            return 0
        for opened in range(count):
            now = self.clock.now()
            slot = tier.supply.open(now, now + tier.cold.mean, Reason.SPILL_SLOW)
            if slot is None:
                return opened
            self.opening += 1
            self._opener.open(slot, route=self.route, kind=kind, done=partial(self._opened, slot))
        return count

    def _opened(self, slot: Slot, verdict: Verdict, boot_s: float | None) -> None:
        """The opener is done with an instance: it is up after `boot_s`, or never will be."""
        now = self.clock.now()
        self.opening -= 1
        estimates = self._named[slot.backend.name].estimates
        if verdict is Verdict.SUCCESS and estimates is not None and boot_s is not None:
            estimates.learn_cold(None, boot_s, now)
        slot.give_back(verdict, now)

    def _wake(self, lease: Lease, moment: float) -> None:
        """The moment came at which a waiting call was to be looked at again."""
        # Hosts round: a timer that rings a little early still means the moment it was set for.
        self._look_again(lease, max(moment, self.clock.now()))

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
                self._hold(lease, action, now)
                return None
            else:
                raise self._shed(action, now)
        raise RuntimeError(f"the policy of route {self.route} keeps choosing backends without a free slot")

    def _take(self, lease: Lease, backend: str, reason: Reason, now: float) -> Slot | None:
        tier = self._named[backend]
        slot = tier.supply.take(lease.tried, now, reason, now - lease.since)
        if slot is not None:
            lease.slot = slot
            lease.tier = tier
            self.in_flight += 1
        return slot

    def _hold(self, lease: Lease, action: Hold, now: float) -> None:
        if not lease.waiting:
            if not self._queue:
                for tier in self.tiers:
                    tier.supply.subscribe(self)
            self._arrivals += 1
            lease.late = action.late
            rank = LATE if action.late else RANKS[lease.call.priority]
            lease.join((rank, lease.due, self._arrivals), self.reference.service(lease).mean)
            self._enqueue(lease)
        elif action.late and not lease.late:
            self._unqueue(lease)
            lease.late = True
            lease.order = (max(LATE, lease.order[0]), *lease.order[1:])
            self._enqueue(lease)
        until = action.until
        lease.wake_at = wake_at = min(until if until > now else now + SHORTEST_HOLD_S, lease.deadline)
        if wake_at < inf:
            self._alarms.add(wake_at, lease)
        for backend, count in action.opens:
            self.open(backend, count)

    def ahead(self, request: RequestView) -> float:
        """Work of calls in time that stands before one of them, or would.

        For a call that waits it is what stood there when it joined, less what has left the queue since: as
        good as exact, since calls leave at the front, and the same effort for any length of the queue.
        """
        if isinstance(request, Lease) and request.waiting:
            left = request.mark - self._left
            return left if left > 0.0 else 0.0
        if not self.in_time or request.due >= self._queue[self.in_time - 1].due:
            return self.work
        return self._before((RANKS["default"], request.due, self._arrivals))

    def _before(self, order: tuple[int, float, int]) -> float:
        return fsum(lease.work for lease in self._queue[: self.in_time] if lease.order < order)

    def _enqueue(self, lease: Lease) -> None:
        queue = self._queue
        if queue and lease.order < queue[-1].order:
            lease.mark = self._left + (self._before(lease.order) if lease.order[0] < LATE else 0.0)
            insort(queue, lease, key=_in_order)
        else:
            lease.mark = self._left + self.work
            queue.append(lease)
        if lease.order[0] < LATE:
            self.in_time += 1
            self.work += lease.work

    def _unqueue(self, lease: Lease) -> None:
        queue = self._queue
        del queue[0 if queue[0] is lease else bisect_left(queue, lease.order, key=_in_order)]
        if lease.order[0] < LATE:
            self.in_time -= 1
            self._left += lease.work
            # Sums of floats drift; an empty queue is the moment to begin anew.
            self.work = self.work - lease.work if self.in_time else 0.0

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
        """(when it is due, waiting since) of the first waiting call; late ones have no claim before others."""
        first = self._queue[0] if self._queue else None
        return (inf, inf) if first is None else (inf if first.late else first.due, first.since)

    def offer(self, supply: Capacity, now: float) -> bool:
        """A slot of `supply` is free. True when a waiting call took it."""
        try:
            take = self.policy.slot_freed(supply.name, self, now, self._chance)
            if take is None:
                return False
            lease = take.request
            if not isinstance(lease, Lease) or not lease.waiting:
                raise RuntimeError(f"the policy of route {self.route} chose a call that does not wait")
            if lease.deadline <= now:
                self._finish(lease, None, self.too_late(now))
                return bool(self._queue) and self.offer(supply, now)
            if self.witness is not None:
                self.witness.note(lease, Run(supply.name, take.reason), now)
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
            if self.witness is not None:
                self.witness.note(lease, action, now)
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
        self._unqueue(lease)
        if not self._queue:
            self._alarms.clear()
            for tier in self.tiers:
                tier.supply.unsubscribe(self)


def _waits_for(lease: Lease, moment: float) -> bool:
    """Whether a call still waits for that moment."""
    return lease.waiting and lease.wake_at == moment


__all__ = ["Attempt", "Lease", "Pool", "Slot", "Tier"]
