"""`python -m loadtests.soak`: a gateway under rough load for so many requests, and what it leaves behind.

Load comes in rounds of `wrk` and of clients with bad manners, while the policy file changes every few
seconds and replicas refuse, err and vanish. Exit code 0: nothing grew, nothing is left. 1: something did.
2: a tool is missing, or something did not start. 130: stopped.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import IO

from loadtests.bench.load_figures import MARK
from loadtests.bench.machine import Cores, describe
from loadtests.bench.processes import NotAnswering, on_core
from loadtests.soak.figures import Sample, Verdict, judge
from loadtests.soak.scripts import ABORTING, command, parts
from loadtests.soak.stage import Stage
from loadtests.soak.watch import look

_SETTLES_WITHIN_S = 45.0
_TICK_S = 0.1
_BESIDE_S = 60.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m loadtests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--requests", type=int, default=5_000_000, help="to get through (5,000,000)")
    add("--seconds", type=float, help="stop after so long, however many came through")
    add("--workers", type=int, default=1, help="processes of the gateway (1)")
    add("--round", type=int, default=20, help="seconds of a round of load (20)")
    add("--reload-every", type=float, default=5.0, help="seconds between two reloads (5)")
    add("--sample-every", type=float, default=2.0, help="seconds between two samples (2)")
    add("--seed", type=int, default=1, help="of whatever goes wrong (1)")
    add("--json", type=Path, metavar="FILE", help="write samples and verdicts")
    return options


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Running:
    """One load generator, and what it told at its end."""

    def __init__(self, argv: list[str], output: Path) -> None:
        self._file: IO[str] = output.open("w+")
        self._process = subprocess.Popen(argv, stdout=self._file, stderr=subprocess.STDOUT, text=True)

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()

    def told(self) -> dict[str, int]:
        """Empty where it ended without a word."""
        self._file.seek(0)
        text = self._file.read()
        self._file.close()
        found = [line for line in text.splitlines() if line.startswith(MARK)]
        return dict(json.loads(found[-1].removeprefix(MARK))) if found else {}


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, stage: Stage, wrk: str) -> None:
        self._options = options
        self._stage = stage
        self._wrk = wrk
        self._began = time.monotonic()
        self.samples: list[Sample] = []
        self.answered = 0
        self.errors: Counter[str] = Counter()
        self._sample_at = self._reload_at = 0.0

    def _since(self) -> float:
        return time.monotonic() - self._began

    def look(self) -> Sample:
        """As of now. Raises OSError."""
        return look(self._stage.gateway.pid, self._stage.ports.admin, since_s=self._since)

    def run(self) -> tuple[Sample, Sample]:
        """The idle gateway before and after the load."""
        self._round(2, warm=True)
        start = self._settled(lambda seen: seen.in_flight + seen.queued == 0)
        _say(_line(start, "idle"))
        self._began = time.monotonic()
        limit_s = self._options.seconds or float("inf")
        while self._since() < limit_s and self._requests() < self._options.requests:
            self._round(max(1, int(min(self._options.round, limit_s - self._since()))))
        self._stage.reload(first=True)
        end = self._settled(
            lambda seen: (
                seen.in_flight + seen.queued == 0
                and seen.tasks <= start.tasks
                and self._stage.lines() == seen.requests
            )
        )
        _say(_line(end, "idle"))
        return start, end

    def _requests(self) -> float:
        return self.samples[-1].requests if self.samples else 0.0

    def _settled(self, right: Callable[[Sample], bool]) -> Sample:
        """When nothing is under way any more, or as it is when that takes too long."""
        ends = time.monotonic() + _SETTLES_WITHIN_S
        while True:
            with suppress(OSError):  # counted in the verdicts, where they do not close
                self._stage.close_connections()
            time.sleep(2.0)
            seen = self.look()
            if right(seen) or time.monotonic() > ends:
                return seen

    def _generators(self, seconds: int) -> dict[str, list[str]]:
        stage, ports = self._stage, self._stage.ports
        own = ["--key", stage.key, "--seconds", str(seconds), "--seed", str(len(self.samples))]
        found = {
            part.name: command(self._wrk, part, stage.folder, port=ports.http, seconds=seconds)
            for part in parts(stage.key)
        }
        found["rude"] = [sys.executable, "-m", "loadtests.soak.rude", str(ports.http), *own]
        if ports.grpc is not None:
            found["grpc"] = [sys.executable, "-m", "loadtests.soak.rude_grpc", str(ports.grpc), *own]
        return found

    def _round(self, seconds: int, *, warm: bool = False) -> None:
        """Everybody at once, for so long."""
        generators, ends = self._generators(seconds), time.monotonic() + seconds
        running: dict[str, _Running] = {}
        with on_core(self._stage.cores.load):
            try:
                while True:
                    for name, argv in generators.items():
                        again = name == ABORTING and time.monotonic() < ends
                        if name in running and not (running[name].ended and again):
                            continue
                        if name in running:
                            self._count(name, running.pop(name))
                        running[name] = _Running(argv, self._stage.folder / f"{name}.out")
                    if all(each.ended for each in running.values()) or time.monotonic() > ends + _BESIDE_S:
                        break
                    time.sleep(_TICK_S)
                    if not warm and time.monotonic() < ends:  # what tarries behind a round is no load
                        self._tick()
            finally:
                for name, each in running.items():
                    if each.ended:
                        self._count(name, each)
                    else:
                        self.errors["generator did not end"] += 1
                        each.stop()

    def _count(self, name: str, each: _Running) -> None:
        told = each.told()
        if not told:
            self.errors[f"{name}: no figures"] += 1
        self.answered += told.get("requests", 0)
        if told.get("timeout"):
            _say(f"{name}: {told}")
        for kind in ("connect", "timeout"):
            if told.get(kind):
                self.errors[f"{kind} errors"] += told[kind]

    def _tick(self) -> None:
        now = self._since()
        if self._stage.gateway.ended:
            raise self._stage.gateway.trouble("the gateway ended")
        if now >= self._reload_at:
            self._reload_at = now + self._options.reload_every
            self._stage.reload()
        if now >= self._sample_at:
            self._sample_at = now + self._options.sample_every
            try:
                self.samples.append(self.look())
            except OSError:
                self.errors["scrapes failed"] += 1
            else:
                if len(self.samples) % 10 == 1:
                    _say(_line(self.samples[-1], "load"))


def _line(seen: Sample, when: str) -> str:
    return (
        f"{seen.at:7.0f} s  {when}  {seen.requests:11,.0f} requests"
        f"  {seen.rss_mib:7.1f} MiB  {seen.fds:5} fds"
        f"  {seen.threads:3} threads  {seen.tasks:5.0f} tasks  {seen.in_flight:4.0f} in flight"
        f"  {seen.queued:4.0f} queued  {seen.series:5} series"
    )


def table(verdicts: Sequence[Verdict]) -> str:
    """As Markdown."""
    lines = ["| | wanted | seen | |", "|---|---|---|---|"]
    lines += [f"| {v.name} | {v.want} | {v.got} | {'kept' if v.kept else 'BROKEN'} |" for v in verdicts]
    return "\n".join(lines)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    options = parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    wrk, cores = shutil.which("wrk"), Cores.choose()
    if wrk is None:
        _say("the load generator is missing: apt-get install wrk")
        return 2
    machine = describe(cores)
    with tempfile.TemporaryDirectory(prefix="overspill-soak-") as folder:
        try:
            with Stage(Path(folder), workers=options.workers, seed=options.seed, cores=cores) as stage:
                soak = Soak(options, stage, wrk)
                start, end = soak.run()
                lines = stage.lines()
        except (NotAnswering, OSError) as error:
            _say(str(error))
            return 2
        except KeyboardInterrupt:
            _say("stopped")
            return 130
    wanted = options.requests if options.seconds is None else None
    verdicts = judge(
        soak.samples,
        start=start,
        end=end,
        lines=lines,
        answered=soak.answered,
        wanted=wanted,
        errors=soak.errors,
    )
    print("\n".join(f"- {key}: {value}" for key, value in machine.items()))
    lasted_s = soak.samples[-1].at if soak.samples else 0.0
    print(f"- load: {end.requests:,.0f} requests in {lasted_s:.0f} s, {stage.reloads} reloads\n")
    print(table(verdicts))
    if options.json:
        document = {
            "machine": machine, "start": asdict(start), "end": asdict(end),
            "samples": [asdict(each) for each in soak.samples], "verdicts": [asdict(v) for v in verdicts],
        }  # fmt: skip
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0 if all(verdict.kept for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
