"""RunPod's SDK as the worker: code of others against our wire format. Opt-in.

The package `runpod` is looked for in this interpreter, or in the one that OVERSPILL_PEERS_PYTHON names.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from backends.runpod import RunPod
from backends.workers import kit, runpod_handler
from gateway.errors import BackendBroke
from tests.support.provider import a_call, built

pytestmark = pytest.mark.peers

PYTHON = os.environ.get("OVERSPILL_PEERS_PYTHON", sys.executable)
MODEL = """
def predict(method, path, query, headers, body):
    if path == "/boom":
        raise ValueError("boom")
    return 200, {"content-type": "application/x", "x-path": f"{method} {path}?{query}"}, body[::-1]
"""


def needs(package: str) -> None:
    found = subprocess.run([PYTHON, "-c", f"import {package}"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"{package} is not installed for {PYTHON}")


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "AKIDEXAMPLE")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def process(
    port: int, *arguments: str, cwd: Path, python: str = PYTHON, **environment: str
) -> AsyncIterator[str]:
    """A server of others on 127.0.0.1, until it accepts connections; ended by its pid."""
    own = await asyncio.create_subprocess_exec(
        python, *arguments, cwd=cwd, env={**os.environ, **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while True:
                assert own.returncode is None, "the server ended"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.1)
                    continue
                writer.close()
                break
        yield f"http://127.0.0.1:{port}"
    finally:
        if own.returncode is None:
            own.terminate()
        await own.wait()


@asynccontextmanager
async def without_prefix(target: str, prefix: str) -> AsyncIterator[str]:
    """The SDK's local server has RunPod's operations at its root, not below the endpoint's id."""

    async def forward(request: web.Request) -> web.Response:
        url = target + request.path.removeprefix(prefix)
        async with aiohttp.ClientSession() as session:
            async with session.post(
                url, data=await request.read(), headers={"content-type": "application/json"}
            ) as a:
                return web.Response(status=a.status, body=await a.read(), content_type="application/json")

    application = web.Application(client_max_size=1 << 25)
    application.router.add_post(prefix + "/{path:.*}", forward)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def read(backend: Any, call: Any) -> Any:
    async with backend.send(call, 0) as reply:
        return reply


async def test_the_runpod_sdk_serves_our_jobs(tmp_path: Path) -> None:
    needs("runpod")
    for module in (kit, runpod_handler):
        assert module.__file__ is not None
        shutil.copy(module.__file__, tmp_path)  # beside each other, as in an image
    (tmp_path / "mymodel.py").write_text(MODEL)
    port = free_port()
    options = ("--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port))
    async with process(
        port, "runpod_handler.py", *options, cwd=tmp_path, OVERSPILL_APP="mymodel:predict"
    ) as server:
        async with without_prefix(server, "/v2/abc123") as url:
            async with built(RunPod, RunPod.example(url)) as (backend, _):
                data = bytes(range(256)) * 20
                reply = await read(backend, a_call(data, target=b"/v2/x?a=1"))
                assert (reply.status, reply.body) == (200, data[::-1])
                assert dict(reply.headers)[b"x-path"] == b"POST /v2/x?a=1"
                with pytest.raises(BackendBroke, match=r"ValueError.* boom"):
                    await read(backend, a_call(target=b"/boom"))
