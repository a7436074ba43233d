"""From raw runs to figures: which runs count, medians and ranges, ratios. Pure: no process, no file.

A ratio is taken between runs of the same round and then summed up, because on a shared machine two runs
side by side drift together while the absolute numbers wander.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

SATURATED = 0.90
"""From this share of its core on, the gateway's own limit is what was measured."""
DISTURBED = 0.10
"""Beyond this share of either core, somebody else was measured too."""
LATENCY_CONNECTIONS = 4
"""Up to this many connections a run asks for latency; nothing is meant to be saturated."""


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
    p50_ms: float
    p99_ms: float
    faults: tuple[str, ...]
    cpu_us_per_request: float | None
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
        if self.peer_share is None:
            return Limit.REFERENCE
        if self.connections <= LATENCY_CONNECTIONS:
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
            Limit.OTHER_SIDE: f"load generator and upstream were the limit (gateway's core at {share:.0%})",
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


@dataclass(frozen=True, kw_only=True)
class Row:
    """One peer at one number of connections, over all its rounds."""

    peer: str
    connections: int
    rounds: int
    valid_rounds: int
    requests_per_s: Spread | None
    p50_ms: Spread | None
    p99_ms: Spread | None
    cpu_us_per_request: Spread | None
    peer_share: Spread | None
    lower_bound: bool
    """No round was valid: the figures come from the rounds without a failure, and the peer can do more."""
    notes: tuple[str, ...]


def summarise(runs: Iterable[Run]) -> list[Row]:
    """One row per peer and number of connections, in order of appearance."""
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.peer, run.connections), []).append(run)
    return [_row(peer, connections, group) for (peer, connections), group in groups.items()]


def _row(peer: str, connections: int, group: list[Run]) -> Row:
    valid = [run for run in group if run.valid]
    used = valid or [run for run in group if not run.void]
    notes = dict.fromkeys(run.verdict for run in group if not run.valid)
    return Row(
        peer=peer,
        connections=connections,
        rounds=len(group),
        valid_rounds=len(valid),
        requests_per_s=Spread.of([run.requests_per_s for run in used]),
        p50_ms=Spread.of([run.p50_ms for run in used]),
        p99_ms=Spread.of([run.p99_ms for run in used]),
        cpu_us_per_request=Spread.of([x for run in used if (x := run.cpu_us_per_request) is not None]),
        peer_share=Spread.of([x for run in used if (x := run.peer_share) is not None]),
        lower_bound=bool(used) and not valid,
        notes=tuple(notes),
    )


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
            )
        )
    return found
