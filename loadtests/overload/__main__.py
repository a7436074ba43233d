"""`python -m loadtests.overload`: the gateway under several times its capacity.

    --seconds S          how long each load lasts (default 4)
    --factors F,…        multiples of the capacity (default 0.5,1,2,5)
    --scenario NAME      `fleet`: a slow fleet is the limit; `cpu`: the gateway's own CPU is; default both
    --seed N             of what is sent and when
    --json FILE          write every figure; `-` is standard output

Exit status 1 where goodput falls under 0.9 of that at 1 x (under 0.5 where the CPU is the limit), critical
calls suffer while best-effort ones are answered, or memory grows. It starts and ends everything itself, as
processes of this machine.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import uvloop
from rich.console import Console

from gateway.clock import SystemClock
from gateway.demo.processes import CannotStart
from loadtests.overload import report
from loadtests.overload.figures import costs, problems
from loadtests.overload.scenarios import SCENARIOS, Scenario
from loadtests.overload.trial import tried


def factors(text: str) -> list[float]:
    """From `0.5,1,2`. ValueError for anything else."""
    found = [float(word) for word in text.split(",")]
    if not all(0 < factor <= 100 for factor in found):
        raise ValueError(f"{text}: factors are numbers above 0, like 0.5,1,2,5")
    return found


async def _all(scenarios: Sequence[Scenario], given: argparse.Namespace, out: Console) -> dict[str, Any]:
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for scenario in scenarios:
            out.print(f"[bold]{scenario.name}[/]: {scenario.what}", highlight=False)
            capacity, loads = await tried(
                scenario, given.factors, seconds=given.seconds, folder=Path(folder),
                chance=Random(given.seed),
                clock=SystemClock(), tell=lambda load: report.one(load, out),
            )  # fmt: skip
            wrong = problems(loads, scenario.kept)
            each = costs(loads)
            report.whole(capacity, each, wrong, out)
            results[scenario.name] = {
                "capacity_per_s": capacity,
                "cpu_s_per_answer_and_refusal": each,
                "problems": wrong,
                "loads": [load.plain() for load in loads],
            }
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 when all is as it must be, 1 when not, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.overload", description="Too much, on purpose.")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--factors", type=factors, default=[0.5, 1.0, 2.0, 5.0])
    parser.add_argument("--scenario", choices=[each.name for each in SCENARIOS])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args(arguments)
    if not 0.5 <= given.seconds <= 3600:
        parser.error(f"--seconds {given.seconds:g} is not between 0.5 and 3600")
    out = Console(stderr=given.json == "-", width=200)
    scenarios = [each for each in SCENARIOS if given.scenario in {None, each.name}]
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(_all(scenarios, given, out))
    except CannotStart as error:
        out.print(f"[red]{error}[/]")
        return 1
    if given.json:
        text = json.dumps(results, indent=1) + "\n"
        if given.json == "-":
            sys.stdout.write(text)
        else:
            Path(given.json).write_text(text)
    return int(any(result["problems"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
