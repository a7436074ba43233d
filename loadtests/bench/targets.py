"""What the project asks of its warm path, and whether a run of the bench shows it. Pure: values, no process.

A target is `met` or not only from valid rounds; otherwise it is not shown, whatever the figures say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loadtests.bench.figures import LATENCY_CONNECTIONS, Ratio, Row, Spread
from loadtests.bench.startup import IDLE_RSS_MIB, READY_WITHIN_S, Startup

SUBJECT = "overspill"
SMALL = ("infer", "chat")
"""The workloads that "small JSON" means."""


class Found(NamedTuple):
    """What one workload came to."""

    rows: Sequence[Row]
    ratios: Sequence[Ratio]
    rss_mib: Mapping[str, Mapping[str, float]]

    def row(self, peer: str, connections: int) -> Row | None:
        """The row of a peer at so many connections."""
        return next((r for r in self.rows if (r.peer, r.connections) == (peer, connections)), None)

    def loaded(self, peer: str, *, most: int = 256) -> Ratio | None:
        """Beside this peer at many connections: a valid pair if there is one, the one nearest to `most`."""
        many = [r for r in self.ratios if r.peer == peer and LATENCY_CONNECTIONS < r.connections <= most]
        return max(many, key=lambda ratio: (ratio.valid, ratio.connections), default=None)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One promise and whether it was kept; `met` is None where it was not measured."""

    name: str
    want: str
    got: str
    met: bool | None


class _Beside(NamedTuple):
    """A figure in parts of a peer's."""

    peer: str
    figure: str
    limit: float
    least: bool = True


_SMALL_JSON = (
    _Beside("envoy", "requests_per_s", 1.2),
    _Beside("nginx", "requests_per_s", 0.4),
    _Beside("sglang_router", "requests_per_s", 3.0),
    _Beside("litellm", "requests_per_s", 100.0),
    _Beside("envoy", "cpu_us_per_request", 0.85, least=False),
)
_LARGE = _Beside("nginx", "requests_per_s", 0.6)
_WORDS = {"requests_per_s": "requests/s", "cpu_us_per_request": "CPU per request"}


def _text(spread: Spread, digits: int, unit: str = "") -> str:
    text = f"{spread.median:,.{digits}f}{unit}"
    if spread.low == spread.high:
        return text
    return f"{text} ({spread.low:,.{digits}f} to {spread.high:,.{digits}f})"


def _beside(workload: str, found: Found, asked: _Beside) -> Target:
    ratio = found.loaded(asked.peer)
    spread: Spread | None = getattr(ratio, asked.figure) if ratio else None
    # The CPU of both was measured whoever was the limit, unless others worked there too.
    counts = ratio is not None and (ratio.undisturbed if "cpu" in asked.figure else ratio.valid)
    got, met = "not measured", None
    if spread is not None:
        got = _text(spread, 2) + ("" if counts else ", from rounds that are not valid")
        kept = spread.median >= asked.limit if asked.least else spread.median <= asked.limit
        met = kept if counts else None
    return Target(
        name=f"{workload}: {_WORDS[asked.figure]} beside {asked.peer}",
        want=f"at {'least' if asked.least else 'most'} {asked.limit:g} times its",
        got=got,
        met=met,
    )


def _added(workload: str, found: Found, peer: str, *, connections: int, time: str, factor: float) -> Target:
    """A delay that is added, in parts of what a peer adds."""
    mine, theirs = found.row(SUBJECT, connections), found.row(peer, connections)
    ours, beside = (row.added[time] if row else None for row in (mine, theirs))
    got, met = "not measured", None
    if mine and theirs and ours is not None and beside is not None:
        counts = not (mine.lower_bound or theirs.lower_bound)
        got = f"{ours.median:.3f} ms beside {beside.median:.3f} ms"
        got += "" if counts else ", from rounds that are not valid"
        met = ours.median <= factor * beside.median if counts else None
    name = f"{workload}: added {time.removesuffix('_ms')} at {connections}"
    return Target(name=name, want=f"at most {factor:g} times what {peer} adds", got=got, met=met)


def _below(name: str, limit: float, unit: str, row: Row | None, of: Callable[[Row], Spread | None]) -> Target:
    spread = of(row) if row else None
    counts = row is not None and not row.lower_bound
    return Target(
        name=name,
        want=f"under {limit:g} {unit}",
        got="not measured"
        if spread is None
        else _text(spread, 3, f" {unit}") + ("" if counts else ", from rounds that are not valid"),
        met=spread.median < limit if spread is not None and counts else None,
    )


def _streams(found: Found) -> list[Target]:
    hundred = found.row(SUBJECT, 100)
    return [
        _below("sse: added to the first event, p50 of 100", 0.5, "ms", hundred, lambda r: r.added["p50_ms"]),
        _below("sse: added to an event, p99 of 100", 0.2, "ms", hundred, lambda r: r.added["event_p99_ms"]),
    ]


def _many_streams(found: Found) -> list[Target]:
    thousand = found.row(SUBJECT, 1000)
    lost = None if thousand is None else thousand.valid_rounds == thousand.rounds
    return [
        _below("sse_1000: memory with 1,000 streams", 250, "MiB", thousand, lambda r: r.rss_mib),
        Target(
            name="sse_1000: rounds without a loss",
            want="all",
            got="not measured" if thousand is None else f"{thousand.valid_rounds} of {thousand.rounds} valid",
            met=lost or None,
        ),
    ]


def _growth(found: Found) -> Target:
    row, memory = found.row(SUBJECT, 64), found.rss_mib.get(SUBJECT)
    grown = row.rss_mib.high - memory["idle"] if row and row.rss_mib and memory else None
    return Target(
        name="tensor_1m: memory grown at 64 connections",
        want="under 64 MiB",
        got="not measured" if grown is None else f"{grown:.0f} MiB",
        met=None if grown is None else grown < 64,
    )


def of_workload(name: str, found: Found) -> list[Target]:
    """What is asked of this workload."""
    if name in SMALL:
        peers = {row.peer for row in found.rows} | {"envoy", "nginx"}
        return [
            *(_beside(name, found, asked) for asked in _SMALL_JSON if asked.peer in peers),
            _added(name, found, "nginx", connections=1, time="p50_ms", factor=1.3),
            _added(name, found, "envoy", connections=256, time="p99_ms", factor=1.0),
        ]
    if name == "tensor_1m":
        return [_beside(name, found, _LARGE), _growth(found)]
    if name == "sse_1000":
        return _many_streams(found)
    return _streams(found) if name == "sse" else []


def of_startup(startup: Startup | None) -> list[Target]:
    """What is asked of a start."""
    startup = startup or Startup()
    ready, rss, heavy = startup.ready, startup.idle_rss, startup.heavy_imports
    missing = startup.trouble or "not measured"
    return [
        Target(
            name="ready (first 200 on /livez)",
            want=f"under {READY_WITHIN_S} s",
            got=f"{_text(ready, 2)} s, of which CPU {_text(startup.ready_cpu, 2)} s"
            if ready and startup.ready_cpu
            else missing,
            met=ready.median < READY_WITHIN_S if ready else None,
        ),
        Target(
            name="resident memory when idle",
            want=f"at most {IDLE_RSS_MIB:.0f} MiB",
            got=f"{_text(rss, 0)} MiB" if rss else missing,
            met=rss.median <= IDLE_RSS_MIB if rss else None,
        ),
        Target(
            name="heavy packages imported",
            want="none",
            got=(", ".join(heavy) or "none") if heavy is not None else missing,
            met=not heavy if heavy is not None else None,
        ),
    ]
