"""Keeps what was learned across restarts: reads the file when the gateway starts, writes it now and then.

Knows estimates and a path. A file that cannot be read or written costs a line in the log, nothing else.
"""

import asyncio
import logging
from pathlib import Path
from typing import Protocol

from gateway.clock import Clock

log = logging.getLogger("overspill.memory")


class StateOptions(Protocol):
    """`state` of the configuration."""

    @property
    def path(self) -> str: ...
    @property
    def every(self) -> float: ...


class Remembered(Protocol):
    """Estimates that are kept in a file (`gateway.estimates.Estimates`)."""

    def load(self, path: Path, *, now: float, wall: float) -> str | None:
        """Take them over. Returns None, or what went wrong."""
        ...

    def save(self, path: Path, *, now: float, wall: float) -> str | None:
        """Write them. Returns None, or what went wrong."""
        ...

    def refresh(self) -> None:
        """Take in the last samples."""
        ...


class Memory:
    """The file that estimates are kept in."""

    def __init__(self, estimates: Remembered, options: StateOptions, clock: Clock) -> None:
        self._estimates = estimates
        self._path = Path(options.path)
        self._every = options.every
        self._clock = clock

    def load(self) -> None:
        """Take over what was learned before, if there is such a file."""
        self._tell(self._estimates.load(self._path, now=self._clock.now(), wall=self._clock.wall()))

    def save(self) -> None:
        """Write it now. It waits for the disk, a few milliseconds."""
        self._tell(self._estimates.save(self._path, now=self._clock.now(), wall=self._clock.wall()))

    async def run(self) -> None:
        """Write it again and again; ends only by cancellation."""
        while True:
            await asyncio.sleep(self._every)
            self._estimates.refresh()
            self.save()

    @staticmethod
    def _tell(problem: str | None) -> None:
        if problem is not None:
            log.warning("%s", problem)
