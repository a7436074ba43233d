"""The slots of one backend, shared by every pool that lists it: which replica, and may it be used.

One `Capacity` per backend. It keeps for each replica its slots, its breaker, its readiness and its
latency, and for a rented backend which slots are warm. It picks the replica for the next call, and
when a slot comes free it offers it to the pools that have calls waiting, what is due first first.

Everything is kept up to date event by event (a slot taken, a verdict, a probe, a breaker's timer),
so that choosing costs the same for one replica and for a thousand. Nothing here awaits. Knows the
backend contract; never a policy, a route or a call's content.
"""

from collections.abc import Callable, Collection
from functools import partial
from random import Random
from typing import Any, Protocol

from backends.base import Backend, Load
from gateway.breaker import Breaker, State
from gateway.clock import Clock, TimerHost
from gateway.new_replica import limited, new_replica
from gateway.replica import LATENCY_STALE_S, ReplicaState
from gateway.slot import QUESTION, Kept, Slot
from gateway.slots import SlotSource
from gateway.vocab import Reason, Verdict
from gateway.warmth import Warmth

PROBE_FAILURES = 2
"""Failed probes in a row that make a replica unready: one lost packet does not."""

Replicas = Collection[tuple[str, int]]
"""Places as (backend name, replica index)."""


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


class Capacity:
    """All replicas of one backend.

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
        self.backend = backend
        self.name = backend.name
        self.carries_all = type(backend).cannot_carry is Backend.cannot_carry
        """No call could ever be unfit for it: a question that need not be asked."""
        self._clock = clock
        self._chance = chance
        self._timers = timers
        self._watched = watched
        self._subscribers: list[Subscriber] = []
        self._open: list[ReplicaState] = []  # those with room, in no order
        self._usable = 0
        self.in_flight = 0
        """Slots taken, on all replicas."""
        self.free_slots = 0
        self.blocked: Reason | None = None
        """None when some replica can take calls, else why none can."""
        self.held_s: float | None = None
        """Moving average of how long a successful call keeps its slot; None before the first."""
        self._can_open = backend.can_open
        rent = backend.rent
        self.warmth = None if backend.owned else Warmth(rent.idle_s if rent is not None else 0.0)
        """Which slots of a rented backend are warm; None for an owned one, all of whose slots are."""
        self.replicas: list[ReplicaState] = []
        self._slots = slots
        for index in range(len(backend.replicas)):
            self._add(index, ready=None)
        if not self.replicas:
            self._name_block()
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
    def claimants(self) -> int:
        """Pools with calls waiting for slots here; at least 1."""
        return len(self._subscribers) or 1

    @property
    def capacity(self) -> int:
        """All slots, on usable replicas and others."""
        return sum(replica.slots.capacity for replica in self.replicas)

    def free(self, excluded: Replicas = ()) -> int:
        """Slots that could be taken now outside the excluded replicas."""
        if not excluded:
            return self.free_slots
        return sum(replica.room for replica in self._open if (self.name, replica.index) not in excluded)

    def exhausted(self, excluded: Replicas) -> bool:
        """True when every replica is excluded."""
        return all((self.name, each.index) in excluded for each in self.replicas if not each.retired)

    def ready(self, replica: int) -> bool | None:
        """What probes say: None when they have said nothing yet."""
        return self.replicas[replica].ready

    def breaker_state(self, replica: int) -> State:
        """Where that replica's breaker stands."""
        return self.replicas[replica].breaker.state(self._clock.now())

    def retry_in(self, now: float) -> float | None:
        """Seconds until the first open breaker lets a trial through; None when no breaker is open."""
        waits = [
            max(0.0, replica.breaker.retry_at - now)
            for replica in self.replicas
            if replica.ready is not False and replica.breaker.state(now) is State.OPEN
        ]
        return min(waits, default=None)

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

    def pick(self, excluded: Replicas = ()) -> int | None:
        """The replica that the next call should take a slot of, or None when no slot is free."""
        replica = self._pick(self._open, excluded, self._clock.now())
        return None if replica is None else replica.index

    def take(self, excluded: Replicas, now: float, reason: Reason, queued_s: float) -> Slot | None:
        """Pick a replica and take a slot of it, in one step; None when there is none."""
        among = self._open
        replica = among[0] if len(among) == 1 and not excluded else self._pick(among, excluded, now)
        while replica is not None:
            if replica.slots.take():
                breaker = replica.breaker
                ticket = breaker.generation if breaker.closed else breaker.enter(now)
                self.in_flight += 1
                if breaker.closed:  # nothing changes but the count
                    room = replica.slots.free
                    self.free_slots += room - replica.room
                    replica.room = room
                    if not room:
                        self._enlist(replica)
                else:
                    self._update(replica, now)
                slot = Slot(self, replica, ticket, now, reason, queued_s, self.backend)
                if self.warmth is not None:
                    slot.age = self.warmth.take(now)
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

    def _pick(self, among: list[ReplicaState], excluded: Replicas, now: float) -> ReplicaState | None:
        """The better of two drawn at random: near-best load, without every caller seeing the same best."""
        if excluded:
            among = [replica for replica in among if (self.name, replica.index) not in excluded]
        count = len(among)
        if count <= 1:
            return among[0] if among else None
        first = int(self._chance.random() * count)
        second = 1 - first
        if count > 2:
            second = int(self._chance.random() * (count - 1))
            second += second >= first
        a, b = among[first], among[second]
        load_a, load_b = a.slots.in_flight + 1, b.slots.in_flight + 1
        if a.latency is None or b.latency is None:
            # An unknown replica counts as fast as its rival: it gets its share, never the whole herd.
            return a if load_a <= load_b else b
        if now - min(a.latency_at, b.latency_at) > LATENCY_STALE_S:
            return a if load_a <= load_b else b
        return a if load_a * a.latency <= load_b * b.latency else b

    # -- what happens to replicas --------------------------------------------------------------

    def take_back(self, slot: Slot, ticket: int, verdict: Verdict, now: float) -> None:
        """A slot returns (`Slot.give_back`): learn from it, then offer it."""
        replica = slot.state
        replica.slots.give_back()
        self.in_flight -= 1
        if self.warmth is not None:
            self._cool(self.warmth, slot, verdict, now)
        if self._watched:
            if verdict is Verdict.SUCCESS and not slot.opening and type(slot) is Slot:
                held = max(0.0, now - slot.taken_at)
                head = slot.answered_at
                replica.learn(held if head is None else max(0.0, head - slot.taken_at), now)
                self.held_s = held if self.held_s is None else self.held_s + 0.1 * (held - self.held_s)
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
            if self.free_slots:
                self._offer(now)
            if self.blocked is not before:
                self._reconsider(now)

    @staticmethod
    def _cool(warmth: Warmth, slot: Slot, verdict: Verdict, now: float) -> None:
        """What is left of the instance behind a slot that comes back."""
        if slot.opening:
            warmth.end_opening(slot)
        if verdict is Verdict.SUCCESS and isinstance(slot, Kept):
            warmth.kept(slot.used_at, now)
        elif verdict is Verdict.SUCCESS:
            warmth.back(now)
        elif slot.age is not None and not slot.used:
            warmth.untouched(slot.taken_at - slot.age)

    def note_ready(self, index: int, answer: bool | None, now: float) -> None:
        """A probe's answer: True, False, or None where there is no such question."""
        replica = self.replicas[index]
        if answer is None or replica.retired:
            return
        if answer:
            replica.ready = True
            replica.failed_probes = 0
        else:
            replica.failed_probes += 1
            if replica.failed_probes >= PROBE_FAILURES:
                replica.ready = False
        if replica.breaker.note_probe(answer, now):
            self._arm(replica)
        self._changed(replica, now)

    def join(self, index: int) -> None:
        """A replica has come: at a new index, in the place of one that is gone, or back where it was."""
        if index < len(self.replicas) and (replica := self.replicas[index]).in_flight:
            replica.retired = False  # its calls from before still run
            limited(replica).reopen()
        else:
            self._add(index, ready=False)

    def retire(self, index: int) -> None:
        """A replica gets no new calls."""
        replica = self.replicas[index]
        replica.retired = True
        replica.ready = False
        replica.load = None
        self._cancel_timer(replica)
        replica.breaker = Breaker(self._chance)  # what it did is nobody's concern any more
        limited(replica).close()
        self._changed(replica, self._clock.now())

    def vacant(self, index: int) -> bool:
        """No call is left on a replica that has left."""
        replica = self.replicas[index]
        return replica.retired and not replica.in_flight

    def note_load(self, index: int, load: Load | None) -> None:
        """How busy the replica says it is: other clients' calls take slots too."""
        replica = self.replicas[index]
        if not replica.retired:
            replica.load = load
            limited(replica).occupy(0 if load is None else load.elsewhere)
            self._changed(replica, self._clock.now())

    def _add(self, index: int, *, ready: bool | None) -> None:
        now, name = self._clock.now(), self.backend.replicas[index]
        source = self._slots(index) if self._slots else None
        replica = new_replica(self.backend, index, name, slots=source, chance=self._chance, now=now)
        replica.ready = ready
        self.replicas[index : index + 1] = [replica]
        self._update(replica, now)
        replica.slots.on_free(partial(self._freed_elsewhere, replica))

    def _freed_elsewhere(self, replica: ReplicaState) -> None:
        self._changed(replica, self._clock.now())

    def _arm(self, replica: ReplicaState) -> None:
        """Nobody may be left to ask an open breaker whether its time is over: a timer does."""
        self._cancel_timer(replica)
        due = replica.breaker.retry_at
        if replica.breaker.state(self._clock.now()) is State.OPEN:
            replica.timer = self._timers.call_at(due, partial(self._cooled, replica, due))

    def _cooled(self, replica: ReplicaState, due: float) -> None:
        replica.timer = None
        self._changed(replica, max(due, self._clock.now()))

    def _changed(self, replica: ReplicaState, now: float) -> None:
        """Something about the replica may have changed: count again and tell who waits."""
        before = self.blocked
        self._update(replica, now)
        if self._subscribers:
            if self.free_slots:
                self._offer(now)
            if self.blocked is not before:
                self._reconsider(now)

    def _reconsider(self, now: float) -> None:
        for pool in list(self._subscribers):
            pool.reconsider(now)

    def _update(self, replica: ReplicaState, now: float) -> None:
        """Bring the counts in line with this replica's slots, breaker and readiness."""
        breaker = replica.breaker
        if breaker.closed and replica.usable and replica.ready is not False:  # nothing but a slot has moved
            room, before = replica.slots.free, replica.room
            if room != before:
                self.free_slots += room - before
                replica.room = room
                if not room or not before:
                    self._enlist(replica)
            return
        if replica.ready is False:
            usable, room = False, 0
        elif breaker.closed:
            usable, room = True, replica.slots.free
        else:  # at most the one trial
            usable = breaker.allows(now)
            room = min(1, replica.slots.free) if usable else 0
        self.free_slots += room - replica.room
        replica.room = room
        if (replica.place < 0) is (room > 0):
            self._enlist(replica)
        if usable is not replica.usable:
            replica.usable = usable
            self._usable += 1 if usable else -1
            self._name_block()
        elif not self._usable:
            self._name_block()

    def _name_block(self) -> None:
        if self._usable:
            self.blocked = None
        elif all(replica.ready is False for replica in self.replicas):
            self.blocked = Reason.SPILL_UNHEALTHY
        else:
            self.blocked = Reason.SPILL_BREAKER

    def _enlist(self, replica: ReplicaState) -> None:
        """Put the replica on the list of those with room, or take it off, in constant time."""
        if replica.room:
            replica.place = len(self._open)
            self._open.append(replica)
        else:
            last = self._open.pop()
            if last is not replica:
                last.place = replica.place
                self._open[last.place] = last
            replica.place = -1

    # -- who waits -----------------------------------------------------------------------------

    def subscribe(self, pool: Subscriber) -> None:
        """`pool` has calls waiting: offer it what comes free."""
        self._subscribers.append(pool)

    def unsubscribe(self, pool: Subscriber) -> None:
        """`pool` has no call waiting any more."""
        self._subscribers.remove(pool)

    def _offer(self, now: float) -> None:
        """Hand out free slots while anybody wants one; earliest deadline first, then longest wait."""
        while self.free_slots:
            pools = self._subscribers
            if len(pools) == 1:
                if not pools[0].offer(self, now):
                    return
            elif not any(pool.offer(self, now) for pool in sorted(pools, key=_head)):
                return

    def close(self) -> None:
        """Cancel the timers of open breakers."""
        for replica in self.replicas:
            self._cancel_timer(replica)

    @staticmethod
    def _cancel_timer(replica: ReplicaState) -> None:
        if replica.timer is not None:
            replica.timer.cancel()
            replica.timer = None


def _head(pool: Subscriber) -> tuple[float, float]:
    return pool.head
