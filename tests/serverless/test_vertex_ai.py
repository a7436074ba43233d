"""Vertex AI: where a call goes, what Triton is told, Google's own errors, and two ways to pay for nodes."""

import json
from random import Random
from typing import Any

import pytest

from backends.base import Kit
from backends.vertex_ai import DEDICATED_LIMIT, SHARED_LIMIT, Vertex, VertexAi, VertexAiElastic
from gateway.clock import FakeClock
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Start, Verdict, Work
from tests.serverless.test_tokens import FLAVOR
from tests.support.endpoints import endpoint, failure, says
from tests.support.provider import (
    SECRET,
    Background,
    Received,
    Wire,
    a_call,
    providing,
)

BASE = "/v1/projects/demo/locations/us-central1/endpoints/1234567890"


def made(**options: Any) -> Vertex:
    described = VertexAi.Options.model_validate({**VertexAi.example("http://127.0.0.1:9"), **options})
    return VertexAi("burst", described, Kit(FakeClock(), Random(7), Background().spawn))


@pytest.mark.parametrize(
    ("method", "stream", "target"),
    [
        ("raw_predict", False, f"{BASE}:rawPredict"),
        ("raw_predict", True, f"{BASE}:streamRawPredict"),
        ("predict", False, f"{BASE}:predict"),
        ("invoke", False, f"{BASE}/invoke/v2/models/minilm/infer"),
    ],
)
async def test_where_a_call_goes(method: str, stream: bool, target: str) -> None:
    headers = [(b"authorization", b"Bearer callers"), (b"x-vertex-ai-triton-redirect", b"metrics")]
    async with endpoint(VertexAi, says(200, b"ok"), method=method) as (backend, provider):
        async with backend.send(a_call(b"body", stream=stream, headers=headers), 0) as reply:
            assert (reply.status, reply.body, reply.start) == (200, b"ok", Start.UNKNOWN)
    request = provider.seen[0]
    assert (request.method, request.target, request.body) == ("POST", target, b"body")
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert "x-vertex-ai-triton-redirect" not in request.fields


async def test_triton_is_told_the_path_and_the_length_of_the_json_part() -> None:
    kind = "application/vnd.vertex-ai-triton.binary+json;json-header-size=9"
    headers = [
        (b"content-type", b"application/octet-stream"), (b"inference-header-content-length", b"13"),
        (b"x-vertex-ai-triton-redirect", b"metrics"),
    ]  # fmt: skip
    async with endpoint(VertexAi, says(200, b"x", {"content-type": kind}), container="triton") as (
        backend,
        provider,
    ):
        async with backend.send(a_call(headers=headers), 0) as reply:
            fields = dict(reply.headers)
            assert fields[b"inference-header-content-length"] == b"9"
            assert fields[b"content-type"] == b"application/octet-stream"
    sent = provider.seen[0].fields
    assert sent["x-vertex-ai-triton-redirect"] == "v2/models/minilm/infer"
    assert sent["content-type"] == kind.replace("=9", "=13")
    assert "inference-header-content-length" not in sent


async def test_an_access_token_comes_from_the_metadata_server() -> None:
    async def google(request: Received, wire: Wire) -> None:
        await wire.json(200, {"access_token": "ya29", "expires_in": 3599, "token_type": "Bearer"}, FLAVOR)

    async with providing(google) as machine:
        async with endpoint(VertexAi, says(200), identity={"metadata_url": machine.url}) as (
            backend,
            provider,
        ):
            for _ in range(2):
                async with backend.send(a_call(), 0):
                    pass
    assert [request.target.rpartition("/")[2] for request in machine.seen] == ["token"]
    assert provider.seen[0].fields["authorization"] == "Bearer ya29"


def google_error(code: int, status: str, message: str = "no") -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "status": status}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, google_error(429, "RESOURCE_EXHAUSTED"), BackendFull),
        (400, google_error(400, "FAILED_PRECONDITION", "The model server is scaling up."), BackendFull),
        (400, google_error(400, "FAILED_PRECONDITION", "No deployed model"), BackendDenied),
        (503, google_error(503, "UNAVAILABLE"), BackendFull),
        (503, b"[" + google_error(503, "UNAVAILABLE") + b"]", BackendFull),
        (400, google_error(400, "INVALID_ARGUMENT"), BackendDenied),
        (401, google_error(401, "UNAUTHENTICATED"), BackendDenied),
        (403, google_error(403, "PERMISSION_DENIED"), BackendDenied),
        (404, google_error(404, "NOT_FOUND"), BackendDenied),
        (500, google_error(500, "INTERNAL"), BackendBroke),
        (504, google_error(504, "DEADLINE_EXCEEDED"), BackendBroke),
    ],
)
async def test_googles_own_errors(status: int, body: bytes, kind: type[BackendError]) -> None:
    async with endpoint(VertexAi, says(status, body, {"retry-after": "3"})) as (backend, provider):
        came = await failure(backend)
        assert len(provider.seen) == 1
    assert type(came) is kind
    assert (came.work is Work.NOT_STARTED) == (kind is not BackendBroke)
    assert (came.verdict is Verdict.NEUTRAL) == (kind is BackendFull)
    assert came.answer is None
    if kind is BackendFull:
        assert came.retry_after == 3.0


@pytest.mark.parametrize(
    ("status", "kind"), [(429, BackendFull), (503, BackendFull), (500, BackendBroke), (504, BackendBroke)]
)
async def test_the_containers_own_failure(status: int, kind: type[BackendError]) -> None:
    async with endpoint(VertexAi, says(status, b'{"error":"the queue is full"}')) as (backend, _):
        came = await failure(backend)
    assert type(came) is kind
    assert came.answer is not None
    assert came.answer.body == b'{"error":"the queue is full"}'


@pytest.mark.parametrize("status", [400, 403, 404, 422])
async def test_the_containers_own_refusal_is_an_answer(status: int) -> None:
    async with endpoint(VertexAi, says(status, b'{"error":"bad tensor"}')) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert (reply.status, reply.body) == (status, b'{"error":"bad tensor"}')


async def test_an_error_that_echoes_the_token_does_not_show_it() -> None:
    async with endpoint(VertexAi, says(404, google_error(404, "NOT_FOUND", f"Bearer {SECRET}"))) as (
        backend,
        _,
    ):
        assert "Bearer …" in str(await failure(backend))


def test_what_is_never_sent() -> None:
    shared = made(url="https://us-central1-aiplatform.googleapis.com")
    assert shared.cannot_carry(a_call(bytes(SHARED_LIMIT))) is None
    assert "1500000 are allowed" in str(shared.cannot_carry(a_call(bytes(SHARED_LIMIT + 1))))
    dedicated = made(url="https://1.us-central1-2.prediction.vertexai.goog")
    assert dedicated.cannot_carry(a_call(bytes(DEDICATED_LIMIT))) is None
    assert "10000000 are allowed" in str(dedicated.cannot_carry(a_call(bytes(DEDICATED_LIMIT + 1))))
    binary = a_call(headers=[(b"inference-header-content-length", b"3")])
    question = a_call(method=b"GET")
    assert "binary tensors need `container: triton`" in str(dedicated.cannot_carry(binary))
    assert "POST requests" in str(dedicated.cannot_carry(question))
    triton = made(container="triton")
    assert triton.cannot_carry(binary) is None
    chat = a_call()
    chat.protocol = "openai"
    assert "KServe calls only" in str(triton.cannot_carry(chat))
    everything = made(method="invoke")
    assert everything.cannot_carry(binary) is everything.cannot_carry(question) is None
    predict = made(method="predict")
    assert "raw calls" in str(predict.cannot_carry(a_call()))
    raw = a_call(b'{"instances":[]}')
    raw.protocol = "raw"
    assert predict.cannot_carry(raw) is None


@pytest.mark.parametrize(("age", "start"), [("0.0", Start.COLD), ("300", Start.WARM)])
async def test_the_worker_kit_tells_warm_from_cold(age: str, start: Start) -> None:
    fields = {"x-overspill-boot-id": "b", "x-overspill-boot-age": age}
    async with endpoint(VertexAi, says(200, b"ok", fields)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is start


async def test_nodes_that_stand_by_are_owned_and_cost_their_hours_only() -> None:
    clock = FakeClock()
    async with endpoint(VertexAi, says(200), clock, instances=2) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is None
        clock.advance(7200)
        assert (backend.settle(clock.now()), backend.instances(clock.now())) == ([], {})
        assert backend.usd_per_replica_hour == pytest.approx(1.98)
        assert (backend.owned, backend.can_open, backend.rent) == (True, False, None)


async def test_nodes_that_are_scaled_to_zero_bill_their_idle_tail_in_half_minutes() -> None:
    clock = FakeClock()

    async def slow(request: Received, wire: Wire) -> None:
        clock.advance(2)
        await wire.answer(200, b"ok")

    options = {"price": {"usd_per_replica_hour": 3600}, "cold_start": {"expect": "1m", "idle_after": "5m"}}
    async with endpoint(VertexAiElastic, slow, clock, **options) as (backend, _):
        assert (backend.owned, backend.can_open) == (False, False)
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd == pytest.approx(2.0)
        clock.advance(3600)
        (tail,) = backend.settle(clock.now())
        assert tail.usd == pytest.approx(328.0)


@pytest.mark.parametrize("kind", [VertexAi, VertexAiElastic])
async def test_without_a_price_nothing_has_one(kind: type[Vertex]) -> None:
    async with endpoint(kind, says(200), price=None) as (backend, _):
        assert not backend.price_known
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is None
