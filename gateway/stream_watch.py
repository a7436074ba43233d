"""Looks at every stream that is under way ten times a second: one timer for all of them.

A timer for each costs more than to begin a stream, and one that is set anew for every part more than to pass
the part on; and nearly none ever rings. Knows nothing of what is streamed, nor what is to be found out.
"""

import asyncio
import logging
from typing import Protocol

from gateway.clock import Clock

log = logging.getLogger("overspill.stream_watch")


class Watched(Protocol):
    """A stream, as far as it is looked at."""

    def look(self, now: float) -> None:
        """Is anything overdue?"""
        ...


class StreamWatch:
    """The streams of one event loop. What is due is seen at most `TICK_S` late, and never early."""

    TICK_S = 0.1

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._streams: set[Watched] = set()
        self._ticking = False

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: Watched) -> None:
        """Look at it until `remove`."""
        self._streams.add(stream)
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self.TICK_S, self._tick)

    def remove(self, stream: Watched) -> None:
        """It is over."""
        self._streams.discard(stream)

    def _tick(self) -> None:
        self._ticking = bool(self._streams)
        if self._ticking:
            asyncio.get_running_loop().call_later(self.TICK_S, self._tick)
        now = self._clock.now()
        for stream in list(self._streams):
            try:
                stream.look(now)
            except Exception:
                # The others must be looked at all the same.
                log.exception("a stream could not be looked at")
