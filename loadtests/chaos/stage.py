"""Everything that a fault happens to: the gateway, its replicas and its providers, as processes of their own.

Knows how they are started, told and ended. Must never know what will go wrong.
"""

import asyncio
import json
import os
import signal
import ssl
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from gateway.clock import Clock
from gateway.demo.processes import Child, free_port
from loadtests.chaos.work import NOTES, executions

PRICE = 0.001
"""Dollars that the provider `cloud` asks for each request that it works on, and for nothing else."""
RUNPOD_USD_PER_S = 0.0002
START_S = 30.0
SHARE, FLOOR = 0.1, 2.0
"""The retry budget of every gateway here."""
_ENOUGH = 1000.0
"""Dollars an hour: no fault may come near, and what is left is checked."""
KEY = "rp-emulated"


class Stage:
    """One gateway with what stands behind it. Nothing runs until it is told to."""

    def __init__(self, folder: Path, *, chance: Random, clock: Clock) -> None:
        self.folder = folder
        self.chance = chance
        self.clock = clock
        self.children: dict[str, Child] = {}
        self.port, self.admin_port = free_port(), free_port()
        self.access_log = folder / "access.jsonl"
        self._how: dict[str, tuple[str, ...]] = {}
        self._env: dict[str, str] = {}

    # -- processes

    def start(self, name: str, command: Sequence[str], env: Mapping[str, str] | None = None) -> Child:
        """Start a process that says by a line of JSON when it is ready, and wait. Raises CannotStart."""
        child = self.children[name] = Child(name, command, env=env)
        child.wait_ready(START_S)
        return child

    def upstream(
        self, name: str, *more: str, host: str = "127.0.0.1", inside: Sequence[str] = (), port: int = 0
    ) -> str:
        """A replica or provider that does as it is told; its URL."""
        port = port or free_port()
        own = ("--host", host, "--port", str(port), "--notes", str(self.notes(name)), *more)
        self._how[name] = (*inside, sys.executable, "-m", "loadtests.chaos.upstream", *own)
        return str(self.start(name, self._how[name]).ready["url"])

    def runpod(self, name: str, **config: Any) -> str:
        """A RunPod endpoint with habits; its URL."""
        document = {
            "app": "loadtests.chaos.work:app", "seed": self.chance.getrandbits(32), "cap": 5, "pace_s": 0.03,
            "boot": {"fast_s": 0.3, "slow_s": 0.6, "fast_share": 0.5}, "idle_after_s": 2.0,
            "runpod": {"endpoint_id": "chaos", "api_key": KEY}, "price": {"usd_per_second": RUNPOD_USD_PER_S},
            **config,
        }  # fmt: skip
        command = (sys.executable, "-m", "loadtests.chaos.runpod", "--config", json.dumps(document))
        return str(self.start(name, command, {NOTES: str(self.notes(name))}).ready["url"])

    def again(self, name: str) -> None:
        """Start an upstream that has ended once more, at the same address."""
        self.children[name].stop(ask=False)
        self.start(name, self._how[name])

    def tell(self, name: str, **wish: Any) -> None:
        """Have an upstream behave otherwise from now on. Raises OSError."""
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE  # our own child, whatever it shows
        url = f"{self.children[name].ready['url']}/chaos"
        request = urllib.request.Request(url, json.dumps(wish).encode())
        with urllib.request.urlopen(request, timeout=5, context=trust) as answer:
            answer.read()

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process that was started here."""
        os.kill(self.children[name].pid, number)

    def notes(self, name: str) -> Path:
        """Where it notes what it executes."""
        return self.folder / f"{name}.notes"

    # -- the gateway

    def open_gateway(
        self,
        document: Mapping[str, Any],
        *,
        workers: int = 1,
        env: Mapping[str, str] | None = None,
        through: Sequence[str] = ("gateway.cli",),
        files: int | None = None,
    ) -> None:
        """Start it and wait until it is ready. Raises CannotStart.

        through:  the module that is run, and its arguments
        files:    the most that it may open, if not as many as anybody else
        """
        path = self.folder / "overspill.yaml"
        path.write_text(json.dumps(document))
        command = (sys.executable, "-m", *through, "serve", "-c", str(path), "--workers", str(workers))
        if files is not None:
            command = ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command)
        self._how["gateway"] = command
        self._env = {"CHAOS_KEY": KEY, **(env or {})}
        self.start_gateway_again()

    def start_gateway_again(self) -> None:
        """As it was opened. Raises CannotStart."""
        child = self.children["gateway"] = Child("gateway", self._how["gateway"], env=self._env)
        child.wait_answer(f"http://127.0.0.1:{self.admin_port}/readyz", START_S)

    def document(
        self, tiers: Mapping[str, Mapping[str, Any]], *, slots: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A policy file with one route over these backends, in their order."""
        names = list(tiers)
        queued = {"queue": "50ms", "then": "spill"} if len(names) > 1 else {"queue": "500ms", "then": "shed"}
        when = dict.fromkeys(names, queued)
        when[names[-1]] = {"queue": "500ms", "then": "shed"}
        return {
            "version": 1,
            "listen": {"http": f"127.0.0.1:{self.port}", "admin": f"127.0.0.1:{self.admin_port}"},
            "access_log": {"path": str(self.access_log)},
            "retry_budget": {"share": SHARE, "floor_per_second": FLOOR},
            "drain_timeout": "3s",
            "advice": False,
            "backends": {name: dict(tier) for name, tier in tiers.items()},
            "routes": {
                "chaos": {
                    "timeout": "2s",
                    "stall_timeout": "1s",
                    "policy": "spill_when_full",
                    "tiers": [{"backend": name, "when_full": when[name]} for name in names],
                    "spill_budget": {"usd_per_hour": _ENOUGH, "on_exhausted": "shed"},
                }
            },
        }

    @staticmethod
    def fleet(*replicas: str, slots: int = 4) -> dict[str, Any]:
        """An always-on fleet."""
        return {
            "type": "triton", "replicas": list(replicas), "max_in_flight": slots, "connect_timeout": "500ms",
            "probe_every": "300ms", "price": {"usd_per_replica_hour": 1.0},
        }  # fmt: skip

    @staticmethod
    def cloud(url: str) -> dict[str, Any]:
        """A provider that is paid by the request."""
        return {
            "type": "http", "url": url, "max_in_flight": 40, "connect_timeout": "500ms",
            "price": {"usd_per_second": 0, "usd_per_request": PRICE, "bills_idle": False},
            "cold_start": {"expect": "100ms", "idle_after": "1s"}, "late_binding": "none",
        }  # fmt: skip

    @staticmethod
    def runpod_tier(url: str) -> dict[str, Any]:
        """The RunPod endpoint, as the file has it."""
        return {
            "type": "runpod", "endpoint_id": "chaos", "api_key": {"env": "CHAOS_KEY"},
            "base_url": f"{url}/v2", "wait": "1s", "max_in_flight": 5,
            "price": {"usd_per_second": RUNPOD_USD_PER_S},
            "cold_start": {"expect": "500ms", "idle_after": "2s"}, "late_binding": "provider",
        }  # fmt: skip

    def get(self, path: str) -> bytes:
        """From the admin port. Raises OSError."""
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bytes(answer.read())

    async def metrics(self) -> "Metrics":
        """As of now. Raises OSError."""
        return Metrics((await asyncio.to_thread(self.get, "/metrics")).decode())

    def billed(self, name: str) -> float:
        """Dollars that an emulated provider asks for. Raises OSError."""
        return float(self.asked(name, "/__emulator/bill")["usd"])

    def asked(self, name: str, path: str) -> dict[str, Any]:
        """The JSON that an upstream has at `path`. Raises OSError."""
        with urllib.request.urlopen(self.children[name].ready["url"] + path, timeout=5) as answer:
            return dict(json.load(answer))

    # -- the end

    def finish_gateway(self) -> int:
        """End it in order; its exit status."""
        return self.children["gateway"].stop(grace=15.0)

    def close(self) -> None:
        """End everything."""
        for child in self.children.values():
            with suppress(ProcessLookupError):  # one that is stopped cannot end
                os.kill(child.pid, signal.SIGCONT)
            child.stop(grace=3.0)

    def executed(self, *names: str) -> dict[str, int]:
        """How often each request was begun by these upstreams together."""
        total: dict[str, int] = {}
        for name in names:
            for request, count in executions(self.notes(name)).items():
                total[request] = total.get(request, 0) + count
        return total


class Metrics:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self._samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum over everything with these labels; 0 where there is nothing."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        )
