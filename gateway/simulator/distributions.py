"""Durations drawn by (seed, index). It knows no request, no policy and no clock.

Draw number i of a stream is the same whatever was drawn before, so that every policy meets the same
services and the same cold starts (common random numbers), and a difference is never luck.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Final, Protocol

from gateway.options import parse_duration

_NORMAL: Final = NormalDist()
_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


class Distribution(Protocol):
    """Of durations in seconds, none below 0."""

    def mean(self) -> float: ...

    def quantile(self, share: float) -> float:
        """The duration that `share` of the draws do not exceed; the share strictly between 0 and 1."""

    def draw(self, seed: int, index: int) -> float:
        """Draw number `index` of the stream `seed`: a pure function of the two."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Always the same."""

    value: float

    def mean(self) -> float:
        return self.value

    def quantile(self, share: float) -> float:
        _check_share(share)
        return self.value

    def draw(self, seed: int, index: int) -> float:
        return self.value


@dataclass(frozen=True, slots=True)
class Exponential:
    """Memoryless, by its mean."""

    average: float

    def mean(self) -> float:
        return self.average

    def quantile(self, share: float) -> float:
        _check_share(share)
        return -self.average * math.log1p(-share)

    def draw(self, seed: int, index: int) -> float:
        return -self.average * math.log1p(-uniform(seed, index))


@dataclass(frozen=True, slots=True)
class Lognormal:
    """exp(N(log median, sigma)); its mean is median * exp(sigma^2 / 2)."""

    median: float
    sigma: float

    def mean(self) -> float:
        return self.median * math.exp(self.sigma**2 / 2)

    def quantile(self, share: float) -> float:
        _check_share(share)
        return self.median * math.exp(self.sigma * _NORMAL.inv_cdf(share))

    def draw(self, seed: int, index: int) -> float:
        return self.median * math.exp(self.sigma * _NORMAL.inv_cdf(uniform(seed, index)))


@dataclass(frozen=True, slots=True)
class Empirical:
    """One of the given values, each as likely as the other. `values` ascend."""

    values: tuple[float, ...]

    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    def quantile(self, share: float) -> float:
        _check_share(share)
        # The hair keeps 0.99 of 100 values at the 99th, where 0.99 * 100 is a little above 99.
        return self.values[max(0, math.ceil(share * len(self.values) - 1e-9) - 1)]

    def draw(self, seed: int, index: int) -> float:
        return self.values[int(uniform(seed, index) * len(self.values))]


def parse(text: str) -> Distribution:
    """`lognormal:MEDIAN:SIGMA`, `exponential:MEAN`, `constant:T` or `empirical:FILE`.

    Times are written like 250ms or 6s, or as plain seconds. The file has one time per line; empty lines
    and lines that begin with # do not count. Raises ValueError, and OSError for the file.
    """
    word, _, rest = text.strip().partition(":")
    if word not in _FORMS:
        raise ValueError(f"{text!r} is not a distribution; write one of {', '.join(_EXAMPLES)}")
    try:
        return _FORMS[word](rest)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None


def is_distribution(text: str) -> bool:
    """Does it begin with the word of a distribution? (What follows may still be wrong.)"""
    return text.strip().partition(":")[0] in _FORMS and ":" in text


def stream(seed: int, name: str) -> int:
    """The seed of one use of chance, like `service` or `cold:ENDPOINT`, unrelated to those of other names."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def uniform(seed: int, index: int) -> float:
    """Number `index` of the stream `seed`, strictly between 0 and 1.

    SplitMix64 (Steele, Lea and Flood, 2014), whose state after i steps is seed + i * step: it can be
    entered anywhere. Seeds that are near each other give overlapping streams: take them from `stream`.
    """
    state = (seed + (index + 1) * _STEP) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return (((state ^ (state >> 31)) >> 12) + 0.5) / (1 << 52)


def draws(distribution: Distribution, seed: int, count: int) -> array[float]:
    """The first `count` draws of a stream."""
    draw = distribution.draw
    return array("d", (draw(seed, index) for index in range(count)))


def _lognormal(text: str) -> Lognormal:
    median, sigma = _parts(text, "MEDIAN:SIGMA")
    try:
        spread = float(sigma)
    except ValueError:
        raise ValueError(f"sigma is a plain number, not {sigma!r}") from None
    if not 0 <= spread <= 10:
        raise ValueError(f"sigma is {sigma}; it must be from 0 to 10")
    return Lognormal(_seconds(median), spread)


def _exponential(text: str) -> Exponential:
    (mean,) = _parts(text, "MEAN")
    return Exponential(_seconds(mean))


def _constant(text: str) -> Constant:
    (value,) = _parts(text, "T")
    return Constant(_seconds(value))


def _empirical(text: str) -> Empirical:
    path = Path(text)
    values = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8 text") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            values.append(_seconds(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not values:
        raise ValueError("the file has no times")
    return Empirical(tuple(sorted(values)))


_FORMS: Final[dict[str, Callable[[str], Distribution]]] = {
    "lognormal": _lognormal,
    "exponential": _exponential,
    "constant": _constant,
    "empirical": _empirical,
}
_EXAMPLES: Final = ("lognormal:6s:0.4", "exponential:2s", "constant:500ms", "empirical:FILE")


def _parts(text: str, form: str) -> list[str]:
    parts = text.split(":")
    if len(parts) != form.count(":") + 1 or not all(parts):
        raise ValueError(f"what follows the word has the form {form}")
    return parts


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        parsed = parse_duration(text)
        assert isinstance(parsed, float)
        return parsed
    if not 0 <= value < math.inf:
        raise ValueError(f"{text.strip()} is not a duration; it must be finite and at least 0")
    return value


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"a quantile is asked for at {share}; it lies between 0 and 1")
