"""`make fuzz`: every target for its share of the time, one after the other.

Guided by coverage where atheris is installed (`pip install 'overspill[fuzz]'`), else blind. What is found is
kept in `--found`; the exit status is then 1.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from loadtests.fuzz.corpus import FOLDER
from loadtests.fuzz.targets import TARGETS

_EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERAGE = re.compile(r"#\d+\s+\w+\s+cov: (\d+) ft: (\d+)")
_GRACE_S = 120


class Outcome(NamedTuple):
    """What came of one target. `covered`: counted branches that were taken; None where nobody counts."""

    executions: int
    covered: int | None
    found: list[Path]
    failed: bool
    said: str


def fuzz(name: str, *, seconds: int, seed: int, found: Path) -> Outcome:
    """One target in a process of its own."""
    how = "guided" if find_spec("atheris") else "unguided"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "corpus").mkdir()
        command = [sys.executable, "-m", f"loadtests.fuzz.{how}", name, str(seconds), str(seed), folder]
        process = subprocess.run(
            [*command, str(FOLDER / name)], capture_output=True, text=True, errors="replace",
            timeout=seconds + _GRACE_S, check=False,
        )  # fmt: skip
        said = process.stdout + process.stderr
        saved = []
        for path in sorted(Path(folder).glob("found-*")):
            found.mkdir(parents=True, exist_ok=True)
            saved.append(Path(shutil.copy(path, found / f"{name}-{path.name}")))
    executions, coverage = _EXECUTIONS.findall(said), _COVERAGE.findall(said)
    return Outcome(
        int(executions[-1]) if executions else 0,
        int(coverage[-1][0]) if coverage else None,
        saved,
        bool(process.returncode or saved),
        said,
    )


def main() -> int:
    """Parse the arguments, fuzz, tell; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS), metavar="NAME")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="where inputs that break go")
    given = parser.parse_args()
    share = max(1, given.seconds // len(given.targets))
    print(f"{'target':<16} {'seconds':>7} {'executions':>12} {'coverage':>9}")
    total = failures = 0
    for name in given.targets:
        outcome = fuzz(name, seconds=share, seed=given.seed, found=given.found)
        covered = "-" if outcome.covered is None else outcome.covered
        print(f"{name:<16} {share:>7} {outcome.executions:>12,} {covered:>9}", flush=True)
        total += outcome.executions
        failures += outcome.failed
        if outcome.failed:
            print(outcome.said[-4000:])
            print(f"{name} failed; its inputs: {', '.join(map(str, outcome.found)) or 'none was saved'}")
    print(f"{total:,} executions, {failures} targets failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
