"""Failures on cue: what shall go wrong next, said by a test or over the admin path.

Must never know what a cue does: the fleet and the servers ask whether theirs is due and act on it.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

FLEET_CUES = frozenset({"error", "kill", "stall", "boot"})
"""What every emulated fleet understands:

error   the handler raises
kill    the instance dies in the middle of a request, `after_s` after it began
stall   the request hangs until `release`
boot    the next instance dies at the end of its start-up
"""

FRONT_CUES = frozenset({"throttle", "status", "drop", "cut"})
"""What every front door understands. Before a request reaches the fleet:

throttle  the provider's own 429
status    the HTTP status `status`
drop      the connection is cut without an answer

and after it has run there:

cut       the connection is cut in the middle of the answer's body
"""


class Cue(NamedTuple):
    """One failure that is due."""

    kind: str
    after_s: float = 0.0
    status: int = 503


class Cues:
    """Failures in waiting, by kind, each used up by the request that meets it."""

    def __init__(self, kinds: Iterable[str]) -> None:
        self.kinds = frozenset(kinds)
        self._waiting: dict[str, deque[Cue]] = {kind: deque() for kind in self.kinds}
        self._released = asyncio.Event()

    def add(self, kind: str, n: int = 1, *, after_s: float = 0.0, status: int = 503) -> None:
        """The next `n` requests that could meet this failure do. ValueError for an unknown kind."""
        if kind not in self.kinds:
            raise ValueError(f"{kind!r} is not a failure; known: {', '.join(sorted(self.kinds))}")
        self._waiting[kind].extend([Cue(kind, after_s, status)] * n)

    def take(self, kind: str) -> Cue | None:
        """The failure, if one of this kind is due; it is used up."""
        waiting = self._waiting.get(kind)
        return waiting.popleft() if waiting else None

    def clear(self) -> None:
        """Nothing is due any more, and nothing stalls."""
        for waiting in self._waiting.values():
            waiting.clear()
        self.release()

    def release(self) -> None:
        """Let everything that stalls go on."""
        self._released.set()
        self._released = asyncio.Event()

    async def stalled(self) -> None:
        """Wait for the next `release`."""
        await self._released.wait()

    def report(self) -> Mapping[str, int]:
        """How many of each kind are due."""
        return {kind: len(waiting) for kind, waiting in sorted(self._waiting.items()) if waiting}
