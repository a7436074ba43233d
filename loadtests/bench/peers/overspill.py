"""Overspill itself, as users run it: policy, API keys, metrics, access log, and request and trace ids on."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

from loadtests.bench.peers.plan import Plan, Site, Skipped
from loadtests.bench.processes import NotAnswering
from loadtests.bench.workload import MODEL, Kind

SLOTS = 4096
"""More than the load takes: no call waits for a slot, and none spills."""
KEY_FIELD = "x-api-key"
ASLEEP = "0s"
"""`busy_poll` as it is by default."""
BUSY_POLL = "0.2ms"
"""What it is for: a gateway with a core to itself."""
ONE_ADVICE = "{every: 1d}"
"""One child process that works out how many replicas were needed, and not another every ten minutes."""
CHILD_AFTER = 200
"""Requests of which it is worked out at the soonest; they are looked for every ten seconds."""
_KEY_FILE = "keys.yaml"
_KEY_WITHIN_S = 60.0

_CONFIG = """\
version: 1
listen: {{http: "127.0.0.1:{http_port}", admin: "127.0.0.1:{admin_port}"{grpc_listen}}}
auth: {{keys: {{file: {directory}/{key_file}}}}}
access_log: {{path: {directory}/access.log}}
advice: {advice}
busy_poll: {busy_poll}
backends:
  fleet:
    type: triton
    replicas: ["http://127.0.0.1:{health_port}"]
    max_in_flight: {slots}
    price: {{usd_per_replica_hour: 0.79}}{grpc_replicas}
  burst:
    type: triton
    replicas: ["http://127.0.0.1:{health_port}"]
    max_in_flight: {slots}
    price: {{usd_per_replica_hour: 0.79}}{grpc_replicas}
routes:
  small:
    match: {{model: {model}}}
    latency_budget: {{within: {budget}, objective: 99%}}
    timeout: 60s
    policy: {policy}
    tiers:
      - {{backend: fleet, when_full: {{queue: 40ms, then: spill}}}}
      - {{backend: burst, when_full: shed}}
"""


def overspill_config(
    directory: Path,
    *,
    port: int,
    admin_port: int,
    upstream_port: int,
    health_port: int | None = None,
    policy: str = "cheapest_in_budget",
    kind: Kind = Kind.HTTP,
    spare_port: int = 0,
    advice: str = ONE_ADVICE,
    busy_poll: str = ASLEEP,
) -> str:
    """A fleet with more slots than the load takes, and a second tier that the policy must weigh.

    The second tier is the same local server, so that nothing leaves this machine. `port` is where the load
    goes; with gRPC HTTP listens on `spare_port`. Nobody is served without the key that `key_headers` makes.
    """
    grpc = kind is Kind.GRPC
    return _CONFIG.format(
        directory=directory, key_file=_KEY_FILE, admin_port=admin_port, model=MODEL, policy=policy,
        slots=SLOTS, advice=advice, busy_poll=busy_poll,
        http_port=spare_port if grpc else port,
        grpc_listen=f', grpc: "127.0.0.1:{port}"' if grpc else "",
        health_port=upstream_port if health_port is None else health_port,
        grpc_replicas=f'\n    grpc: {{replicas: ["127.0.0.1:{upstream_port}"]}}' if grpc else "",
        budget="30s" if kind is Kind.SSE else "250ms",
    )  # fmt: skip


def key_headers(directory: Path) -> dict[str, str]:
    """What a request to that gateway must carry: a key made now by `overspill keys`, for this run only.

    By the command, so that the bench needs no more of the gateway than its users. Raises NotAnswering.
    """
    argv = [sys.executable, "-m", "gateway.cli", "keys", "create", "--id", "bench"]
    argv += ["-f", str(directory / _KEY_FILE)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_KEY_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotAnswering(f"`overspill keys create` did not end within {_KEY_WITHIN_S:.0f} s") from None
    if done.returncode:
        raise NotAnswering(f"`overspill keys create` failed: {done.stderr.strip()[-600:]}")
    return {KEY_FIELD: done.stdout.strip()}


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is missing
        return False


def _gateway(name: str, policy: str, site: Site, *, busy_poll: str = BUSY_POLL) -> Plan | Skipped:
    if not _importable("gateway.cli"):
        return Skipped(
            name=name, why=f"gateway.cli not importable by {sys.executable}", install="pip install -e ."
        )
    text = overspill_config(
        site.directory,
        port=site.port,
        admin_port=site.admin_port,
        upstream_port=site.upstream_port,
        health_port=site.upstream_health_port,
        policy=policy,
        kind=site.workload.kind,
        spare_port=site.spare_port,
        busy_poll=busy_poll,
    )
    file = site.write(f"{name}.yaml", text)
    try:
        version = importlib.metadata.version("overspill")
    except importlib.metadata.PackageNotFoundError:
        version = "source tree"
    argv = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(file)]
    return Plan(
        name=name, version=f"{version}, {policy}, busy_poll {busy_poll}", argv=argv,
        port=site.port, admin_port=site.admin_port,
        headers=key_headers(site.directory), child_after=CHILD_AFTER,
    )  # fmt: skip


def plan(site: Site) -> Plan | Skipped:
    """With the default policy."""
    return _gateway("overspill", "cheapest_in_budget", site)


def plan_simple(site: Site) -> Plan | Skipped:
    """With the simplest policy that spills."""
    return _gateway("overspill_simple", "spill_when_full", site)


def plan_sleeping(site: Site) -> Plan | Skipped:
    """Without `busy_poll`, as it is where the file says nothing."""
    return _gateway("overspill_sleeping", "cheapest_in_budget", site, busy_poll=ASLEEP)
