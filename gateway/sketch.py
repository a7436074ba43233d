"""A histogram of durations that forgets: logarithmic bins, exponential decay.

Standard library only, and no clock: the moment of every sample is an argument. It never knows what it
measures; values and times are seconds.

Bins grow by 5 % from 1 ms to 2,000 s, so that a quantile is right within 5 % of its value (the idea of
DDSketch: Masson, Rim, Lee, VLDB 2019). Decay is *forward* (Cormode, Shkapenyuk, Srivastava, Xu, ICDE
2009): instead of shrinking old bins, a later sample weighs more, 2^((now - origin) / half_life), and a
rebase scales everything back long before a float overflows. Sums of weights do not depend on the order
of the samples, and two sketches of one half-life can be added.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from math import ceil, exp2, inf, isfinite, log, nan
from operator import mul
from typing import Any, Final, Self

FLOOR: Final = 0.001
"""Seconds. Shorter values are counted as this one."""
CEILING: Final = 2_000.0
"""Seconds. Longer values are counted as this one."""
GROWTH: Final = 1.05
"""Width of a bin: its upper edge over its lower edge."""

BINS: Final = ceil(log(CEILING / FLOOR) / log(GROWTH))
EDGES: Final = tuple(FLOOR * GROWTH**index for index in range(BINS + 1))
"""Bin `i` holds the values from `EDGES[i]` to `EDGES[i + 1]`."""
_UPPER: Final = EDGES[1:]  # a bisection in C costs less than half of a logarithm

_MOST_HALF_LIVES: Final = 256.0
"""Between two rebases: weights stay below 2^256, their sums and squares far from the end of a float."""
_MOST_WEIGHT: Final = 1e30  # in a file; far more samples than were ever taken


def clipped(seconds: float) -> float:
    """The value that is counted. Raises ValueError for what is no duration: NaN, less than 0."""
    if not seconds >= 0:
        raise ValueError(f"a duration is a number of seconds from 0 up, not {seconds!r}")
    return min(max(seconds, FLOOR), CEILING)


class Sketch:
    """Decayed counts per bin, with exact (decayed) mean and variance.

    half_life:  seconds after which a sample weighs half
    origin:     the moment on the caller's clock at which a sample weighs 1 in `counts`
    weight:     the sum of `counts`, in the same units; `count(now)` is the number people understand
    """

    __slots__ = ("counts", "half_life", "most", "origin", "squares", "top", "total", "weight")

    def __init__(self, half_life: float, origin: float = 0.0) -> None:
        if not 0 < half_life < inf:
            raise ValueError(f"a half-life is a number of seconds above 0, not {half_life!r}")
        self.half_life = half_life
        self.origin = origin
        self.counts = [0.0] * BINS
        self.weight = 0.0
        self.total = 0.0
        self.squares = 0.0
        self.most = 0.0  # the longest value ever counted: no quantile lies above it
        self.top = 0  # no bin above this one was ever used

    def insert(self, value: float, now: float) -> None:
        """Count one value. Raises ValueError when it is no duration."""
        if not FLOOR < value < CEILING:
            value = clipped(value)
        halvings = (now - self.origin) / self.half_life
        if halvings > _MOST_HALF_LIVES:
            self.rebase(now)
            halvings = 0.0
        weight = exp2(halvings)
        index = bisect_right(_UPPER, value)
        self.counts[index] += weight
        self.weight += weight
        weight *= value
        self.total += weight
        self.squares += weight * value
        if value > self.most:
            self.most = value
            self.top = index

    def rebase(self, origin: float) -> None:
        """Move the moment at which a sample weighs 1. Changes no answer."""
        if origin == self.origin:
            return
        if self.weight:
            factor = exp2((self.origin - origin) / self.half_life)
            self.counts = [count * factor for count in self.counts]
            self.weight *= factor
            self.total *= factor
            self.squares *= factor
        self.origin = origin

    def needs_rebase(self, now: float) -> bool:
        """True when samples of `now` would weigh too much for comfort."""
        return now - self.origin > _MOST_HALF_LIVES * self.half_life

    def count(self, now: float) -> float:
        """How many samples of this moment the sketch is worth."""
        return self.weight * exp2((self.origin - now) / self.half_life)

    @property
    def mean(self) -> float:
        """Seconds; NaN while there is no sample."""
        return self.total / self.weight if self.weight > 0 else float("nan")

    @property
    def variance(self) -> float:
        """Seconds squared, of the population; NaN while there is no sample."""
        if self.weight <= 0:
            return float("nan")
        mean = self.total / self.weight
        return max(0.0, self.squares / self.weight - mean * mean)

    def quantile(self, share: float) -> float:
        """The value that `share` of the weight does not exceed; NaN while there is no sample.

        Counted from above, because tails are what is asked for; inside a bin the weight is taken as evenly
        spread over the logarithm.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"a share is a number from 0 to 1, not {share!r}")
        if self.weight <= 0:
            return float("nan")
        wanted = (1.0 - share) * self.weight
        above = 0.0
        counts = self.counts
        lowest = self.top
        for index in range(self.top, -1, -1):
            count = counts[index]
            if count:
                lowest = index
                if above + count > wanted:
                    value: float = EDGES[index] * GROWTH ** (1.0 - (wanted - above) / count)
                    return min(value, self.most)
                above += count
        return EDGES[lowest]

    def to_dict(self, now: float) -> dict[str, Any]:
        """For JSON: weights as of `now`, empty bins left out. `from_dict` reads it on any other clock."""
        factor = exp2((self.origin - now) / self.half_life)
        return {
            "half_life": self.half_life,
            "weight": _short(self.weight * factor),
            "total": _short(self.total * factor),
            "squares": _short(self.squares * factor),
            "most": self.most,
            "bins": {
                str(index): short
                for index, count in enumerate(self.counts)
                if count and (short := _short(count * factor)) > 0
            },
        }

    def check(self) -> None:
        """Raises ValueError when the numbers cannot have come from samples."""
        weight = self.weight
        if abs(sum(self.counts) - weight) > 1e-3 * weight or weight > _MOST_WEIGHT:
            raise ValueError("the bins do not add up to the weight")
        if not weight:
            return
        slack = 1.001  # of nine digits, and of edges
        mean = self.total / weight
        if not FLOOR / slack <= mean <= self.most * slack or self.most > CEILING * slack:
            raise ValueError("total and weight give a mean that lies outside the samples")
        if not mean * mean / slack <= self.squares / weight <= mean * self.most * slack:
            raise ValueError("squares and weight give no variance")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], half_life: float, now: float) -> Self:
        """The sketch whose `to_dict` was taken when this clock showed `now`.

        Raises ValueError when the data is damaged or of another half-life: no guess is made.
        """
        sketch = cls(half_life, now)
        if number(data, "half_life") != half_life:
            raise ValueError(f"half_life is {data['half_life']!r}, not {half_life!r}")
        sketch.weight = number(data, "weight")
        sketch.total = number(data, "total")
        sketch.squares = number(data, "squares")
        sketch.most = number(data, "most")
        bins = data.get("bins")
        if not isinstance(bins, dict):
            raise ValueError("bins is not a table of bin and weight")
        for key in bins:
            if not (key.isascii() and key.isdigit() and int(key) < BINS):
                raise ValueError(f"bins: {key!r} is not a bin from 0 to {BINS - 1}")
            sketch.counts[int(key)] = number(bins, key)
            sketch.top = max(sketch.top, int(key))
        sketch.check()
        return sketch


def insert_both(
    samples: Iterable[tuple[float, float]], short: tuple[Sketch, Sketch], long: tuple[Sketch, Sketch]
) -> None:
    """Insert (value, moment) samples into four sketches at the price of little more than one: a part and its
    whole at a short half-life, the same two at a long one.

    Samples that follow each other within 1/100 of the shorter half-life share the weight of the first of them
    (0.7 % off at most). The two of a pair must share half-life and origin (ValueError), so that a sample has
    one weight in both. The caller sees to `rebase`.
    """
    for part, whole in (short, long):
        if part.origin != whole.origin or part.half_life != whole.half_life:
            raise ValueError("a part and its whole must share half-life and origin")
    grain = min(short[0].half_life, long[0].half_life) / 100
    run: list[float] = []
    since = nan
    for value, now in samples:
        if not 0.0 <= now - since <= grain:
            if run:
                _insert_run(run, since, short, long)
            run = []
            since = now
        run.append(value if FLOOR < value < CEILING else clipped(value))
    if run:
        _insert_run(run, since, short, long)


def _insert_run(
    values: list[float], now: float, short: tuple[Sketch, Sketch], long: tuple[Sketch, Sketch]
) -> None:
    """Values of one weight: the sums are C loops, only the bins are one by one."""
    brief = exp2((now - short[0].origin) / short[0].half_life)
    slow = exp2((now - long[0].origin) / long[0].half_life)
    brief_part, brief_whole = short[0].counts, short[1].counts
    slow_part, slow_whole = long[0].counts, long[1].counts
    for value in values:
        index = bisect_right(_UPPER, value)
        brief_part[index] += brief
        brief_whole[index] += brief
        slow_part[index] += slow
        slow_whole[index] += slow
    number_of, total, squares = len(values), sum(values), sum(map(mul, values, values))
    most = max(values)
    top = bisect_right(_UPPER, most)
    for sketches, weight in ((short, brief), (long, slow)):
        for sketch in sketches:
            sketch.weight += number_of * weight
            sketch.total += total * weight
            sketch.squares += squares * weight
            if most > sketch.most:
                sketch.most = most
                sketch.top = top


def number(data: Mapping[str, Any], key: str) -> float:
    """A finite number from 0 up out of foreign data. Raises ValueError with the name of what is wrong."""
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{key} is not a number: {value!r}")
    try:
        value = float(value)
    except OverflowError:
        value = inf
    if not isfinite(value) or value < 0:
        raise ValueError(f"{key} is not a number from 0 up: {value!r}")
    return value


def _short(value: float) -> float:
    """Nine digits are far more than the bins know."""
    return float(f"{value:.9g}")


__all__ = ["BINS", "CEILING", "EDGES", "FLOOR", "GROWTH", "Sketch", "clipped", "insert_both", "number"]
