"""The calls that wait for one route, in the order in which they will be served, and how much work they are.

    critical        what is due first first
    default         the same
    late            those whose budget cannot be kept any more: after everybody who can still be in time
    (best effort)   apart from all of these: they take what nobody else wants

Pure: it asks nobody and tells nobody, and knows leases only as things with an order and an amount of work.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from math import fsum
from operator import attrgetter

from gateway.lease import Lease

RANKS = {"critical": 0, "default": 1, "best_effort": 3}
"""Place of the classes."""
LATE = 2

_in_order: Callable[[Lease], tuple[int, float, int]] = attrgetter("order")


class DeadlineQueue:
    """Waiting calls.

    calls:        in order; the first `in_time` of them are not late
    best_effort:  those that fill idle slots, what is due first first
    work:         seconds of a slot of the reference tier that the calls in time are expected to take
    """

    __slots__ = ("_joined", "_left", "best_effort", "calls", "in_time", "work")

    def __init__(self) -> None:
        self.calls: list[Lease] = []
        self.best_effort: list[Lease] = []
        self.in_time = 0
        self.work = 0.0
        self._joined = 0
        self._left = 0.0  # work that has left, ever

    def __bool__(self) -> bool:
        return bool(self.calls or self.best_effort)

    def __len__(self) -> int:
        return len(self.calls) + len(self.best_effort)

    def join(self, lease: Lease, work: float, *, late: bool) -> None:
        """A call begins to wait."""
        self._joined = sequence = self._joined + 1
        rank = RANKS[lease.call.priority]
        if late and rank < LATE:
            rank = LATE
        lease.late = late
        lease.work = work
        lease.order = order = (rank, lease.due, sequence)
        calls = self.calls
        if rank < LATE and (not calls or order > calls[-1].order):  # the common case, without a detour
            lease.mark = self._left + self.work
            calls.append(lease)
            self.in_time += 1
            self.work += work
        else:
            self._add(lease)

    def demote(self, lease: Lease) -> None:
        """Its budget cannot be kept any more."""
        self.leave(lease)
        lease.late = True
        lease.order = (max(LATE, lease.order[0]), *lease.order[1:])
        self._add(lease)

    def leave(self, lease: Lease) -> None:
        """It waits no longer."""
        rank = lease.order[0]
        calls = self.calls if rank <= LATE else self.best_effort
        del calls[0 if calls[0] is lease else bisect_left(calls, lease.order, key=_in_order)]
        if rank < LATE:
            self.in_time -= 1
            self._left += lease.work
            # Sums of floats drift; an empty queue is the moment to begin anew.
            self.work = self.work - lease.work if self.in_time else 0.0

    def ahead(self, lease: Lease) -> float:
        """Work in time that stands before a waiting call: what stood there when it joined, less what has left
        since. As good as exact, since calls leave at the front, and no effort for any length of the queue.
        """
        left = lease.mark - self._left
        return left if left > 0.0 else 0.0

    def ahead_of(self, priority: str, due: float) -> float:
        """Work in time that would stand before a call that joined now."""
        rank = RANKS[priority]
        if rank > LATE or not self.in_time:
            return self.work
        last = self.calls[self.in_time - 1].order
        if due >= last[1] if rank == last[0] else rank > last[0]:
            return self.work
        return self._before((rank, due, self._joined + 1))

    def _before(self, order: tuple[int, float, int]) -> float:
        return fsum(lease.work for lease in self.calls[: self.in_time] if lease.order < order)

    def _add(self, lease: Lease) -> None:
        order = lease.order
        calls = self.calls if order[0] <= LATE else self.best_effort
        if calls and order < calls[-1].order:
            lease.mark = self._left + (self._before(order) if order[0] < LATE else 0.0)
            insort(calls, lease, key=_in_order)
        else:
            lease.mark = self._left + self.work
            calls.append(lease)
        if order[0] < LATE:
            self.in_time += 1
            self.work += lease.work
