"""Makes arrivals from a seed, for tests and for trying things out. It knows no policy and no price."""

from __future__ import annotations

import math
from array import array
from pathlib import Path
from random import Random

from gateway.options import parse_duration
from gateway.simulator.traces import Trace, from_rows, load

_MOST_ARRIVALS = 50_000_000


def poisson(rate: float, seconds: float, *, seed: int) -> Trace:
    """Independent arrivals, `rate` per second on average. Raises ValueError if none falls in."""
    _check(rate=rate, seconds=seconds)
    return from_rows("poisson", array("d", _arrivals(rate, 0.0, seconds, Random(seed))), {})  # noqa: S311


def burst(
    calm: float,
    peak: float,
    seconds: float,
    *,
    start: float | None = None,
    length: float | None = None,
    seed: int,
) -> Trace:
    """Poisson arrivals at the rate `calm`, and at `peak` for `length` seconds from `start` on.

    The burst begins after a third of the time and lasts a tenth of it unless told otherwise.
    """
    start = seconds / 3 if start is None else start
    length = seconds / 10 if length is None else length
    _check(calm=calm, peak=peak, seconds=seconds, start=start, length=length)
    begin, end = min(start, seconds), min(start + length, seconds)
    chance = Random(seed)  # noqa: S311
    moments = array("d", _arrivals(calm, 0.0, begin, chance))
    moments.extend(_arrivals(peak, begin, end, chance))
    moments.extend(_arrivals(calm, end, seconds, chance))
    return from_rows("burst", moments, {})


def open_trace(text: str, *, seed: int = 0) -> Trace:
    """The trace of `poisson:RATE:SECONDS`, `burst:CALM:PEAK:SECONDS[:START:LENGTH]`, or of a file.

    Times are plain seconds or written like 10m. Raises ValueError for what makes no sense, OSError for
    a file that cannot be read.
    """
    word, *parts = text.split(":")
    if word == "poisson" and len(parts) == 2:
        return poisson(_number(parts[0]), _seconds(parts[1]), seed=seed)
    if word == "burst" and len(parts) in {3, 5}:
        calm, peak, seconds = _number(parts[0]), _number(parts[1]), _seconds(parts[2])
        start, length = (_seconds(parts[3]), _seconds(parts[4])) if len(parts) == 5 else (None, None)
        return burst(calm, peak, seconds, start=start, length=length, seed=seed)
    if word in {"poisson", "burst"} and parts:
        raise ValueError(f"{text!r}: write poisson:RATE:SECONDS or burst:CALM:PEAK:SECONDS[:START:LENGTH]")
    return load(Path(text), spread_seed=seed)


def _arrivals(rate: float, begin: float, end: float, chance: Random) -> list[float]:
    moments = []
    at = begin
    while rate > 0 and (at := at + chance.expovariate(rate)) < end:
        moments.append(at)
    return moments


def _check(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; it must be a finite number of at least 0")
    fastest = max(values.get(name, 0.0) for name in ("rate", "calm", "peak"))
    if fastest * values["seconds"] > _MOST_ARRIVALS:
        raise ValueError(f"more than {_MOST_ARRIVALS:,} arrivals are asked for")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number of requests per second") from None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        seconds = parse_duration(text)
        assert isinstance(seconds, float)
        return seconds
