"""RunPod's OpenAI route: OpenAI calls as they are, streams included, and a worker's failure told apart."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.runpod_openai import RunPodOpenAiEmulator
from backends.runpod_openai import PAYLOAD_LIMIT, RunPodOpenAi
from gateway.errors import AnswerTruncated, BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Call, Start
from tests.support.provider import SECRET, Received, Wire, a_call, built, providing, until
from tests.support.requests import ArrivingBody

BOOT_S, IDLE_S = 0.4, 0.5


def a_chat(*, stream: bool = False, target: bytes = b"/v1/chat/completions", words: str = "one two") -> Call:
    body = json.dumps({"model": "m", "stream": stream, "messages": words}).encode()
    call = a_call(body, target=target, stream=stream)
    call.protocol = "openai"
    return call


def vllm(name: str) -> Any:
    def handler(event: Any) -> Any:
        route, asked = event["input"]["openai_route"], event["input"]["openai_input"]
        if route == "/v1/models":
            return {"object": "list", "data": []}
        assert route == "/v1/chat/completions"
        if asked["messages"] == "fail":
            return {"error": {"message": "out of memory", "type": "worker_error", "code": None}}
        if asked["stream"]:
            return events(asked["messages"])
        return {"choices": [asked["messages"]]}

    return handler


def events(words: str) -> Iterator[bytes]:
    for word in words.split():
        if word == "break":
            raise ValueError("broke")
        yield f"data: {word}\n\n".encode()
    yield b"data: [DONE]\n\n"


@asynccontextmanager
async def emulated(**more: Any) -> AsyncIterator[tuple[RunPodOpenAi, RunPodOpenAiEmulator]]:
    boot = BootTimes(fast_s=BOOT_S, slow_s=BOOT_S, spread=0.0)
    options = FleetOptions(cap=4, idle_after_s=IDLE_S, boot=boot, **more)
    server = RunPodOpenAiEmulator(vllm, options=options)
    async with server:
        section = {
            **RunPodOpenAi.example(f"{server.base_url}/{{endpoint_id}}/openai"),
            "endpoint_id": server.endpoint.endpoint_id,
            "price": {"usd_per_second": server.endpoint.usd_per_second},
            "cold_start": {"expect": f"{BOOT_S}s", "idle_after": f"{IDLE_S}s"},
        }
        async with built(RunPodOpenAi, section) as (backend, _):
            yield backend, server


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "rp-emulated")


async def ask(backend: RunPodOpenAi, call: Call) -> tuple[bytes, Start, float]:
    async with backend.send(call, 0) as reply:
        body = reply.body
        if body is None:
            assert reply.stream is not None
            body = b"".join([chunk async for chunk in reply.stream])
        assert reply.status == 200
        assert reply.usage is not None
        assert reply.usage.usd is not None
        return body, reply.start, reply.usage.usd


async def test_answers_streams_and_the_bill() -> None:
    async with emulated() as (backend, server):
        whole = await ask(backend, a_chat())
        streamed = await ask(backend, a_chat(stream=True))
        assert json.loads(whole[0]) == {"choices": ["one two"]}
        assert streamed[0] == b"data: one\n\ndata: two\n\ndata: [DONE]\n\n"
        # Nothing tells about the first; the second came too soon for a start.
        assert [whole[1], streamed[1]] == [Start.UNKNOWN, Start.WARM]
        await until(lambda: not any(backend.instances(backend.kit.clock.now()).values()))
        await asyncio.sleep(0.1)  # the emulator's own idle timers
        charged = whole[2] + streamed[2] + sum(charge.usd for charge in backend.settle(math.inf))
        assert charged == pytest.approx(server.bill().usd, rel=1e-6)
        assert server.bill().usd > 0


async def test_a_workers_failure_is_one_though_it_comes_with_200() -> None:
    async with emulated() as (backend, _):
        with pytest.raises(BackendBroke, match="worker_error out of memory") as caught:
            await ask(backend, a_chat(words="fail"))
        assert caught.value.usage is not None


async def test_a_stream_that_breaks_off_is_truncated() -> None:
    async with emulated() as (backend, _):
        with pytest.raises(AnswerTruncated):
            await ask(backend, a_chat(stream=True, words="one break"))


@pytest.mark.parametrize(("cue", "kind"), [("throttle", BackendFull), ("error", BackendBroke)])
async def test_failures_on_cue(cue: str, kind: type[BackendError]) -> None:
    async with emulated() as (backend, server):
        server.fail_next(1, cue)
        with pytest.raises(kind):
            await ask(backend, a_chat())


async def test_a_ping_makes_a_worker_start() -> None:
    async with emulated() as (backend, server):
        await backend.ping(0, route="chat", kind="spill")
        assert server.bill().cold_starts == 1
        assert (await ask(backend, a_chat()))[1] is Start.WARM


async def test_a_wrong_key_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", SECRET)
    async with emulated() as (backend, _):
        with pytest.raises(BackendDenied) as caught:
            await ask(backend, a_chat())
        assert SECRET not in str(caught.value)


async def test_what_vllm_says_of_a_request_is_the_clients() -> None:
    async def behave(request: Received, wire: Wire) -> None:
        await wire.json(404, {"error": {"message": "The model `x` does not exist.", "code": 404}})

    async with providing(behave) as provider:
        async with built(RunPodOpenAi, RunPodOpenAi.example(provider.url)) as (backend, _):
            async with backend.send(a_chat(), 0) as reply:
                assert reply.status == 404
        assert provider.seen[0].target == "/v1/chat/completions"


async def test_only_calls_of_openai_clients_are_carried() -> None:
    async with built(RunPodOpenAi, RunPodOpenAi.example("http://127.0.0.1:9")) as (backend, _):
        assert backend.cannot_carry(a_chat()) is None
        assert "OpenAI" in (backend.cannot_carry(a_call()) or "")
        large = a_chat()
        large.body = ArrivingBody(b"x", declared=PAYLOAD_LIMIT + 1)
        assert str(PAYLOAD_LIMIT) in (backend.cannot_carry(large) or "")


def test_the_address_has_the_endpoint_in_it() -> None:
    example = {name: value for name, value in RunPodOpenAi.example("").items() if name != "url"}
    assert RunPodOpenAi.Options.model_validate(example).url == "https://api.runpod.ai/v2/{endpoint_id}/openai"  # type: ignore[attr-defined]
