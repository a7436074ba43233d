"""A duration that is not certain, as a log-normal with a given mean and a given quantile, or two of them.

Service and start-up times are skewed to the right and never negative, and sums of them are again nearly
log-normal (Fenton, 1960). With mean m and quantile q at share p, z the normal quantile of p:

    ln q = mu + z sigma,   ln m = mu + sigma^2 / 2   =>   sigma = z - sqrt(z^2 - 2 ln(q / m))

Pure arithmetic; knows nothing of what the duration is of.
"""

from math import exp, log, sqrt
from statistics import NormalDist
from typing import Self

_NORMAL = NormalDist()
_SHARE = 0.99


class Spread:
    """A duration in seconds: `mean`, `chance(limit)` of being within a limit, `quantile(share)`."""

    __slots__ = ("_other", "_other_share", "_median", "_sigma", "mean")

    def __init__(self, mean: float, beyond: float, share: float) -> None:
        z = max(_NORMAL.inv_cdf(share), 0.1)
        # No log-normal has its quantile further beyond its mean than sigma = z gives.
        ratio = min(2.0 * log((mean + max(beyond, 0.0)) / mean), z * z)
        self._sigma = z - sqrt(z * z - ratio)
        self._median = mean * exp(-0.5 * self._sigma**2)
        self.mean = mean
        self._other: Spread | None = None
        self._other_share = 0.0

    @classmethod
    def of(cls, mean: float, beyond: float, share: float = _SHARE) -> Self | None:
        """`beyond`: how far the quantile at `share` lies beyond the mean. None for a mean of nothing."""
        return cls(mean, beyond, share) if mean > 0.0 else None
