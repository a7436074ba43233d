"""What a probe has found so far, and the figures that follow from it. Values and arithmetic only.

It must never know how a call is made. Half a probe gives half the figures: nothing that was not measured
is made up, and a price that is not known stays unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from backends.calibration import (
    Calibration,
    ColdStartCalibration,
    ConcurrencyCalibration,
    Mode,
    ServiceCalibration,
)
from gateway.pricing import per_second
from gateway.probe.calibration import mean, modes, quantile, rounded
from gateway.vocab import Start, Usage


class Sample(NamedTuple):
    """One call that was answered.

    seconds:     from the call to the last byte of its answer
    first_byte:  from the call to the head of its answer
    usd:         without idle time; None where the price is not known
    """

    seconds: float
    first_byte: float
    start: Start
    usage: Usage | None
    usd: float | None


class Level(NamedTuple):
    """So many calls at once, each followed by the next as soon as it was answered.

    per_second:  answers per second
    p50, p95:    seconds of the answers that met no cold start
    cold:        calls that met one all the same
    refused:     calls that the backend pushed back as too many
    """

    concurrency: int
    calls: int
    per_second: float
    p50: float
    p95: float
    cold: int
    refused: int


@dataclass(slots=True)
class Figures:
    """Filled while the probe runs.

    colds:    whole seconds of each call that met a cold start
    assumed:  how many of those were not said to be cold, but came after the idle time-out
    notes:    what a reader of the figures has to know
    """

    warm: list[Sample] = field(default_factory=list)
    colds: list[Sample] = field(default_factory=list)
    assumed: int = 0
    levels: list[Level] = field(default_factory=list)
    failed: int = 0
    notes: list[str] = field(default_factory=list)
    usd_per_replica_hour: float | None = None
    spent_usd: float | None = None

    def __bool__(self) -> bool:
        return bool(self.warm or self.colds or self.levels)

    def service(self) -> list[float]:
        """Seconds of the warm calls, ascending."""
        return sorted(sample.seconds for sample in self.warm)

    def cold_starts(self) -> list[float]:
        """What the cold calls took longer than a warm one, ascending; empty before a warm call."""
        warm = self.service()
        if not warm:
            return []
        typical = quantile(warm, 0.5)
        return sorted(max(0.0, sample.seconds - typical) for sample in self.colds)

    def reported_boots(self) -> list[float]:
        """Seconds of start-up in the words of the provider or the worker, ascending."""
        boots = [sample.usage.boot_s for sample in self.colds if sample.usage is not None]
        return sorted(boot for boot in boots if boot)

    def memory_gb(self) -> float | None:
        """Memory of an instance as the provider reports it; None where it does not."""
        sizes = [sample.usage.memory_gb for sample in (*self.colds, *self.warm) if sample.usage]
        return max((size for size in sizes if size is not None), default=None)

    def knee(self) -> Level | None:
        """The last level before the median latency doubles, or before calls are refused."""
        within: Level | None = None
        for level in self.levels:
            if level.refused or level.p50 >= 2 * self.levels[0].p50:
                break
            within = level
        return within

    def usd_per_1k(self) -> float | None:
        """Dollars for 1,000 warm requests; None where no price is known.

        Rented: what the warm calls cost, without idle time and cold starts. Owned: the replica's price
        at the most answers per second that were seen, which is what a fully used replica costs.
        """
        if self.usd_per_replica_hour is not None:
            fastest = max((level.per_second for level in self.levels), default=0.0)
            if not fastest and self.warm:
                fastest = 1 / max(mean(self.service()), 1e-9)
            return 1000 * per_second(self.usd_per_replica_hour) / fastest if fastest else None
        costs = [sample.usd for sample in self.warm]
        known = [usd for usd in costs if usd is not None]
        return 1000 * mean(known) if known and len(known) == len(costs) else None

    def calibration(self) -> Calibration:
        """The figures as the file takes them, to four digits."""
        usd = self.usd_per_1k()
        return Calibration.model_construct(
            cold_start=self._cold_start(),
            service=self._service(),
            concurrency=self._concurrency(),
            usd_per_1k=None if usd is None else rounded(usd),
        )

    def _cold_start(self) -> ColdStartCalibration | None:
        starts = self.cold_starts()
        if not starts:
            return None
        return ColdStartCalibration.model_construct(
            samples=len(starts),
            p50=rounded(quantile(starts, 0.5)),
            p95=rounded(quantile(starts, 0.95)),
            modes=tuple(
                Mode.model_construct(share=each.share, p50=rounded(each.p50)) for each in modes(starts)
            ),
        )

    def _service(self) -> ServiceCalibration | None:
        warm = self.service()
        if not warm:
            return None
        return ServiceCalibration.model_construct(
            p50=rounded(quantile(warm, 0.5)),
            p95=rounded(quantile(warm, 0.95)),
            p99=rounded(quantile(warm, 0.99)),
            mean=rounded(mean(warm)),
        )

    def _concurrency(self) -> ConcurrencyCalibration | None:
        knee = self.knee()
        if knee is None:
            return None
        return ConcurrencyCalibration.model_construct(
            knee=knee.concurrency,
            per_second=rounded(knee.per_second),
            most=self.levels[-1].concurrency,
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, in seconds and dollars; null where it is not known."""
        calibration = self.calibration()
        return {
            "calibration": calibration.model_dump(exclude={"usd_per_1k"}, exclude_none=True)
            | {"usd_per_1k": calibration.usd_per_1k},
            "cold_starts_s": self.cold_starts(),
            "cold_starts_assumed": self.assumed,
            "reported_boots_s": self.reported_boots(),
            "warm_s": [sample.seconds for sample in self.warm],
            "levels": [level._asdict() for level in self.levels],
            "memory_gb": self.memory_gb(),
            "failed": self.failed,
            "spent_usd": self.spent_usd,
            "notes": list(self.notes),
        }


def steps(most: int) -> Sequence[int]:
    """1, 2, 4, … and `most` itself."""
    levels = [1]
    while levels[-1] * 2 <= most:
        levels.append(levels[-1] * 2)
    return levels if levels[-1] == most or most < 1 else [*levels, most]
