"""Request heads that were read before, to the byte: a client repeats itself, and need not be parsed again.

Belongs to step 1. The key is the whole head as it came, so a head that is found has passed every check
of grammar, size and framing already. Heads that carry an id of their own never come again and are not
kept. Knows nothing of sockets.
"""

from typing import NamedTuple

from gateway.kept_fields import KeptFields

_MOST = 1024
_LONGEST = 2048


class Head(NamedTuple):
    """What a head says. `length` is that of the body; only whole, kept-alive HTTP/1.1 requests are kept."""

    method: bytes
    target: bytes
    headers: KeptFields
    length: int


class KnownHeads:
    """A bounded table; full, it starts anew."""

    __slots__ = ("_table", "get")

    def __init__(self) -> None:
        self._table: dict[bytes, Head] = {}
        self.get = self._table.get

    def __len__(self) -> int:
        return len(self._table)

    def remember(self, raw: bytes, head: Head) -> None:
        """Keep a head that was parsed and found good."""
        if len(raw) <= _LONGEST:
            if len(self._table) >= _MOST:
                self._table.clear()
            self._table[raw] = head
