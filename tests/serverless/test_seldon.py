"""Seldon Core 2: the field by which its mesh finds a model, and which failures say that it did not."""

from typing import Any

import pytest

from backends.seldon import Seldon
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, BackendUnready
from gateway.vocab import Call, Start, WholeBody, Work
from tests.support.endpoints import answer, endpoint, failure, says
from tests.support.provider import SECRET, a_call, a_chat


@pytest.mark.parametrize(
    ("options", "field", "target"),
    [
        ({}, "minilm", "/v2/models/minilm/infer"),
        ({"model": "iris"}, "iris", "/v2/models/iris/infer"),
        ({"pipeline": True}, "minilm.pipeline", "/v2/models/minilm/infer"),
        ({"model": "chain", "pipeline": True}, "chain.pipeline", "/v2/models/chain/infer"),
    ],
)
async def test_the_mesh_is_told_whose_call_it_is(options: dict[str, Any], field: str, target: str) -> None:
    headers = [(b"seldon-model", b"theirs"), (b"x-mine", b"1")]
    async with endpoint(Seldon, says(200, b"ok"), **options) as (backend, provider):
        reply = await answer(backend, a_call(headers=headers))
        assert (reply.status, reply.body, reply.start) == (200, b"ok", Start.UNKNOWN)
    (request,) = provider.seen
    assert request.target == target
    assert request.fields["seldon-model"] == field
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert request.fields["x-mine"] == "1"


async def test_a_chat_has_the_models_name_in_both_places() -> None:
    async with endpoint(Seldon, says(200), model="llama") as (backend, provider):
        await answer(backend, a_chat())
    assert provider.seen[0].fields["seldon-model"] == "llama"
    assert provider.seen[0].json()["model"] == "llama"


async def test_what_its_servers_do_not_take_is_never_sent_there() -> None:
    binary = a_call(headers=[(b"inference-header-content-length", b"9")])
    nameless = Call(
        protocol="raw", operation="raw", method=b"POST", target=b"/x", headers=[], body=WholeBody(b"")
    )
    async with endpoint(Seldon, says(200)) as (backend, _):
        assert "binary_tensors" in str(backend.cannot_carry(binary))
        assert "names no model" in str(backend.cannot_carry(nameless))
        assert backend.cannot_carry(a_call()) is None
        assert not backend.can_open
    async with endpoint(Seldon, says(200), binary_tensors=True, model="iris") as (backend, _):
        assert backend.cannot_carry(binary) is None
        assert backend.cannot_carry(nameless) is None


@pytest.mark.parametrize(
    ("status", "body", "kind", "work"),
    [
        (503, b"no healthy upstream", BackendUnready, Work.NOT_STARTED),
        (503, b"", BackendFull, Work.NOT_STARTED),
        (503, b'{"error":"model iris_1 is not ready"}', BackendUnready, Work.NOT_STARTED),
        (404, b"", BackendDenied, Work.NOT_STARTED),
        (404, b'{"error":"Model minilm not found"}', BackendUnready, Work.NOT_STARTED),
        (429, b"", BackendFull, Work.NOT_STARTED),
        (500, b'{"error":"boom"}', BackendBroke, Work.MAYBE),
        (502, b"", BackendBroke, Work.MAYBE),
        (504, b"upstream request timeout", BackendBroke, Work.MAYBE),
        (401, b"", BackendDenied, Work.NOT_STARTED),
        (403, b"", BackendDenied, Work.NOT_STARTED),
    ],
)
async def test_what_a_failure_means(status: int, body: bytes, kind: type[BackendError], work: Work) -> None:
    async with endpoint(Seldon, says(status, body)) as (backend, _):
        came = await failure(backend)
        assert type(came) is kind
        assert came.work is work


@pytest.mark.parametrize(
    ("status", "body"),
    [(400, b"bad"), (404, b'{"error":"Model minilm with version 7 not found"}'), (422, b'{"detail":[]}')],
)
async def test_what_blames_the_request_is_an_answer(status: int, body: bytes) -> None:
    async with endpoint(Seldon, says(status, body)) as (backend, _):
        reply = await answer(backend)
        assert (reply.status, reply.body) == (status, body)


async def test_a_start_is_the_workers_word() -> None:
    fields = {"x-overspill-boot-id": "b", "x-overspill-boot-age": "0.0"}
    async with endpoint(Seldon, says(200, b"", fields)) as (backend, _):
        assert (await answer(backend)).start is Start.COLD


async def test_what_costs_nothing_costs_nothing() -> None:
    async with endpoint(Seldon, says(200)) as (backend, _):
        reply = await answer(backend)
        assert reply.usage is not None
        assert reply.usage.usd == 0.0
        assert backend.settle(backend.kit.clock.now() + 1e6) == []
