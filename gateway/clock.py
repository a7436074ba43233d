"""Time as a value: the seam that lets every timer and rule run on virtual time.

Leaf: standard library only. Nothing else in the program may read a clock.
"""

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What the program may know about time, in seconds."""

    def now(self) -> float:
        """Monotonic seconds: for durations, deadlines and ages."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch: only for what people read (log lines, `date`)."""
        ...


class Timer(Protocol):
    """One appointment."""

    def cancel(self) -> None:
        """It will not be kept. Cancelling twice, or after the moment, does nothing."""
        ...


class TimerHost(Protocol):
    """Who calls back at a moment: the running event loop is one, a test or a simulator another.

    Its time is the Clock's monotonic time. A callback may come late, and up to a millisecond early
    where the host rounds; it never comes from within `call_at` itself.
    """

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call `callback` at `when` on the clock."""
        ...


class SystemClock:
    """The machine's clocks."""

    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)  # noqa: TID251 - the one place that reads it


cpu_seconds = time.process_time
"""Seconds for which this process has had a CPU: how much of a time that has passed was its own work."""


class FakeClock:
    """A clock that stands still until told to move."""

    def __init__(self, now: float = 1_000.0, wall: float = 1_800_000_000.0) -> None:
        self._now = now
        self._wall = wall

    def now(self) -> float:
        """The virtual monotonic time."""
        return self._now

    def wall(self) -> float:
        """The virtual wall time."""
        return self._wall

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by `seconds`; time never runs backwards."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._now += seconds
        self._wall += seconds
