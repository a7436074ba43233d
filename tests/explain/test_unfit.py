"""A call that a backend cannot carry is never sent there, and `explain` says why, before and afterwards."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from gateway.app import registries
from gateway.cli import command
from gateway.config.load import load
from gateway.errors import Shed as ShedError
from gateway.explain.asked import Wanted, make_call
from gateway.explain.command import explained
from gateway.explain.record import explain_noted
from gateway.explain.ring import Ring
from gateway.lease import Lease
from tests.explain.support import scene
from tests.pool.parts import FIRST
from tests.support.gateways import running

CONFIG = """
version: 1
backends:
  fleet: {type: triton, replicas: ["http://127.0.0.1:1"], max_in_flight: 2, price: {usd_per_replica_hour: 0.8}}
  jobs: {type: runpod, endpoint_id: abc, api_key: {env: NOT_SET}, max_in_flight: 4,
    price: {usd_per_second: 0.001}, cold_start: {expect: 1s, idle_after: 30s}}
  tensors: {type: sagemaker_serverless, endpoint: embed, region: us-east-1, envelope: triton, max_in_flight: 4,
    credentials: {access_key: {env: NOT_SET}, secret_key: {env: NOT_SET}},
    price: {usd_per_second: 0.0001, usd_per_gb: 0.016}, cold_start: {expect: 1s, idle_after: 1m}}
  chats: {type: openai, url: "http://127.0.0.1:1/v1", max_in_flight: 4, operations: [chat, embeddings],
    price: {usd_per_million_input_tokens: 0.1, usd_per_million_output_tokens: 0.4}}
  small: {type: http, url: "http://127.0.0.1:1", max_in_flight: 4, max_body: 1MiB,
    price: {usd_per_second: 0.0001}, cold_start: {expect: 1s, idle_after: 1m}}
routes:
  embed:
    match: {model: minilm}
    latency_budget: {within: 2s, objective: 99%}
    timeout: 60s
    policy: spill_when_full
    tiers:
      - {backend: fleet, when_full: spill}
      - {backend: jobs, when_full: spill}
      - {backend: tensors, when_full: spill}
      - {backend: chats, when_full: spill}
      - {backend: small, when_full: shed}
"""
MUCH = 30_000_000

NEVER = {
    ("kserve", None, 0): {"chats": "calls of OpenAI's API only, not kserve"},
    ("kserve", None, 2_000_000): {"chats": "OpenAI's API", "small": "2000000 bytes, 1048576 are allowed"},
    ("kserve", None, MUCH): {
        "chats": "OpenAI's API", "jobs": "20000000", "tensors": "are allowed", "small": "are allowed"
    },
    ("openai", "chat", 0): {"tensors": "carries KServe infer requests only"},
    ("openai", "responses", 0): {
        "tensors": "KServe", "chats": "does not offer responses; `operations` lists chat, embeddings"
    },
    ("grpc", "infer", 0): {"chats": "OpenAI's API"},
    ("grpc", "infer", MUCH): {
        "chats": "OpenAI's API", "jobs": "20000000", "tensors": "are allowed", "small": "are allowed"
    },
    ("grpc", "stream_infer", 0): dict.fromkeys(
        ("jobs", "tensors", "chats", "small"), "stream_infer goes to backends that speak gRPC only"
    ),
}  # fmt: skip
EVERY = pytest.mark.parametrize(("asked", "why"), NEVER.items(), ids=str)


def settings() -> Any:
    return load(CONFIG, *registries(), resolve_secrets=False).settings


def refusals(candidates: Any) -> dict[str, str]:
    """Of the backends that cannot carry the call, why."""
    sentence = "cannot carry this call: "
    rows = [each if isinstance(each, dict) else each._asdict() for each in candidates]
    return {
        row["backend"]: row["why"].removeprefix(sentence) for row in rows if row["why"].startswith(sentence)
    }


def check(found: dict[str, str], why: dict[str, str]) -> None:
    assert found.keys() == why.keys()
    for name, words in why.items():
        assert words in found[name]


@EVERY
def test_it_is_told_ahead_of_what_cannot_be_carried(asked: Any, why: dict[str, str]) -> None:
    protocol, operation, body = asked
    wanted = Wanted(operation=operation, body=body, stream=operation == "stream_infer")
    found = explained(settings(), registries(), route=None, state=None, wanted=wanted, protocol=protocol)
    check(refusals(found["candidates"]), why)
    assert found["action"] == {"do": "run", "backend": "fleet", "reason": "warm"}


@EVERY
def test_no_slot_of_such_a_backend_is_given_and_afterwards_it_is_told_why(
    asked: Any, why: dict[str, str]
) -> None:
    protocol, operation, body = asked
    made = scene(settings(), {"backends": {"fleet": {"in_flight": 2}}})
    call = make_call(Wanted(protocol=protocol, operation=operation, body=body, timeout=60.0), made.now)
    call.request_id, call.route = "a", "embed"
    ring = Ring()
    made.pool.witness = ring.of(made.pool)
    lease = Lease(made.pool, call, FIRST)
    slot = None
    with suppress(ShedError):
        slot = lease.ask()
    assert {tier.name for tier in made.pool.tiers if not lease.may_use(tier.name)} == why.keys()
    assert slot is None or slot.backend.name not in why
    (noted,) = ring.find("a")
    check(refusals(explain_noted(noted, made.pool, made.objective).candidates), why)


LIVE = """
backends:
  fleet: {type: loopback, max_in_flight: 2}
  small: {type: http, url: "http://127.0.0.1:1", max_in_flight: 4, max_body: 1MiB,
    price: {usd_per_second: 0.0001}, cold_start: {expect: 1s, idle_after: 1m}}
  chats: {type: openai, url: "http://127.0.0.1:1/v1", max_in_flight: 4,
    price: {usd_per_million_input_tokens: 0.1, usd_per_million_output_tokens: 0.4}}
routes:
  echo:
    latency_budget: {within: 250ms, objective: 99%}
    tiers:
      - {backend: fleet, when_full: spill}
      - {backend: small, when_full: spill}
      - {backend: chats, when_full: shed}
"""


async def test_a_running_gateway_is_asked_in_the_same_words() -> None:
    async with running(LIVE) as gateway, aiohttp.ClientSession() as session:

        async def ask(**more: Any) -> Any:
            question = {"route": "echo", **more}
            async with session.post(f"http://{gateway.admin_address}/admin/explain", json=question) as answer:
                return answer.status, await answer.json()

        _, found = await ask(body=MUCH)
        check(refusals(found["candidates"]), {"small": "1048576 are allowed", "chats": "not raw"})
        _, found = await ask(protocol="openai", operation="chat", stream=True)
        check(refusals(found["candidates"]), {})
        _, found = await ask(protocol="grpc", operation="stream_infer", stream=True)
        check(refusals(found["candidates"]), dict.fromkeys(("small", "chats"), "gRPC only"))
        status, found = await ask(body=-1)
        assert (status, "body" in found["error"]) == (400, True)


def test_the_command_takes_what_the_call_is_like(tmp_path: Path) -> None:
    file = tmp_path / "overspill.yaml"
    file.write_text(CONFIG)
    options = [
        "explain",
        "-c",
        str(file),
        "--json",
        "--protocol",
        "grpc",
        "--operation",
        "infer",
        "--body",
        str(MUCH),
    ]
    result = CliRunner().invoke(command, options)
    assert result.exit_code == 0, result.output
    check(refusals(json.loads(result.stdout)["candidates"]), NEVER["grpc", "infer", MUCH])
