"""The `openai` package through a whole gateway: a fleet that is full spills to a provider paid by token."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from gateway.app import Gateway
from tests.support.gateways import port_of, running
from tests.support.provider import SECRET, Provider, Received, Wire, providing

CONFIG = """
backends:
  fleet:
    type: openai_fleet
    replicas: ["{fleet}"]
    max_in_flight: 1
    model: Qwen/Qwen3-8B
    load: {{every: 50ms}}
    price: {{usd_per_replica_hour: 0.79}}
  provider:
    type: openai
    url: {provider}/openai/v1
    api_key: {{env: OVERSPILL_EXAMPLE_SECRET}}
    model: qwen3-8b-turbo
    max_in_flight: 8
    stream_usage: always
    price: {{usd_per_million_input_tokens: 100, usd_per_million_output_tokens: 1000}}
    typical_tokens: {{input: 10, output: 10}}
routes:
  small:
    match: {{model: small}}
    policy: spill_when_full
    tiers:
      - {{backend: fleet, when_full: spill}}
      - {{backend: provider}}
"""
USAGE = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
USD = (20 * 100 + 3 * 1000) / 1e6


class Server:
    """Answers as vLLM does; `hold` keeps calls from being answered."""

    def __init__(self) -> None:
        self.hold = asyncio.Event()
        self.hold.set()
        self.status = 200

    async def behave(self, request: Received, wire: Wire) -> None:
        if request.target == "/health":
            return await wire.answer(200)
        if request.target == "/metrics":
            return await wire.answer(200, b"vllm:num_requests_waiting 0\nvllm:num_requests_running 0\n")
        await self.hold.wait()
        asked = request.json()
        if self.status != 200:
            error = {"message": "no", "type": "t", "param": None, "code": "context_length_exceeded"}
            return await wire.json(self.status, {"error": error})
        if request.target.endswith("/embeddings"):
            row = {"object": "embedding", "index": 0, "embedding": [0.5, -1.0]}
            return await wire.json(200, {"object": "list", "data": [row], "model": "m", "usage": USAGE})
        if asked.get("stream"):
            return await self.stream(asked, wire)
        message = {"role": "assistant", "content": f"I am {asked['model']}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return await wire.json(200, {**whole, "usage": USAGE})

    async def stream(self, asked: Any, wire: Wire) -> None:
        await wire.head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        texts = [{"index": 0, "delta": {"content": text}} for text in ("I am ", asked["model"])]
        chunks: list[dict[str, Any]] = [{**head, "choices": [text]} for text in texts]
        if asked.get("stream_options", {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": USAGE})
        for event in [*map(json.dumps, chunks), "[DONE]"]:
            data = b"data: %b\n\n" % event.encode()
            await wire.write(b"%x\r\n%b\r\n" % (len(data), data))
        await wire.write(b"0\r\n\r\n")


class World:
    def __init__(self, gateway: Gateway, client: openai.AsyncOpenAI) -> None:
        self.gateway = gateway
        self.client = client
        self.fleet, self.provider = Server(), Server()
        self.seen: dict[str, Provider] = {}

    async def ask(self, **more: Any) -> Any:
        messages: Any = [{"role": "user", "content": "hi"}]
        return await self.client.chat.completions.create(model="small", messages=messages, **more)

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """While one call keeps the fleet's only slot."""
        self.fleet.hold.clear()
        busy = asyncio.ensure_future(self.ask())
        while self.gateway.capacities["fleet"].in_flight == 0:
            await asyncio.sleep(0.001)
        yield
        self.fleet.hold.set()
        await busy

    def spilled_usd(self) -> float:
        lanes = self.gateway.ledger.lanes
        return sum(
            lane.usd.get("spill", 0.0) for (_, backend), lane in lanes.items() if backend == "provider"
        )


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", SECRET)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    fleet, provider = Server(), Server()
    async with providing(fleet.behave) as warm, providing(provider.behave) as rented:
        async with running(CONFIG.format(fleet=warm.url, provider=rented.url)) as gateway:
            url = f"http://127.0.0.1:{port_of(gateway)}/v1"
            async with openai.AsyncOpenAI(base_url=url, api_key="the-callers", max_retries=0) as client:
                here = World(gateway, client)
                here.fleet, here.provider = fleet, provider
                here.seen = {"fleet": warm, "provider": rented}
                yield here


async def test_the_fleet_serves_and_what_is_too_much_goes_to_the_provider() -> None:
    async with world() as here:
        assert (await here.ask()).choices[0].message.content == "I am Qwen/Qwen3-8B"
        async with here.full():
            answer = await here.client.chat.completions.with_raw_response.create(
                model="small", messages=[{"role": "user", "content": "hi"}]
            )
            assert answer.headers["x-overspill-backend"] == "provider"
            assert answer.headers["x-overspill-reason"] == "spill_full"
            assert float(answer.headers["x-overspill-cost-usd"]) == pytest.approx(USD)
            assert answer.parse().choices[0].message.content == "I am qwen3-8b-turbo"
        assert here.spilled_usd() == pytest.approx(USD)
        (sent,) = here.seen["provider"].seen
        assert sent.target == "/openai/v1/chat/completions"
        assert sent.fields["authorization"] == f"Bearer {SECRET}"


async def test_a_spilled_stream_is_paid_for_and_the_client_sees_what_it_asked_for() -> None:
    async with world() as here, here.full():
        for options, shown in ((None, 2), ({"include_usage": True}, 3)):
            more = {} if options is None else {"stream_options": options}
            chunks = [chunk async for chunk in await here.ask(stream=True, **more)]
            assert len(chunks) == shown
            text = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
            assert "".join(text) == "I am qwen3-8b-turbo"
        assert here.spilled_usd() == pytest.approx(2 * USD)


async def test_a_fleet_that_pushes_back_spills() -> None:
    async with world() as here:
        for status in (429, 503):
            here.fleet.status = status
            assert (await here.ask()).choices[0].message.content == "I am qwen3-8b-turbo"


async def test_mistakes_are_the_packages_own_exceptions() -> None:
    async with world() as here:
        here.fleet.status = 400
        with pytest.raises(openai.BadRequestError) as caught:
            await here.ask()
        assert caught.value.code == "context_length_exceeded"
        here.provider.status = 400
        here.fleet.status = 503
        with pytest.raises(openai.BadRequestError):
            await here.ask()
        assert here.spilled_usd() == 0.0


async def test_embeddings_spill_too() -> None:
    async with world() as here, here.full():
        answer = await here.client.embeddings.create(model="small", input="x", encoding_format="float")
        assert answer.data[0].embedding == [0.5, -1.0]
        assert here.spilled_usd() == pytest.approx(USD)
