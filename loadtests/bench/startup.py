"""How Overspill starts: seconds to its first 200 on /livez, memory when idle, and what it did not import.

Speaks to the command `serve` only, so that what is measured is what users run.
"""

import contextlib
import http.client
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from loadtests.bench import procfs
from loadtests.bench.drivers import Driver, driver_for
from loadtests.bench.figures import Spread
from loadtests.bench.machine import Cores
from loadtests.bench.measure import Tell, site, upstream
from loadtests.bench.peers import PEERS
from loadtests.bench.peers.plan import Plan
from loadtests.bench.processes import NotAnswering, Server, exchange
from loadtests.bench.workload import WORKLOADS

READY_WITHIN_S = 1.5
IDLE_RSS_MIB = 80.0
HEAVY = ("litellm", "botocore", "boto3", "numpy", "sklearn", "pytriton")
"""Packages that `serve` may import only when a backend in the file needs them."""

_STARTS = 5
_GIVE_UP_S = 20.0
_SETTLE_S = 1.0


@dataclass(kw_only=True)
class Startup:
    """Empty lists mean: not measured."""

    ready_s: list[float] = field(default_factory=list)
    ready_cpu_s: list[float] = field(default_factory=list)
    """CPU time until then: what is left of the seconds on a busy machine when others are taken out."""
    idle_rss_mib: list[float] = field(default_factory=list)
    heavy_imports: list[str] | None = None
    trouble: str | None = None

    @property
    def ready(self) -> Spread | None:
        """Seconds from the start of the process to the first 200."""
        return Spread.of(self.ready_s)

    @property
    def ready_cpu(self) -> Spread | None:
        """CPU seconds until the first 200."""
        return Spread.of(self.ready_cpu_s)

    @property
    def idle_rss(self) -> Spread | None:
        """MiB, a second after it was ready and before any request."""
        return Spread.of(self.idle_rss_mib)


def heavy_imports(importtime: str) -> list[str]:
    """Which of `HEAVY` appear in the log that `python -X importtime` writes."""
    modules = {line.rpartition("|")[2].strip() for line in importtime.splitlines() if "|" in line}
    packages = {module.partition(".")[0] for module in modules}
    return [name for name in HEAVY if name in packages]


def measure_startup(cores: Cores, tell: Tell) -> Startup:
    """Start and stop it a few times. The first start is not counted: it may have to compile bytecode."""
    found = Startup()
    driver = driver_for(WORKLOADS["infer"])
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="overspill-bench-")))
        stack.enter_context(upstream(driver, root / "upstream", cores))
        try:
            for number in range(_STARTS + 1):
                start = _start_once(_plan(driver, root / f"start-{number}"), cores, root)
                if number:
                    found.ready_s.append(start.ready_s)
                    found.ready_cpu_s.append(start.cpu_s)
                    found.idle_rss_mib.append(start.idle_rss_mib)
                    tell(f"start {number}  {start.line}")
            plan = _plan(driver, root / "imports")
            plan.argv[1:1] = ["-X", "importtime"]
            _start_once(plan, cores, root)
            found.heavy_imports = heavy_imports((root / "output").read_text(errors="replace"))
        except NotAnswering as error:
            found.trouble = str(error)
            tell(f"start-up: {error}")
    return found


def _plan(driver: Driver, directory: Path) -> Plan:
    plan = PEERS["overspill"].plan(site(directory, driver=driver, workload=WORKLOADS["infer"]))
    if not isinstance(plan, Plan):
        raise NotAnswering(plan.why)
    return plan


class _Start(NamedTuple):
    ready_s: float
    cpu_s: float
    idle_rss_mib: float

    @property
    def line(self) -> str:
        return (
            f"ready after {self.ready_s:.2f} s ({self.cpu_s:.2f} s of CPU), "
            f"{self.idle_rss_mib:.0f} MiB when idle"
        )


def _start_once(plan: Plan, cores: Cores, root: Path) -> _Start:
    """One start and stop. Raises NotAnswering."""
    assert plan.admin_port is not None
    began = time.perf_counter()
    with Server(plan.argv, core=cores.gateway, log=root / "output", env=plan.env) as server:
        while not _alive(plan.admin_port):
            if server.ended:
                raise server.trouble("it ended before it was ready")
            if time.perf_counter() - began > _GIVE_UP_S:
                raise server.trouble(f"not ready after {_GIVE_UP_S:.0f} s")
            time.sleep(0.005)
        ready_s = time.perf_counter() - began
        cpu_s = procfs.tree_cpu_seconds(server.pid)
        time.sleep(_SETTLE_S)
        return _Start(ready_s, cpu_s, procfs.tree_rss_mib(server.pid))


def _alive(port: int) -> bool:
    try:
        return exchange(port, "GET", "/livez")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
