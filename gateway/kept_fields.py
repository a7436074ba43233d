"""Header fields that come again, with what was worked out from them before.

Clients and servers repeat themselves. Where a head is kept that came before, to the byte (`heads.py` of
requests, `backends/http1.py` of answers), its fields are kept as one list that every message with this head
shares; and whoever works something out from them alone keeps it with them, and need not do so again. Leaf: it
never knows what that is.
"""

from collections.abc import Iterable
from typing import Any

MOST = 64
"""Things kept with one list of fields; for one more it begins anew."""


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
