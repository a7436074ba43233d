"""The gateway under soak as its users run it, its replicas, and what happens to both while load is on.

API keys, access log, metrics, idempotency, two tiers and, with its extra, gRPC are on. The log is renamed
before every SIGHUP, as logrotate does it, and counted. Knows no load and no verdict.
"""

import importlib.util
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, Self

from gateway.auth.key_file import KeyEntry, hash_of, new_key, write_keys
from loadtests.bench.machine import Cores
from loadtests.bench.processes import Server, exchange, free_ports, wait_until_serving

_START_S = 60.0
_CHUNK = 1 << 20


def policy_file(folder: Path, ports: "Ports", variant: int) -> dict[str, Any]:
    """The policy file; `variant` 0 is where it begins and ends, the others differ in replicas and limits."""
    fleet = [f"http://127.0.0.1:{port}" for port in ports.replicas[:-1]]
    listen = {"http": f"127.0.0.1:{ports.http}", "admin": f"127.0.0.1:{ports.admin}"}
    if ports.grpc is not None:
        listen["grpc"] = f"127.0.0.1:{ports.grpc}"
    backends: dict[str, Any] = {
        "fleet": {
            "type": "triton", "replicas": fleet[: len(fleet) - variant % 2],
            "max_in_flight": 16 + variant % 5, "price": {"usd_per_replica_hour": 0.79},
        },
        "burst": {
            "type": "http", "url": f"http://127.0.0.1:{ports.replicas[-1]}", "max_in_flight": 40,
            "price": {"usd_per_second": 0.0002, "bills_idle": False},
            "cold_start": {"expect": "50ms", "idle_after": "2s"}, "late_binding": "none",
        },
    }  # fmt: skip
    tiers = [
        {"backend": "fleet", "when_full": {"queue": "40ms", "then": "spill"}},
        {"backend": "burst", "when_full": "shed"},
    ]
    routes: dict[str, Any] = {
        "small": {
            "match": {"model": "small"}, "latency_budget": {"within": "250ms", "objective": "99%"},
            "timeout": f"{10 + variant % 3}s", "stall_timeout": "5s", "tiers": tiers,
        }
    }  # fmt: skip
    if variant % 3 == 1:  # a route that comes and goes
        routes["passing"] = {"match": {"model": "passing"}, "timeout": "5s", "tiers": tiers[:1]}
    return {
        "version": 1, "listen": listen, "auth": {"keys": {"file": str(folder / "keys.yaml")}},
        "access_log": {"path": str(folder / "access.jsonl")}, "reload": {"watch": False}, "advice": False,
        "idempotency": {"keep": "30s", "max_keys": 2000, "max_bytes": "4MiB"},
        "backends": backends, "routes": routes,
    }  # fmt: skip


class Ports:
    """Where everybody listens. The last replica is the rented one."""

    def __init__(self) -> None:
        self.http, self.admin, grpc, *self.replicas = free_ports(7)
        self.grpc = grpc if importlib.util.find_spec("grpc") is not None else None


def lines_in(path: Path) -> int:
    """How many lines a file has; 0 where there is none."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK), b""))


class Stage:
    """Both processes; `with` ends them."""

    def __init__(self, folder: Path, *, workers: int, seed: int, cores: Cores) -> None:
        self.folder = folder
        self.ports = Ports()
        self.reloads = 0
        self._chance = random.Random(seed)
        self._workers = workers
        self._seed = seed
        self.cores = cores
        self._counted = 0
        self._log = folder / "access.jsonl"
        self._renamed = folder / "access.jsonl.1"
        self.key = new_key("soak", self._chance.choice)

    def __enter__(self) -> Self:
        """Start them. Raises NotAnswering."""
        write_keys([KeyEntry(id="soak", hash=hash_of(self.key))], self.folder / "keys.yaml")
        self._file = self.folder / "overspill.yaml"
        self._write(0)
        ports, core = self.ports, self.cores.load
        upstream = [sys.executable, "-m", "loadtests.soak.upstream", *map(str, ports.replicas)]
        upstream += ["--seed", str(self._seed)]
        serve = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(self._file)]
        serve += ["--workers", str(self._workers)] if self._workers > 1 else []
        self.upstream = Server(upstream, core=core, log=self.folder / "upstream.log")
        try:
            wait_until_serving(self.upstream, lambda: self._asked(ports.replicas[0], "/"), within_s=_START_S)
            self.gateway = Server(serve, core=self.cores.gateway, log=self.folder / "gateway.log")
        except BaseException:
            self.upstream.stop()
            raise
        try:
            wait_until_serving(self.gateway, lambda: self._asked(ports.admin, "/readyz"), within_s=_START_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.gateway.stop()
        self.upstream.stop()

    @staticmethod
    def _asked(port: int, path: str) -> str | None:
        try:
            status, _ = exchange(port, "GET", path)
        except OSError as error:
            return str(error)
        return None if status == 200 else f"status {status}"

    def _write(self, variant: int) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(json.dumps(policy_file(self.folder, self.ports, variant)))
        fresh.replace(self._file)

    def reload(self, *, first: bool = False) -> None:
        """A changed file and a new log at once; `first`: the file as it was in the beginning."""
        self._count_renamed()
        if self._log.exists():
            self._log.rename(self._renamed)
        self.reloads += 1
        self._write(0 if first else self.reloads)
        os.kill(self.gateway.pid, signal.SIGHUP)

    def _count_renamed(self) -> None:
        # It was still written to until the signal arrived, so it is counted a reload later.
        self._counted += lines_in(self._renamed)
        self._renamed.unlink(missing_ok=True)

    def lines(self) -> int:
        """Lines of the access log so far, in all of its files."""
        return self._counted + lines_in(self._renamed) + lines_in(self._log)

    def close_connections(self) -> None:
        """Have the replicas close what is open to them."""
        exchange(self.ports.replicas[-1], "POST", "/close", b"{}")
