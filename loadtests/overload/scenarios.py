"""The two ways in which a gateway can be asked for too much, and how they are staged as processes.

Knows how gateway and fleet are started and what they are told. Must never know what figures are wanted.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from gateway.demo.processes import Child, free_port
from loadtests.bench import procfs
from loadtests.overload.calls import Mix

_START_S = 30.0


class Scenario(NamedTuple):
    """One bottleneck.

    connections:  most that the clients open
    kept:         share of the goodput at 1 x that must be left under more. Where the gateway's own CPU is
                  the limit, each refusal costs a read and a write: a tenth of an answer, so that at five
                  times the load nearly half goes to refusals
    """

    name: str
    what: str
    slots: int
    service_s: float
    mix: Mix
    connections: int
    kept: float

    @property
    def per_s(self) -> float | None:
        """Calls a second that are its capacity, where the fleet is the bottleneck."""
        return self.slots / self.service_s if self.service_s else None


FLEET = Scenario("fleet", "the fleet is the limit", 8, 0.04, Mix(budget_s=0.4), 4000, 0.9)
CPU = Scenario("cpu", "the gateway's CPU is the limit", 1024, 0.0, Mix(budget_s=0.4, large=0.0005), 4000, 0.5)
SCENARIOS = (FLEET, CPU)


class Stage:
    """The processes of one scenario; `with` ends them."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.port, self.admin_port = free_port(), free_port()
        self._folder = folder
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        scenario = self.scenario
        cores = sorted(os.sched_getaffinity(0))
        try:
            fleet = self._start(
                "fleet",
                (sys.executable, "-m", "loadtests.overload.fleet",
                 "--slots", str(scenario.slots), "--service", str(scenario.service_s)),
            )  # fmt: skip
            url = str(fleet.wait_ready(_START_S)["url"])
            path = self._folder / f"{scenario.name}.yaml"
            path.write_text(json.dumps(self.document(url)))
            self.gateway = self._start(
                "gateway", (sys.executable, "-m", "gateway.cli", "serve", "-c", str(path))
            )
            self.gateway.wait_answer(f"http://127.0.0.1:{self.admin_port}/readyz", _START_S)
        except BaseException:
            self.close()
            raise
        if len(cores) > 1:  # the load must not take the core that it wants to see busy
            os.sched_setaffinity(self.gateway.pid, cores[:1])
            for other in (fleet.pid, 0):
                os.sched_setaffinity(other, cores[1:])
        self._cores = cores
        return self

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._cores)
        self.close()

    def close(self) -> None:
        """End what was started."""
        for child in reversed(self._children):
            child.stop(grace=5.0)

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that the gateway has used."""
        return procfs.tree_cpu_seconds(self.gateway.pid)

    @property
    def rss_mib(self) -> float:
        """Memory of the gateway."""
        return procfs.tree_rss_mib(self.gateway.pid)

    def document(self, url: str) -> Mapping[str, Any]:
        """The policy file."""
        scenario = self.scenario
        return {
            "version": 1,
            "listen": {"http": f"127.0.0.1:{self.port}", "admin": f"127.0.0.1:{self.admin_port}"},
            "advice": False,
            "backends": {
                "fleet": {
                    "type": "triton", "replicas": [url], "max_in_flight": scenario.slots, "probe_every": "1s"
                }
            },
            "routes": {
                "overload": {
                    "timeout": "2s",
                    "latency_budget": {"within": f"{scenario.mix.budget_s * 1000:g}ms", "objective": "99%"},
                    "policy": "cheapest_in_budget",
                    "tiers": [{"backend": "fleet"}],
                }
            },
        }  # fmt: skip

    def _start(self, name: str, command: tuple[str, ...]) -> Child:
        child = Child(name, command)
        self._children.append(child)
        return child
