"""SageMaker: a signed invocation, the container's own refusals, and which errors mean that nothing ran."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from zlib import crc32

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backends.aws_event_stream import BadEventStream, EventReader
from backends.sagemaker import SERVERLESS_LIMIT, SageMakerElastic, SageMakerRealtime, SageMakerServerless
from backends.sagemaker_runtime import BODY_LIMIT, SageMaker
from backends.workers import kit
from gateway.clock import Clock, FakeClock
from gateway.errors import AnswerTruncated, BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Charge, Start, Verdict, Work
from tests.support.endpoints import answer
from tests.support.provider import (
    SECRET,
    Behaviour,
    Provider,
    Received,
    Wire,
    a_call,
    built,
    providing,
    until,
)


@asynccontextmanager
async def endpoint(
    behaviour: Behaviour,
    kind: type[SageMaker] = SageMakerServerless,
    clock: Clock | None = None,
    **options: Any,
) -> AsyncIterator[tuple[SageMaker, Provider]]:
    async with providing(behaviour) as provider:
        async with built(kind, {**kind.example(provider.url), **options}, clock=clock) as (backend, _):
            yield backend, provider


def says(status: int, body: bytes = b"{}", **fields: str) -> Behaviour:
    async def behave(request: Received, wire: Wire) -> None:
        await wire.answer(status, body, {k.replace("_", "-"): v for k, v in fields.items()})

    return behave


def error(status: int, kind: str, **document: Any) -> Behaviour:
    body = json.dumps({"Message": "no", **document}).encode()
    return says(status, body, x_amzn_errortype=f"{kind}:http://internal.amazon.com/coral/")


def model_error(status: int, message: str) -> Behaviour:
    return error(
        424, "ModelError", OriginalStatusCode=status, OriginalMessage=message, LogStreamArn="arn:aws:logs"
    )


async def failure(backend: SageMaker, call: Any = None) -> BackendError:
    with pytest.raises(BackendError) as caught:
        async with backend.send(call or a_call(), 0) as reply:
            assert reply.stream is not None
            async for _ in reply.stream:
                pass
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("burst: ")
    assert backend.client.in_use == 0
    return caught.value


async def test_the_body_goes_out_as_it_is_signed_and_labelled() -> None:
    headers = [
        (b"content-type", b"application/json"), (b"accept", b"application/json"), (b"x-mine", b"1"),
        (b"authorization", b"Bearer callers"), (b"x-amzn-sagemaker-session-id", b"s-1"),
        (b"x-amzn-sagemaker-target-model", b"somebody-elses.tar.gz"),
    ]  # fmt: skip
    told = {"content_type": "text/plain", "x_amzn_requestid": "r", "x_amzn_invoked_production_variant": "v"}
    async with endpoint(says(200, b"answer", **told), target_variant="blue") as (backend, provider):
        async with backend.send(a_call(b"body", headers=headers), 0) as reply:
            assert (reply.status, reply.body, reply.start) == (200, b"answer", Start.UNKNOWN)
            assert reply.headers == [(b"content-type", b"text/plain")]
    request = provider.seen[0]
    assert (request.method, request.target) == ("POST", "/endpoints/embed/invocations")
    assert request.body == b"body"
    assert request.fields["authorization"].startswith(f"AWS4-HMAC-SHA256 Credential={SECRET}/")
    assert "/us-east-1/sagemaker/aws4_request" in request.fields["authorization"]
    assert request.fields["accept"] == "application/json"
    assert request.fields["x-amzn-sagemaker-inference-id"] == "req-1"
    assert request.fields["x-amzn-sagemaker-session-id"] == "s-1"
    assert request.fields["x-amzn-sagemaker-target-variant"] == "blue"
    assert not {"x-mine", "x-amzn-sagemaker-target-model"} & set(request.fields)


async def test_with_the_worker_kit_the_whole_request_is_carried() -> None:
    result = kit.write_result(
        404, [("content-type", "text/plain"), ("x-overspill-boot-id", "b"), ("x-overspill-boot-age", "300")],
        b"none",
    )  # fmt: skip
    async with endpoint(says(200, json.dumps(result).encode()), envelope="event") as (backend, provider):
        async with backend.send(a_call(b"body", method=b"PUT"), 0) as reply:
            assert (reply.status, reply.body, reply.start) == (404, b"none", Start.WARM)
            assert reply.headers == [(b"content-type", b"text/plain")]
            assert reply.usage is not None
            assert reply.usage.instance == "b"
    event = provider.seen[0].json()
    assert event["requestContext"]["http"]["method"] == "PUT"
    assert event["rawPath"] == "/v2/models/minilm/infer"
    assert base64.b64decode(event["body"]) == b"body"


async def test_tritons_binary_tensors_travel_in_the_content_type() -> None:
    kind = "application/vnd.sagemaker-triton.binary+json;json-header-size=7"
    headers = [
        (b"content-type", b"application/octet-stream"), (b"inference-header-content-length", b"13"),
    ]  # fmt: skip
    async with endpoint(says(200, b"x", content_type=kind), envelope="triton") as (backend, provider):
        async with backend.send(a_call(headers=headers), 0) as reply:
            assert dict(reply.headers) == {
                b"content-type": b"application/octet-stream",
                b"inference-header-content-length": b"7",
            }
    sent = provider.seen[0].fields
    assert sent["content-type"] == kind.replace("=7", "=13")
    assert "inference-header-content-length" not in sent


@pytest.mark.parametrize(
    ("status", "kind", "document", "wanted"),
    [
        (429, "ModelNotReadyException", {}, BackendFull),
        (400, "ThrottlingException", {}, BackendFull),
        (429, "ThrottlingException", {}, BackendFull),
        (503, "ServiceUnavailable", {}, BackendFull),
        (500, "InternalFailure", {}, BackendBroke),
        (530, "InternalDependencyException", {}, BackendBroke),
        (400, "ValidationError", {"Message": "Endpoint embed of account 1 not found."}, BackendDenied),
        (
            400, "ValidationError",
            {"message": "Inference Component has no capacity to process this request. ApplicationAutoScaling"
                        " may be in-progress (if configured) or try to increase the capacity."},
            BackendFull,
        ),
        (403, "AccessDeniedException", {}, BackendDenied),
        (404, "UnknownOperationException", {}, BackendDenied),
        (413, "", {}, BackendDenied),
        (504, "", {}, BackendBroke),
    ],
)  # fmt: skip
async def test_sagemakers_own_errors(
    status: int, kind: str, document: dict[str, str], wanted: type[BackendError]
) -> None:
    async with endpoint(error(status, kind, **document)) as (backend, provider):
        came = await failure(backend)
        assert len(provider.seen) == 1
    assert type(came) is wanted
    assert (came.work is Work.NOT_STARTED) == (wanted is not BackendBroke)
    assert (came.verdict is Verdict.NEUTRAL) == (wanted is BackendFull)
    assert came.answer is None


async def test_a_throttled_call_says_when_to_come_back() -> None:
    async with endpoint(says(429, b"{}", x_amzn_errortype="ThrottlingException", retry_after="4")) as (b, _):
        assert (await failure(b)).retry_after == 4.0


@pytest.mark.parametrize(
    ("status", "kind"), [(500, BackendBroke), (0, BackendBroke), (429, BackendFull), (503, BackendFull)]
)
async def test_a_container_that_failed_or_is_full(status: int, kind: type[BackendError]) -> None:
    async with endpoint(model_error(status, "CUDA out of memory " + SECRET)) as (backend, _):
        came = await failure(backend)
    assert type(came) is kind
    if kind is BackendFull:
        assert came.answer is not None
        assert came.answer.status == status
    else:
        assert "CUDA out of memory …" in str(came)


@pytest.mark.parametrize(("text", "kind"), [('{"error":"bad"}', b"application/json"), ("bad", b"text/plain")])
async def test_a_container_that_refuses_the_request_has_answered_it(text: str, kind: bytes) -> None:
    async with endpoint(model_error(422, text)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert (reply.status, reply.body) == (422, text.encode())
            assert dict(reply.headers)[b"content-type"].startswith(kind)
            assert reply.usage is not None


async def test_a_424_that_cannot_be_read_may_have_run() -> None:
    async with endpoint(says(424, b"[[")) as (backend, _):
        assert type(await failure(backend)) is BackendBroke


@pytest.mark.parametrize("status", [400, 403])
async def test_expired_keys_are_read_again_and_the_call_signed_once_more(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def expired(request: Received, wire: Wire) -> None:
        if SECRET in request.fields["authorization"]:
            monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "AKIANEW")
            await wire.json(status, {"message": "expired"}, {"x-amzn-errortype": "ExpiredTokenException"})
        else:
            await wire.answer(200, b"ok")

    async with endpoint(expired) as (backend, provider):
        async with backend.send(a_call(), 0) as reply:
            assert reply.body == b"ok"
    assert ["AKIANEW" in request.fields["authorization"] for request in provider.seen] == [False, True]


async def test_keys_that_stay_expired_are_denied_after_the_second_try() -> None:
    async with endpoint(error(403, "ExpiredTokenException")) as (backend, provider):
        assert type(await failure(backend)) is BackendDenied
        assert len(provider.seen) == 2


def test_what_is_never_sent() -> None:
    from random import Random

    from backends.base import Kit

    def made(kind: type[SageMaker], **options: Any) -> SageMaker:
        described = kind.Options.model_validate({**kind.example("http://127.0.0.1:9"), **options})
        return kind("burst", described, Kit(FakeClock(), Random(7), lambda *a, **k: None))  # type: ignore[call-arg, arg-type]

    serverless, realtime = made(SageMakerServerless), made(SageMakerRealtime)
    assert serverless.cannot_carry(a_call(bytes(SERVERLESS_LIMIT))) is None
    assert "4194304 are allowed" in str(serverless.cannot_carry(a_call(bytes(SERVERLESS_LIMIT + 1))))
    assert realtime.cannot_carry(a_call(bytes(BODY_LIMIT))) is None
    assert "6291456 are allowed" in str(realtime.cannot_carry(a_call(bytes(BODY_LIMIT + 1))))
    assert "POST" in str(realtime.cannot_carry(a_call(method=b"GET")))
    binary = a_call(headers=[(b"inference-header-content-length", b"3")])
    assert "envelope: triton" in str(realtime.cannot_carry(binary))
    triton = made(SageMakerRealtime, envelope="triton")
    assert triton.cannot_carry(binary) is None
    generate = a_call()
    generate.operation = "generate"
    assert "infer requests only" in str(triton.cannot_carry(generate))
    event = made(SageMakerServerless, envelope="event")
    assert event.cannot_carry(a_call(method=b"GET")) is None
    assert event.cannot_carry(a_call(bytes(SERVERLESS_LIMIT * 3 // 4))) is not None
    assert (event.can_open, serverless.can_open) == (True, False)


def frame(payload: bytes, kind: str = "event", **headers: str) -> bytes:
    fields = {":message-type": kind, **{f":{k.replace('_', '-')}": v for k, v in headers.items()}}
    packed = b"".join(
        bytes([len(k)]) + k.encode() + b"\x07" + struct.pack(">H", len(v)) + v.encode()
        for k, v in fields.items()
    )
    prelude = struct.pack(">II", 16 + len(packed) + len(payload), len(packed))
    whole = prelude + struct.pack(">I", crc32(prelude)) + packed + payload
    return whole + struct.pack(">I", crc32(whole))


def part(payload: bytes) -> bytes:
    return frame(payload, event_type="PayloadPart", content_type="application/octet-stream")


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(1, 40), max_size=40))
def test_events_come_out_as_they_went_in_however_they_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(part(p) for p in payloads)
    reader, theirs, events, at = EventReader(), EventStreamBuffer(), [], 0
    theirs.add_data(wire)
    assert [
        event.payload for event in theirs
    ] == payloads  # what we call an event is what AWS's SDK calls one
    for size in [*cuts, len(wire)]:
        events += reader.feed(wire[at : at + size])
        at += size
    assert [event.payload for event in events] == payloads
    assert all(event.headers[":event-type"] == "PayloadPart" for event in events)
    assert not reader.partial


@given(st.integers(0, 90), st.integers(1, 255))
def test_a_damaged_event_is_noticed(where: int, flip: int) -> None:
    wire = bytearray(part(b"payload"))
    wire[where % len(wire)] ^= flip
    reader = EventReader()
    try:
        assert reader.feed(bytes(wire)) == []
    except BadEventStream:
        return
    assert reader.partial


async def test_a_stream_is_unpacked_as_it_comes() -> None:
    body = part(b"one") + part(b"two")
    fields = {
        "content_type": "application/vnd.amazon.eventstream",
        "x_amzn_sagemaker_content_type": "text/event-stream",
        "x_amzn_sagemaker_custom_attributes": "mine=1;x-overspill-boot-id=b;x-overspill-boot-age=0.0",
    }
    async with endpoint(says(200, body, **fields), SageMakerRealtime) as (backend, provider):
        call = a_call(stream=True, headers=[(b"accept", b"text/event-stream")])
        async with backend.send(call, 0) as reply:
            assert reply.body is None
            assert dict(reply.headers) == {
                b"content-type": b"text/event-stream", b"x-amzn-sagemaker-custom-attributes": b"mine=1",
            }  # fmt: skip
            assert reply.start is Start.COLD
            assert reply.stream is not None
            assert [piece async for piece in reply.stream] == [b"one", b"two"]
            assert reply.usage is not None
    assert provider.seen[0].target == "/endpoints/embed/invocations-response-stream"
    assert provider.seen[0].fields["x-amzn-sagemaker-accept"] == "text/event-stream"


async def test_leaving_a_stream_early_closes_the_connection_and_charges_the_time() -> None:
    clock = FakeClock()

    async def endless(request: Received, wire: Wire) -> None:
        await wire.head(200, {"transfer-encoding": "chunked"})
        piece = part(b"one")
        await wire.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await wire.hang()

    price = {"usd_per_replica_hour": 3600}
    async with endpoint(endless, SageMakerElastic, clock, price=price) as (backend, provider):
        async with backend.send(a_call(stream=True), 0) as reply:
            assert reply.stream is not None
            assert await anext(aiter(reply.stream)) == b"one"
            clock.advance(4)
        await until(lambda: provider.connections == 0)
        assert backend.client.in_use == 0
        assert backend.settle(clock.now()) == [Charge("embed", "spill", 4.0)]


@pytest.mark.parametrize(
    "end",
    [
        frame(b'{"ErrorCode":"StreamBroken"}', "exception", exception_type="ModelStreamError"),
        frame(b"{}", "exception", exception_type="InternalStreamFailure"),
        frame(b"", "error", error_code="InternalFailure"),
        part(b"cut")[:-3],
        b"not an event stream",
    ],
    ids=["model", "internal", "error", "cut", "garbage"],
)
async def test_a_stream_that_does_not_reach_its_end(end: bytes) -> None:
    async with endpoint(says(200, part(b"one") + end)) as (backend, _):
        came = await failure(backend, a_call(stream=True))
        # Damaged bytes take the events before them in the same read along: then nothing was answered either.
        assert type(came) is (BackendBroke if end == b"not an event stream" else AnswerTruncated)
        assert came.usage is not None
    async with endpoint(says(200, end)) as (backend, _):
        # Nothing was answered yet: it is an attempt that failed, and not half an answer.
        assert type(await failure(backend, a_call(stream=True))) is BackendBroke


@pytest.mark.parametrize(("age", "start"), [("0.0", Start.COLD), ("300", Start.WARM)])
async def test_a_container_can_tell_its_age_in_the_custom_attributes(age: str, start: Start) -> None:
    told = f"x-overspill-boot-id=b;x-overspill-boot-age={age}"
    async with endpoint(says(200, b"ok", x_amzn_sagemaker_custom_attributes=told)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is start
            assert not [name for name, _ in reply.headers if b"sagemaker" in name]
            assert reply.usage is not None
            assert reply.usage.instance == "b"


def slow(clock: FakeClock, seconds: float) -> Behaviour:
    async def behave(request: Received, wire: Wire) -> None:
        clock.advance(seconds)
        await wire.answer(200, bytes(1000))

    return behave


async def test_serverless_bills_milliseconds_and_bytes_and_no_idling() -> None:
    clock = FakeClock()
    price = {"usd_per_second": 1.0, "usd_per_gb": 1e6}
    async with endpoint(slow(clock, 0.2502), clock=clock, price=price) as (backend, _):
        async with backend.send(a_call(bytes(500)), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.billed_s == pytest.approx(0.251)
            assert reply.usage.usd == pytest.approx(0.251 + 1.5)
        clock.advance(3600)
        assert backend.settle(clock.now()) == []
        assert backend.rent is not None
        assert not backend.rent.bills_idle


async def test_what_scales_to_zero_bills_its_idle_tail_by_the_hour() -> None:
    clock = FakeClock()
    options = {"price": {"usd_per_replica_hour": 3600}, "cold_start": {"expect": "1m", "idle_after": "10s"}}
    async with endpoint(slow(clock, 2), SageMakerElastic, clock, **options) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd == pytest.approx(2.0)
        clock.advance(60)
        assert backend.settle(clock.now()) == [Charge("embed", "spill", 10.0)]


async def test_what_stands_by_is_owned_and_costs_its_hours_only() -> None:
    clock = FakeClock()
    price = {"usd_per_replica_hour": 1.41}
    async with endpoint(slow(clock, 2), SageMakerRealtime, clock, price=price, instances=3) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is None
        clock.advance(3600)
        assert backend.settle(clock.now()) == []
        assert backend.instances(clock.now()) == {}
        assert backend.rent is None
        assert backend.usd_per_replica_hour == pytest.approx(4.23)
        assert (backend.owned, backend.can_open) == (True, False)


@pytest.mark.parametrize("kind", [SageMakerRealtime, SageMakerElastic, SageMakerServerless])
async def test_without_a_price_nothing_has_one(kind: type[SageMaker]) -> None:
    async with endpoint(says(200, b"ok"), kind, price=None) as (backend, _):
        assert not backend.price_known
        assert backend.usd_per_replica_hour is None
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is None


async def test_a_serverless_invocation_that_is_given_up_runs_on_and_is_billed() -> None:
    async def hangs(request: Received, wire: Wire) -> None:
        await asyncio.sleep(60)

    clock = FakeClock()
    async with endpoint(hangs, clock=clock) as (backend, provider):
        attempt = asyncio.ensure_future(answer(backend))
        await until(lambda: bool(provider.seen))
        clock.advance(2.0004)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        (charge,) = backend.settle(clock.now())
        assert charge.kind == "spill"
        assert charge.usd == pytest.approx(2.001 * 0.00008)


async def test_a_ping_is_answered_by_the_kit() -> None:
    result = kit.write_result(204, [("x-overspill-boot-id", "b"), ("x-overspill-boot-age", "0")], b"")
    async with endpoint(says(200, json.dumps(result).encode()), envelope="event") as (backend, provider):
        usage = await backend.ping(0, route="embed", kind="spill", fresh=False)
        assert usage is not None
        assert usage.instance == "b"
    assert provider.seen[0].json()["rawPath"] == "/.overspill/ping"


def test_a_ping_needs_the_worker_kit() -> None:
    example = SageMakerServerless.example("http://127.0.0.1:9")
    with pytest.raises(ValidationError, match="envelope: event"):
        SageMakerServerless.Options.model_validate({**example, "late_binding": "ping"})
