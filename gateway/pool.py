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

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from operator import attrgetter
from random import Random
from typing import Any, Protocol

from gateway.alarms import Alarms
from gateway.attainment import Attainment
from gateway.capacity import Capacity
from gateway.chances import hopeless, late
from gateway.clock import Clock, TimerHost
from gateway.deadline_queue import DeadlineQueue
from gateway.demand import Demand
from gateway.errors import DeadlinePassed
from gateway.lease import FIRST, Attempt, Lease
from gateway.lessons import learn
from gateway.rate import Rate
from gateway.refusals import Refusals
from gateway.slot import Slot
from gateway.tier import PursedTier, Tier
from gateway.vocab import SUCCESS, Call, Reason, Verdict
from policies.base import Action, Hold, Policy, RequestView, Run

RATE_MEMORY_S = 15.0
"""Time constant of the arrival rate: about what an instance takes to boot and to idle away again."""
AFTER_FAILED_OPENING_S = 1.0
"""When the first waiting call is looked at again after an instance could not be opened."""
SHORTEST_HOLD_S = 0.001
"""A policy that asks to be asked again at once is asked again after this long."""

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
        best_effort_limit: int | None = None,
    ) -> None:
        self.route = route
        self.policy = policy
        self.tiers = tuple(tiers)
        if self.tiers:
            self.reference = next((tier for tier in self.tiers if tier.owned), self.tiers[0])
        self.clock = clock
        self.witness: Witness | None = None
        self.demand: Demand | None = None
        """Is told of calls and of what they use, where instances may be opened ahead."""
        self.attainment = Attainment(objective, clock.now())
        self.within_s = inf if within is None else within
        self.first_byte_s = self.within_s if first_byte is None else first_byte
        self._chance = chance
        self._opener = opener
        self._alarms = Alarms(clock, timers, self._wake, _waits_for)
        self._learns = any(tier.estimates is not None for tier in self.tiers)
        self._named = {tier.name: tier for tier in self.tiers}
        self.supplies: Mapping[str, Capacity] = {tier.options.backend: tier.supply for tier in self.tiers}
        self.carries_all = all(supply.carries_all for supply in self.supplies.values())
        if len(self.supplies) != len(self.tiers):
            raise ValueError(f"route {route}: a backend may be only one of its tiers")
        self._pursed = [tier for tier in self.tiers if isinstance(tier, PursedTier)]
        self._refusals = Refusals(route, self.tiers)
        self.queue = DeadlineQueue()
        self._best_effort_limit = inf if best_effort_limit is None else best_effort_limit
        self.best_effort = 0
        """Best-effort calls that wait or run."""
        self.in_flight = 0
        """Slots that calls of this pool hold."""
        self.opening = 0
        """Instances that boot because this pool had them opened."""
        self._arriving = Rate(RATE_MEMORY_S, clock.now())

    # What a policy reads for every call: by getters without a frame of their own.
    waiting: "property" = property(attrgetter("queue.calls"))
    """The queue: by class, late ones after those in time, what is due first, first come first."""
    in_time: "property" = property(attrgetter("queue.in_time"))
    """How many of them are not late."""
    work: "property" = property(attrgetter("queue.work"))
    """Seconds of a slot of the reference tier that these are expected to take."""
    caution: "property" = property(attrgetter("attainment.caution"))
    """Standard deviations that predictions allow for."""

    def inherit(self, earlier: "Pool", *, same_budget: bool) -> None:
        """Go on with what is known of the route's calls from an earlier configuration; not with the calls."""
        if self.reference.name == earlier.reference.name:
            self._arriving = earlier._arriving
        if same_budget:
            self.attainment = earlier.attainment

    def load(self, now: float) -> float:
        """Work that came per second lately: the slots of the reference tier that it would keep busy."""
        return self._arriving.per_second(now)

    def spare(self, now: float) -> float:
        """Late answers that the objective still allows."""
        return self.attainment.spare(now)

    @property
    def queue_depth(self) -> int:
        """Calls waiting."""
        return len(self.queue)

    def draw(self) -> float:
        """A random number from [0, 1)."""
        return self._chance.random()

    def slot(self, call: Call, attempt: Attempt) -> Lease:
        """`with pool.slot(call, attempt) as lease`: a claim on a place to run this attempt on."""
        return Lease(self, call, attempt)

    def take(self, lease: Lease, backend: str, reason: Reason, now: float) -> Slot | None:
        """A slot for a call that nobody else has a say in; None when there is none. May raise Shed."""
        lease.since = now
        return self._take(lease, backend, reason, now)

    def view(self, now: float) -> dict[str, Any]:
        """The pool for people: plain values only."""
        return {
            "route": self.route,
            "in_flight": self.in_flight,
            "waiting": len(self.queue),
            "late": len(self.queue.calls) - self.queue.in_time,
            "best_effort": self.best_effort,
            "opening": self.opening,
            "longest_wait_s": max((now - lease.since for lease in self.queue.calls), default=0.0),
            "tiers": [tier.supply.view(now) for tier in self.tiers],
        }

    def __repr__(self) -> str:
        return f"<Pool {self.route}: {self.in_flight} in flight, {len(self.queue)} waiting>"

    # -- one call ------------------------------------------------------------------------------

    def arrive(self, lease: Lease, now: float) -> Slot | None:
        """A call has come: its slot, or None when it was put into the queue. Raises Shed errors."""
        if now >= lease.deadline:
            raise self.too_late(now)
        call = lease.call
        if not call.inference:
            return self._question(lease, now)
        if call.priority == "best_effort":
            return self._fill(lease, now)
        if self._pursed and not lease.attempt:
            self._pursed[0].requested(now)
        if self._learns:
            self._arriving.add(self.reference.service(lease).mean, now)
        if self.demand is not None and not lease.attempt:
            self.demand.arrived(now)
        action = self.policy.arrive(lease, self, now, self._chance)
        if self.witness is not None:
            self.witness.note(lease, action, now)
        if isinstance(action, Run):  # the two common answers, without a detour
            slot = self._take(lease, action.backend, action.reason, now)
            if slot is not None:
                return slot
            action = self.policy.recheck(lease, self, now, self._chance)
        elif isinstance(action, Hold):
            self._hold(lease, action, now)
            return None
        return self._carry_out(lease, action, now)

    def bucket_of(self, size: float) -> int:
        """Class of a size, the same for all tiers: that of the reference tier."""
        estimates = self.reference.estimates if self._learns else None
        return 0 if estimates is None else estimates.bucket_of(size)

    def release(self, lease: Lease, slot: Slot, verdict: Verdict) -> None:
        """An attempt has ended."""
        now = self.clock.now()
        if slot.ticket >= 0:  # not a question's
            self.in_flight -= 1
            if self.best_effort and lease.call.priority == "best_effort":
                self.best_effort -= 1
            elif self._learns and verdict is SUCCESS:
                learn(lease, slot, self.attainment, now)
            if self.demand is not None and not lease.tier.owned:
                self.demand.freed(now)
        slot.give_back(verdict, now)

    def leave(self, lease: Lease) -> None:
        """A waiting call was given up by its caller."""
        self._finish(lease, None, None)

    def open(self, backend: str, count: int, *, kind: str = "spill", fresh: bool = True) -> int:
        """Have up to `count` instances of a rented backend boot; how many began to.

        Not `fresh`: have so many that idle be kept from going, the one that has idled longest first.
        """
        tier = self._named[backend]
        if self._opener is None:
            return 0
        for opened in range(count):
            slot = tier.open(self.clock.now()) if fresh else tier.keep(self.clock.now())
            if slot is None:
                return opened
            self.opening += fresh
            self._opener.open(slot, route=self.route, kind=kind, done=partial(self._opened, tier, slot))
        return count

    def _opened(self, tier: Tier, slot: Slot, verdict: Verdict, boot_s: float | None) -> None:
        """The opener is done with an instance: it is up after `boot_s`, or never will be."""
        now = self.clock.now()
        self.opening -= slot.opening
        if verdict is Verdict.SUCCESS:
            if tier.estimates is not None and boot_s is not None:
                tier.estimates.learn_cold(None, boot_s, now)
            if slot.reservation is not None:
                slot.reservation.cut_off(now)  # what it cost comes as a charge
        elif self.queue.calls:
            # Whoever counts on it is looked at again; not at once, or a provider that is full would be asked
            # in a loop.
            first = self.queue.calls[0]
            again = now + AFTER_FAILED_OPENING_S
            if again < first.wake_at:
                first.wake_at = again
                self._alarms.add(again, first)
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
        raise self._refusals.no_answerer(now)

    def _fill(self, lease: Lease, now: float) -> Slot | None:
        """A best-effort call: it takes a slot that is paid for and nobody else wants, or waits for one."""
        possible = False
        for tier in self.tiers:
            if tier.owned and tier.blocked is None and lease.may_use(tier.name):
                if not self.queue and lease.free_on(tier):
                    slot = self._take(lease, tier.name, Reason.WARM, now)
                    if slot is not None:
                        self.best_effort += 1
                        return slot
                possible = True
        if not possible:
            raise self._refusals.only_filling()
        if self.best_effort >= self._best_effort_limit:
            raise self._refusals.enough_filling(len(self.queue))
        self.put_aside(lease)
        return None

    def put_aside(self, lease: Lease) -> None:
        """A best-effort call waits for a slot that nobody else wants."""
        lease.since = now = self.clock.now()
        if self._hopeless(lease, now):
            raise self._refusals.hopeless(len(self.queue))
        self.best_effort += 1
        self._hold(lease, Hold(lease.deadline), now)

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
                raise self._refusals.shed(action, len(self.queue), now)
        raise RuntimeError(f"the policy of route {self.route} keeps choosing backends without a free slot")

    def _take(self, lease: Lease, backend: str, reason: Reason, now: float) -> Slot | None:
        tier = self._named[backend]
        slot = tier.take(lease.tried, now, reason, now - lease.since)
        if slot is not None:
            lease.slot = slot
            lease.tier = tier
            self.in_flight += 1
            if self.demand is not None and not tier.owned:
                self.demand.taken(now)
        return slot

    def _hold(self, lease: Lease, action: Hold, now: float) -> None:
        queue = self.queue
        if action.late and not lease.late and self._hopeless(lease, now):
            raise self._refusals.hopeless(len(queue))
        if not lease.waiting:
            if not queue.calls and not queue.best_effort:
                for tier in self.tiers:
                    tier.supply.subscribe(self)
            lease.wait()
            queue.join(lease, self.reference.service(lease).mean if self._learns else 0.0, late=action.late)
        elif action.late and not lease.late:
            queue.demote(lease)
        until = action.until
        if self._pursed:
            until = min(until, *(tier.funded_at(now) for tier in self._pursed))
        if until <= now:
            until = now + SHORTEST_HOLD_S
        if until > lease.deadline:
            until = lease.deadline
        lease.wake_at = until
        if until < inf:
            self._alarms.add(until, lease)
        for each in action.opens:
            self.open(each.backend, each.instances)

    def look_ahead(self, call: Call) -> None:
        """Refuse a call whose body has yet to come if it will have no slot: Contended. Else nothing."""
        lease, now = Lease(self, call, FIRST), self.clock.now()
        if call.inference and now < call.deadline and late(self, lease, now) and self._hopeless(lease, now):
            raise self._refusals.hopeless(len(self.queue))

    def _hopeless(self, lease: Lease, now: float) -> bool:
        return self._learns and hopeless(self, lease, now, memory_s=RATE_MEMORY_S)

    def ahead(self, request: RequestView) -> float:
        """Work of calls in time that stands before one of them, or would."""
        queue = self.queue
        if isinstance(request, Lease) and request.waiting:
            return queue.ahead(request)
        if not queue.in_time:
            return 0.0
        return queue.ahead_of(request.priority, request.due)

    def too_late(self, now: float) -> DeadlinePassed:
        """The error for a call whose deadline is over."""
        return self._refusals.too_late(len(self.queue))

    # -- the queue -----------------------------------------------------------------------------

    @property
    def head(self) -> tuple[float, float]:
        """(when it is due, waiting since) of the first waiting call; late ones have no claim."""
        calls = self.queue.calls
        if not calls or calls[0].late:
            return (inf, self.queue.best_effort[0].since if not calls and self.queue else inf)
        return (calls[0].due, calls[0].since)

    def offer(self, supply: Capacity, now: float) -> bool:
        """A slot of `supply` is free. True when a waiting call took it."""
        queue = self.queue
        if queue.calls:
            try:
                taken = self._offer(supply, now)
            except Exception as error:
                # It is this pool's policy that failed, not the call whose end freed the slot.
                self._finish(queue.calls[0], None, error)
                return False
            if taken:
                return True
        if queue.best_effort and supply.warmth is None and supply.free_slots:
            return self._offer_rest(supply, now)
        return False

    def _offer(self, supply: Capacity, now: float) -> bool:
        """To the call that the policy chooses."""
        if self._pursed and not self._named[supply.name].affordable(now):
            return False
        while self.queue.calls:
            take = self.policy.slot_freed(supply.name, self, now, self._chance)
            if take is None:
                return False
            lease = take.request
            if not isinstance(lease, Lease) or not lease.waiting:
                raise RuntimeError(f"the policy of route {self.route} chose a call that does not wait")
            if lease.deadline <= now:
                self._finish(lease, None, self.too_late(now))
                continue
            if self.witness is not None:
                self.witness.note(lease, Run(supply.name, take.reason), now)
            slot = self._take(lease, supply.name, take.reason, now)
            if slot is None:
                if self._named[supply.name].free and supply.free(lease.tried):
                    raise RuntimeError(f"{supply.name} says it has slots and hands out none")
                return False
            self._finish(lease, slot, None)
            return True
        return False

    def _offer_rest(self, supply: Capacity, now: float) -> bool:
        """An owned slot that nobody else wants, to the first best-effort call that may use it."""
        for lease in list(self.queue.best_effort):
            if lease.deadline <= now:
                self._finish(lease, None, self.too_late(now))
            elif lease.may_use(supply.name) and supply.free(lease.tried):
                slot = self._take(lease, supply.name, Reason.WARM_QUEUED, now)
                if slot is not None:
                    self._finish(lease, slot, None)
                    return True
        return False

    def reconsider(self, now: float) -> None:
        """Some backend has become usable or unusable: look at every waiting call again."""
        for lease in list(self.queue.calls):
            if lease.waiting:
                self._look_again(lease, now)

    def _look_again(self, lease: Lease, now: float) -> None:
        if now >= lease.deadline:
            self.attainment.note(now, in_time=False)
            self._finish(lease, None, self.too_late(now))
            return
        if lease.call.priority == "best_effort":
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
        queue = self.queue
        queue.leave(lease)
        if not queue.calls and not queue.best_effort:
            self._alarms.clear()
            for tier in self.tiers:
                tier.supply.unsubscribe(self)
        if slot is None and lease.call.priority == "best_effort":
            self.best_effort -= 1
        lease.settle(slot, error)


def _waits_for(lease: Lease, moment: float) -> bool:
    """Whether a call still waits for that moment."""
    return lease.waiting and lease.wake_at == moment


__all__ = ["Attempt", "Lease", "Pool", "Slot", "Tier"]
