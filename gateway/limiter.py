"""How many calls one replica can safely have at once, learned from how long they take.

    gradient = clamp(TOLERANCE * base / mean, 0.5, 1)
    limit'   = limit * gradient + headroom                     headroom: sqrt(limit) / 2, at least 1

`mean` is the mean time of the calls that began and ended in one window; `base` is what calls take while the
replica has at most half the limit. Where more calls at once only wait for one another, `mean` outgrows `base`
and the limit falls until little waits on the replica; where they are worked on together, it rises.

A replica that is never less than half used is squeezed to half its limit now and then, for some rounds
of calls, to measure `base` anew. So neither a slow drift nor a wrong start is believed for ever.

The gradient over a smoothed limit, without growth where the limit was not what limited, is that of Netflix's
`concurrency-limits` (Gradient2); measuring the base by squeezing that of Envoy's adaptive concurrency filter.

Pure: time is an argument, the only chance in it is handed in. Knows no replica, no slot and no backend.
"""

from math import inf, sqrt
from random import Random

START = 4
"""Slots before anything is known."""
FLOOR = 1
MOST = 512
TOLERANCE = 1.25
"""Calls may take so much longer than at half the limit before it is lowered."""
SMOOTHING = 0.4
"""Weight of what a window says."""
BASE_SMOOTHING = 0.2
"""The same for `base`, which changes only with the model."""
WINDOW_S = 0.5
WINDOW_SAMPLES = 10
ROUNDS = 2
"""A window lasts at least so long, and has so many samples and so many for each slot, or short calls would be
over-represented; calls that began before it are none of its."""
CUT = 0.9
"""What is left of the limit after the replica has pushed back."""
REFRESH_S = 60.0
REFRESH_SOON_S = 4.0
"""Seconds between squeezes; soon where the one before moved `base` by more than `MOVED`."""
REFRESH_CALLS = 100.0
"""Least time between them, in calls' times: half the slots for about three of these is 1.5 % of all."""
REFRESH_SOON_CALLS = 10.0
MOVED = 0.1
JITTER = 0.2
"""Share by which these times vary, so that the replicas of a fleet are not squeezed in step."""

_ROUNDING_S = 1e-9


class GradientLimiter:
    """The limit of one replica."""

    __slots__ = (
        "_base", "_chance", "_count", "_cut_at", "_draining", "_floor", "_limit", "_most", "_peak",
        "_refresh_at", "_since", "_slow_start", "_squeezed_from", "_total", "limit",
    )  # fmt: skip

    _count: int  # of the window, as are its `_peak` of calls in flight and its `_total` seconds
    _peak: int

    def __init__(
        self, *, chance: Random, now: float, start: int = START, floor: int = FLOOR, most: int = MOST
    ) -> None:
        if not 1 <= floor <= start <= most:
            raise ValueError(f"a limiter wants 1 <= floor <= start <= most, not {floor}, {start}, {most}")
        self._chance = chance
        self._floor = floor
        self._most = most
        self._limit = float(start)
        self.limit = start
        """Calls that may run at once."""
        self._base: float | None = None
        self._slow_start = True  # doubles until calls are first seen to wait for one another
        self._squeezed_from: float | None = None  # the limit to go back to
        self._draining = False  # squeezed, and there are still more calls than that
        self._refresh_at = inf
        self._cut_at = -inf
        self._open_window(now)

    def answered(self, seconds: float, in_flight: int, now: float) -> bool:
        """A call succeeded after `seconds`; there were `in_flight`, itself included. True: `limit` changed.

        What failed, was pushed back or was given up says nothing of how long calls take: it is not told.
        """
        if self._draining:
            if in_flight <= self.limit:
                self._draining = False
                self._open_window(now)
            return False
        if now - seconds < self._since - _ROUNDING_S:
            return False
        self._count += 1
        self._total += seconds
        self._peak = max(self._peak, in_flight)
        if self._count < max(WINDOW_SAMPLES, ROUNDS * self.limit):
            return False
        if self._squeezed_from is not None:
            return self._refresh(now)
        return now - self._since >= WINDOW_S and self._close_window(now)

    def pushed_back(self, in_flight: int, now: float) -> bool:
        """The replica refused a call as one too many. True: `limit` changed.

        A burst of refusals is one: what was in flight at the first cut cannot know of it.
        """
        if now - self._cut_at < max(0.1, self._base or 0.0):
            return False
        self._cut_at = now
        self._slow_start = False
        if self._squeezed_from is not None:
            self._squeezed_from *= CUT
        self._open_window(now)
        return self._set(CUT * min(self._limit, float(in_flight)))

    def _open_window(self, now: float) -> None:
        self._since = now
        self._count = self._peak = 0
        self._total = 0.0

    def _close_window(self, now: float) -> bool:
        mean, peak = self._total / self._count, self._peak
        self._open_window(now)
        base = self._base
        if base is None:
            base = self._base = mean
            self._plan_refresh(now, soon=True)
        if 2 * peak <= self.limit:
            self._base = base + BASE_SMOOTHING * (mean - base)
            self._plan_refresh(now, soon=False)
            return False
        gradient = 1.0 if mean <= 0.0 else max(0.5, min(1.0, TOLERANCE * base / mean))
        limited = peak >= self.limit
        if gradient < 1.0 and self._slow_start:
            self._slow_start = False
            self._refresh_at = now
        if now >= self._refresh_at and limited:
            return self._squeeze()
        if gradient == 1.0 and not limited:
            return False
        if self._slow_start:
            return self._set(2.0 * self._limit)
        wanted = self._limit * gradient
        if limited:
            wanted += max(1.0, 0.5 * sqrt(self._limit))
        return self._set(self._limit + SMOOTHING * (wanted - self._limit))

    def _squeeze(self) -> bool:
        self._squeezed_from = self._limit
        self._draining = True
        return self._set(0.5 * self._limit)

    def _refresh(self, now: float) -> bool:
        """A round of calls at half the limit has ended: that is what calls take."""
        mean, before = self._total / self._count, self._base or 0.0
        self._base = mean
        self._plan_refresh(now, soon=abs(mean - before) > MOVED * before)
        self._open_window(now)
        limit, self._squeezed_from = self._squeezed_from or self._limit, None
        return self._set(limit)

    def _plan_refresh(self, now: float, *, soon: bool) -> None:
        base = self._base or 0.0
        if soon:
            wait = max(REFRESH_SOON_S, REFRESH_SOON_CALLS * base)
        else:
            wait = max(REFRESH_S, REFRESH_CALLS * base)
        self._refresh_at = now + wait * (1.0 + JITTER * (2.0 * self._chance.random() - 1.0))

    def _set(self, limit: float) -> bool:
        self._limit = max(float(self._floor), min(float(self._most), limit))
        before, self.limit = self.limit, int(self._limit)
        return self.limit != before
