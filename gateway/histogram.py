"""A histogram that costs one bisection per value, and the quantiles read back from it.

Standard library only. It never knows what it measures: edges and values share one unit, seconds
everywhere in this program.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

_SHARES_OF_BUDGET = (
    0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
    1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0,
)  # fmt: skip

GENERAL_EDGES = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
"""For latencies that no budget is set for."""

OVERHEAD_EDGES = (
    25e-6, 50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 750e-6, 1e-3, 2e-3, 5e-3, 10e-3, 25e-3, 0.1, 1.0,
)  # fmt: skip
"""For the gateway's own time per call: tens of microseconds when all is well."""

BOOT_EDGES = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0)
"""For cold starts: a restored snapshot to a pulled image with tens of gigabytes of weights."""


def budget_edges(within: float | None) -> tuple[float, ...]:
    """Edges placed around a latency budget of `within` seconds, which is itself an edge.

    Only with the budget as an edge is the share of answers inside it exact when read from buckets.
    """
    if within is None or within <= 0:
        return GENERAL_EDGES
    return tuple(
        within if share == 1.0 else float(f"{within * share:.6g}")  # edges become labels: 0.175, not 0.17499…
        for share in _SHARES_OF_BUDGET
    )


class Histogram:
    """Counts per bucket. A value equal to an edge falls below it, as Prometheus' `le` wants it.

    examples:  by bucket the last value that came with a trace, that trace, and when it was counted
    """

    __slots__ = ("counts", "edges", "examples", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.total = 0.0
        self.examples: dict[int, tuple[float, str, float]] = {}

    def observe(self, value: float, trace: str = "", at: float = 0.0) -> None:
        """Count one value; with a trace it becomes the example of its bucket."""
        bucket = bisect_left(self.edges, value)
        self.counts[bucket] += 1
        self.total += value
        if trace:
            self.examples[bucket] = (value, trace, at)

    def observe_both(self, value: float, inner: "Histogram", part: float, trace: str, at: float) -> None:
        """Count a duration here, and one that is a part of it in `inner`, which has the same edges.

        Most parts end up in the bucket of their whole (an answer in one piece begins as it ends): then one
        bisection does for both.
        """
        edges = self.edges
        bucket = bisect_left(edges, value)
        self.counts[bucket] += 1
        self.total += value
        if trace:
            self.examples[bucket] = (value, trace, at)
        if part > value or (bucket and part <= edges[bucket - 1]):
            bucket = bisect_left(edges, part)
        inner.counts[bucket] += 1
        inner.total += part
        if trace:
            inner.examples[bucket] = (part, trace, at)

    def observe_all(self, values: Sequence[float]) -> None:
        """Count values that are in ascending order: one bisection for each bucket that some fall into."""
        edges, counts = self.edges, self.counts
        start, count = 0, len(values)
        while start < count:
            bucket = bisect_left(edges, values[start])
            end = count if bucket == len(edges) else bisect_right(values, edges[bucket], start)
            counts[bucket] += end - start
            start = end
        self.total += sum(values)

    def exemplify(self, value: float, trace: str, at: float) -> None:
        """A value that is counted came with this trace."""
        self.examples[bisect_left(self.edges, value)] = (value, trace, at)

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """(edge, values at or below it) for every finite edge."""
        below = 0
        pairs = []
        for edge, count in zip(self.edges, self.counts, strict=False):
            below += count
            pairs.append((edge, below))
        return pairs


def merged(histograms: Iterable[Histogram], edges: Sequence[float]) -> Histogram:
    """The sum of histograms that share `edges`."""
    whole = Histogram(edges)
    for histogram in histograms:
        if tuple(histogram.edges) != tuple(edges):
            raise ValueError("histograms with different edges cannot be added")
        whole.counts = [a + b for a, b in zip(whole.counts, histogram.counts, strict=True)]
        whole.total += histogram.total
    return whole


def quantile(histogram: Histogram, share: float) -> float | None:
    """The value that `share` of the values do not exceed; None while there is none.

    Linear inside a bucket, as PromQL's histogram_quantile: the lowest bucket begins at 0, and beyond the
    highest edge only that edge is known, so it is the answer (a lower bound).
    """
    if not 0 <= share <= 1:
        raise ValueError("a share is a number from 0 to 1")
    rank = share * histogram.count
    below = 0
    start = 0.0
    for edge, count in zip(histogram.edges, histogram.counts, strict=False):
        if count and below + count >= rank:
            return start + (edge - start) * (rank - below) / count
        below += count
        start = edge
    return start if histogram.counts[-1] else None
