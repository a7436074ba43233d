"""Routers and gateways for language models as peers: they know the OpenAI API and nothing else.

The two routers log no line for each request and hand answers on as they are; the two gateways read every
request and write every answer anew, which is their purpose. Each runs one worker with its defaults, without
retries, and asks nobody outside this machine.
"""

import json
import os
from pathlib import Path

from loadtests.bench.peers.plan import (
    Plan,
    Site,
    Skipped,
    absent,
    from_pypi,
    home,
    named,
    version_beside,
)
from loadtests.bench.workload import MODEL

NO_KEY = "sk-local"
"""What is sent where a client library insists on a key; the upstream asks for none."""


def _router(name: str, program: str, package: str, arguments: list[str], site: Site) -> Plan | Skipped:
    variable = f"OVERSPILL_BENCH_{name.upper()}"
    binary = named(variable, program, name)
    if skipped := absent(name, binary, install=from_pypi(name, package), variable=variable):
        return skipped
    assert binary is not None
    argv = [
        binary, *arguments,
        "--worker-urls", f"http://127.0.0.1:{site.upstream_port}",
        "--host", "127.0.0.1", "--port", str(site.port),
        "--prometheus-host", "127.0.0.1", "--prometheus-port", str(site.admin_port),
        "--policy", "round_robin", "--log-level", "warn" if name == "sglang_router" else "warning",
        "--disable-retries", "--max-concurrent-requests", "8192",
        "--worker-startup-check-interval", "1",
    ]  # fmt: skip
    return Plan(name=name, version=version_beside(binary, package), argv=argv, port=site.port)


def plan_sglang_router(site: Site) -> Plan | Skipped:
    """The Rust router of SGLang; it has the model's name, not its weights."""
    return _router("sglang_router", "sglang-router", "sglang-router", ["launch"], site)


def plan_vllm_router(site: Site) -> Plan | Skipped:
    """The Rust router of vLLM, a relative of the former."""
    return _router("vllm_router", "vllm-router", "vllm-router", [], site)


_LITELLM = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: http://127.0.0.1:{upstream_port}/v1
      api_key: {key}
litellm_settings: {{num_retries: 0, telemetry: false}}
"""


def plan_litellm(site: Site) -> Plan | Skipped:
    """LiteLLM's proxy, one worker, without a database."""
    variable = "OVERSPILL_BENCH_LITELLM"
    binary = named(variable, "litellm", "litellm_proxy")
    install = from_pypi("litellm_proxy", "litellm[proxy]")
    if skipped := absent("litellm", binary, install=install, variable=variable):
        return skipped
    assert binary is not None
    text = _LITELLM.format(model=MODEL, upstream_port=site.upstream_port, key=NO_KEY)
    argv = [binary, "--config", str(site.write("litellm.yaml", text))]
    argv += ["--host", "127.0.0.1", "--port", str(site.port), "--num_workers", "1"]
    return Plan(
        name="litellm",
        version=version_beside(binary, "litellm"),
        argv=argv,
        port=site.port,
        env={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # it would fetch a list of prices otherwise
            "LITELLM_LOG": "WARNING",
            # It asks for no key here, and nobody else reaches this port.
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        },
        rewrites=True,
    )


# It would listen on every address of the machine.
_LOOPBACK = """\
const {{ Server }} = require("node:net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (...given) {{
  const then = given.find((each) => typeof each === "function");
  return listen.call(this, {{ port: {port}, host: "127.0.0.1" }}, then);
}};
"""
_PORTKEY = "node_modules/@portkey-ai/gateway"


def loopback(port: int) -> str:
    """What Node reads first: every server that it starts listens on this port of 127.0.0.1."""
    return _LOOPBACK.format(port=port)


def plan_portkey(site: Site) -> Plan | Skipped:
    """Portkey's gateway on Node, told by header fields where to go."""
    variable = "OVERSPILL_BENCH_PORTKEY"
    node = named("OVERSPILL_BENCH_NODE", "node", "node")
    folder = os.environ.get(variable) or str(home() / "portkey" / _PORTKEY)
    script = f"{folder}/build/start-server.js"
    if node is None or not Path(script).exists():
        return Skipped(
            name="portkey",
            why="no node on this machine" if node is None else f"no {script}",
            install=f"npm --prefix .venv-peers/portkey install @portkey-ai/gateway (or name its folder in"
            f" {variable})",
        )
    return Plan(
        name="portkey",
        version=json.loads(Path(folder, "package.json").read_text())["version"],
        argv=[
            node,
            "--require",
            str(site.write("loopback.cjs", loopback(site.port))),
            script,
            f"--port={site.port}",
            "--headless",
        ],
        port=site.port,
        env={"NODE_ENV": "production"},
        headers={
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{site.upstream_port}/v1",
            "Authorization": f"Bearer {NO_KEY}",
        },
        rewrites=True,
    )
