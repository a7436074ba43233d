"""From samples to verdicts: what grew, what did not go back. Pure: no process, no file.

The second half of a run is fitted with a straight line, so that what is learned, cached and compiled in the
first half does not count as growth.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

RSS_GROWTH = 0.02
"""Most that resident memory may grow over the second half, as a share of itself."""
SERIES_GROWTH = 0.01
SPREAD = 1.05
"""Descriptors and threads follow the load, which is not the same in every second."""
KEPT_OPEN = 6
"""A probe may have opened so many connections since, one a replica."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at the gateway, all of its processes together. `at` in seconds since the load began."""

    at: float
    rss_mib: float
    fds: int
    threads: int
    tasks: float
    in_flight: float
    queued: float
    series: int
    requests: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One promise, and what was seen."""

    name: str
    want: str
    got: str
    kept: bool


def second_half(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Those from the middle of the time on."""
    if not samples:
        return samples
    middle = (samples[0].at + samples[-1].at) / 2
    return [each for each in samples if each.at >= middle]


def growth(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float | None:
    """How much a figure grew from the first of these samples to the last, by the straight line of least
    squares, as a share of where that line begins. None of fewer than three samples.
    """
    if len(samples) < 3:
        return None
    times = [each.at for each in samples]
    slope, start = statistics.linear_regression(times, [of(each) for each in samples])
    begins = start + slope * times[0]
    return slope * (times[-1] - times[0]) / begins if begins > 0 else None


def _flat(name: str, samples: Sequence[Sample], of: Callable[[Sample], float]) -> Verdict:
    """The last quarter beside the one before it."""
    middle = len(samples) // 2
    before, after = (
        statistics.median(map(of, part or [samples[-1]])) for part in (samples[:middle], samples[middle:])
    )
    return Verdict(
        name=name, want="flat in the second half", got=f"{before:.0f}, then {after:.0f}",
        kept=after <= SPREAD * before + KEPT_OPEN,
    )  # fmt: skip


def _grown(name: str, samples: Sequence[Sample], of: Callable[[Sample], float], most: float) -> Verdict:
    share = growth(samples, of)
    return Verdict(
        name=name,
        want=f"grows by less than {most:.0%} in the second half",
        got="too few samples" if share is None else f"{share:+.2%}, {of(samples[-1]):,.0f} at last",
        kept=share is not None and share < most,
    )


def _back(name: str, start: float, end: float, slack: float = 0.0) -> Verdict:
    want = f"back to {start:.0f}" + (f" (and {slack:.0f})" if slack else "")
    return Verdict(name=name, want=want, got=f"{end:.0f}", kept=end <= start + slack)


def judge(
    samples: Sequence[Sample],
    *,
    start: Sample,
    end: Sample,
    lines: int,
    answered: int,
    wanted: int | None,
    errors: Mapping[str, int],
) -> list[Verdict]:
    """All promises.

    start, end:  of the idle gateway, before the load and after it
    lines:       of the access log
    answered:    requests to whose end a client has read
    wanted:      how many were asked for; None: as many as come
    errors:      of the run itself, by kind: connections that were not accepted
    """
    late = second_half(samples)
    if not late:
        return [Verdict(name="samples", want="some", got="none", kept=False)]
    found = [
        _grown("resident memory", late, lambda s: s.rss_mib, RSS_GROWTH),
        _flat("file descriptors", late, lambda s: s.fds),
        _flat("threads", late, lambda s: s.threads),
        _grown("metric series", late, lambda s: s.series, SERIES_GROWTH),
        _back("tasks, idle", start.tasks, end.tasks),
        _back("file descriptors, idle", start.fds, end.fds, KEPT_OPEN),
        _back("slots in use, idle", 0, end.in_flight),
        _back("calls in the queue, idle", 0, end.queued),
        Verdict(
            name="lines of the access log", want="one for each request",
            got=f"{lines:,} for {end.requests:,.0f}, of which {answered:,} were read to their end",
            kept=lines == end.requests and lines >= answered,
        ),
        Verdict(
            name="the run itself", want="without a fault",
            got=", ".join(f"{count} {kind}" for kind, count in errors.items()) or "none", kept=not errors,
        ),
    ]  # fmt: skip
    if wanted is not None:
        got = f"{end.requests:,.0f}"
        found.append(
            Verdict(name="requests", want=f"{wanted:,} or more", got=got, kept=end.requests >= wanted)
        )
    return found
