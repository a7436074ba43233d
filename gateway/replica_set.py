"""The replicas of one backend: which of them can take calls, how many slots are free, which is better.

Kept up to date event by event (a probe, a verdict, a breaker's timer, a load that is told), so that choosing
costs the same for one replica and for a thousand. Nothing here awaits. It never knows who waits for a slot,
nor what a call is: `Capacity` is built on it.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection
from functools import partial
from random import Random

from backends.base import Backend, Load
from gateway.breaker import Breaker, State
from gateway.clock import Clock, TimerHost
from gateway.new_replica import limited, new_replica
from gateway.outliers import stands_out
from gateway.replica import LATENCY_STALE_S, ReplicaState
from gateway.slots import SlotSource
from gateway.vocab import Reason

PROBE_FAILURES = 2
"""Failed probes in a row that make a replica unready: one lost packet does not."""

Replicas = Collection[tuple[str, int]]
"""Places as (backend name, replica index)."""


class ReplicaSet:
    """All replicas of one backend, and whoever is told when they change (`told`).

    slots:  makes the slot source of replica number N
    """

    def __init__(
        self,
        backend: Backend,
        *,
        clock: Clock,
        chance: Random,
        timers: TimerHost,
        slots: Callable[[int], SlotSource] | None,
    ) -> None:
        self.backend = backend
        self.name = backend.name
        self._clock = clock
        self._chance = chance
        self._timers = timers
        self._open: list[ReplicaState] = []  # those with room, in no order
        self._usable = 0
        self.free_slots = 0
        self.blocked: Reason | None = None
        """None when some replica can take calls, else why none can."""
        self.replicas: list[ReplicaState] = []
        self._slots = slots
        self.asks: Callable[[int], None] | None = None
        """Has a replica probed at once, where somebody probes them."""

    @abstractmethod
    def told(self, before: Reason | None, now: float) -> None:
        """A replica has changed, and with it perhaps the slots that are free, or what blocks (`before`)."""

    def _find(self) -> None:
        """Those that the backend has to begin with."""
        for index in range(len(self.backend.replicas)):
            self._add(index, ready=None)
        if not self.replicas:
            self._name_block()

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
        moved = replica.breaker.note_probe(answer, now)
        if moved or (answer and stands_out(replica, self.replicas, now)):
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
        now = self._clock.now()
        if replica.breaker.state(now) is not State.OPEN:
            return
        armed = [replica]
        if self._deserted():
            armed = [each for each in self.replicas if each.breaker.state(now) is State.OPEN]
            for each in armed:
                each.breaker.hasten(now)
        for each in armed:
            self._cancel_timer(each)
            due = each.breaker.retry_at
            each.timer = self._timers.call_at(due, partial(self._cooled, each, due))

    def _deserted(self) -> bool:
        """Several replicas, and all are out: that is no fault of each, so none is to stay out for long."""
        present = [each for each in self.replicas if not each.retired]
        left = [each for each in present if each.breaker.closed and each.ready is not False]
        return len(present) > 1 and not left

    def _cooled(self, replica: ReplicaState, due: float) -> None:
        replica.timer = None
        now = max(due, self._clock.now())
        breaker = replica.breaker
        breaker.state(now)
        if (unasked_at := breaker.unasked_at) is not None and now < unasked_at:
            replica.timer = self._timers.call_at(unasked_at, partial(self._cooled, replica, unasked_at))
            if self.asks is not None:
                self.asks(replica.index)
        self._changed(replica, now)

    def _changed(self, replica: ReplicaState, now: float) -> None:
        """Something about the replica may have changed: count again and tell of it."""
        before = self.blocked
        self._update(replica, now)
        self.told(before, now)

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

    def close(self) -> None:
        """Cancel the timers of open breakers."""
        for replica in self.replicas:
            self._cancel_timer(replica)

    @staticmethod
    def _cancel_timer(replica: ReplicaState) -> None:
        if replica.timer is not None:
            replica.timer.cancel()
            replica.timer = None
