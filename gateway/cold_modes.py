"""Tell a fast and a slow way of starting cold apart: a cached snapshot against a whole boot.

Standard library only. It reads the weights of a sketch's bins and knows nothing of routes or providers.

The bins are split where the variance of the logarithm between the two halves is largest (Otsu, 1979). The
split is believed when the halves lie further apart than halves of one hump can: Ashman's D, the distance
of the means in units of the common deviation, is 2.7 for a normal and 3.5 for a uniform hump cut in two.
"""

from itertools import accumulate
from math import exp, log, sqrt
from typing import Final, NamedTuple

from gateway.sketch import EDGES, GROWTH

APART: Final = 4.0
"""Least distance of the modes, in units of their common deviation."""
RATIO: Final = 3.0
"""Least ratio of slow to fast: closer ones do not deserve two plans."""
LEAST_SHARE: Final = 0.05
LEAST_SAMPLES: Final = 4.0
"""Least weight of each mode, as a share and in samples."""

_LOG_MIDDLE: Final = tuple(log(edge) + 0.5 * log(GROWTH) for edge in EDGES[:-1])
_BIN_VARIANCE: Final = log(GROWTH) ** 2 / 12


class Modes(NamedTuple):
    """Two ways of starting: how often the fast one is taken, and the mean seconds of each."""

    share_fast: float
    fast_mean: float
    slow_mean: float


def modes(counts: list[float], scale: float = 1.0) -> Modes | None:
    """The two modes of bin weights (times `scale`: samples), or None while there is but one to be seen."""
    used = [(middle, count * scale) for middle, count in zip(_LOG_MIDDLE, counts, strict=True) if count]
    weights = list(accumulate(count for _, count in used))
    if len(used) < 2 or weights[-1] < 2 * LEAST_SAMPLES:
        return None
    sums = list(accumulate(middle * count for middle, count in used))
    whole, total = weights[-1], sums[-1]

    def between(cut: int) -> float:
        below = weights[cut]
        return below * (whole - below) * (sums[cut] / below - (total - sums[cut]) / (whole - below)) ** 2

    # rounding can leave nothing above a cut whose bins hold next to nothing
    cuts = [cut for cut in range(len(used) - 1) if 0 < weights[cut] < whole]
    if not cuts:
        return None
    cut = max(cuts, key=between) + 1
    fast, slow = used[:cut], used[cut:]
    weight_fast = weights[cut - 1]
    least = max(LEAST_SAMPLES, LEAST_SHARE * whole)
    if min(weight_fast, whole - weight_fast) < least:
        return None
    (fast_middle, fast_variance), (slow_middle, slow_variance) = _moments(fast), _moments(slow)
    distance = slow_middle - fast_middle
    deviation = sqrt((fast_variance + slow_variance) / 2)
    if distance < log(RATIO) or distance < APART * deviation:
        return None
    return Modes(weight_fast / whole, _mean(fast), _mean(slow))


def _moments(part: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean and variance of the logarithm."""
    weight = sum(count for _, count in part)
    mean = sum(middle * count for middle, count in part) / weight
    return mean, sum(count * (middle - mean) ** 2 for middle, count in part) / weight + _BIN_VARIANCE


def _mean(part: list[tuple[float, float]]) -> float:
    return sum(exp(middle) * count for middle, count in part) / sum(count for _, count in part)
