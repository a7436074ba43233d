"""`python -m loadtests.bench`: read the options, measure, print the table.

Exit code 0: measured, whatever the figures say. 1: a peer that is installed did not serve. 2: a tool is
missing. 130: stopped.
"""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from loadtests.bench import report
from loadtests.bench.machine import Cores, describe
from loadtests.bench.measure import Settings, measure
from loadtests.bench.peers import PEERS
from loadtests.bench.processes import NotAnswering
from loadtests.bench.startup import measure_startup
from loadtests.bench.workload import WORKLOADS


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers like 1,32") from None
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("a run needs at least one connection")
    return counts


def _names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",")]
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return names


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    options.add_argument("--rounds", type=int, default=5, help="times that every peer is loaded (5)")
    options.add_argument("--seconds", type=int, default=5, help="length of one run (5)")
    options.add_argument("--connections", type=_counts, default=[1, 32], help="comma-separated (1,32)")
    options.add_argument("--peers", type=_names, default=list(PEERS), help=f"of {','.join(PEERS)} (all)")
    options.add_argument("--workload", choices=list(WORKLOADS), default="infer")
    options.add_argument("--warm-up", type=int, default=2, help="seconds of load before the rounds (2)")
    options.add_argument("--no-startup", action="store_true", help="leave out time to ready and idle memory")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every run and all figures")
    options.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables, as printed")
    return options


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; the exit code."""
    options = parser().parse_args(arguments)
    wrk_binary = shutil.which("wrk")
    if wrk_binary is None:
        _say("the load generator is missing: apt-get install wrk")
        return 2
    signal.signal(signal.SIGTERM, _stop)  # so that what was started is ended on this way out too
    cores = Cores.choose()
    settings = Settings(
        peers=options.peers,
        connections=options.connections,
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up_s=options.warm_up,
        workload=WORKLOADS[options.workload],
        wrk_binary=wrk_binary,
        cores=cores,
    )
    shown = {
        "load": f"wrk -t1, POST {settings.workload.path}, {len(settings.workload.request)} bytes out, "
        f"{len(settings.workload.answer)} back",
        "rounds": f"{options.rounds} of {options.seconds} s, interleaved",
    }
    try:
        machine = describe(cores)
        measured = measure(settings, _say)
        startup = None
        if report.SUBJECT in measured.versions and not options.no_startup:
            startup = measure_startup(settings, _say)
    except NotAnswering as error:
        _say(str(error))
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    text = report.markdown(measured, startup, machine, shown)
    if options.json:
        document = report.as_json(measured, startup, machine, shown)
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(text)
    print(text)
    return 1 if measured.failed or (startup and startup.trouble) else 0


if __name__ == "__main__":
    sys.exit(main())
