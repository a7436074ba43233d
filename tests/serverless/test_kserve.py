"""KServe and Knative: who is asked, by which name, and which failures are the platform's own."""

from typing import Any

import pytest
from pydantic import ValidationError

from backends.kserve import KServe
from gateway.errors import BackendBroke, BackendDenied, BackendFull, BackendUnready
from gateway.vocab import Start, Verdict, Work
from tests.support.endpoints import answer, endpoint, failure, says
from tests.support.provider import SECRET, a_call, a_chat
from tests.support.requests import ArrivingBody


async def test_the_request_goes_to_the_ingress_with_the_services_host_and_our_token() -> None:
    headers = [
        (b"authorization", b"Bearer callers"),
        (b"k-network-probe", b"queue"),
        (b"x-mine", b"1"),
    ]
    async with endpoint(KServe, says(200, b"ok", {"x-theirs": "2"})) as (backend, provider):
        reply = await answer(backend, a_call(b"\x00tensors", headers=headers))
        assert (reply.status, reply.body) == (200, b"ok")
        assert (b"x-theirs", b"2") in reply.headers
    (request,) = provider.seen
    assert (request.method, request.target, request.body) == (
        "POST",
        "/v2/models/minilm/infer",
        b"\x00tensors",
    )
    assert request.fields["host"] == "minilm.models.example.com"
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    assert request.fields["x-mine"] == "1"
    assert "k-network-probe" not in request.fields


async def test_without_a_host_the_address_names_it() -> None:
    async with endpoint(KServe, says(200), host=None) as (backend, provider):
        await answer(backend)
    assert f"http://{provider.seen[0].fields['host']}" == provider.url


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        (b"/v2/models/minilm/infer", "/v2/models/embed%2Fv3/infer"),
        (b"/v2/models/minilm/versions/2/infer?a=%2F", "/v2/models/embed%2Fv3/versions/2/infer?a=%2F"),
        (b"/v2/models/minilm", "/v2/models/embed%2Fv3"),
    ],
)
async def test_a_model_of_another_name_is_asked_by_that(target: bytes, sent: str) -> None:
    async with endpoint(KServe, says(200), model="embed/v3") as (backend, provider):
        await answer(backend, a_call(target=target))
    assert provider.seen[0].target == sent


@pytest.mark.parametrize("large", [False, True])
async def test_a_chat_names_the_model_in_its_body(*, large: bool) -> None:
    text = b'{"model": "small", "messages": ["%s"]}' % (b"x" * (200_000 if large else 1))
    call = a_chat(text)
    if large:
        call.body = ArrivingBody(text, chunks_of=50_000)
    async with endpoint(KServe, says(200), model="Llama") as (backend, provider):
        await answer(backend, call)
    assert provider.seen[0].body == text.replace(b'"small"', b'"Llama"')
    assert provider.seen[0].target == "/v1/chat/completions"


async def test_what_it_does_not_take_is_never_sent_there() -> None:
    binary = a_call(headers=[(b"inference-header-content-length", b"9")])
    async with endpoint(KServe, says(200), binary_tensors=False, max_body="1KiB") as (backend, _):
        assert "binary_tensors" in str(backend.cannot_carry(binary))
        assert "1025 bytes, 1024 are allowed" in str(backend.cannot_carry(a_call(b"x" * 1025)))
        assert backend.cannot_carry(a_call(b"x" * 1024)) is None
    async with endpoint(KServe, says(200)) as (backend, _):
        assert backend.cannot_carry(binary) is None


TABLE: list[tuple[int, bytes, type[Exception], Work, bool]] = [
    (503, b"pending request queue full\n", BackendFull, Work.NOT_STARTED, False),
    (503, b"context deadline exceeded\n", BackendFull, Work.NOT_STARTED, False),
    (503, b'{"error":"Model with name minilm is not ready."}', BackendUnready, Work.NOT_STARTED, True),
    (503, b"no healthy upstream", BackendUnready, Work.NOT_STARTED, False),
    (503, b"upstream connect error or disconnect/reset before headers. reset reason: connection failure",
     BackendUnready, Work.NOT_STARTED, False),
    (503, b"upstream connect error or disconnect/reset before headers. reset reason: connection termination",
     BackendBroke, Work.MAYBE, True),
    (503, b"too busy", BackendFull, Work.NOT_STARTED, True),
    (502, b"dial tcp 10.0.0.1:8012: connect: connection refused\n", BackendUnready, Work.NOT_STARTED, False),
    (502, b"EOF\n", BackendBroke, Work.MAYBE, True),
    (504, b"request timeout\n", BackendBroke, Work.MAYBE, True),
    (504, b"dial tcp: i/o timeout\n", BackendBroke, Work.MAYBE, True),
    (500, b'{"error":"InferenceError"}', BackendBroke, Work.MAYBE, True),
    (429, b"slow down", BackendFull, Work.NOT_STARTED, True),
    (401, b"who?", BackendDenied, Work.NOT_STARTED, False),
    (403, b"RBAC: access denied", BackendDenied, Work.NOT_STARTED, False),
    (404, b"", BackendDenied, Work.NOT_STARTED, False),
    (404, b'{"error":"Model with name minilm does not exist."}', BackendUnready, Work.NOT_STARTED, True),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind", "work", "shown"), TABLE)
async def test_what_a_failure_means(
    *, status: int, body: bytes, kind: type[Exception], work: Work, shown: bool
) -> None:
    async with endpoint(KServe, says(status, body, {"x-echo": SECRET, "retry-after": "3"})) as (backend, _):
        came = await failure(backend)
        assert type(came) is kind
        assert came.work is work
        assert (came.verdict is Verdict.NEUTRAL) == (kind is BackendFull)
        assert came.retry_after == (3.0 if kind is BackendFull else None)
        assert (came.answer is not None) == shown
        if came.answer is not None:
            assert (came.answer.status, came.answer.body) == (status, body)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error":"no input tensor"}'),
        (404, b'{"error":"Model minilm with version 7 not found"}'),
        (404, b'{"detail":"Not Found"}'),
        (422, b"[]"),
    ],
)
async def test_what_blames_the_request_is_an_answer(status: int, body: bytes) -> None:
    async with endpoint(KServe, says(status, body)) as (backend, _):
        reply = await answer(backend)
        assert (reply.status, reply.body) == (status, body)


async def test_a_secret_that_is_echoed_is_not_quoted() -> None:
    async with endpoint(KServe, says(502, f"EOF of Bearer {SECRET}".encode())) as (backend, _):
        assert "EOF of Bearer …" in str(await failure(backend))


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({}, Start.UNKNOWN),
        ({"x-overspill-boot-id": "b", "x-overspill-boot-age": "0.0"}, Start.COLD),
        ({"x-overspill-boot-id": "b", "x-overspill-boot-age": "900"}, Start.WARM),
    ],
)
async def test_a_start_is_the_workers_word_or_unknown(fields: dict[str, str], start: Start) -> None:
    async with endpoint(KServe, says(200, b"ok", fields)) as (backend, _):
        reply = await answer(backend)
        assert reply.start is start
        assert not any(name.startswith(b"x-overspill") for name, _ in reply.headers)


@pytest.mark.parametrize(
    ("price", "usd"), [({"usd_per_second": 0}, 0.0), ({"usd_per_request": 0.25}, 0.25), (None, None)]
)
async def test_nothing_is_a_price_and_no_price_is_none(price: Any, usd: float | None) -> None:
    async with endpoint(KServe, says(200), price=price) as (backend, _):
        reply = await answer(backend)
        assert reply.usage is not None
        assert reply.usage.usd == usd
        assert backend.price_known == (usd is not None)


@pytest.mark.parametrize(("status", "can"), [(200, True), (503, False), (302, False)])
async def test_its_health_is_asked_where_the_file_says_so(*, status: int, can: bool) -> None:
    async with endpoint(KServe, says(status), health={"path": "/v2/health/ready"}) as (backend, provider):
        assert await backend.probe(0) is can
        (request,) = provider.seen
        assert (request.method, request.target) == ("GET", "/v2/health/ready")
        assert request.fields["host"] == "minilm.models.example.com"
    async with endpoint(KServe, says(200)) as (backend, provider):
        assert await backend.probe(0) is None
        assert provider.seen == []


@pytest.mark.parametrize("host", ["a b", "a\r\nx: y", "-a", "http://a", ""])
def test_a_host_is_a_name(host: str) -> None:
    with pytest.raises(ValidationError):
        KServe.Options.model_validate({**KServe.example("http://127.0.0.1:9"), "host": host})


async def test_an_instance_is_made_to_boot_by_a_ping() -> None:
    fields = {"x-overspill-boot-id": "b", "x-overspill-boot-age": "0.0"}
    async with endpoint(KServe, says(204, b"", fields), price={"usd_per_second": 1.0}) as (backend, provider):
        usage = await backend.ping(0, route="embed", kind="spill")
        assert usage is not None
        assert usage.instance == "b"
    assert provider.seen[0].target.startswith("/.overspill/ping")
    assert provider.seen[0].fields["host"] == "minilm.models.example.com"
