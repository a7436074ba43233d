"""Slots that the workers of one machine share: a kernel semaphore per replica, and a table of who holds what.

The semaphore (`eventfd` with EFD_SEMAPHORE) decides who gets a slot, so that never more are out than there
are, whatever the workers believe. The table lies in shared memory, one cell for each replica and worker, only
written by that worker: it says how many slots are free without a system call, and what a worker held when it
was killed. A slot is counted after it was taken and uncounted before it is returned; a worker that dies in
between leaves one slot too few, never one too many, and `settle` finds it.

Knows no backend, no queue and no call.
"""

import os
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable, Iterable
from mmap import mmap
from typing import NamedTuple

LINGER_S = 1.0
"""How long what a dead worker held is kept back: its replicas may still work on its calls for a while."""
YIELD_S = 0.002
"""How long a worker leaves a slot to one that holds fewer, before it takes it itself."""
_WORD = 8
_PER_WORKER = 5  # serving, steps, replica of the last step, number of its queue, posted


class HandedReplicas(NamedTuple):
    """`Replicas` for another image of the same process, which has the same descriptors."""

    memory: int
    tokens: list[int]
    rows: list[tuple[str, int, int]]
    workers: int
    suspects: list[int]
    lingering: list[tuple[float, int, int]]


class Replicas:
    """The shared state of all replicas of all backends. Made before the first worker is forked.

    capacities:  slots of every replica, keyed by (backend name, replica index)
    spare:       rows for replicas that a reload brings: what is shared must be there before the first fork
    keys:        which row each replica has; every process is told when that changes
    """

    def __init__(self, capacities: dict[tuple[str, int], int], workers: int, *, spare: int = 0) -> None:
        self.keys = {key: index for index, key in enumerate(capacities)}
        count = len(capacities) + spare
        self.memory = os.memfd_create("overspill-slots")
        os.ftruncate(self.memory, self._lay_out(workers, count) * _WORD)
        self._map()
        for row, slots in enumerate(capacities.values()):
            self.capacities[row] = slots
        flags = os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC
        self.tokens = [os.eventfd(slots, flags) for slots in self.capacities]
        self._suspects: set[int] = set()
        self._lingering: deque[tuple[float, int, int]] = deque()

    def _lay_out(self, workers: int, count: int) -> int:
        """How many cells there are."""
        self.workers = workers
        self._rows = count
        self._row = workers + 1  # the last cell is the supervisor's: what it keeps back
        self._size = 1 + _PER_WORKER * workers + count * (self._row + workers)
        return self._size + count

    def _map(self) -> None:
        whole = memoryview(mmap(self.memory, (self._size + self._rows) * _WORD)).cast("q")
        self._cells, self.capacities = whole[: self._size], whole[self._size :]

    def handed(self) -> HandedReplicas:
        """For who takes over."""
        rows = [(*key, row) for key, row in self.keys.items()]
        return HandedReplicas(
            self.memory, self.tokens, rows, self.workers, sorted(self._suspects), list(self._lingering)
        )

    @classmethod
    def taken_over(cls, handed: HandedReplicas) -> "Replicas":
        """The same as they were handed over."""
        made = cls.__new__(cls)
        made._lay_out(handed.workers, len(handed.tokens))
        made.memory, made.tokens = handed.memory, handed.tokens
        made._map()
        made.keys = {(backend, index): row for backend, index, row in handed.rows}
        made._suspects = set(handed.suspects)
        made._lingering = deque(handed.lingering)
        return made

    # -- the table -----------------------------------------------------------------------------

    @property
    def restarts(self) -> int:
        """Workers that were started in the place of one that had ended."""
        return self._cells[0]

    @restarts.setter
    def restarts(self, count: int) -> None:
        self._cells[0] = count

    def serving(self, worker: int) -> bool:
        """Does this worker's port take calls?"""
        return bool(self.worker(worker)[0])

    def worker(self, worker: int) -> memoryview:
        """Of one worker: [serving, steps begun and ended, replica of the last step, queue, posted].

        While the number of steps is odd it is in one.
        """
        start = 1 + _PER_WORKER * worker
        return self._cells[start : start + _PER_WORKER]

    def post(self, worker: int, *, there: bool) -> None:
        """Is there to be a worker at this place? It is not when the one there is on its way out."""
        self.worker(worker)[4] = there

    def posted(self) -> list[int]:
        """Places at which there is to be a worker."""
        return [worker for worker in range(self.workers) if self.worker(worker)[4]]

    def attended(self, queue: int) -> bool:
        """Does some worker serve that queue of connections?"""
        own = map(self.worker, range(self.workers))
        return any(each[0] and each[3] == queue for each in own)

    def held(self, replica: int) -> memoryview:
        """Slots of one replica that each worker holds, and those that the supervisor keeps back."""
        start = 1 + _PER_WORKER * self.workers + replica * self._row
        return self._cells[start : start + self._row]

    def dry(self, replica: int) -> memoryview:
        """For each worker: 1 while it waits to hear that a slot of that replica came free."""
        start = 1 + (_PER_WORKER + replica) * self.workers + self._rows * self._row
        return self._cells[start : start + self.workers]

    def provide(self, row: int, slots: int) -> None:
        """Give a row that nobody uses so many slots."""
        token = self.tokens[row]
        while True:
            try:
                os.eventfd_read(token)
            except BlockingIOError:
                break
        self.capacities[row] = slots
        os.eventfd_write(token, slots)

    # -- what the supervisor does --------------------------------------------------------------

    def reap(self, worker: int, now: float) -> int:
        """A worker has ended: take what it held, tell how many slots that were. `tend` returns them."""
        own = self.worker(worker)
        if own[1] % 2:
            self._suspects.add(own[2])
        own[0] = own[1] = 0
        returned = 0
        for replica in range(len(self.tokens)):
            self.dry(replica)[worker] = 0
            held = self.held(replica)
            if count := held[worker]:
                held[self.workers] += count
                held[worker] = 0
                self._lingering.append((now + LINGER_S, replica, count))
                returned += count
        return returned

    def tend(self, now: float) -> bool:
        """Return what dead workers left. True: there is more to come, or to be found."""
        lingering = self._lingering
        while lingering and lingering[0][0] <= now:
            _, replica, count = lingering.popleft()
            self.held(replica)[self.workers] -= count
            os.eventfd_write(self.tokens[replica], count)
        self._settle()
        return bool(lingering or self._suspects)

    def _settle(self, tries: int = 100) -> None:
        """Find the slot that a worker took or returned in the very moment in which it died.

        Needs a moment in which no worker takes or returns any.
        """
        for replica in list(self._suspects):
            for _ in range(tries):
                missing = self._missing(replica)
                if missing is not None:
                    self._suspects.discard(replica)
                    if missing > 0:
                        os.eventfd_write(self.tokens[replica], missing)
                    break

    def _missing(self, replica: int) -> int | None:
        """Slots that are neither there nor held; None when somebody moved one meanwhile."""
        before = [self.worker(worker)[1] for worker in range(self.workers)]
        if any(steps % 2 for steps in before):
            return None
        found = tokens_left(self.tokens[replica]) + sum(self.held(replica))
        after = [self.worker(worker)[1] for worker in range(self.workers)]
        return self.capacities[replica] - found if after == before else None


class SharedSlots:
    """The slots of one replica as one worker sees them (`gateway.slots.SlotSource`).

    free:  what this worker believes. It may be too high, which the next `take` finds out; when it is 0
           the semaphore is watched, so that the loop tells when that is over
    """

    __slots__ = (
        "_callback", "_dry", "_held", "_loop", "_own", "_replica", "_timer", "_token", "_watching", "_worker",
        "capacity", "closed", "free", "in_flight", "row",
    )  # fmt: skip

    def __init__(self, replicas: Replicas, replica: int, worker: int, loop: AbstractEventLoop) -> None:
        self.capacity = replicas.capacities[replica]
        self.row = replica
        # Of its own: a loop watches a descriptor once, and after a reload two may be for one replica.
        self._token = os.dup(replicas.tokens[replica])
        self.closed = False
        self._held = replicas.held(replica)
        self._dry = replicas.dry(replica)
        self._own = replicas.worker(worker)
        self._replica = replica
        self._worker = worker
        self._loop = loop
        self._callback: Callable[[], None] = _nothing
        self._watching = False
        self._timer: TimerHandle | None = None
        self.free = self._left()
        self.in_flight = 0
        if not self.free:
            self._watch()

    def take(self) -> bool:
        """Take one slot if there is one."""
        own = self._own
        own[2] = self._replica
        own[1] += 1
        try:
            os.eventfd_read(self._token)
        except BlockingIOError:
            own[1] += 1
            self.free = 0
            self._watch()
            return False
        self._held[self._worker] += 1
        own[1] += 1
        self.in_flight += 1
        self.free = self._left()
        if not self.free:
            self._watch()
        return True

    def give_back(self) -> None:
        """Return one slot."""
        if self.in_flight <= 0:
            raise RuntimeError("a slot was given back that nobody had taken")
        own = self._own
        own[2] = self._replica
        own[1] += 1
        self._held[self._worker] -= 1
        os.eventfd_write(self._token, 1)
        own[1] += 1
        self.in_flight -= 1
        if self.free:
            self.free = self._left() or 1
        elif self._poorer():
            self._pause()
        else:
            self.free = self._left()
            if not self.free:
                self._watch()

    def on_free(self, callback: Callable[[], None]) -> None:
        """Call `callback` when a slot came free after there had been none."""
        self._callback = callback

    def close(self) -> None:
        """Watch no longer."""
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.closed:
            self.closed = True
            os.close(self._token)

    def _left(self) -> int:
        """Slots that nobody has counted as theirs."""
        left = self.capacity - sum(self._held)
        return left if left > 0 else 0

    def _poorer(self) -> bool:
        """Does a worker wait that holds fewer slots? It would never get one from a worker with a queue."""
        dry = self._dry
        if sum(dry) <= dry[self._worker]:
            return False
        held = self._held
        mine = held[self._worker]
        return any(waits and held[other] < mine for other, waits in enumerate(dry) if other != self._worker)

    def _pause(self) -> None:
        """Let others have it first."""
        self._unwatch()
        if self._timer is None:
            self._timer = self._loop.call_later(YIELD_S, self._resume)

    def _resume(self) -> None:
        self._timer = None
        if not self.free:
            self._watch()

    def _watch(self) -> None:
        self._dry[self._worker] = 1
        if not self._watching and self._timer is None:
            self._watching = True
            self._loop.add_reader(self._token, self._readable)

    def _unwatch(self) -> None:
        self._dry[self._worker] = 0
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._token)

    def _readable(self) -> None:
        if not self.free:
            self.free = self._left()
            if not self.free:
                return  # another worker was faster
            self._dry[self._worker] = 0
            self._callback()
        if self.free:
            self._unwatch()


def tokens_left(token: int) -> int:
    """What a semaphore of this process stands at, without taking any (proc(5), /proc/PID/fdinfo)."""
    with open(f"/proc/self/fdinfo/{token}") as lines:
        return _count(lines)


def _count(lines: Iterable[str]) -> int:
    for line in lines:
        name, _, value = line.partition(":")
        if name == "eventfd-count":
            return int(value, 16)
    raise RuntimeError("the kernel does not tell what an eventfd stands at")


def _nothing() -> None:
    """Nobody waits."""
