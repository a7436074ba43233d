"""HAProxy as a peer: one thread, keep-alive on both sides, an access-log line per request."""

from loadtests.bench.peers.plan import Plan, Site, Skipped, absent, named, version_of
from loadtests.bench.workload import Kind

VARIABLE = "OVERSPILL_BENCH_HAPROXY"

# `http-reuse always` shares idle upstream connections between clients, as the others do; the log goes to the
# standard output, which the bench keeps in a file.
_CONFIG = """\
global
  nbthread 1
  maxconn 8192
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:{port} backlog 4096{protocol}
  http-request set-header X-Request-Id %[uuid()]
  default_backend warm
backend warm
  server one 127.0.0.1:{upstream_port} pool-max-conn 4096{protocol}
"""


def haproxy_config(*, port: int, upstream_port: int, kind: Kind = Kind.HTTP) -> str:
    """One frontend and one backend of one server, HTTP/2 without TLS for gRPC."""
    protocol = " proto h2" if kind is Kind.GRPC else ""
    return _CONFIG.format(port=port, upstream_port=upstream_port, protocol=protocol)


def plan(site: Site) -> Plan | Skipped:
    """HAProxy of the distribution."""
    binary = named(VARIABLE, "haproxy", "haproxy")
    if skipped := absent("haproxy", binary, install="apt-get install haproxy", variable=VARIABLE):
        return skipped
    assert binary is not None
    text = haproxy_config(port=site.port, upstream_port=site.upstream_port, kind=site.workload.kind)
    argv = [binary, "-db", "-f", str(site.write("haproxy.cfg", text))]
    return Plan(name="haproxy", version=version_of([binary, "-v"]), argv=argv, port=site.port)
