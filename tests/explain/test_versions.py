"""A call for a model's version goes only where that version is served, and what nobody carries is refused as such."""

import json
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from backends.base import BackendOptions
from gateway.app import registries
from gateway.cli import command
from gateway.config.load import load
from gateway.explain.asked import Wanted
from gateway.explain.command import explained
from tests.explain.test_unfit import refusals
from tests.support.gateways import port_of, running
from tests.support.provider import Received, Wire, providing

CONFIG = """
version: 1
backends:
  fleet: {type: triton, replicas: ["http://FLEET"], max_in_flight: 2, versions: [1, 2],
    price: {usd_per_replica_hour: 0.8}}
  burst: {type: http, url: "http://BURST", max_in_flight: 4, versions: [2, 3], max_body: 1KiB,
    price: {usd_per_second: 0.0001}, cold_start: {expect: 1s, idle_after: 1m}}
routes:
  embed:
    match: {model: minilm}
    policy: spill_when_full
    tiers:
      - {backend: fleet, when_full: spill}
      - {backend: burst, when_full: shed}
"""

CHATS = """
version: 1
backends:
  fleet: {type: triton, replicas: ["http://FLEET"], max_in_flight: 2, openai: {chat_template: plain},
    price: {usd_per_replica_hour: 0.8}}
  chats: {type: openai, url: "http://BURST/v1", max_in_flight: 4, operations: OPERATIONS,
    price: {usd_per_million_input_tokens: 0.1, usd_per_million_output_tokens: 0.4}}
routes:
  chat:
    match: {model: minilm}
    policy: spill_when_full
    tiers:
      - {backend: fleet, when_full: spill}
      - {backend: chats, when_full: shed}
"""


def settings(config: str = CONFIG) -> Any:
    whole = config.replace("FLEET", "127.0.0.1:1").replace("BURST", "127.0.0.1:1")
    return load(whole, *registries(), resolve_secrets=False).settings


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("", {}),
        ("1", {"burst": "serves version 2, 3 of the model"}),
        ("2", {}),
        ("3", {"fleet": "serves version 1, 2 of the model"}),
        ("02", {"fleet": "(`versions`), not 02", "burst": "not 02"}),
    ],
)
@pytest.mark.parametrize("protocol", ["kserve", "grpc"])
def test_it_is_told_ahead_who_does_not_serve_the_version(
    protocol: str, version: str, why: dict[str, str]
) -> None:
    found = explained(
        settings(), registries(), route=None, state=None, wanted=Wanted(version=version), protocol=protocol
    )
    refused = refusals(found["candidates"])
    assert refused.keys() == why.keys()
    assert all(words in refused[name] for name, words in why.items())


def test_the_command_takes_a_version(tmp_path: Any) -> None:
    file = tmp_path / "overspill.yaml"
    file.write_text(CONFIG.replace("FLEET", "127.0.0.1:1").replace("BURST", "127.0.0.1:1"))
    result = CliRunner().invoke(command, ["explain", "-c", str(file), "--version", "3", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["action"]["backend"] == "burst"


@pytest.mark.parametrize("wrong", [[], ["1"], [-1], [True], 1])
def test_what_is_no_list_of_versions_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="versions"):
        BackendOptions.model_validate({"type": "x", "max_in_flight": 1, "versions": wrong})


INFER = b'{"id": "%b", "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'


async def named(received: Received, wire: Wire) -> None:
    await wire.answer(200, b"" if received.method == "GET" else received.target.encode())


async def asked(gateway: Any, path: str, body: bytes = INFER % b"") -> tuple[int, str, str]:
    """Status, backend and text of the answer."""
    url = f"http://127.0.0.1:{port_of(gateway)}{path}"
    async with aiohttp.ClientSession() as client, client.post(url, data=body) as answer:
        return answer.status, answer.headers.get("x-overspill-backend", ""), await answer.text()


def placed(config: str, fleet: Any, burst: Any) -> str:
    config = config.removeprefix("\nversion: 1\n")  # `running` writes it
    return config.replace("FLEET", fleet.url[7:]).replace("BURST", burst.url[7:])


async def test_each_version_goes_where_it_is_served() -> None:
    large = INFER % (b"x" * 2000)
    async with providing(named) as fleet, providing(named) as burst:
        async with running(placed(CONFIG, fleet, burst)) as gateway:
            for version, backend in (("1", "fleet"), ("2", "fleet"), ("3", "burst")):
                path = f"/v2/models/minilm/versions/{version}/infer"
                assert await asked(gateway, path) == (200, backend, path)
            status, _, text = await asked(gateway, "/v2/models/minilm/versions/9/infer")
            assert status == 404
            assert "fleet: serves version 1, 2" in text
            assert "burst: serves version 2, 3" in text
            status, _, text = await asked(gateway, "/v2/models/minilm/versions/3/infer", large)
            assert (status, "1024 are allowed" in text) == (413, True)
        assert all("/9/" not in request.target for request in (*fleet.seen, *burst.seen))


RESPONSES = b'{"model": "minilm", "input": "hello"}'


async def test_responses_go_past_a_backend_that_only_translates_chats() -> None:
    config = CHATS.replace("OPERATIONS", "[chat, responses]")
    async with providing(named) as fleet, providing(named) as chats:
        async with running(placed(config, fleet, chats)) as gateway:
            assert await asked(gateway, "/v1/responses", RESPONSES) == (200, "chats", "/v1/responses")


async def test_responses_that_nobody_offers_are_refused_as_such() -> None:
    config = CHATS.replace("OPERATIONS", "[chat]")
    async with providing(named) as fleet, providing(named) as chats:
        async with running(placed(config, fleet, chats)) as gateway:
            status, _, text = await asked(gateway, "/v1/responses", RESPONSES)
            assert status == 501
            assert "responses cannot be translated to Triton's generate API" in text
            assert "chats: does not offer responses; `operations` lists chat" in text
        assert not any("responses" in request.target for request in (*fleet.seen, *chats.seen))
    found = explained(
        settings(config), registries(), route=None, state=None, wanted=Wanted(operation="responses"),
        protocol="openai",
    )  # fmt: skip
    assert refusals(found["candidates"]).keys() == {"fleet", "chats"}
