"""OpenAI-compatible servers, rented and owned: what goes out, what comes back, what it costs."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from backends.base import Load
from backends.openai import OpenAI, OpenAIOptions
from backends.openai_fleet import OpenAIFleet, OpenAIFleetOptions
from gateway.clock import FakeClock
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, BackendUnready, ConfigError
from gateway.vocab import Call, Rent, Reply, Start, Work
from tests.support.provider import (
    SECRET,
    Background,
    Behaviour,
    Provider,
    Received,
    Wire,
    a_call,
    a_chat,
    built,
    providing,
)

KINDS = pytest.mark.parametrize("kind", [OpenAI, OpenAIFleet])
EVENTS = [
    b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":10}}\n\n',
    b"data: [DONE]\n\n",
]
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":10}}'
USD = (1000 * 0.1 + 10 * 0.4) / 1e6


@asynccontextmanager
async def server(
    kind: type[Any], behaviour: Behaviour, **options: Any
) -> AsyncIterator[tuple[Any, Provider, Background]]:
    async with providing(behaviour) as provider:
        described = {**kind.example(provider.url), **options}
        async with built(kind, described) as (backend, background):
            yield backend, provider, background


def says(status: int, body: bytes = b"", fields: Mapping[str, str] | None = None) -> Behaviour:
    async def behave(request: Received, wire: Wire) -> None:
        await wire.answer(status, body, fields)

    return behave


async def streams(request: Received, wire: Wire) -> None:
    await wire.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    asked = request.json().get("stream_options", {}).get("include_usage")
    for event in EVENTS:
        if asked or b"usage" not in event:
            await wire.write(b"%x\r\n%b\r\n" % (len(event), event))
    await wire.write(b"0\r\n\r\n")


async def read(backend: Any, call: Call) -> tuple[Reply, bytes]:
    async with backend.send(call, 0) as reply:
        if reply.body is not None:
            return reply, reply.body
        return reply, b"".join([part async for part in reply.stream])


@KINDS
async def test_a_call_goes_out_as_it_came_but_for_the_models_name_and_the_key(kind: type[Any]) -> None:
    body = b'{ "messages":[{"role":"user","content":"\xc3\xa9"}], "temperature":1.0,"model" : "small"}'
    call = a_chat(body)
    call.headers.append((b"authorization", b"Bearer the-callers"))
    async with server(kind, says(200, ANSWER)) as (backend, provider, _):
        reply, answer = await read(backend, call)
    assert (reply.status, answer) == (200, ANSWER)
    (request,) = provider.seen
    assert (request.method, request.target) == ("POST", "/v1/chat/completions")
    assert request.body == body.replace(b'"small"', b'"Qwen/Qwen3-8B"')
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert request.fields["content-type"] == "application/json"
    assert request.fields["accept-encoding"] == "identity"
    assert request.fields["x-request-id"] == "req-1"


async def test_without_a_name_a_body_stays_as_it_is_and_other_bases_are_kept() -> None:
    call = a_chat(b'{"model":"small","input":"x"}', operation="embeddings", target=b"/v1/embeddings?a=b")
    async with providing(says(200, ANSWER)) as provider:
        rented = {**OpenAI.example(provider.url), "url": f"{provider.url}/openai/v4/", "model": None}
        fleet = {**OpenAIFleet.example(provider.url), "replicas": [f"{provider.url}/a"], "model": None}
        async with built(OpenAI, rented) as (backend, _):
            await read(backend, call)
        async with built(OpenAIFleet, {**fleet, "base_path": "/openai"}) as (owned, _):
            await read(owned, call)
    assert [request.target for request in provider.seen] == [
        "/openai/v4/embeddings?a=b", "/a/openai/embeddings?a=b",
    ]  # fmt: skip
    assert {request.body for request in provider.seen} == {call.body.whole()}


@KINDS
async def test_what_it_cannot_carry(kind: type[Any]) -> None:
    async with server(kind, says(200), operations=["chat"]) as (backend, _, _):
        assert backend.cannot_carry(a_chat()) is None
        assert "OpenAI's API only, not kserve" in backend.cannot_carry(a_call())
        assert "does not offer embeddings" in backend.cannot_carry(a_chat(operation="embeddings"))


@KINDS
@pytest.mark.parametrize(
    ("status", "error", "work"),
    [
        (401, BackendDenied, Work.NOT_STARTED),
        (429, BackendFull, Work.NOT_STARTED),
        (503, BackendFull, Work.NOT_STARTED),
        (424, BackendBroke, Work.MAYBE),
        (500, BackendBroke, Work.MAYBE),
    ],
)
async def test_failures(kind: type[Any], status: int, error: type[BackendError], work: Work) -> None:
    async with server(kind, says(status, f"no: {SECRET}".encode())) as (backend, _, _):
        with pytest.raises(error) as caught:
            await read(backend, a_chat())
        assert caught.value.work is work
        assert SECRET not in str(caught.value)


async def test_a_model_that_is_not_there_may_be_on_another_replica_but_is_not_elsewhere() -> None:
    body = b'{"error":{"code":"model_not_found","param":"model"}}'
    async with server(OpenAIFleet, says(404, body)) as (backend, _, _):
        with pytest.raises(BackendUnready):
            await read(backend, a_chat())
    async with server(OpenAI, says(404, body)) as (backend, _, _):
        with pytest.raises(BackendDenied, match="no such model"):
            await read(backend, a_chat())


@KINDS
async def test_a_prompt_that_is_too_long_is_the_clients_own_mistake(kind: type[Any]) -> None:
    body = b'{"error":{"code":"context_length_exceeded"}}'
    async with server(kind, says(400, body)) as (backend, _, _):
        reply, answer = await read(backend, a_chat())
    assert (reply.status, answer) == (400, body)
    if kind is OpenAI:
        assert reply.usage is not None
        assert reply.usage.usd == 0.0


# -- what it costs


async def test_a_whole_answer_tells_its_cost() -> None:
    async with server(OpenAI, says(200, ANSWER)) as (backend, _, _):
        reply, _ = await read(backend, a_chat())
        assert reply.start is Start.UNKNOWN
        assert reply.usage is not None
        assert reply.usage.usd == pytest.approx(USD)
    async with server(OpenAI, says(200, b'{"choices":[]}')) as (backend, _, _):
        reply, _ = await read(backend, a_chat())
        assert reply.usage is not None
        assert reply.usage.usd is None


STREAM = b'{"model":"small","stream":true}'
ASKED = b'{"model":"small","stream":true,"stream_options":{"include_usage":true}}'


@pytest.mark.parametrize(
    ("body", "stream_usage", "shown", "known"),
    [
        (STREAM, "as_asked", 2, False),
        (ASKED, "as_asked", 3, True),
        (STREAM, "always", 2, True),
        (ASKED, "always", 3, True),
    ],
)
async def test_a_stream_tells_its_cost_where_it_was_asked(
    body: bytes, stream_usage: str, shown: int, known: bool
) -> None:
    async with server(OpenAI, streams, stream_usage=stream_usage) as (backend, provider, _):
        reply, answer = await read(backend, a_chat(body, stream=True))
    assert answer == b"".join(EVENTS if shown == 3 else [EVENTS[0], EVENTS[2]])
    assert reply.usage is not None
    assert reply.usage.usd == (pytest.approx(USD) if known else None)
    assert ("stream_options" in provider.seen[0].json()) == known


async def test_other_units_of_price() -> None:
    price = {"usd_per_request": 0.5, "usd_per_million_input_tokens": 1, "usd_per_million_output_tokens": 2}
    long = {"above_tokens": 999, "usd_per_million_input_tokens": 1e6, "usd_per_million_output_tokens": 0}
    for given, usd in [
        ({"usd_per_request": 0.5}, 0.5),
        (price, 0.5 + 1020 / 1e6),
        ({**price, "usd_per_million_output_tokens": None}, None),
        ({**price, "long_prompts": [long]}, 1000.5),
    ]:
        async with server(OpenAI, says(200, ANSWER), price=given) as (backend, _, _):
            reply, _ = await read(backend, a_chat())
            assert reply.usage is not None
            assert reply.usage.usd == (None if usd is None else pytest.approx(usd))
    async with server(OpenAI, says(200, ANSWER), price=None) as (backend, _, _):
        reply, _ = await read(backend, a_chat())
        assert reply.usage is not None
        assert reply.usage.usd is None
        assert not backend.price_known


async def test_tokens_from_a_cache_have_a_price_of_their_own() -> None:
    told = {"prompt_tokens": 1000, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 600}}
    price = {"usd_per_million_input_tokens": 10, "usd_per_million_cached_tokens": 1}
    async with server(OpenAI, says(200, json.dumps({"usage": told}).encode()), price=price) as (
        backend,
        _,
        _,
    ):
        reply, _ = await read(backend, a_chat())
    assert reply.usage is not None
    assert reply.usage.usd == pytest.approx((400 * 10 + 600 * 1) / 1e6)


async def test_what_a_call_will_cost_is_told_ahead_only_by_a_typical_one() -> None:
    async with server(OpenAI, says(200)) as (backend, _, _):
        assert backend.rent == Rent(0.0, (1000 * 0.1 + 300 * 0.4) / 1e6, bills_idle=False)
    async with server(OpenAI, says(200), typical_tokens=None) as (backend, _, _):
        assert backend.rent == Rent(None)
        assert backend.price_known


def test_a_listed_price_that_cannot_be_had_says_why() -> None:
    example = OpenAI.example("http://host")
    with pytest.raises(ValidationError, match="is no price"):
        OpenAIOptions.model_validate({**example, "price": "cheap"})
    with pytest.raises(ValidationError, match=r"has no model 'no/such'|install the extra"):
        OpenAIOptions.model_validate({**example, "price": "litellm/no/such"})


# -- the fleet


class Noted:
    """Keeps what a fleet says of its replicas."""

    def __init__(self) -> None:
        self.loads: list[Load | None] = []

    def join(self, index: int) -> None: ...
    def retire(self, index: int) -> None: ...
    def vacant(self, index: int) -> bool:
        return True

    def note_load(self, index: int, load: Load | None) -> None:
        self.loads.append(load)


@asynccontextmanager
async def watched_fleet(
    behaviour: Behaviour, **load: Any
) -> AsyncIterator[tuple[OpenAIFleet, Provider, Noted]]:
    """Its periods pass when the test says so."""
    async with providing(behaviour) as provider:
        options = {**OpenAIFleet.example(provider.url), "load": load}
        async with built(OpenAIFleet, {**options, "load": None}, clock=FakeClock()) as (plain, _):
            fleet = OpenAIFleet("fleet", OpenAIFleetOptions.model_validate(options), plain.kit)
            fleet.heads.open()
            noted = Noted()
            fleet.attach(noted)
            assert fleet.moves
            assert not plain.moves
            yield fleet, provider, noted
            await fleet.close()


async def test_health_is_readiness() -> None:
    for status, ready in ((200, True), (503, False), (404, False)):
        async with server(OpenAIFleet, says(status)) as (backend, provider, _):
            assert await backend.probe(0) is ready
            assert provider.seen[0].target == "/health"
    async with server(OpenAIFleet, says(200), health="/health/ready") as (backend, provider, _):
        assert await backend.probe(0)
        assert provider.seen[0].target == "/health/ready"


async def test_metrics_are_joined_with_the_calls_that_are_there() -> None:
    let_go = asyncio.Event()

    async def behave(request: Received, wire: Wire) -> None:
        if request.target == "/metrics":
            text = b"vllm:num_requests_waiting 3\nvllm:num_requests_running 2\nvllm:kv_cache_usage_perc 0.5\n"
            await wire.answer(200, text)
        else:
            await let_go.wait()
            await wire.answer(200, ANSWER)

    async with watched_fleet(behave) as (fleet, provider, noted):
        running = asyncio.ensure_future(read(fleet, a_chat()))
        while provider.busy == 0:
            await asyncio.sleep(0.001)
        await fleet.look(0)
        let_go.set()
        await running
        await fleet.look(0)
    now = fleet.kit.clock.now()
    assert noted.loads == [Load(3, 4, now, 0.5), Load(3, 5, now, 0.5)]


async def test_a_fleet_that_does_not_tell_is_not_believed_for_ever() -> None:
    said = [b"tgi_queue_size 3", b"", b"", b"", b""]

    async def behave(request: Received, wire: Wire) -> None:
        await wire.answer(200, said.pop(0))

    async with watched_fleet(behave) as (fleet, _, noted):
        for _period in range(4):
            await fleet.look(0)
    assert noted.loads == [Load(3, 3, fleet.kit.clock.now()), None]


async def test_answers_tell_how_busy_their_replica_is() -> None:
    report = 'JSON {"named_metrics":{"kv_cache_usage_perc":0.25,"num_requests_waiting":9}}'
    async with watched_fleet(
        says(200, ANSWER, {"endpoint-load-metrics": report, "x-kept": "1"}), source="answers"
    ) as (fleet, provider, noted):
        reply, _ = await read(fleet, a_chat())
        assert provider.seen[0].fields["endpoint-load-metrics-format"] == "JSON"
        assert [name for name, _ in reply.headers] == [b"x-kept"]
        for _period in range(3):
            await fleet.look(0)
        assert len(provider.seen) == 1
    # The call itself may be among those that wait.
    assert noted.loads == [Load(9, 8, fleet.kit.clock.now(), 0.25), None]


async def test_a_key_that_was_refused_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def behave(request: Received, wire: Wire) -> None:
        good = request.fields["authorization"] == "Bearer new"
        await wire.answer(200 if good else 401, ANSWER)

    async with server(OpenAIFleet, behave) as (backend, _, _):
        for missing in (True, False):
            with pytest.raises(BackendDenied):
                await read(backend, a_chat())
            if missing:
                monkeypatch.delenv("OVERSPILL_EXAMPLE_SECRET")
            else:
                monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "new")
        with pytest.raises(BackendDenied):
            await read(backend, a_chat())
        reply, _ = await read(backend, a_chat())
        assert reply.status == 200


async def test_a_key_that_is_not_there_is_told_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVERSPILL_EXAMPLE_SECRET")
    with pytest.raises(ConfigError, match="OVERSPILL_EXAMPLE_SECRET"):
        async with server(OpenAIFleet, says(200)):
            pass


@pytest.mark.parametrize("url", ["ftp://h:1", "h:1", "http://h?x=1", "http://u@h"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValidationError, match="is not a replica address"):
        OpenAIFleetOptions.model_validate({**OpenAIFleet.example("http://h"), "replicas": [url]})
