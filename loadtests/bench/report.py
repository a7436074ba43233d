"""What came out, as Markdown for people and JSON for machines. Pure: takes values, gives text."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from loadtests.bench.figures import Ratio, Row, Spread, ratios, summarise
from loadtests.bench.measure import Measured
from loadtests.bench.startup import Startup
from loadtests.bench.targets import SUBJECT, Found, Target, of_startup, of_workload
from loadtests.bench.workload import Kind


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def spread_text(spread: Spread | None, digits: int = 0, *, sign: str = "") -> str:
    """`median (low to high)`; a dash for nothing."""
    if spread is None:
        return "-"
    middle = f"{sign}{_number(spread.median, digits)}"
    if spread.low == spread.high:
        return middle
    return f"{middle} ({_number(spread.low, digits)} to {_number(spread.high, digits)})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _name(row: Row, versions: dict[str, str]) -> str:
    return f"{row.peer} {versions.get(row.peer, '')}".strip()


def _delay(row: Row, time: str) -> str:
    """What is added over `direct`; for `direct` itself, and without it, the whole, marked as such."""
    if row.added[time] is not None:
        return spread_text(row.added[time], 3)
    whole = spread_text(row.times[time], 3)
    return whole if whole == "-" else f"{whole} in all"


def peers_table(rows: Sequence[Row], versions: dict[str, str], kind: Kind = Kind.HTTP) -> str:
    """One line per peer and number of connections."""
    streams = kind is Kind.SSE
    unit = "stream" if streams else "request"
    times = [("p50_ms", "added p50 ms"), ("p99_ms", "added p99 ms"), ("p999_ms", "added p99.9 ms")]
    if streams:
        times = [(name, f"first event, {says}") for name, says in times]
        times += [(f"event_{name}", says.replace("first", "each")) for name, says in times]
    what = (*(says for _, says in times), f"CPU us/{unit}", "RSS MiB", "its core", "valid rounds", "note")
    return table(
        ("in front of the upstream", "connections", f"{unit}s/s", *what),
        [
            (
                _name(row, versions),
                str(row.connections),
                spread_text(row.requests_per_s, sign="≥ " if row.lower_bound else ""),
                *(_delay(row, name) for name, _ in times),
                spread_text(row.cpu_us_per_request, 1),
                spread_text(row.rss_mib),
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
    return table(
        head,
        [
            (
                ratio.peer,
                str(ratio.connections),
                spread_text(ratio.requests_per_s, 2),
                spread_text(ratio.p50_ms, 2),
                spread_text(ratio.cpu_us_per_request, 2),
                str(ratio.rounds),
                "-" if ratio.valid else bounded,
            )
            for ratio in found
        ],
    )


def found_in(measured: Measured) -> Found:
    """The rows and ratios of one workload."""
    return Found(summarise(measured.runs), ratios(measured.runs, subject=SUBJECT), measured.rss_mib)


def targets(results: Sequence[Measured], startup: Startup | None) -> list[Target]:
    """The promises about what was run, met or not."""
    asked = [target for each in results for target in of_workload(each.workload.name, found_in(each))]
    return asked + of_startup(startup)


def _mark(met: bool | None) -> str:
    return {True: "met", False: "missed", None: "not shown"}[met]


def _section(measured: Measured) -> list[str]:
    found, workload = found_in(measured), measured.workload
    parts = [f"\n## {workload.name}\n", f"{workload.says}.\n"]
    parts.append(peers_table(found.rows, measured.versions, workload.kind))
    beside = [ratio for ratio in found.ratios if ratio.peer != "direct"]
    if beside:
        parts += ["\nRatios, round by round:\n", ratios_table(beside)]
    memory = [
        (peer, _number(at["idle"], 0), _number(at["after_load"], 0)) for peer, at in measured.rss_mib.items()
    ]
    if memory:
        parts += ["\nResident memory, MiB:\n", table(("", "idle", "after the load"), memory)]
    for skip in measured.skipped:
        how = f"; to install: `{skip.install}`" if skip.install else ""
        parts.append(f"\nAbsent: {skip.name}: {skip.why}{how}")
    parts += [f"\nMind: {remark}." for remark in measured.remarks]
    parts += [f"\nDid not start: {name}:\n\n```\n{why}\n```" for name, why in measured.failed.items()]
    return parts


def markdown(
    results: Sequence[Measured], startup: Startup | None, machine: dict[str, str], settings: dict[str, Any]
) -> str:
    """The whole report."""
    about = {**machine, **settings}
    parts = ["# Bench\n", "\n".join(f"- {key}: {value}" for key, value in about.items())]
    parts.append(
        "\nMedian (range) over the valid rounds. Delays are what is added over `direct` in the same round."
    )
    for measured in results:
        parts += _section(measured)
    kept = [(t.name, t.want, t.got, _mark(t.met)) for t in targets(results, startup)]
    parts += ["\n## Targets\n", table(("", "target", "measured", ""), kept)]
    return "\n".join(parts) + "\n"


def as_json(
    results: Sequence[Measured], startup: Startup | None, machine: dict[str, str], settings: dict[str, Any]
) -> dict[str, Any]:
    """The same, with every single run."""
    return {
        "machine": machine,
        "settings": settings,
        "workloads": {measured.workload.name: _document(measured) for measured in results},
        "startup": asdict(startup) if startup else None,
        "targets": [asdict(target) for target in targets(results, startup)],
    }


def _document(measured: Measured) -> dict[str, Any]:
    found = found_in(measured)
    return {
        "says": measured.workload.says,
        "versions": measured.versions,
        "peers": [asdict(row) for row in found.rows],
        "ratios": [asdict(ratio) for ratio in found.ratios],
        "rss_mib": measured.rss_mib,
        "absent": [asdict(skip) for skip in measured.skipped],
        "failed": measured.failed,
        "remarks": measured.remarks,
        "runs": [
            {**asdict(run), "valid": run.valid, "limit": run.limit, "verdict": run.verdict}
            for run in measured.runs
        ],
    }
