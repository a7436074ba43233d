"""What came out, as Markdown for people and JSON for machines. Pure: takes values, gives text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtests.bench.figures import LATENCY_CONNECTIONS, Ratio, Row, Spread, ratios, summarise
from loadtests.bench.measure import Measured
from loadtests.bench.startup import IDLE_RSS_MIB, READY_WITHIN_S, Startup

SUBJECT = "overspill"
ENVOY_SHARE = 0.7
"""Of Envoy's requests per second, on one core, with policy, metrics and access log on."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One promise and whether it was kept; `met` is None where it was not measured."""

    name: str
    want: str
    got: str
    met: bool | None


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _spread(spread: Spread | None, digits: int = 0, *, sign: str = "") -> str:
    """`median (low to high)`; a dash for nothing."""
    if spread is None:
        return "-"
    middle = f"{sign}{_number(spread.median, digits)}"
    if spread.low == spread.high:
        return middle
    return f"{middle} ({_number(spread.low, digits)} to {_number(spread.high, digits)})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _name(row: Row, versions: dict[str, str]) -> str:
    return f"{row.peer} {versions.get(row.peer, '')}".strip()


def peers_table(rows: Sequence[Row], versions: dict[str, str]) -> str:
    """One line per peer and number of connections."""
    what = ("requests/s", "p50 ms", "p99 ms", "CPU us/request", "its core", "valid rounds", "note")
    head = ("in front of the upstream", "connections", *what)
    return _table(
        head,
        [
            (
                _name(row, versions),
                str(row.connections),
                _spread(row.requests_per_s, sign="≥ " if row.lower_bound else ""),
                _spread(row.p50_ms, 3),
                _spread(row.p99_ms, 3),
                _spread(row.cpu_us_per_request, 1),
                "-" if row.peer_share is None else f"{row.peer_share.median:.0%}",
                f"{row.valid_rounds} of {row.rounds}",
                "; ".join(row.notes) or "-",
            )
            for row in rows
        ],
    )


def ratios_table(found: Sequence[Ratio]) -> str:
    """Overspill over each peer."""
    head = (f"{SUBJECT} ÷", "connections", "requests/s", "p50", "CPU/request", "rounds", "note")
    bounded = "a side was not the limit: read CPU/request, not requests/s"
    return _table(
        head,
        [
            (
                ratio.peer,
                str(ratio.connections),
                _spread(ratio.requests_per_s, 2),
                _spread(ratio.p50_ms, 2),
                _spread(ratio.cpu_us_per_request, 2),
                str(ratio.rounds),
                "-" if ratio.valid else bounded,
            )
            for ratio in found
        ],
    )


def targets(found: Sequence[Ratio], startup: Startup | None) -> list[Target]:
    """The promises, measured or not."""
    beside = next((r for r in found if r.peer == "envoy" and r.connections > LATENCY_CONNECTIONS), None)
    to_envoy = beside.requests_per_s if beside else None
    counts = beside is not None and beside.valid
    startup = startup or Startup()
    ready, rss, heavy = startup.ready, startup.idle_rss, startup.heavy_imports
    missing = startup.trouble or "not measured"
    return [
        Target(
            name="requests/s beside Envoy",
            want=f"at least {ENVOY_SHARE}",
            got=(_spread(to_envoy, 2) + ("" if counts else ", from rounds that are not valid"))
            if to_envoy
            else "not measured",
            met=to_envoy.median >= ENVOY_SHARE if to_envoy and counts else None,
        ),
        Target(
            name="ready (first 200 on /livez)",
            want=f"under {READY_WITHIN_S} s",
            got=f"{_spread(ready, 2)} s, of which CPU {_spread(startup.ready_cpu, 2)} s"
            if ready
            else missing,
            met=ready.median < READY_WITHIN_S if ready else None,
        ),
        Target(
            name="resident memory when idle",
            want=f"at most {IDLE_RSS_MIB:.0f} MiB",
            got=f"{_spread(rss, 0)} MiB" if rss else missing,
            met=rss.median <= IDLE_RSS_MIB if rss else None,
        ),
        Target(
            name="heavy packages imported",
            want="none",
            got=(", ".join(heavy) or "none") if heavy is not None else missing,
            met=not heavy if heavy is not None else None,
        ),
    ]


def _mark(met: bool | None) -> str:
    return {True: "met", False: "missed", None: "not shown"}[met]


def markdown(
    measured: Measured, startup: Startup | None, machine: dict[str, str], settings: dict[str, Any]
) -> str:
    """The whole report."""
    rows, found = summarise(measured.runs), ratios(measured.runs, subject=SUBJECT)
    parts = ["# Bench\n", "\n".join(f"- {key}: {value}" for key, value in {**machine, **settings}.items())]
    parts += ["\nMedian (range) over the valid rounds.\n", peers_table(rows, measured.versions)]
    if found:
        parts += ["\nRatios, round by round:\n", ratios_table(found)]
    memory = [
        (peer, _number(at["idle"], 0), _number(at["after_load"], 0)) for peer, at in measured.rss_mib.items()
    ]
    if memory:
        parts += ["\nResident memory, MiB:\n", _table(("", "idle", "after the load"), memory)]
    kept = [(t.name, t.want, t.got, _mark(t.met)) for t in targets(found, startup)]
    parts += ["\nTargets:\n", _table(("", "target", "measured", ""), kept)]
    parts += [
        f"\nSkipped: {skip.name}: {skip.why}; to install: `{skip.install}`" for skip in measured.skipped
    ]
    parts += [f"\nDid not start: {name}:\n\n```\n{why}\n```" for name, why in measured.failed.items()]
    return "\n".join(parts) + "\n"


def as_json(
    measured: Measured, startup: Startup | None, machine: dict[str, str], settings: dict[str, Any]
) -> dict[str, Any]:
    """The same, with every single run."""
    found = ratios(measured.runs, subject=SUBJECT)
    return {
        "machine": machine,
        "settings": settings,
        "versions": measured.versions,
        "peers": [asdict(row) for row in summarise(measured.runs)],
        "ratios": [asdict(ratio) for ratio in found],
        "rss_mib": measured.rss_mib,
        "startup": asdict(startup) if startup else None,
        "targets": [asdict(target) for target in targets(found, startup)],
        "skipped": [asdict(skip) for skip in measured.skipped],
        "failed": measured.failed,
        "runs": [
            {**asdict(run), "valid": run.valid, "limit": run.limit, "verdict": run.verdict}
            for run in measured.runs
        ],
    }
