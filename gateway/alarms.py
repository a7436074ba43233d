"""The promised moments of a queue: one timer for all of them, set for the first.

Most calls leave the queue before their moment comes, and a timer of its own for each would have to be
made and cancelled. Here a moment is one entry of a heap, and one that nobody waits for any more is
passed over when it is reached. Knows what it keeps only as things to hand back.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Generic, TypeVar

from gateway.clock import Clock, Timer, TimerHost

Item = TypeVar("Item")


class Alarms(Generic[Item]):
    """Calls `ring(item, moment)` when its moment comes, for every entry that matters then.

    matters:  whether somebody still waits for an item's moment; once it does not, it never will again
    """

    __slots__ = ("_clock", "_entries", "_matters", "_ring", "_sequence", "_set_for", "_timer", "_timers")

    def __init__(
        self,
        clock: Clock,
        timers: TimerHost,
        ring: Callable[[Item, float], object],
        matters: Callable[[Item, float], bool],
    ) -> None:
        self._clock = clock
        self._timers = timers
        self._ring = ring
        self._matters = matters
        self._entries: list[tuple[float, int, Item]] = []
        self._sequence = 0
        self._timer: Timer | None = None
        self._set_for = inf

    def add(self, moment: float, item: Item) -> None:
        """Ring for `item` at `moment`, on the clock."""
        self._sequence = sequence = self._sequence + 1
        heappush(self._entries, (moment, sequence, item))
        if moment < self._set_for:
            self._set(moment)

    def clear(self) -> None:
        """Nobody waits any more."""
        self._entries.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._set_for = inf

    def _set(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._set_for = moment
        self._timer = self._timers.call_at(moment, self._due)

    def _due(self) -> None:
        # Hosts round: a timer that rings a little early still means the moment it was set for.
        now = max(self._set_for, self._clock.now())
        self._timer = None
        self._set_for = inf
        entries, matters = self._entries, self._matters
        while entries:
            moment, _, item = entries[0]
            if not matters(item, moment):
                heappop(entries)
            elif moment <= now:
                heappop(entries)
                self._ring(item, moment)
            else:
                break
        if entries and entries[0][0] < self._set_for:
            self._set(entries[0][0])
