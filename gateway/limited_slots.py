"""Slots of a replica whose number changes while calls run: learned, shared with other clients, or taken away.

`CounterSlots` for what never changes costs less and knows less. What is taken stays taken until it is given
back, however small the number becomes meanwhile. Knows no clock, no backend and no queue.
"""

from collections.abc import Callable


class LimitedSlots:
    """A counter whose limit moves (`gateway.slots.SlotSource`).

    limit:      calls that the replica can have at once, whoever sends them
    elsewhere:  how many of these other clients have there, as far as is known
    capacity:   what is left for this gateway; always one while it is open, or nobody would learn any more how
                the replica fares
    """

    __slots__ = ("_open", "capacity", "elsewhere", "free", "in_flight", "limit")

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"a replica needs at least one slot, not {limit}")
        self._open = True
        self.limit = limit
        self.elsewhere = 0
        self.capacity = self.free = limit
        self.in_flight = 0

    def take(self) -> bool:
        """Take one slot if there is one."""
        if self.free <= 0:
            return False
        self.free -= 1
        self.in_flight += 1
        return True

    def give_back(self) -> None:
        """Return one slot."""
        if self.in_flight <= 0:
            raise RuntimeError("a slot was given back that nobody had taken")
        self.in_flight -= 1
        free = self.capacity - self.in_flight
        self.free = free if free > 0 else 0

    def resize(self, limit: int) -> None:
        """So many calls at once from now on."""
        self.limit = limit
        self._count()

    def occupy(self, elsewhere: int) -> None:
        """Other clients have so many calls there."""
        self.elsewhere = elsewhere
        self._count()

    def close(self) -> None:
        """No more are handed out."""
        self._open = False
        self._count()

    def reopen(self) -> None:
        """They are handed out again."""
        self._open = True
        self._count()

    def on_free(self, callback: Callable[[], None]) -> None:
        """Whoever moves the limit tells the capacity itself."""

    def _count(self) -> None:
        self.capacity = max(1, self.limit - self.elsewhere) if self._open else 0
        self.free = max(0, self.capacity - self.in_flight)
