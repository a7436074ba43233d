"""Header fields that come again, with what was worked out from them before.

Clients and servers repeat themselves. Where a head is kept that came before, to the byte (`heads.py` of
requests, `backends/http1.py` of answers), its fields are kept as one list that every message with this head
shares; and whoever works something out from them alone keeps it with them, and need not do so again. Leaf: it
never knows what that is.
"""

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

Head = TypeVar("Head")

MOST = 64
"""Things kept with one list of fields; for one more it begins anew."""
LONGEST = 2048
"""Bytes of a head that is kept."""
_SEEN_ONCE = 4
"""For each head that can be kept so many are noted that came once."""


class KeptFields(list[tuple[bytes, bytes]]):
    """Fields in wire order, as any others. Shared, so never changed: who wants others makes its own list.

    known:  what was worked out, by whom or for what. It must follow from the fields and from what the key
            itself can never change, or be checked when it is taken
    """

    __slots__ = ("known",)

    def __init__(self, fields: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(fields)
        self.known: dict[object, Any] = {}

    def keep(self, key: object, what: object) -> None:
        """Keep what was worked out."""
        if len(self.known) >= MOST:
            self.known.clear()
        self.known[key] = what


class HeadTable(Generic[Head]):
    """Heads that came before, to the byte, with what they say. Bounded: full, it starts anew.

    Only what comes a second time is kept, since what never comes again (a length, a date, an id of its own)
    would push out what does. The key is the whole head as it came, so a head that is found has passed every
    check of grammar, size and framing already.
    """

    __slots__ = ("_most", "_once", "_table", "get")

    def __init__(self, most: int) -> None:
        self._most = most
        self._once: set[int] = set()
        self._table: dict[bytes, Head] = {}
        self.get = self._table.get

    def __len__(self) -> int:
        return len(self._table)

    def again(self, raw: bytes) -> bool:
        """Has this head come before, so that it is worth keeping?"""
        if len(raw) > LONGEST:
            return False
        mark = hash(raw)
        if mark in self._once:
            return True
        if len(self._once) >= _SEEN_ONCE * self._most:
            self._once.clear()
        self._once.add(mark)
        return False

    def clear(self) -> None:
        """Forget what the heads say; the next that comes again is kept anew."""
        self._table.clear()

    def keep(self, raw: bytes, head: Head) -> None:
        """A head that was parsed and found good."""
        if len(self._table) >= self._most:
            self._table.clear()
        self._table[raw] = head
