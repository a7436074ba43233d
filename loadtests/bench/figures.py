"""From raw runs to figures: which runs count, medians and ranges, ratios. Pure: no process, no file.

A ratio is taken between runs of the same round and then summed up, because on a shared machine two runs
side by side drift together while the absolute numbers wander.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

SATURATED = 0.90
"""From this share of its core on, the gateway's own limit is what was measured."""
DISTURBED = 0.10
"""Beyond this share of either core, somebody else was measured too."""
LATENCY_CONNECTIONS = 4
"""Up to this many connections a run asks for latency; nothing is meant to be saturated."""
EVEN = 0.75
"""A paced load that takes more of its core than this delays what it is to measure."""
DIRECT = "direct"
"""The peer that is nobody: what the others add is what they take beyond it."""


class Limit(StrEnum):
    """What kept a run from being faster."""

    GATEWAY = "gateway"
    OTHER_SIDE = "other_side"  # load generator and upstream
    DISTURBED = "disturbed"  # somebody else's work on one of the two cores
    LATENCY = "latency"  # few connections: nobody was busy, as intended
    UNCLEAR = "unclear"  # neither core was busy
    REFERENCE = "reference"  # direct: the ceiling that the other two set together


_MEASURES_THE_PEER = frozenset({Limit.GATEWAY, Limit.LATENCY, Limit.REFERENCE})


def attribute(work: float, interrupts: float, ours: float) -> tuple[float, float]:
    """Split one core into our share and that of others, from what the kernel counted for both.

    `work` and `interrupts` are the core's, `ours` is what /proc gives for our processes. Kernels with
    CONFIG_IRQ_TIME_ACCOUNTING keep interrupts out of a process's time, others leave them in. If our time
    and the interrupts together are more than the core worked, they were left in. When others took more
    than the interrupts did, the two cases look alike, and `others` is then too low by that share.
    """
    if ours + interrupts > work + interrupts:
        return ours, max(0.0, work + interrupts - ours)
    return ours + interrupts, work - ours


@dataclass(frozen=True, kw_only=True)
class Run:
    """One peer under load once. Shares are of one core over the run, with the interrupts that serve
    it counted in; the peer's figures are None for `direct`, where there is nobody in between.
    """

    peer: str
    connections: int
    round: int
    requests: int
    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None = None
    """Latency of a request; of a stream, until its first event. None: too few for this percentile."""
    events: int = 0
    event_p50_ms: float | None = None
    event_p99_ms: float | None = None
    event_p999_ms: float | None = None
    """From the moment that the upstream wrote an event until it was read; streams only."""
    paced: bool = False
    """The load has a speed of its own, so that nobody is meant to be saturated."""
    faults: tuple[str, ...]
    cpu_us_per_request: float | None
    rss_mib: float | None = None
    """Right after the run."""
    peer_share: float | None
    other_side_share: float
    foreign_share: float

    @property
    def void(self) -> bool:
        """A request failed, or none was answered: nothing of this run is used."""
        return bool(self.faults) or self.requests == 0

    @property
    def limit(self) -> Limit:
        """Whose limit this run shows."""
        if self.foreign_share > DISTURBED:
            return Limit.DISTURBED
        if self.peer_share is None and not self.paced:
            return Limit.REFERENCE
        if self.paced:
            return Limit.OTHER_SIDE if self.other_side_share > EVEN else Limit.LATENCY
        if self.connections <= LATENCY_CONNECTIONS or self.peer_share is None:
            return Limit.LATENCY
        if self.peer_share >= SATURATED:
            return Limit.GATEWAY
        return Limit.OTHER_SIDE if self.other_side_share >= SATURATED else Limit.UNCLEAR

    @property
    def valid(self) -> bool:
        """True when it measured the peer, and not the machine around it."""
        return not self.void and self.limit in _MEASURES_THE_PEER

    @property
    def verdict(self) -> str:
        """One clause for the log and the table."""
        if self.void:
            return "void: " + ("; ".join(self.faults) or "no request was answered")
        share = 0.0 if self.peer_share is None else self.peer_share
        return {
            Limit.GATEWAY: "valid",
            Limit.LATENCY: "valid",
            Limit.REFERENCE: "valid",
            Limit.DISTURBED: f"other processes took {self.foreign_share:.0%} of a core",
            Limit.OTHER_SIDE: f"load generator and upstream were the limit (gateway's core at {share:.0%})"
            if not self.paced
            else f"load generator and upstream were too busy ({self.other_side_share:.0%} of their core)",
            Limit.UNCLEAR: f"neither side was saturated (gateway's core at {share:.0%})",
        }[self.limit]


@dataclass(frozen=True)
class Spread:
    """Median and range."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None of nothing."""
        if not values:
            return None
        return cls(statistics.median(values), min(values), max(values))


TIMES = ("p50_ms", "p99_ms", "p999_ms", "event_p50_ms", "event_p99_ms", "event_p999_ms")
"""The fields of a run that are delays."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One peer at one number of connections, over all its rounds.

    times, added:  by the name of a run's field: as measured, and beyond `direct` in the same round
    lower_bound:   no round was valid: the figures come from the rounds without a failure, and the peer can do
                   more
    """

    peer: str
    connections: int
    rounds: int
    valid_rounds: int
    requests_per_s: Spread | None
    times: Mapping[str, Spread | None]
    added: Mapping[str, Spread | None]
    cpu_us_per_request: Spread | None
    rss_mib: Spread | None
    peer_share: Spread | None
    lower_bound: bool
    notes: tuple[str, ...]


def summarise(runs: Iterable[Run]) -> list[Row]:
    """One row per peer and number of connections, in order of appearance."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.peer, run.connections), []).append(run)
    direct = {
        (run.connections, run.round): run
        for (peer, _), group in groups.items()
        for run in group
        if peer == DIRECT and not run.void
    }
    return [_row(peer, connections, group, direct) for (peer, connections), group in groups.items()]


def _values(runs: Iterable[Run], name: str) -> list[float]:
    return [value for run in runs if (value := getattr(run, name)) is not None]


def _row(peer: str, connections: int, group: list[Run], direct: Mapping[tuple[int, int], Run]) -> Row:
    valid = [run for run in group if run.valid]
    used = valid or [run for run in group if not run.void]
    notes = dict.fromkeys(run.verdict for run in group if not run.valid)
    pairs = [
        (run, beside)
        for run in used
        if peer != DIRECT and (beside := direct.get((connections, run.round))) is not None
    ]
    return Row(
        peer=peer,
        connections=connections,
        rounds=len(group),
        valid_rounds=len(valid),
        requests_per_s=Spread.of(_values(used, "requests_per_s")),
        times={name: Spread.of(_values(used, name)) for name in TIMES},
        added={name: _beyond(pairs, name) for name in TIMES},
        cpu_us_per_request=Spread.of(_values(used, "cpu_us_per_request")),
        rss_mib=Spread.of(_values(used, "rss_mib")),
        peer_share=Spread.of(_values(used, "peer_share")),
        lower_bound=bool(used) and not valid,
        notes=tuple(notes),
    )


def _beyond(pairs: Iterable[tuple[Run, Run]], name: str) -> Spread | None:
    times = [(getattr(run, name), getattr(beside, name)) for run, beside in pairs]
    return Spread.of([mine - nobody for mine, nobody in times if mine is not None and nobody is not None])


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """`subject` over `peer`, round by round: 1.2 means a fifth more."""

    subject: str
    peer: str
    connections: int
    rounds: int
    requests_per_s: Spread | None
    p50_ms: Spread | None
    cpu_us_per_request: Spread | None
    valid: bool
    """Both sides of every pair were valid. Otherwise one side's requests/s are a lower bound."""
    undisturbed: bool
    """Nobody else worked on the cores, in any run of these pairs: their CPU time is theirs."""


def _over(pairs: list[tuple[float | None, float | None]]) -> Spread | None:
    return Spread.of([top / bottom for top, bottom in pairs if top is not None and bottom])


def ratios(runs: Iterable[Run], *, subject: str) -> list[Ratio]:
    """The subject beside every other peer, from rounds in which both were without a failure."""
    by_place = {(run.peer, run.connections, run.round): run for run in runs if not run.void}
    places = dict.fromkeys((run.peer, run.connections) for run in by_place.values())
    found = []
    for peer, connections in places:
        pairs = [
            (mine, theirs)
            for (name, count, number), theirs in by_place.items()
            if (name, count) == (peer, connections)
            and (mine := by_place.get((subject, connections, number))) is not None
        ]
        if peer == subject or not pairs:
            continue
        both_valid = [(mine, theirs) for mine, theirs in pairs if mine.valid and theirs.valid]
        used = both_valid or pairs
        limits = {run.limit for pair in used for run in pair}
        found.append(
            Ratio(
                subject=subject,
                peer=peer,
                connections=connections,
                rounds=len(used),
                requests_per_s=_over([(a.requests_per_s, b.requests_per_s) for a, b in used]),
                p50_ms=_over([(a.p50_ms, b.p50_ms) for a, b in used]),
                cpu_us_per_request=_over([(a.cpu_us_per_request, b.cpu_us_per_request) for a, b in used]),
                valid=bool(both_valid),
                undisturbed=Limit.DISTURBED not in limits,
            )
        )
    return found
