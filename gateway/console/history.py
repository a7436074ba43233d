"""Latencies of the last minutes by route: what the sparklines are drawn from.

A point is the quantiles of the calls that ended in the seconds before it, read from the difference of two
counts of the route's histogram. Pure; knows no clock and no HTTP.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.histogram import Histogram, quantile

WINDOW_S = 10.0
"""Seconds that a point looks back."""
KEPT_S = 300.0
"""Seconds that are kept."""


class Point(NamedTuple):
    """One moment of one route. Quantiles in seconds, None where no call ended; the last edge is a bound."""

    at: float
    p50: float | None
    p95: float | None
    per_s: float


class _Seen(NamedTuple):
    at: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class History:
    """Of all routes. `note` must be called with moments that never fall."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[_Seen]] = {}
        self._points: dict[str, deque[Point]] = {}

    def note(self, at: float, sums: Mapping[str, Mapping[str, Any]]) -> None:
        """Another look. `sums`: as `reports.route_sums` tells them; routes that are gone are forgotten."""
        for name in self._seen.keys() - sums.keys():
            del self._seen[name], self._points[name]
        for name, each in sums.items():
            seen = self._seen.setdefault(name, deque())
            points = self._points.setdefault(name, deque())
            now = _Seen(at, tuple(each["edges"]), tuple(each["counts"]))
            if seen and not _follows(now, seen[-1]):
                seen.clear()
            # One that is as old as the window stays: differences are taken from it.
            while len(seen) > 1 and seen[1].at <= at - WINDOW_S:
                seen.popleft()
            points.append(_point(seen[0], now) if seen else Point(at, None, None, 0.0))
            seen.append(now)
            while points[0].at < at - KEPT_S:
                points.popleft()

    def points(self, route: str) -> list[Point]:
        """What is kept of one route, the oldest first."""
        return list(self._points.get(route, ()))

    def last(self, route: str) -> Point | None:
        """The newest of one route."""
        points = self._points.get(route)
        return points[-1] if points else None


def _follows(now: _Seen, before: _Seen) -> bool:
    """Is it the same histogram, later? Not after a changed budget, or when a worker was lost."""
    return now.edges == before.edges and all(a >= b for a, b in zip(now.counts, before.counts, strict=True))


def _point(before: _Seen, now: _Seen) -> Point:
    histogram = Histogram(now.edges)
    histogram.counts = [a - b for a, b in zip(now.counts, before.counts, strict=True)]
    took = now.at - before.at
    per_s = histogram.count / took if took > 0 else 0.0
    return Point(now.at, quantile(histogram, 0.5), quantile(histogram, 0.95), per_s)
