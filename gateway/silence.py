"""How long a stream has been silent, at the price of a look at the clock for each of its parts.

A timer that is set anew for every part costs more than passing the part on; this one is set anew only when
it fires and something was heard meanwhile. Knows nothing of what is streamed.
"""

import asyncio
from typing import Self


class Silence:
    """Makes `limit` expire once nothing was heard for `longest` seconds; measured from its `with` on."""

    __slots__ = ("_heard", "_limit", "_longest", "_loop", "_timer")

    def __init__(self, limit: asyncio.Timeout, longest: float, loop: asyncio.AbstractEventLoop) -> None:
        self._limit = limit
        self._longest = longest
        self._loop = loop

    async def __aenter__(self) -> Self:
        self.broken()
        self._timer = self._loop.call_at(self._heard + self._longest, self._look)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()

    def broken(self) -> None:
        """Something was heard."""
        self._heard = self._loop.time()

    def _look(self) -> None:
        due = self._heard + self._longest
        if self._loop.time() >= due:
            self._limit.reschedule(due)  # in the past: at once
        else:
            self._timer = self._loop.call_at(due, self._look)
