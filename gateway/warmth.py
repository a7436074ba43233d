"""Which slots of a rented backend have an instance behind them, as far as the gateway can know.

Providers do not say. What is known follows from what was sent there: an instance that has served, or
was made to boot, idles from then on, the most recently used one serves next, and one that idled for
`idle_s` is gone. What cannot be known is never counted as warm: after a failure nothing is left.

    closed ──open──► opening ──► idle ◄──► busy
       ▲                           │
       └────── idle for `idle_s` ──┘

Pure: time is an argument. It decides what can be expected of a slot; what is owed for one is the
backend's own account, and it knows neither.
"""

from bisect import insort
from collections.abc import Collection


class Warmth:
    """The instances behind the slots of one backend; every method takes `now`, in seconds."""

    __slots__ = ("_opening", "idle", "idle_s")

    def __init__(self, idle_s: float) -> None:
        self.idle_s = idle_s
        """How long an unused instance stays."""
        self.idle: list[float] = []
        """Since when each instance has been idle, the longest idle first; some of them may be gone by now."""
        self._opening: dict[object, float] = {}

    @property
    def opening(self) -> Collection[float]:
        """When each instance that boots is expected to be up."""
        return self._opening.values()

    def warm(self, now: float) -> int:
        """Instances that idle."""
        idle = self.idle
        if idle and idle[0] + self.idle_s <= now:
            self._expire(now)
        return len(idle)

    def ages(self, now: float) -> list[float]:
        """Seconds for which each of them has been idle, the longest first."""
        self.warm(now)
        return [now - since for since in self.idle]

    @property
    def next_since(self) -> float | None:
        """Since when the instance idles that would serve next, if it is still there."""
        return self.idle[-1] if self.idle else None

    def take(self, now: float) -> float | None:
        """The instance that the next call is expected to meet: its idle age; None when one must boot."""
        idle = self.idle
        if not idle:
            return None
        since = idle.pop()
        if since + self.idle_s <= now:  # the one that would have lasted longest
            idle.clear()
            return None
        return now - since

    def back(self, now: float) -> None:
        """An instance has done its work and idles."""
        self.idle.append(now)

    def untouched(self, since: float) -> None:
        """An instance that was taken and not used after all: it has idled since then."""
        insort(self.idle, since)

    def begin_opening(self, holder: object, expected: float) -> None:
        """An instance begins to boot; it is expected to be up at `expected`."""
        self._opening[holder] = expected

    def end_opening(self, holder: object) -> None:
        """It is up, or will never be."""
        del self._opening[holder]

    def _expire(self, now: float) -> None:
        oldest = now - self.idle_s
        self.idle = [since for since in self.idle if since > oldest]
