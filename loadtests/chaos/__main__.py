"""`python -m loadtests.chaos`: every fault, one after the other, and a table of what was expected and seen.

    --seed N            of what is sent and when faults come (default 1)
    --only FAULT,…      these alone; `--list` names them all, `--only quick` are those of every test run
    --seconds S         how long faults last, as a multiple of their own time (default 1)
    --patience P        multiplies every time limit of what is expected, for a busy machine (default 1)
    --json FILE         write every figure; `-` is standard output

Exit status 1 where something is not as expected. It starts and ends everything itself, as processes of this
machine, and enters namespaces of its own where it may.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import SubprocessError

import uvloop
from rich.console import Console

from gateway.clock import SystemClock
from gateway.demo.processes import CannotStart
from loadtests.chaos import isolation, report
from loadtests.chaos.fault import Fault
from loadtests.chaos.machine_faults import MACHINE_FAULTS
from loadtests.chaos.network_faults import NETWORK_FAULTS
from loadtests.chaos.provider_faults import PROVIDER_FAULTS
from loadtests.chaos.replica_faults import REPLICA_FAULTS
from loadtests.chaos.trial import Result, tried

FAULTS: tuple[type[Fault], ...] = (*REPLICA_FAULTS, *PROVIDER_FAULTS, *MACHINE_FAULTS, *NETWORK_FAULTS)

_LONGEST_S = 150.0
"""No fault takes longer, with everything that is started for it."""


def chosen(text: str | None) -> list[type[Fault]]:
    """The faults that `--only` names, in their own order. ValueError for a name that does not exist."""
    if not text:
        return list(FAULTS)
    names = {name.strip() for name in text.split(",") if name.strip()}
    if "quick" in names:
        names = names - {"quick"} | {fault.name for fault in FAULTS if fault.quick}
    unknown = names - {fault.name for fault in FAULTS}
    if unknown:
        raise ValueError(
            f"no such fault: {', '.join(sorted(unknown))}; known: {', '.join(fault.name for fault in FAULTS)}"
        )
    return [fault for fault in FAULTS if fault.name in names]


async def _try_all(
    faults: Sequence[type[Fault]],
    *,
    seed: int,
    seconds: float,
    patience: float,
    no_namespaces: str | None,
    out: Console,
) -> list[Result]:
    clock, results = SystemClock(), []
    for each in faults:
        fault = each()
        why_not = (no_namespaces if fault.isolated else None) or fault.why_not()
        if why_not is not None:
            results.append(Result(fault.name, fault.what, skipped=why_not))
            continue
        out.print(f"[bold]{fault.name}[/]: {fault.what} …", highlight=False)
        try:
            async with asyncio.timeout(_LONGEST_S):
                result = await tried(fault, seed=seed, seconds=seconds, patience=patience, clock=clock)
        except (CannotStart, OSError, SubprocessError) as error:
            result = Result(fault.name, fault.what, problems=(f"{type(error).__name__}: {error}",))
        results.append(result)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when all is as expected, 1 when not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.chaos", description="Faults, and what they do."
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="FAULT,…")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--patience", type=float, default=1.0)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--list", action="store_true")
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(words)
    out = Console(stderr=given.json == "-", width=200)
    if given.list:
        for fault in FAULTS:
            out.print(f"{fault.name:18} {fault.what}", highlight=False)
        return 0
    try:
        faults = chosen(given.only)
    except ValueError as error:
        parser.error(str(error))
    if not 0.2 <= given.seconds <= 20:
        parser.error(f"--seconds {given.seconds:g} is not between 0.2 and 20")
    if not 1 <= given.patience <= 100:
        parser.error(f"--patience {given.patience:g} is not between 1 and 100")
    no_namespaces = None if isolation.isolated() else isolation.why_not()
    if no_namespaces is None and not isolation.isolated():
        isolation.again_inside("loadtests.chaos", words)
    if isolation.isolated():
        isolation.settle_in()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(
            _try_all(
                faults,
                seed=given.seed,
                seconds=given.seconds,
                patience=given.patience,
                no_namespaces=no_namespaces,
                out=out,
            )
        )
    out.print(report.table(results))
    for line in report.notes(results):
        out.print(line, highlight=False, markup=False)
    if given.json:
        text = json.dumps(report.document(results, given.seed), indent=1)
        if given.json == "-":
            sys.stdout.write(text + "\n")
        else:
            Path(given.json).write_text(text + "\n")
    return 1 if any(each.problems for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
