"""BentoML: one path for an API, and a full service is full."""

from typing import Any

import pytest

from backends.bentoml import BentoMl
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, BackendUnready
from gateway.vocab import Start, Verdict, Work
from tests.support.endpoints import answer, endpoint, failure, says
from tests.support.provider import SECRET, a_call


@pytest.mark.parametrize(
    ("path", "target"),
    [(None, "/v2/models/minilm/infer"), ("/predict", "/predict"), ("/models/{model}", "/models/minilm")],
)
async def test_the_request_goes_to_the_api(path: str | None, target: str) -> None:
    async with endpoint(BentoMl, says(200, b"ok", {"x-bentoml-request-id": "1"}), path=path) as (
        backend,
        provider,
    ):
        reply = await answer(backend, a_call(b"body", headers=[(b"x-mine", b"1")]))
        assert (reply.status, reply.body, reply.start) == (200, b"ok", Start.UNKNOWN)
    (request,) = provider.seen
    assert (request.method, request.target, request.body) == ("POST", target, b"body")
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert request.fields["x-mine"] == "1"


async def test_an_api_takes_work_only() -> None:
    async with endpoint(BentoMl, says(200), path="/predict") as (backend, _):
        assert "/predict is for POST requests" in str(backend.cannot_carry(a_call(method=b"GET")))
        assert backend.cannot_carry(a_call()) is None
    async with endpoint(BentoMl, says(200)) as (backend, _):
        assert backend.cannot_carry(a_call(method=b"GET")) is None


@pytest.mark.parametrize(
    ("status", "body", "kind", "work"),
    [
        (429, b'{"error":"Too many requests"}', BackendFull, Work.NOT_STARTED),
        (503, b'{"error":"Service Unavailable"}', BackendFull, Work.NOT_STARTED),
        (503, b"no healthy upstream", BackendUnready, Work.NOT_STARTED),
        (504, b'{"error":"Not able to process the request in 60 seconds"}', BackendBroke, Work.MAYBE),
        (500, b'{"error":"An unexpected error has occurred"}', BackendBroke, Work.MAYBE),
        (502, b"", BackendBroke, Work.MAYBE),
        (401, b"", BackendDenied, Work.NOT_STARTED),
        (403, b"", BackendDenied, Work.NOT_STARTED),
        (404, b"", BackendDenied, Work.NOT_STARTED),
    ],
)
async def test_what_a_failure_means(status: int, body: bytes, kind: type[BackendError], work: Work) -> None:
    async with endpoint(BentoMl, says(status, body, {"retry-after": "2"})) as (backend, _):
        came = await failure(backend)
        assert type(came) is kind
        assert came.work is work
        assert (came.verdict is Verdict.NEUTRAL) == (kind is BackendFull)
        assert came.retry_after == (2.0 if kind is BackendFull else None)


@pytest.mark.parametrize(("status", "body"), [(400, b'{"error":"1 validation error"}'), (404, b"Not Found")])
async def test_what_blames_the_request_is_an_answer(status: int, body: bytes) -> None:
    async with endpoint(BentoMl, says(status, body)) as (backend, _):
        reply = await answer(backend)
        assert (reply.status, reply.body) == (status, body)


@pytest.mark.parametrize(("age", "start"), [("0.0", Start.COLD), ("900", Start.WARM)])
async def test_a_start_is_the_workers_word(age: str, start: Start) -> None:
    fields = {"x-overspill-boot-id": "b", "x-overspill-boot-age": age}
    async with endpoint(BentoMl, says(200, b"", fields)) as (backend, _):
        assert (await answer(backend)).start is start


async def test_readiness_is_asked_where_the_file_says_so() -> None:
    async with endpoint(BentoMl, says(200), path="/predict", health={"path": "/readyz"}) as (
        backend,
        provider,
    ):
        assert await backend.probe(0) is True
        assert provider.seen[0].target == "/readyz"


@pytest.mark.parametrize(
    ("price", "usd"), [({"usd_per_second": 0}, 0.0), ({"usd_per_request": 0.25}, 0.25), (None, None)]
)
async def test_nothing_is_a_price_and_no_price_is_none(price: Any, usd: float | None) -> None:
    async with endpoint(BentoMl, says(200), price=price) as (backend, _):
        reply = await answer(backend)
        assert reply.usage is not None
        assert reply.usage.usd == usd
