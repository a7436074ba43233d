"""A duration that is not certain: a log-normal with a given mean and quantile, or one of two of them.

Service and start-up times are skewed to the right and never negative, and sums of them are again nearly
log-normal (Fenton, 1960). With mean m and quantile q at share p, z the normal quantile of p:

    ln q = mu + z sigma,   ln m = mu + sigma^2 / 2   =>   sigma = z - sqrt(z^2 - 2 ln(q / m))

Pure arithmetic; knows nothing of what the duration is of.
"""

from math import exp, log, sqrt
from statistics import NormalDist

_NORMAL = NormalDist()
_LEAST_Z = 0.1


class Spread:
    """Seconds: `mean`, `chance(limit)` of being within a limit, `quantile(share)`.

    mean:    expected, above zero
    beyond:  how far the quantile at `share` lies beyond the mean
    """

    __slots__ = ("_median", "_sigma", "mean")

    def __init__(self, mean: float, beyond: float, share: float) -> None:
        z = max(_NORMAL.inv_cdf(share), _LEAST_Z)
        # No log-normal has its quantile further beyond its mean than the one with sigma = z.
        ratio = min(2.0 * log((mean + max(beyond, 0.0)) / mean), z * z)
        self._sigma = z - sqrt(z * z - ratio)
        self._median = mean * exp(-0.5 * self._sigma**2)
        self.mean = mean

    def chance(self, limit: float) -> float:
        """The share of cases that take no longer."""
        if limit <= 0.0:
            return 0.0
        if self._sigma <= 0.0:
            return 1.0 if limit >= self._median else 0.0
        return _NORMAL.cdf(log(limit / self._median) / self._sigma)

    def quantile(self, share: float) -> float:
        """What `share` of the cases do not exceed."""
        return self._median * exp(self._sigma * _NORMAL.inv_cdf(share))


class Either:
    """The one, or, with the chance `other_share`, the other."""

    __slots__ = ("_one", "_other", "_other_share", "mean")

    def __init__(self, one: Spread, other: Spread, other_share: float) -> None:
        self._one = one
        self._other = other
        self._other_share = other_share
        self.mean = one.mean + other_share * (other.mean - one.mean)

    def chance(self, limit: float) -> float:
        """The share of cases that take no longer."""
        one = self._one.chance(limit)
        return one + self._other_share * (self._other.chance(limit) - one)

    def quantile(self, share: float) -> float:
        """What `share` of the cases do not exceed."""
        ends = self._one.quantile(share), self._other.quantile(share)
        low, high = min(ends), max(ends)
        for _ in range(60):
            middle = 0.5 * (low + high)
            if self.chance(middle) < share:
                low = middle
            else:
                high = middle
        return high
