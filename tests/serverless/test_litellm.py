"""The real litellm package in front of an OpenAI-shaped server, and behind a whole gateway."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import openai
import pytest

from backends.litellm import LiteLLM
from gateway.errors import AnswerTruncated, BackendDenied, BackendFull, ConfigError
from gateway.vocab import Start
from tests.support.gateways import port_of, running
from tests.support.provider import (
    SECRET,
    Behaviour,
    Provider,
    Received,
    Wire,
    a_chat,
    built,
    providing,
    until,
)

pytestmark = [
    pytest.mark.skipif(find_spec("litellm") is None, reason="the package litellm is not installed"),
    pytest.mark.filterwarnings(
        "ignore:Item .* on TypedDict class:UserWarning"
    ),  # these two are its own affair
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning"),
]

USAGE = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
USD = (1000 * 0.1 + 10 * 0.4) / 1e6
BODY = b'{"model":"small","messages":[{"role":"user","content":"hi"}]}'
STREAM = BODY[:-1] + b',"stream":true}'


async def answers(request: Received, wire: Wire) -> None:
    asked = request.json()
    head = {"id": "c", "created": 1, "model": "m"}
    if "input" in asked:
        rows = [{"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}]
        return await wire.json(200, {"object": "list", "data": rows, "model": "m", "usage": USAGE})
    if "prompt" in asked:
        choice: dict[str, Any] = {"index": 0, "text": "there", "finish_reason": "stop"}
        return await wire.json(
            200, {**head, "object": "text_completion", "choices": [choice], "usage": USAGE}
        )
    if not asked.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "there"}, "finish_reason": "stop"}
        return await wire.json(
            200, {**head, "object": "chat.completion", "choices": [choice], "usage": USAGE}
        )
    await wire.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    for text, end in (("th", None), ("ere", None), ("", "stop")):
        choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": end}
        await event(wire, {**head, "object": "chat.completion.chunk", "choices": [choice]})
    await event(wire, {**head, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    return await wire.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


async def event(wire: Wire, document: Any) -> None:
    data = b"data: %b\n\n" % json.dumps(document).encode()
    await wire.write(b"%x\r\n%b\r\n" % (len(data), data))


def says(status: int, code: str | None = None) -> Behaviour:
    async def behave(request: Received, wire: Wire) -> None:
        error = {"message": f"no: {SECRET}", "type": "t", "param": None, "code": code}
        await wire.json(status, {"error": error}, {"retry-after": "7"})

    return behave


@asynccontextmanager
async def model(behaviour: Behaviour, **options: Any) -> AsyncIterator[tuple[LiteLLM, Provider]]:
    async with providing(behaviour) as provider:
        async with built(LiteLLM, {**LiteLLM.example(provider.url), **options}) as (backend, _):
            yield backend, provider


async def read(backend: LiteLLM, body: bytes) -> tuple[Any, bytes]:
    async with backend.send(a_chat(body), 0) as reply:
        if reply.body is not None:
            return reply, reply.body
        assert reply.stream is not None
        return reply, b"".join([part async for part in reply.stream])


async def test_a_call_is_answered_paid_for_and_sent_once_with_our_key() -> None:
    async with model(answers, headers={"x-team": "a"}) as (backend, provider):
        reply, body = await read(backend, BODY)
    assert b'"there"' in body
    assert (reply.status, reply.start) == (200, Start.UNKNOWN)
    assert reply.usage.usd == pytest.approx(USD)
    (request,) = provider.seen
    assert request.target == "/v1/chat/completions"
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert request.fields["x-team"] == "a"
    assert request.json()["model"] == "small"


async def test_a_stream_ends_as_openais_and_tells_its_cost() -> None:
    async with model(answers) as (backend, provider):
        reply, body = await read(backend, STREAM)
        assert provider.seen[0].json()["stream_options"] == {"include_usage": True}
    events = body.split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    assert b"usage" not in body
    assert reply.usage.usd == pytest.approx(USD)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, None, BackendDenied),
        (404, None, BackendDenied),
        (429, None, BackendFull),
        (503, None, BackendFull),
    ],
)
async def test_failures_are_told_once_and_without_the_key(
    status: int, code: str | None, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with model(says(status, code)) as (backend, provider):
            with pytest.raises(error) as caught:
                await read(backend, BODY)
            assert len(provider.seen) == 1  # it did not try again by itself
    assert SECRET not in str(caught.value)
    assert SECRET not in caplog.text


async def test_a_prompt_that_is_too_long_is_the_clients_own_mistake() -> None:
    async with model(says(400, "context_length_exceeded")) as (backend, _):
        reply, body = await read(backend, BODY)
    assert reply.status == 400
    assert b"invalid_request_error" in body
    assert SECRET.encode() not in body
    assert reply.usage.usd == 0.0


async def test_what_a_client_must_not_say_is_not_sent() -> None:
    async with model(answers) as (backend, provider):
        reply, body = await read(backend, BODY[:-1] + b',"api_base":"http://elsewhere"}')
        assert reply.status == 400
        assert b"api_base" in body
        assert provider.seen == []


async def test_redirects_are_not_followed() -> None:
    async with providing(answers) as elsewhere:

        async def redirect(request: Received, wire: Wire) -> None:
            await wire.answer(307, b"", {"location": f"{elsewhere.url}/v1/chat/completions"})

        async with model(redirect) as (backend, _):
            with pytest.raises(Exception, match="burst"):
                await read(backend, BODY)
        assert elsewhere.seen == []


async def test_a_stream_that_breaks_off_and_one_that_is_left() -> None:
    async def breaks(request: Received, wire: Wire) -> None:
        await wire.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
        await event(wire, {"id": "c", "object": "chat.completion.chunk", "choices": [choice]})
        await wire.hang() if b"leave" in request.body else await wire.reset()

    async with model(breaks) as (backend, provider):
        with pytest.raises(AnswerTruncated):
            await read(backend, STREAM)
        async with backend.send(a_chat(STREAM.replace(b"hi", b"leave")), 0) as reply:
            assert reply.stream is not None
            await anext(aiter(reply.stream))
        await until(lambda: provider.busy == 0)


async def test_a_provider_that_litellm_does_not_know_is_told_at_start() -> None:
    with pytest.raises(ConfigError, match="does not know the model's provider"):
        async with model(answers, model="nobody-knows-this", api_base=None):
            pass


CONFIG = """
backends:
  any:
    type: litellm
    model: openai/small
    api_base: {url}/v1
    api_key: {{env: OVERSPILL_EXAMPLE_SECRET}}
    max_in_flight: 4
    price: {{usd_per_million_input_tokens: 0.1, usd_per_million_output_tokens: 0.4}}
routes:
  small: {{match: {{model: small}}, tiers: [{{backend: any}}]}}
"""


async def test_the_openai_package_through_a_gateway() -> None:
    async with providing(answers) as provider, running(CONFIG.format(url=provider.url)) as gateway:
        url = f"http://127.0.0.1:{port_of(gateway)}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="the-callers", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "hi"}]
            answer = await client.chat.completions.create(model="small", messages=messages)
            assert answer.choices[0].message.content == "there"
            stream = await client.chat.completions.create(model="small", messages=messages, stream=True)
            texts = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
            assert "".join(texts) == "there"
            rows = await client.embeddings.create(model="small", input="x", encoding_format="float")
            assert rows.data[0].embedding == [0.5, -1.0]
            words = await client.completions.create(model="small", prompt="x")
            assert words.choices[0].text == "there"
            with pytest.raises(openai.BadRequestError, match="api_base"):
                await client.chat.completions.create(
                    model="small", messages=messages, extra_body={"api_base": "http://elsewhere"}
                )
        await asyncio.sleep(0)
        lanes = gateway.ledger.lanes
        assert sum(lane.usd.get("spill", 0.0) for lane in lanes.values()) == pytest.approx(4 * USD)
