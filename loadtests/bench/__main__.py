"""`python -m loadtests.bench`: read the options, measure, print the table.

Exit code 0: measured, whatever the figures say. 1: a peer that is installed did not serve. 2: a tool is
missing. 130: stopped.
"""

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from loadtests.bench import report
from loadtests.bench.drivers import driver_for
from loadtests.bench.machine import Cores, describe, wakes
from loadtests.bench.measure import Measured, Settings, measure
from loadtests.bench.peers import PEERS
from loadtests.bench.processes import NotAnswering
from loadtests.bench.startup import measure_startup
from loadtests.bench.targets import SUBJECT
from loadtests.bench.workload import WORKLOADS, Kind, Workload, stream

_BETWEEN_S = 0.5
"""About what passes between two runs, for the forecast only."""
_CHILD_S = 15.0
"""Likewise, until the gateway has done what it does once."""


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 1,32") from None
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("a run needs at least one connection")
    return counts


def _of(known: Mapping[str, object], text: str) -> list[str]:
    names = list(known) if text == "all" else [part.strip() for part in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def _peers(text: str) -> list[str]:
    return _of(PEERS, text)


def _workloads(text: str) -> list[str]:
    return _of(WORKLOADS, text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m loadtests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--rounds", type=int, help="times that every peer is loaded (5; sse_1000: 1)")
    add("--seconds", type=float, help="length of one run (3; sse_1000: 60); wrk takes whole seconds")
    add("--connections", type=_counts, help="comma-separated; each workload has its own unless given")
    add("--peers", type=_peers, default=list(PEERS), help=f"of {','.join(PEERS)} (all)")
    add("--workload", type=_workloads, default=list(WORKLOADS), help=f"of {','.join(WORKLOADS)} (all)")
    add("--stream-events", type=int, default=20, help="events of a stream (20)")
    add("--stream-interval", type=float, default=0.1, help="seconds between two events (0.1)")
    add("--warm-up", type=float, default=2.0, help="seconds of load before the rounds (2)")
    add("--one-core", action="store_true", help="all on one core: for streams, where waking another is slow")
    add("--no-startup", action="store_true", help="leave out time to ready and idle memory")
    add("--json", type=Path, metavar="FILE", help="write every run and all figures")
    add("--markdown", type=Path, metavar="FILE", help="write the tables, as printed")
    return options


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def plan(options: argparse.Namespace, cores: Cores) -> list[Settings]:
    """What is to be measured, a workload at a time."""
    found = []
    for name in options.workload:
        workload: Workload = WORKLOADS[name]
        if workload.kind is Kind.SSE:
            made = stream(options.stream_events, options.stream_interval)
            workload = replace(
                workload, request=made.request, events=made.events, interval_s=made.interval_s, says=made.says
            )
        found.append(
            Settings(
                peers=options.peers,
                connections=options.connections or workload.connections,
                rounds=options.rounds or workload.rounds,
                seconds=options.seconds or workload.seconds,
                warm_up_s=options.warm_up,
                workload=workload,
                cores=cores,
            )
        )
    return found


def forecast_s(settings: Sequence[Settings]) -> float:
    """Seconds that the rounds take if every peer is there."""
    total = 0.0
    for each in settings:
        run_s = each.seconds + _BETWEEN_S + each.workload.events * each.workload.interval_s
        peers = sum(PEERS[name].fits(each.workload) for name in each.peers)
        total += any(PEERS[name].fits(each.workload) for name in each.peers if SUBJECT in name) * _CHILD_S
        total += peers * (each.warm_up_s + each.rounds * len(each.connections) * run_s)
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit code."""
    options = parser().parse_args(arguments)
    if options.one_core and any(WORKLOADS[name].kind is not Kind.SSE for name in options.workload):
        parser().error(
            "--one-core is for streams: --workload sse or sse_1000; what others take needs two cores"
        )
    signal.signal(signal.SIGTERM, _stop)  # so that what was started is ended on this way out too
    cores = Cores.choose(one=options.one_core)
    wanted = plan(options, cores)
    rounds = {each.workload.name: f"{each.rounds} of {each.seconds:g} s" for each in wanted}
    shown = {"rounds, interleaved": ", ".join(f"{name} {says}" for name, says in rounds.items())}
    results: list[Measured] = []
    startup = None
    try:
        for settings in wanted:
            driver_for(settings.workload)  # what is missing is told before anything is measured
        machine = describe(cores) | {"waking, 8 bytes there and back": wakes(cores)}
        _say(f"at most {forecast_s(wanted) / 60:.1f} minutes of load, if every peer is installed")
        for settings in wanted:
            _say(f"{settings.workload.name}: {settings.workload.says}")
            results.append(measure(settings, _say))
        if SUBJECT in options.peers and not options.no_startup:
            startup = measure_startup(cores, _say)
    except NotAnswering as error:
        _say(str(error))
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    text = report.markdown(results, startup, machine, shown)
    if options.json:
        document = report.as_json(results, startup, machine, shown)
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(text)
    print(text)
    return 1 if any(each.failed for each in results) or (startup and startup.trouble) else 0


if __name__ == "__main__":
    sys.exit(main())
