"""`python -m loadtests.bench.two_workers`: what a second worker costs, and whether limits hold across both.

Gateways with one worker and with two, in turn under the same load: CPU per request of all their processes.
Then two workers in front of a replica that counts: it must never see more calls than `max_in_flight`. Every
process may use every core, because two workers need two.

Exit code 0: measured, whatever the figures say. 1: more calls at once than the limit. 2: a tool is missing,
or something did not start.
"""

import argparse
import contextlib
import http.client
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from loadtests.bench import procfs, wrk
from loadtests.bench.checking_upstream import CHECKER
from loadtests.bench.drivers import Driver, driver_for
from loadtests.bench.figures import Spread
from loadtests.bench.load_figures import NoFigures
from loadtests.bench.machine import Cores, describe
from loadtests.bench.peers.overspill import key_headers, overspill_config
from loadtests.bench.peers.plan import Plan
from loadtests.bench.processes import NotAnswering, Server, exchange, free_ports, wait_until_serving
from loadtests.bench.targets import Target
from loadtests.bench.workload import WORKLOADS

CPU_FACTOR = 1.1
"""Two workers may take so many times the CPU of one, for each request."""
LIMIT = 8
"""`max_in_flight` of the replica that counts."""
_WORK_S = 0.005
_START_S = 60.0
_BESIDE_S = 30.0
_LOOK_AFTER = 0.9  # of the time of the load
_INFER = WORKLOADS["infer"]


class Round(NamedTuple):
    """One and two workers under the same load, one after the other. Microseconds of CPU, requests/s."""

    one_us: float
    two_us: float
    one_per_s: float
    two_per_s: float


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the replica saw."""

    limit: int
    most: int
    total: int

    @property
    def kept(self) -> bool:
        """True where the limit was reached and never passed."""
        return self.most == self.limit


def cpu_ratio(rounds: Sequence[Round]) -> Spread | None:
    """CPU per request of two workers in parts of one's, round by round."""
    return Spread.of([each.two_us / each.one_us for each in rounds if each.one_us])


@dataclass(frozen=True)
class _Gateway:
    """One that answers."""

    plan: Plan
    server: Server
    folder: Path


def limited(config: str) -> str:
    """The policy file of the bench with one tier, few slots, and a queue that is refused when it is full."""
    document = yaml.safe_load(config)
    document["backends"]["fleet"]["max_in_flight"] = LIMIT
    del document["backends"]["burst"]
    route = document["routes"]["small"]
    route["tiers"] = [{"backend": "fleet", "when_full": {"queue": "500ms", "then": "shed"}}]
    return yaml.safe_dump(document)


def _serve(
    folder: Path, stack: contextlib.ExitStack, *, workers: int, upstream: int, limit: bool = False
) -> _Gateway:
    """A gateway that answers. Raises NotAnswering."""
    folder.mkdir()
    port, admin_port = free_ports(2)
    text = overspill_config(
        folder, port=port, admin_port=admin_port, upstream_port=upstream,
        advice="false",  # a single worker has it and several have not: its child process would be compared
    )  # fmt: skip
    file = folder / "overspill.yaml"
    file.write_text(limited(text) if limit else text)
    key = key_headers(folder)
    argv = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(file), "--workers", str(workers)]
    server = stack.enter_context(Server(argv, core=None, log=folder / "output"))
    plan = Plan(
        name=f"{workers} workers", version="", argv=argv, port=port, admin_port=admin_port, headers=key
    )
    wait_until_serving(server, lambda: _wrong(port, key), within_s=_START_S)
    return _Gateway(plan, server, folder)


def _wrong(port: int, headers: Mapping[str, str]) -> str | None:
    fields = {**_INFER.headers, **headers}
    try:
        status, body = exchange(port, "POST", _INFER.path, _INFER.request, fields)
    except (OSError, http.client.HTTPException) as error:
        return str(error)
    return None if (status, body) == (200, _INFER.answer) else f"status {status}: {body[:200]!r}"


def _cpu_us(gateway: _Gateway, driver: Driver, *, connections: int, seconds: float) -> tuple[float, float]:
    """CPU per request and requests per second. Raises NoFigures, also where a request failed."""
    with driver.load(gateway.plan, gateway.folder, connections=connections, seconds=seconds) as load:
        before = procfs.tree_cpu_seconds(gateway.server.pid)
        found = load.go()
        spent = procfs.tree_cpu_seconds(gateway.server.pid) - before
    if found.errors or not found.requests:
        raise NoFigures(f"{gateway.plan.name}: {found.errors or 'no request was answered'}")
    return spent * 1e6 / found.requests, found.requests_per_s


def measure_cpu(root: Path, *, rounds: int, seconds: float, connections: int) -> list[Round]:
    """Both gateways in turn. Raises NotAnswering or NoFigures."""
    driver = driver_for(_INFER)
    found = []
    with contextlib.ExitStack() as stack:
        (root / "upstream").mkdir()
        stack.enter_context(driver.start_upstream(root / "upstream", Cores.choose().load))
        one, two = (_serve(root / f"workers-{n}", stack, workers=n, upstream=driver.port) for n in (1, 2))
        for each in (one, two):
            _cpu_us(each, driver, connections=connections, seconds=1)
        for _ in range(rounds):
            (one_us, one_per_s), (two_us, two_per_s) = (
                _cpu_us(each, driver, connections=connections, seconds=seconds) for each in (one, two)
            )
            found.append(Round(one_us, two_us, one_per_s, two_per_s))
            _say(f"CPU per request: one worker {one_us:.1f} us, two {two_us:.1f} us")
    return found


def check_limit(root: Path, *, seconds: float, connections: int) -> Checked:
    """Two workers under more load than the replica may see. Raises NotAnswering or NoFigures."""
    [port] = free_ports(1)
    argv = [sys.executable, "-m", "loadtests.bench.checking_upstream", str(port), "--work", str(_WORK_S)]
    with contextlib.ExitStack() as stack:
        checker = stack.enter_context(Server(argv, core=None, log=root / "checker"))
        wait_until_serving(checker, lambda: _wrong(port, {}), within_s=_START_S)
        gateway = _serve(root / "limited", stack, workers=2, upstream=port, limit=True)
        exchange(port, "GET", CHECKER)  # what it has seen so far is forgotten
        script = wrk.write_script(gateway.folder, _INFER, gateway.plan.headers)
        url = f"http://127.0.0.1:{gateway.plan.port}{_INFER.path}"
        binary = shutil.which("wrk") or "wrk"
        load = wrk.command(binary, script, url=url, connections=connections, seconds=seconds)
        with ThreadPoolExecutor(1) as beside:
            loading = beside.submit(wrk.run, load, limit_s=seconds + _BESIDE_S)
            # Looked at before the load's clients leave: what a replica still does for them takes no slot.
            time.sleep(_LOOK_AFTER * seconds)
            seen = json.loads(exchange(port, "GET", CHECKER)[1])
            loading.result()
        return Checked(limit=LIMIT, most=seen["most"], total=seen["total"])


def targets(rounds: Sequence[Round], checked: Checked) -> list[Target]:
    """What is asked of two workers, and what was seen."""
    ratio = cpu_ratio(rounds)
    return [
        Target(
            name="two workers: CPU per request beside one's",
            want=f"at most {CPU_FACTOR:g} times its",
            got=f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else "not measured",
            met=ratio.median <= CPU_FACTOR if ratio else None,
        ),
        Target(
            name="two workers: calls at once that the replica saw",
            want=f"{checked.limit}, never more",
            got=f"{checked.most} at most, in {checked.total:,} calls",
            met=checked.kept,
        ),
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit code."""
    options = argparse.ArgumentParser(
        prog="python -m loadtests.bench.two_workers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--rounds", type=int, default=5, help="times that both are loaded (5)")
    options.add_argument("--seconds", type=float, default=3.0, help="length of one run (3)")
    options.add_argument("--connections", type=int, default=64, help="kept alive (64)")
    options.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    asked = options.parse_args(arguments)
    if shutil.which("wrk") is None:
        _say("the load generator is missing: apt-get install wrk")
        return 2
    machine = describe(Cores.choose())
    with tempfile.TemporaryDirectory(prefix="overspill-bench-") as folder:
        try:
            root, connections = Path(folder), asked.connections
            rounds = measure_cpu(root, rounds=asked.rounds, seconds=asked.seconds, connections=connections)
            checked = check_limit(root, seconds=asked.seconds, connections=connections)
        except (NotAnswering, NoFigures, OSError) as error:
            _say(str(error))
            return 2
    found = targets(rounds, checked)
    print("\n".join(f"- {key}: {value}" for key, value in machine.items()), end="\n\n")
    print("| | target | measured | |\n|---|---|---|---|")
    for target in found:
        word = {True: "met", False: "missed", None: "not shown"}[target.met]
        print(f"| {target.name} | {target.want} | {target.got} | {word} |")
    if asked.json:
        document = {
            "machine": machine, "rounds": [each._asdict() for each in rounds],
            "checked": asdict(checked), "targets": [asdict(each) for each in found],
        }  # fmt: skip
        asked.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if checked.most > checked.limit else 0


if __name__ == "__main__":
    sys.exit(main())
