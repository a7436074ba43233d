"""The real Triton, used by the gateway and by another client: what it queues for the other takes slots."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from gateway.demo.models import Trained, train
from gateway.demo.processes import start_module
from gateway.demo.triton_process import why_not
from tests.support.gateways import running
from tests.support.provider import until
from tests.triton.test_gateway import ask, config

pytestmark = [
    pytest.mark.real_triton,
    pytest.mark.skipif(why_not() is not None, reason=f"no real Triton here: {why_not()}"),
]


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train()


@pytest.fixture(scope="module")
def triton(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    weights = tmp_path_factory.mktemp("weights") / "digits.npz"
    trained.model.save(weights)
    arguments = ["--weights", str(weights), "--slots", "1", "--no-writer", "--pace", "250ms"]
    with start_module("triton", "gateway.demo.triton_process", *arguments) as child:
        yield dict(child.wait_ready(120))


async def test_pending_requests_of_another_client_are_seen_and_forgotten(
    trained: Trained, triton: dict[str, Any]
) -> None:
    pixels = {"name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": trained.images[0].tolist()}
    body = json.dumps({"inputs": [pixels]})
    port = urlsplit(triton["metrics"]).port
    section = f"replicas: ['{triton['http']}'], max_in_flight: 8, metrics: {{port: {port}, every: 100ms}}"
    text = config(section).replace("match: {model: m}", "match: {model: digits}")
    async with running(text) as gateway, aiohttp.ClientSession() as another:
        supply = gateway.capacities["fleet"]

        async def directly() -> int:
            async with another.post(f"{triton['http']}/v2/models/digits/infer", data=body) as answer:
                await answer.read()
                return answer.status

        assert (await ask(gateway, "/v2/models/digits/infer", body))[0] == 200
        await until(lambda: supply.replicas[0].load is not None)
        assert supply.free_slots == 8
        calls = [asyncio.get_running_loop().create_task(directly()) for _ in range(7)]
        await until(lambda: supply.free_slots <= 3)
        load = supply.replicas[0].load
        assert load is not None
        assert load.elsewhere >= 5
        assert await asyncio.gather(*calls) == [200] * 7
        await until(lambda: supply.free_slots == 8)
        unknown = await ask(gateway, "/v2/models/digits/versions/9/infer", body)
        assert unknown[0] == 404, "a version that does not exist is the client's mistake"
