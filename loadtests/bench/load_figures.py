"""What a load generator reports, whichever it is: one marked line of JSON. Pure: text and numbers.

Times are microseconds. A percentile is absent where too few were measured for one value to lie beyond it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

MARK = "bench-figures "


class NoFigures(Exception):
    """A load generator ended without its figures; the text says what it printed instead."""


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Of one kind of delay, in microseconds."""

    p50: float | None = None
    p99: float | None = None
    p999: float | None = None

    @classmethod
    def of(cls, microseconds: Sequence[float]) -> "Percentiles":
        """Of these values, by nearest rank."""
        ordered = sorted(microseconds)

        def at(share: float) -> float | None:
            if len(ordered) * (1 - share) < 1 - 1e-9:
                return None
            return ordered[math.ceil(len(ordered) * share) - 1]

        return cls(
            p50=at(0.5) if len(ordered) > 1 else next(iter(ordered), None), p99=at(0.99), p999=at(0.999)
        )


@dataclass(frozen=True, kw_only=True)
class LoadFigures:
    """One run of a load generator.

    requests:  answered completely; of a stream, to its end
    bytes:     of the answers; 0 where the generator compares every answer itself
    latency:   of a request; of a stream, from the request to the first event
    events, event_delay:  of streams: events read, and how long each took from the upstream to the reader
    errors:    requests that went wrong, by kind; empty when nothing did
    """

    duration_us: float
    requests: int
    bytes: int = 0
    latency: Percentiles
    events: int = 0
    event_delay: Percentiles = field(default_factory=Percentiles)
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def requests_per_s(self) -> float:
        """Answers per second."""
        return self.requests / (self.duration_us / 1e6) if self.duration_us else 0.0

    @classmethod
    def nothing(cls) -> "LoadFigures":
        """Of a run that did not come to an end."""
        return cls(duration_us=0.0, requests=0, latency=Percentiles())

    def line(self) -> str:
        """As `parse` reads it."""
        return MARK + json.dumps(asdict(self))


def parse(output: str) -> LoadFigures:
    """The figures in a generator's output. Raises NoFigures, quoting its end, where there are none."""
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            found = json.loads(line.removeprefix(MARK))
            found["latency"] = Percentiles(**found["latency"])
            found["event_delay"] = Percentiles(**found.get("event_delay", {}))
            found["errors"] = {kind: count for kind, count in found.get("errors", {}).items() if count}
            return LoadFigures(**found)
    raise NoFigures(f"the load generator reported no figures: {output.strip()[-300:] or 'no output'}")
