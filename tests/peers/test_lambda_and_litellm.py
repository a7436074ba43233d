"""serverless-offline's Lambda endpoint behind our Lambda backend, and litellm inside ours. Opt-in."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from backends.aws_lambda import AwsLambda
from gateway.errors import BackendBroke, BackendDenied
from tests.peers.recipes import ROOT
from tests.peers.servers import free_port, needs, peer, python_of
from tests.support.provider import a_call, built

SERVICE = """
service: demo
provider: {name: aws, runtime: nodejs20.x, region: us-east-1}
plugins: [serverless-offline]
custom:
  serverless-offline: {host: 127.0.0.1, httpPort: HTTP_PORT, lambdaPort: LAMBDA_PORT, noPrependStageInUrl: true}
functions:
  embed: {handler: handler.embed}
  broken: {handler: handler.broken}
"""
HANDLER = """
module.exports.embed = async (event) => ({
  statusCode: 201,
  headers: {"content-type": "application/x", "x-path": event.requestContext.http.method + " " + event.rawPath},
  isBase64Encoded: true,
  body: Buffer.from(event.body, event.isBase64Encoded ? "base64" : "utf8").reverse().toString("base64"),
});
module.exports.broken = async () => { throw new Error("boom"); };
"""


async def answered(backend: Any, call: Any) -> Any:
    async with backend.send(call, 0) as reply:
        return reply


async def test_serverless_offline_runs_our_invocations(tmp_path: Path) -> None:
    needs("serverless_offline")
    own, http = free_port(), free_port()
    text = SERVICE.replace("LAMBDA_PORT", str(own)).replace("HTTP_PORT", str(http))
    (tmp_path / "serverless.yml").write_text(text)
    (tmp_path / "handler.js").write_text(HANDLER)
    os.symlink(
        python_of("serverless_offline").replace("bin/python", "node_modules"), tmp_path / "node_modules"
    )
    quiet = {"SLS_TELEMETRY_DISABLED": "1", "SLS_NOTIFICATIONS_MODE": "off", "CI": "1"}
    async with peer(
        "serverless_offline", own, "serverless", "offline", "start", cwd=tmp_path, **quiet
    ) as url:
        example = AwsLambda.example(url)
        async with built(AwsLambda, {**example, "function": "demo-dev-embed"}) as (backend, _):
            for data in (b"x", bytes(range(256)) * 40):
                reply = await answered(backend, a_call(data))
                assert (reply.status, reply.body) == (201, data[::-1])
                assert dict(reply.headers)[b"x-path"] == b"POST /v2/models/minilm/infer"
        async with built(AwsLambda, {**example, "function": "demo-dev-broken"}) as (backend, _):
            with pytest.raises(BackendBroke, match="boom"):
                await answered(backend, a_call(b"x"))
        async with built(AwsLambda, {**example, "function": "demo-dev-none"}) as (backend, _):
            with pytest.raises(BackendDenied, match="ResourceNotFoundException"):
                await answered(backend, a_call(b"x"))


async def test_litellm_itself_passes_what_our_own_tests_ask_of_it() -> None:
    """In its own environment, which has what the gateway needs and litellm, and not the other test tools."""
    needs("litellm")
    process = await asyncio.create_subprocess_exec(
        python_of("litellm"), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "litellm",
        "-W", "ignore::pytest.PytestUnraisableExceptionWarning",  # coroutines that its logging drops
        "tests/conformance", "tests/serverless/test_litellm.py",
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(110):
        said, _ = await process.communicate()
    assert process.returncode == 0, said[-3000:].decode(errors="replace")
    assert b"passed" in said or b"100%" in said
    assert b" skipped" not in said
