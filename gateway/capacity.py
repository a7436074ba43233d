"""The slots of one backend, shared by every pool that lists it: taking one, and who gets it when it is free.

One `Capacity` per backend, on top of its replicas (`replica_set.py`). It takes a slot of the replica that is
picked for the next call, knows of a rented backend which slots are warm, and offers one that comes free to
the pools that have calls waiting, what is due first first.

Nothing here awaits. Knows the backend contract; never a policy, a route or a call's content.
"""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Protocol

from backends.base import Backend
from gateway.clock import Clock, TimerHost
from gateway.provider_queue import ProviderQueue
from gateway.replica_set import Replicas, ReplicaSet
from gateway.slot import QUESTION, Kept, Slot
from gateway.slots import SlotSource
from gateway.vocab import SUCCESS, Reason, Verdict
from gateway.warmth import Warmth


class Subscriber(Protocol):
    """A pool with calls waiting."""

    @property
    def head(self) -> tuple[float, float]:
        """(when it is due, waiting since) of the first call in its queue."""
        ...

    def offer(self, supply: "Capacity", now: float) -> bool:
        """Give a free slot to a waiting call. False when none wants it. Raises nothing."""
        ...

    def reconsider(self, now: float) -> None:
        """What can be used has changed: ask the policy about every waiting call. Raises nothing."""
        ...


class Capacity(ReplicaSet):
    """All slots of one backend.

    slots:    makes the slot source of replica number N
    watched:  latencies and failures are followed; not where neither can differ, as in a simulation
    """

    def __init__(
        self,
        backend: Backend,
        *,
        clock: Clock,
        chance: Random,
        timers: TimerHost,
        slots: Callable[[int], SlotSource] | None = None,
        watched: bool = True,
    ) -> None:
        super().__init__(backend, clock=clock, chance=chance, timers=timers, slots=slots)
        self.carries_all = backend.carries_all
        """No call could ever be unfit for it: a question that need not be asked."""
        self._watched = watched
        self._subscribers: list[Subscriber] = []
        self.claimants = 1
        """Pools with calls waiting for slots here; at least 1."""
        self.in_flight = 0
        """Slots taken, on all replicas."""
        self.held_s: float | None = None
        """Moving average of how long a successful call keeps its slot; None before the first."""
        self._can_open = backend.can_open
        rent = backend.rent
        self.warmth = None if backend.owned else Warmth(rent.idle_s if rent is not None else 0.0)
        """Which slots of a rented backend are warm; None for an owned one, all of whose slots are."""
        self.provider_queue = _provider_queue(backend, self.warmth)
        """The provider's own, where calls wait there for what is free first; None where they do not."""
        self._find()
        backend.attach(self)

    # -- what pools and people may ask ---------------------------------------------------------

    @property
    def warm(self) -> int:
        """Free slots of a rented backend with an idle instance behind them; 0 for an owned one."""
        warmth = self.warmth
        if warmth is None or not warmth.idle:
            return 0
        idle, free = warmth.warm(self._clock.now()), self.free_slots
        return idle if idle < free else free

    @property
    def room(self) -> int:
        """Instances that could be opened now without a call for them."""
        warmth = self.warmth
        if warmth is None or not self._can_open:
            return 0
        return self.free_slots - self.warm if warmth.idle else self.free_slots

    @property
    def capacity(self) -> int:
        """All slots, on usable replicas and others."""
        return sum(replica.slots.capacity for replica in self.replicas)

    def free(self, excluded: Replicas = ()) -> int:
        """Slots that could be taken now outside the excluded replicas."""
        if not excluded:
            return self.free_slots
        return sum(replica.room for replica in self._open if (self.name, replica.index) not in excluded)

    def view(self, now: float) -> dict[str, Any]:
        """The state of every replica, for people: plain values only."""
        return {
            "backend": self.name,
            "owned": self.backend.owned,
            "blocked": self.blocked and str(self.blocked),
            "in_flight": self.in_flight,
            "capacity": self.capacity,
            "free": self.free_slots,
            "held_s": self.held_s,
            "replicas": [each.view(now) for each in self.replicas if not each.retired or each.in_flight],
        }

    def __repr__(self) -> str:
        return (
            f"<Capacity {self.name}: {self.in_flight} of {self.capacity} in flight,"
            f" {self._usable} of {len(self.replicas)} replicas usable>"
        )

    # -- choosing and taking -------------------------------------------------------------------

    def take(self, excluded: Replicas, now: float, reason: Reason, queued_s: float) -> Slot | None:
        """Pick a replica and take a slot of it, in one step; None when there is none."""
        among = self._open
        replica = among[0] if len(among) == 1 and not excluded else self._pick(among, excluded, now)
        while replica is not None:
            if replica.slots.take():
                breaker = replica.breaker
                self.in_flight += 1
                if breaker.closed:  # nothing changes but the count
                    ticket = breaker.generation
                    room = replica.slots.free
                    self.free_slots += room - replica.room
                    replica.room = room
                    if not room:
                        self._enlist(replica)
                else:
                    ticket = breaker.enter(now)
                    self._update(replica, now)
                slot = Slot(self, replica, ticket, now, reason, queued_s, self.backend)
                if self.warmth is not None:
                    slot.age = self.warmth.take(now)
                    if slot.age is None and self.provider_queue is not None:
                        self._sent(self.provider_queue, slot, now)
                return slot
            # A shared source whose last slot went to someone else: it knows by now.
            self._update(replica, now)
            if replica.room:
                raise RuntimeError(f"the slots of {replica.name} are said to be free and cannot be taken")
            replica = self._pick(self._open, excluded, now)
        return None

    def open(self, now: float, expected: float, reason: Reason) -> Slot | None:
        """A slot on which an instance boots for whoever needs it first, expected to be up at `expected`.

        None when there is no slot. Give it back as a success when the instance is up.
        """
        assert self.warmth is not None
        idle = self.warmth.warm(now)
        if self.free_slots <= idle:
            return None
        since = self.warmth.next_since
        slot = self.take((), now, reason, 0.0)
        if slot is None:
            return None
        if since is not None:  # those that idle stay what they are
            self.warmth.untouched(since)
            slot.age = None
        slot.opening = True
        self.warmth.begin_opening(slot, expected)
        return slot

    def keep(self, now: float, reason: Reason) -> Slot | None:
        """The slot of the instance that has idled longest, for a ping that keeps it from going.

        None when none idles, or no slot is free. Give it back as a success when the ping was answered.
        """
        warmth = self.warmth
        if warmth is None or not self.warm:
            return None
        newest = warmth.next_since
        slot = self.take((), now, reason, 0.0)
        if slot is None:
            return None
        assert newest is not None
        warmth.untouched(newest)
        kept = Kept(self, slot.state, slot.ticket, now, reason, 0.0, self.backend)
        since, kept.used_at = warmth.take_oldest()
        kept.age = now - since
        return kept

    def question(self, excluded: Replicas, now: float) -> Slot | None:
        """A usable replica for a call that takes no slot and teaches nothing; None when all are down."""
        replica = self._pick([replica for replica in self.replicas if replica.usable], excluded, now)
        if replica is None:
            return None
        return Slot(self, replica, QUESTION, now, Reason.WARM, 0.0, self.backend)

    # -- what happens to replicas --------------------------------------------------------------

    def take_back(self, slot: Slot, ticket: int, verdict: Verdict, now: float) -> None:
        """A slot returns (`Slot.give_back`): learn from it, then offer it."""
        replica = slot.state
        replica.slots.give_back()
        self.in_flight -= 1
        if self.warmth is not None:
            self._cool(self.warmth, slot, verdict, now)
        if self._watched:
            if verdict is SUCCESS and not slot.opening and type(slot) is Slot:
                taken, head, before_s = slot.taken_at, slot.answered_at, self.held_s
                held = now - taken if now > taken else 0.0
                replica.learn(held if head is None else head - taken if head > taken else 0.0, now)
                self.held_s = held if before_s is None else before_s + 0.1 * (held - before_s)
            if replica.breaker.note(verdict, ticket, now):
                self._arm(replica)
        before = self.blocked
        if replica.breaker.closed and replica.usable and replica.ready is not False:  # as in `_update`
            room, had = replica.slots.free, replica.room
            if room != had:
                self.free_slots += room - had
                replica.room = room
                if not room or not had:
                    self._enlist(replica)
        else:
            self._update(replica, now)
        if self._subscribers:
            self.told(before, now)

    def _cool(self, warmth: Warmth, slot: Slot, verdict: Verdict, now: float) -> None:
        """What is left of the instance behind a slot that comes back."""
        if self.provider_queue is not None:
            self.provider_queue.ended(slot, verdict, now)
            return
        if slot.opening:
            warmth.end_opening(slot)
        if verdict is Verdict.SUCCESS and isinstance(slot, Kept):
            warmth.kept(slot.used_at, now)
        elif verdict is Verdict.SUCCESS:
            warmth.back(now)
        elif slot.age is not None and not slot.used:
            warmth.untouched(slot.taken_at - slot.age)

    def _sent(self, queue: ProviderQueue, slot: Slot, now: float) -> None:
        """A call goes into the provider's own queue: the instance that boots for it is anybody's."""
        instance = queue.sent(slot, now)
        if instance is not None:
            self._timers.call_at(now + queue.boot_s, partial(self._came_up, queue, instance))

    def _came_up(self, queue: ProviderQueue, instance: object) -> None:
        now = self._clock.now()
        if queue.up(instance, now) and self._subscribers and self.free_slots:
            self._offer(now)

    def told(self, before: Reason | None, now: float) -> None:
        """Tell who waits."""
        if self._subscribers:
            if self.free_slots:
                self._offer(now)
            if self.blocked is not before:
                self._reconsider(now)

    def _reconsider(self, now: float) -> None:
        for pool in list(self._subscribers):
            pool.reconsider(now)

    # -- who waits -----------------------------------------------------------------------------

    def subscribe(self, pool: Subscriber) -> None:
        """`pool` has calls waiting: offer it what comes free."""
        self._subscribers.append(pool)
        self.claimants = len(self._subscribers)

    def unsubscribe(self, pool: Subscriber) -> None:
        """`pool` has no call waiting any more."""
        self._subscribers.remove(pool)
        self.claimants = len(self._subscribers) or 1

    def _offer(self, now: float) -> None:
        """Hand out free slots while anybody wants one; earliest deadline first, then longest wait."""
        while self.free_slots:
            pools = self._subscribers
            if len(pools) == 1:
                if not pools[0].offer(self, now):
                    return
            elif not any(pool.offer(self, now) for pool in sorted(pools, key=_head)):
                return


def _provider_queue(backend: Backend, warmth: Warmth | None) -> ProviderQueue | None:
    rent = backend.rent
    if warmth is None or rent is None or not backend.binds_late:
        return None
    return ProviderQueue(warmth, rent.boot_s)


def _head(pool: Subscriber) -> tuple[float, float]:
    return pool.head
