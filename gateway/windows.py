"""Amounts that are forgotten: a sum over the last so many seconds, in a bounded number of small slots.

Pure: the time of everything is an argument. Amounts are whole numbers, so that sums are exact however
many are added, and nothing is left over once all are forgotten. It never knows what it counts.
"""

from collections import deque
from math import inf


class Window:
    """The sum of what was added within the last `seconds`, kept in `slots` slots and the one that runs.

    Exact to one slot, and always late: an amount counts for at least `seconds` and is forgotten at the
    end of a slot, at most `seconds / slots` after that. So what is added while a check of `total` allows
    it never exceeds the checked limit over any stretch of `seconds`.
    """

    __slots__ = ("_begins", "_ends", "_entries", "_slots", "_total", "granule")

    def __init__(self, seconds: float, slots: int) -> None:
        if seconds <= 0 or slots < 1:
            raise ValueError("a window has a length and at least one slot")
        self.granule = seconds / slots
        self._slots = slots
        self._entries: deque[list[int]] = deque()  # [index of the slot, amount], only those with something
        self._total = 0
        self._begins = self._ends = -inf  # of the last entry, while there is one

    def total(self, now: float) -> int:
        """What counts at `now`."""
        self._forget(now)
        return self._total

    def add(self, amount: int, at: float) -> None:
        """Count `amount` as of `at`, which may lie in the past."""
        if self._begins <= at < self._ends:  # nearly always; and nothing is forgotten before a slot ends
            self._entries[-1][1] += amount
            self._total += amount
            return
        self._forget(at)
        entries, index = self._entries, int(at // self.granule)
        if entries and entries[-1][0] == index:
            entries[-1][1] += amount
        elif not entries or entries[-1][0] < index:
            entries.append([index, amount])
            self._begins, self._ends = index * self.granule, (index + 1) * self.granule
        else:
            place = next(place for place, entry in enumerate(entries) if entry[0] >= index)
            if entries[place][0] == index:
                entries[place][1] += amount
            else:
                entries.insert(place, [index, amount])
        self._total += amount

    def take(self, amount: int, now: float) -> int:
        """Take up to `amount` out, the oldest first; returns how much that was."""
        self._forget(now)
        entries, taken = self._entries, 0
        while entries and taken < amount:
            part = min(entries[0][1], amount - taken)
            entries[0][1] -= part
            taken += part
            if entries[0][1] == 0:
                self._drop()
        self._total -= taken
        return taken

    def falls_to(self, level: int, now: float) -> float:
        """When the sum will be at most `level` if nothing is added; infinity for a level below zero."""
        left = self.total(now)
        if left <= level:
            return now
        for index, amount in self._entries:
            left -= amount
            if left <= level:
                return (index + self._slots + 1) * self.granule
        return inf

    def _forget(self, now: float) -> None:
        entries, oldest = self._entries, int(now // self.granule) - self._slots
        while entries and entries[0][0] < oldest:
            self._total -= entries[0][1]
            self._drop()

    def _drop(self) -> None:
        self._entries.popleft()
        if not self._entries:
            self._begins = self._ends = -inf
