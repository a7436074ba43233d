"""nginx as a peer: one worker, keep-alive on both sides, an access-log line per request."""

import os
from pathlib import Path

from loadtests.bench.peers.plan import Plan, Site, Skipped, absent, named, version_of
from loadtests.bench.workload import Kind, nginx_preamble

VARIABLE = "OVERSPILL_BENCH_NGINX"


def find_nginx() -> str | None:
    """Debian keeps it in /usr/sbin, which ordinary users do not search."""
    return named(VARIABLE, "nginx", "nginx")


def nginx_user() -> str | None:
    """The account that nginx must keep when it is started as root; None for everybody else."""
    return "root" if os.geteuid() == 0 else None


_FORWARDED = """\
      proxy_pass http://warm;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Request-Id $request_id;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
"""
_STREAMED = {
    # Large bodies pass through instead of being collected first, and never touch the disk.
    Kind.HTTP: "      proxy_request_buffering off;\n      proxy_max_temp_file_size 0;\n",
    # As its manual says for event streams: each event leaves when it comes.
    Kind.SSE: "      proxy_buffering off;\n",
}


def nginx_config(
    directory: Path, *, port: int, upstream_port: int, user: str | None, kind: Kind = Kind.HTTP
) -> str:
    """A keep-alive proxy with a buffered access log, as its manual recommends for load."""
    if kind is Kind.GRPC:
        listen, forward = " http2", "      grpc_pass grpc://warm;\n"
    else:
        listen, forward = "", _FORWARDED + _STREAMED[kind]
    return nginx_preamble(directory, user=user) + (
        f"  access_log {directory}/access.log combined buffer=64k flush=1s;\n"
        f"  upstream warm {{\n    server 127.0.0.1:{upstream_port};\n"
        "    keepalive 1024;\n    keepalive_requests 1000000000;\n  }\n"
        f"  server {{\n    listen 127.0.0.1:{port} backlog=4096{listen};\n"
        f"    location / {{\n{forward}    }}\n  }}\n}}\n"
    )


def plan(site: Site) -> Plan | Skipped:
    """The one of the distribution."""
    binary = find_nginx()
    if skipped := absent("nginx", binary, install="apt-get install nginx-light", variable=VARIABLE):
        return skipped
    assert binary is not None
    text = nginx_config(
        site.directory,
        port=site.port,
        upstream_port=site.upstream_port,
        user=nginx_user(),
        kind=site.workload.kind,
    )
    file = site.write("nginx.conf", text)
    argv = [binary, "-p", str(site.directory), "-c", str(file), "-e", str(site.directory / "error.log")]
    return Plan(name="nginx", version=version_of([binary, "-v"]), argv=argv, port=site.port)
