"""From measured seconds to the `calibration:` block, and from the block to what estimates start from.

Pure arithmetic and text. It must never know a backend, a clock, or how the seconds were measured.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from backends.base import BackendOptions
from backends.calibration import Calibration, ColdStartCalibration, Mode

MODE_RATIO = 3.0
"""Neighbouring cold starts that differ by this factor or more are of two kinds."""
_Z95 = 1.6448536269514722
"""95th percentile of the standard normal distribution."""


class Priors(NamedTuple):
    """What is believed of a backend before its first call, in seconds; None where nothing was measured.

    A tail is the 95th percentile of cold starts and the 99th of service times.
    """

    cold_mean: float | None = None
    cold_tail: float | None = None
    service_mean: float | None = None
    service_tail: float | None = None


class Spread(NamedTuple):
    """A log-normal distribution: exp(N(log median, sigma))."""

    median: float
    sigma: float

    @property
    def mean(self) -> float:
        """Median * exp(sigma^2 / 2)."""
        return self.median * math.exp(self.sigma**2 / 2)


def quantile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed. Raises ValueError for none."""
    if not ascending:
        raise ValueError("a quantile of nothing")
    # The hair keeps 0.99 of 100 values at the 99th, where 0.99 * 100 is a little above 99.
    return ascending[max(0, math.ceil(share * len(ascending) - 1e-9) - 1)]


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean. Raises ValueError for none."""
    if not values:
        raise ValueError("a mean of nothing")
    return math.fsum(values) / len(values)


def modes(ascending: Sequence[float]) -> tuple[Mode, ...]:
    """One mode, or two where the widest gap (as a ratio) between neighbours is wide enough."""
    if not ascending:
        return ()
    floor = 1e-3  # below a millisecond a ratio says nothing
    gaps = [
        (max(high, floor) / max(low, floor), place)
        for place, (low, high) in enumerate(pairwise(ascending), 1)
    ]
    ratio, place = max(gaps, default=(1.0, 0))
    groups = [ascending] if ratio < MODE_RATIO else [ascending[:place], ascending[place:]]
    return tuple(
        Mode.model_construct(share=round(len(group) / len(ascending), 4), p50=quantile(group, 0.5))
        for group in groups
    )


def log_normal(p50: float | None, p95: float | None) -> Spread | None:
    """The log-normal distribution with these two percentiles; all at the median where only that is known."""
    if p50 is None or p50 <= 0:
        return None if p50 is None else Spread(0.0, 0.0)
    return Spread(p50, math.log(p95 / p50) / _Z95 if p95 is not None and p95 > p50 else 0.0)


def cold_mean(cold: ColdStartCalibration) -> float | None:
    """Mean cold start: of its modes if there are several, else of the log-normal with its percentiles."""
    if len(cold.modes) > 1:
        return sum(mode.share * mode.p50 for mode in cold.modes) / sum(mode.share for mode in cold.modes)
    fitted = log_normal(cold.p50, cold.p95)
    return None if fitted is None else fitted.mean


def priors(options: BackendOptions) -> Priors:
    """What the `calibration` of a backend's section says; all None without one."""
    measured = options.calibration
    if measured is None:
        return Priors()
    cold, service = measured.cold_start, measured.service
    service_mean = service_tail = None
    if service is not None:
        fitted = log_normal(service.p50, service.p95)
        service_mean = service.mean if service.mean is not None else fitted and fitted.mean
        service_tail = next((q for q in (service.p99, service.p95) if q is not None), None)
    return Priors(
        cold_mean=None if cold is None else cold_mean(cold),
        cold_tail=None if cold is None else cold.p95,
        service_mean=service_mean,
        service_tail=service_tail,
    )


def block(calibration: Calibration) -> str:
    """The block as YAML text, to paste under the backend. Reads back as the same figures."""
    lines = ["calibration:"]
    if (cold := calibration.cold_start) is not None:
        kinds = ", ".join(f"{{share: {mode.share:g}, p50: {spell(mode.p50)}}}" for mode in cold.modes)
        parts = _fields(samples=cold.samples, p50=_spelled(cold.p50), p95=_spelled(cold.p95))
        lines.append(f"  cold_start: {{{', '.join([*parts, f'modes: [{kinds}]'])}}}")
    if (service := calibration.service) is not None:
        parts = _fields(
            p50=_spelled(service.p50),
            p95=_spelled(service.p95),
            p99=_spelled(service.p99),
            mean=_spelled(service.mean),
        )
        lines.append(f"  service: {{{', '.join(parts)}}}")
    if (several := calibration.concurrency) is not None:
        rate = None if several.per_second is None else decimal(several.per_second)
        parts = _fields(knee=several.knee, per_second=rate, most=several.most)
        lines.append(f"  concurrency: {{{', '.join(parts)}}}")
    if calibration.usd_per_1k is not None:
        lines.append(f"  usd_per_1k: {decimal(calibration.usd_per_1k)}")
    else:
        lines.append("  # usd_per_1k: unknown, because no price is known")
    return "\n".join(lines) + "\n"


def rounded(value: float, digits: int = 4) -> float:
    """To `digits` significant ones: more would claim what no measurement holds."""
    return float(f"{value:.{digits - 1}e}")


def spell(seconds: float) -> str:
    """Seconds as the file spells durations, like 250ms or 8.2s."""
    return f"{decimal(1000 * seconds)}ms" if seconds < 1 else f"{decimal(seconds)}s"


def decimal(value: float) -> str:
    """Four significant digits without an exponent, which the file does not know."""
    if value == 0:
        return "0"
    places = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{rounded(value):.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _spelled(seconds: float | None) -> str | None:
    return None if seconds is None else spell(seconds)


def _fields(**values: object) -> list[str]:
    return [f"{name}: {value}" for name, value in values.items() if value is not None]
