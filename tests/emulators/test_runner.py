"""The emulators as processes: one line when ready, a clean end on SIGTERM, exit code 2 for a bad configuration."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from backends.emulators.__main__ import main
from backends.emulators.config import EmulatorConfig, load_app

QUICK = {"boot": {"fast_s": 0.01, "slow_s": 0.02}, "idle_after_s": 30}


@asynccontextmanager
async def process(kind: str, config: dict[str, Any]) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "backends.emulators", "--kind", kind, "--config", json.dumps(config),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        async with asyncio.timeout(30):
            ready = json.loads(await child.stdout.readline())
        assert ready["pid"] == child.pid
        yield child, ready["url"]
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def read(method: str, url: str, **options: Any) -> Any:
    async with aiohttp.ClientSession() as session, session.request(method, url, **options) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json(content_type=None)


EVENT = {
    "version": "2.0",
    "rawPath": "/v2/models/double/infer",
    "rawQueryString": "",
    "headers": {},
    "requestContext": {"http": {"method": "POST"}},
    "body": '{"inputs":[{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}]}',
    "isBase64Encoded": False,
}


async def test_emulated_provider_serves_the_app_through_the_worker_kit_and_ends_on_sigterm() -> None:
    config = QUICK | {
        "app": "tests.emulators.apps:models",
        "seed": 3,
        "cap": 2,
        "price": {"usd_per_second": 2},
    }
    async with process("runpod", config) as (child, url):
        headers = {"Authorization": "Bearer rp-emulated"}
        job = await read("POST", f"{url}/v2/emulated/runsync", json={"input": EVENT}, headers=headers)
        assert job["output"]["statusCode"] == 200
        assert "x-overspill-boot-id" in job["output"]["headers"]
        bill = await read("GET", f"{url}/__emulator/bill")
        assert (bill["requests"], bill["cold_starts"], bill["usd"]) == (1, 1, 2 * bill["billed_seconds"])
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await child.wait() == 0


@pytest.mark.parametrize("kind", ["modal", "lambda", "aws_lambda", "kserve"])
async def test_every_kind_starts_and_ends(kind: str) -> None:
    config = QUICK | {"app": "tests.emulators.apps:models", "modal": {"key": None}}
    async with process(kind, config) as (child, url):
        if kind in ("modal", "kserve"):
            document = await read("POST", f"{url}/v2/models/double/infer", data=EVENT["body"])
            assert document["outputs"][0]["data"] == [2.0]
        else:
            assert (await read("GET", f"{url}/__emulator/bill"))["usd"] == 0
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await child.wait() == 0


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "{}",
        '{"app": "tests.emulators.apps:models", "pace": 1}',
        '{"app": "tests.emulators.apps:nothing"}',
        '{"app": "no.such.module:x"}',
        '{"app": "tests.emulators.apps:models", "cap": 0}',
        "@/no/such/file.json",
    ],
)
def test_configuration_that_cannot_be_used_ends_with_2(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--kind", "runpod", "--config", config]) == 2
    assert capsys.readouterr().err


def test_app_may_be_an_app_or_what_makes_one() -> None:
    assert load_app("tests.emulators.apps:echo")("GET", "/", "", {}, b"ab")[2] == b"ba"
    assert load_app("tests.emulators.apps:models")("GET", "/v2/health/live", "", {}, b"")[0] == 200


def test_defaults_need_only_an_app() -> None:
    assert EmulatorConfig(app="a:b").fleet().cap == 5
