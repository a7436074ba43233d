"""The slots of a replica whose backend was made anew by a reload while the one before still has calls there.

Both talk to the same server, which is promised never more calls at once than `max_in_flight`: what the
earlier one holds is not there for its heir. Knows slots; no backend's kind and no call.
"""

from collections.abc import Callable, Collection

from backends.base import Backend
from gateway.capacity import Capacity
from gateway.options import Auto
from gateway.slots import CounterSlots, SlotSource


class HeirSlots:
    """Slots less those that earlier holders have not returned (`gateway.slots.SlotSource`).

    `look` has to be called now and then while there are any: nobody tells when an earlier one returns.
    """

    __slots__ = ("_before", "_callback", "_seen", "capacity", "in_flight")

    def __init__(self, capacity: int, before: SlotSource) -> None:
        self.capacity = capacity
        self.in_flight = 0
        self._before: list[SlotSource] = [before]
        if isinstance(before, HeirSlots):
            self._before += before._before
        self._seen: int = self.elsewhere
        self._callback: Callable[[], None] | None = None

    @property
    def elsewhere(self) -> int:
        """What the earlier ones hold."""
        return sum(each.in_flight for each in self._before) if self._before else 0

    @property
    def free(self) -> int:
        """What is left."""
        left = self.capacity - self.in_flight - self.elsewhere
        return left if left > 0 else 0

    def take(self) -> bool:
        """Take one slot if there is one."""
        if not self.free:
            return False
        self.in_flight += 1
        return True

    def give_back(self) -> None:
        """Return one slot."""
        if self.in_flight <= 0:
            raise RuntimeError("a slot was given back that nobody had taken")
        self.in_flight -= 1

    def on_free(self, callback: Callable[[], None]) -> None:
        """Call `callback` when an earlier holder has returned one."""
        self._callback = callback

    def look(self, gone: Collection[SlotSource] = ()) -> None:
        """See what the earlier ones have returned. `gone`: holders that will not take any slot again."""
        if gone:
            self._before = [each for each in self._before if each not in gone]
        before, self._seen = self._seen, self.elsewhere
        if self._seen != before and self._callback is not None:
            self._callback()

    def settle(self) -> None:
        """The earlier ones are gone."""
        self._before = []
        self.look()


def heir_slots(backend: Backend, before: Capacity) -> Callable[[int], SlotSource] | None:
    """The slots of each replica of `backend` while `before` still has calls; None where they are not plain.

    A backend whose replicas come and go, or that learns how many slots they have, starts afresh.
    """
    most = backend.options.max_in_flight
    if backend.moves or isinstance(most, Auto):
        return None
    earlier = {replica.name: replica.slots for replica in before.replicas}
    names = backend.replicas

    def slots(index: int) -> SlotSource:
        # Each is asked for once, and what stayed here would hold every backend that ever was in its place.
        held = earlier.pop(names[index], None)
        return CounterSlots(most) if held is None else HeirSlots(most, held)

    return slots


def heirs(capacity: Capacity) -> list[HeirSlots]:
    """Those slots of it that are heirs."""
    return [each.slots for each in capacity.replicas if isinstance(each.slots, HeirSlots)]
