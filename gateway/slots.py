"""Where a replica's slots come from, and the counter that serves one process.

A slot is the right to have one call running on one replica. Whoever took one gives it back, on
every way out. The pool only knows the `SlotSource` protocol, so slots may also be tokens that the
processes of one machine share, or leases from a store that several machines share.

Knows nothing: no clock, no backend, no queue.
"""

from collections.abc import Callable
from typing import Protocol


class SlotSource(Protocol):
    """The slots of one replica, perhaps shared with holders this process cannot see."""

    @property
    def capacity(self) -> int:
        """All slots there are, whoever holds them."""
        ...

    @property
    def in_flight(self) -> int:
        """Slots that this process holds."""
        ...

    @property
    def free(self) -> int:
        """Slots that `take` would hand out now, as far as is known without asking anybody.

        A shared source may be wrong about it, in one direction only for long: after a `take` that
        failed it is 0 until a slot comes free.
        """
        ...

    def take(self) -> bool:
        """Take one slot now; False when there is none. Never waits."""
        ...

    def give_back(self) -> None:
        """Return one slot. RuntimeError when this process holds none."""
        ...

    def on_free(self, callback: Callable[[], None]) -> None:
        """Call `callback`, on the event loop, whenever a slot came free that this process did not return."""
        ...


class CounterSlots:
    """Slots counted in this process alone."""

    __slots__ = ("capacity", "free", "in_flight")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a replica needs at least one slot, not {capacity}")
        self.capacity = capacity
        self.free = capacity
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
        self.free += 1
        self.in_flight -= 1

    def on_free(self, callback: Callable[[], None]) -> None:
        """Nobody else takes these slots, so none ever comes free elsewhere."""
