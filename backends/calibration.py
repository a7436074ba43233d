"""What was measured of a backend: the `calibration` key that every backend's section may have.

Values only, as `overspill probe` prints them. It must never know who measured them, nor who uses them.
"""

from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from gateway.options import Duration, Options, Share, Usd

Measured = Annotated[Duration, Field(ge=0)]
"""Seconds, written with a unit."""


class Mode(Options):
    """One kind of start: a snapshot or a cached host is fast, an empty host is slow."""

    share: Share
    """Share of the starts that were of this kind."""
    p50: Measured
    """Their median."""


class ColdStartCalibration(Options):
    """What a call waits longer because an instance has to start first."""

    samples: int | None = Field(default=None, ge=1)
    """How many cold starts were measured."""
    p50: Measured | None = None
    """Median."""
    p95: Measured | None = None
    """95th percentile."""
    modes: tuple[Mode, ...] = ()
    """The kinds of start, where the figures fall into several."""

    @model_validator(mode="after")
    def _ordered(self) -> "ColdStartCalibration":
        _check_order(p50=self.p50, p95=self.p95)
        if self.modes and abs(sum(mode.share for mode in self.modes) - 1) > 0.05:
            raise ValueError("the shares of the modes do not add up to 100%")
        return self


class ServiceCalibration(Options):
    """How long a warm instance takes for one request when nothing else runs there."""

    p50: Measured | None = None
    """Median."""
    p95: Measured | None = None
    """95th percentile."""
    p99: Measured | None = None
    """99th percentile."""
    mean: Measured | None = None
    """Arithmetic mean."""

    @model_validator(mode="after")
    def _ordered(self) -> "ServiceCalibration":
        _check_order(p50=self.p50, p95=self.p95, p99=self.p99)
        return self


class ConcurrencyCalibration(Options):
    """What happens when several requests run at once."""

    knee: int | None = Field(default=None, ge=1)
    """Most requests at once whose median latency is below twice that of a single one, none being refused."""
    per_second: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Requests per second at the knee."""
    most: int | None = Field(default=None, ge=1)
    """Most requests at once that were tried. A knee that equals it was not reached."""


class Calibration(Options):
    """Measured figures of a backend; whatever is left out was not measured."""

    cold_start: ColdStartCalibration | None = None
    """Starts of an instance from nothing."""
    service: ServiceCalibration | None = None
    """Warm requests, one at a time."""
    concurrency: ConcurrencyCalibration | None = None
    """Several requests at once."""
    usd_per_1k: Usd | None = None
    """Dollars for 1,000 warm requests at these figures."""


def _check_order(**quantiles: float | None) -> None:
    given = [(name, value) for name, value in quantiles.items() if value is not None]
    for (low, smaller), (high, larger) in pairwise(given):
        if smaller > larger:
            raise ValueError(f"{low} is larger than {high}; a higher percentile is never below a lower one")
