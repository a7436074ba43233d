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
from math import inf, nextafter
from typing import NamedTuple

AT_ONCE_S = 1e-6
"""Without any time-out, an instance that has done its work still serves whoever waits at that moment."""


class Idle(NamedTuple):
    """One idle instance.

    age_s:     since a call or a ping last ended there: what the provider's time-out counts
    unused_s:  since a client's call last ended there, or since it was opened
    """

    age_s: float
    unused_s: float


class Warmth:
    """The instances behind the slots of one backend; every method takes `now`, in seconds."""

    __slots__ = ("_earliest", "_kept", "_latest", "_opening", "_sum", "idle", "idle_s", "opening")

    def __init__(self, idle_s: float) -> None:
        self.idle_s = idle_s or AT_ONCE_S
        """How long an unused instance stays."""
        self.idle: list[float] = []
        """Since when each instance has been idle, the longest idle first; some of them may be gone by now. It
        is this list for good: others look at it."""
        self._opening: dict[object, float] = {}
        self.opening: Collection[float] = self._opening.values()
        """When each instance that boots is expected to be up: always as of now."""
        self._kept: dict[float, float] = {}  # by the entry in `idle` of one that was pinged: when it was used
        # Of the moments in `_opening`: their sum, the first, and what is no earlier than the last.
        self._sum = self._latest = 0.0
        self._earliest = inf

    def up_by(self, until: float, now: float, slow_s: float) -> float:
        """Seconds until `until` for which the instances that boot are expected to have been up, together.

        One that should be up by now boots slowly: it is expected `slow_s` from now, again and again.
        """
        opening = self._opening
        if not opening:
            return 0.0
        if self._latest <= until and self._earliest > now:
            return len(opening) * until - self._sum
        seconds = 0.0
        for up_at in opening.values():
            left = until - (up_at if up_at > now else now + slow_s)
            if left > 0.0:
                seconds += left
        return seconds

    def warm(self, now: float) -> int:
        """Instances that idle."""
        idle = self.idle
        if idle and idle[0] + self.idle_s <= now:
            self._expire(now)
        return len(self.idle)

    def ages(self, now: float) -> list[float]:
        """Seconds for which each of them has been idle, the longest first."""
        self.warm(now)
        return [now - since for since in self.idle]

    def idling(self, now: float) -> list[Idle]:
        """Each of them, the one that has idled longest first."""
        self.warm(now)
        kept = self._kept
        return [Idle(now - since, now - kept.get(since, since)) for since in self.idle]

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

    def take_oldest(self) -> tuple[float, float]:
        """The instance that would be the next to go: since when it idles, and since when it was not used.

        Ask only after `warm` has found one.
        """
        since = self.idle.pop(0)
        return since, self._kept.pop(since, since)

    def kept(self, used_at: float, now: float) -> None:
        """An instance has answered a ping and idles anew, though no call has used it since `used_at`."""
        kept = self._kept
        for since in [since for since in kept if since + self.idle_s <= now]:
            del kept[since]
        # Entries have to differ, from each other and from those of calls that end at this moment.
        since = nextafter(now, -inf)
        while since in kept:
            since = nextafter(since, -inf)
        kept[since] = used_at
        insort(self.idle, since)

    def begin_opening(self, holder: object, expected: float) -> None:
        """An instance begins to boot; it is expected to be up at `expected`."""
        self._opening[holder] = expected
        self._sum += expected
        self._earliest = min(self._earliest, expected)
        self._latest = max(self._latest, expected)

    def end_opening(self, holder: object) -> None:
        """It is up, or will never be."""
        expected = self._opening.pop(holder)
        self._sum -= expected
        if not self._opening:
            self._sum = self._latest = 0.0
            self._earliest = inf
        elif expected <= self._earliest:
            self._earliest = min(self._opening.values())

    def _expire(self, now: float) -> None:
        oldest = now - self.idle_s
        self.idle[:] = [since for since in self.idle if since > oldest]
