"""Streamed invocations and function URLs of Lambda: the frames, the signature, and whose word an error is."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest
from pydantic import ValidationError

from backends.aws_lambda import AwsLambda
from backends.aws_lambda_url import PAYLOAD_LIMIT, AwsLambdaUrl
from backends.base import Backend
from backends.emulators import event_stream
from backends.workers import kit
from gateway.errors import AnswerTruncated, BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Start, Work
from tests.support.provider import SECRET, Behaviour, Provider, Received, Wire, a_call, built, providing
from tests.support.requests import ArrivingBody
from tests.support.wire import eventually

REPORT = "REPORT RequestId: 8f5\tDuration: 2.10 ms\tBilled Duration: 200 ms\tMemory Size: 1024 MB\t"
HEAD = b'{"statusCode": 201, "headers": {"content-type": "text/plain"}, "cookies": ["a=1", "b=2"]}'
USD = 0.2 * 0.0000166667 + 0.0000002
T = TypeVar("T", bound=Backend)


@asynccontextmanager
async def using(kind: type[T], behaviour: Behaviour, **options: Any) -> AsyncIterator[tuple[T, Provider]]:
    async with providing(behaviour) as provider:
        async with built(kind, {**kind.example(provider.url), **options}) as (backend, _):
            yield backend, provider


def frames(*parts: bytes, cut: int = 7, after: asyncio.Event | None = None) -> Behaviour:
    """An event stream that arrives in small pieces; `after`: its head does at once, the rest waits for that."""
    data = b"".join(parts)

    async def behave(request: Received, wire: Wire) -> None:
        await wire.head(
            200, {"content-type": "application/vnd.amazon.eventstream", "transfer-encoding": "chunked"}
        )
        if after is not None:
            await after.wait()
        for start in range(0, len(data), cut):
            piece = data[start : start + cut]
            await wire.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await wire.write(b"0\r\n\r\n")

    return behave


def complete(log: str = REPORT, **more: str) -> bytes:
    log_result = base64.b64encode(log.encode()).decode()
    return event_stream.invoke_complete(json.dumps({"LogResult": log_result, **more}).encode())


chunk = event_stream.payload_chunk


async def read(backend: Backend, call: Any = None) -> tuple[int, list[tuple[bytes, bytes]], bytes, Any]:
    async with backend.send(call or a_call(), 0) as reply:
        body = reply.body
        if body is None:
            assert reply.stream is not None
            body = b"".join([piece async for piece in reply.stream])
        return reply.status, reply.headers, body, reply


async def failure(backend: Backend) -> BackendError:
    with pytest.raises(BackendError) as caught:
        await read(backend)
    assert SECRET not in str(caught.value)
    assert backend.instances(backend.kit.clock.now())["busy"] == 0
    return caught.value


async def test_head_body_and_bill_of_a_function_that_streams() -> None:
    answer = frames(chunk(HEAD), chunk(bytes(5)), chunk(bytes(3) + b"\x00one"), chunk(b"two"), complete())
    async with using(AwsLambda, answer, response="streamed", qualifier="live") as (backend, provider):
        status, headers, body, reply = await read(backend)
        assert (status, body) == (201, b"\x00onetwo")
        assert headers == [(b"content-type", b"text/plain"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
        assert (reply.start, reply.usage.usd) == (Start.WARM, pytest.approx(USD))
        sent = provider.seen[0]
        assert sent.target == "/2021-11-15/functions/embed/response-streaming-invocations?Qualifier=live"
        assert sent.fields["x-amz-log-type"] == "Tail"
        assert "/lambda/aws4_request" in sent.fields["authorization"]


async def test_a_function_that_does_not_stream_is_understood_all_the_same() -> None:
    result = json.dumps(kit.write_result(200, [("x-a", "1")], b"whole")).encode()
    answer = frames(chunk(result[:20]), chunk(result[20:]), complete(REPORT + "Init Duration: 150.20 ms\t"))
    async with using(AwsLambda, answer, response="streamed") as (backend, _):
        status, headers, body, reply = await read(backend)
        assert (status, headers, body) == (200, [(b"x-a", b"1")], b"whole")
        assert reply.start is Start.COLD


async def test_bytes_without_a_head_are_the_answer_themselves() -> None:
    async with using(AwsLambda, frames(chunk(b"plain"), complete()), response="streamed") as (backend, _):
        status, headers, body, _ = await read(backend)
        assert (status, headers, body) == (200, [(b"content-type", b"application/octet-stream")], b"plain")


FAILED = complete(
    ErrorCode="Unhandled", ErrorDetails=json.dumps({"errorType": "ValueError", "errorMessage": "boom"})
)


@pytest.mark.parametrize(
    ("parts", "kind", "said"),
    [
        ([FAILED], BackendBroke, "ValueError: boom"),
        ([chunk(HEAD + bytes(8)), chunk(b"x"), FAILED], AnswerTruncated, "ValueError: boom"),
        ([chunk(HEAD + bytes(8)), chunk(b"x")], AnswerTruncated, "before the invocation"),
        ([chunk(HEAD[:20]), complete()], BackendBroke, "not JSON"),
        ([chunk(b'{"errorMessage": "x"}'), complete()], BackendBroke, "statusCode"),
        ([b"\x00\x00\x00\x10nonsense-nonsense"], BackendBroke, "damaged"),
        (
            [
                event_stream.event(
                    {":message-type": "exception", ":exception-type": "ServiceException"}, b"{}"
                )
            ],
            BackendBroke,
            "ServiceException",
        ),
    ],
)
async def test_how_a_stream_can_fail(parts: list[bytes], kind: type[BackendError], said: str) -> None:
    async with using(AwsLambda, frames(*parts), response="streamed") as (backend, _):
        error = await failure(backend)
        assert type(error) is kind
        assert said in str(error)
        if FAILED in parts:
            assert error.usage is not None
            assert error.usage.usd == pytest.approx(USD)


async def test_expired_keys_are_read_again_and_a_throttle_names_its_limit() -> None:
    turns = iter(
        [(403, "ExpiredTokenException", {}), (429, "TooManyRequestsException", {"Reason": "Concurrent…"})]
    )

    async def behave(request: Received, wire: Wire) -> None:
        status, kind, document = next(turns)
        await wire.json(status, document, {"x-amzn-errortype": kind, "retry-after": "3"})

    async with using(AwsLambda, behave, response="streamed") as (backend, provider):
        error = await failure(backend)
        assert isinstance(error, BackendFull)
        assert error.retry_after == 3.0
        assert "Concurrent…" in str(error)
        assert len(provider.seen) == 2


async def test_raw_answers_cannot_stream() -> None:
    with pytest.raises(ValidationError, match="envelope: event"):
        AwsLambda.Options.model_validate(
            {**AwsLambda.example("http://x"), "response": "streamed", "envelope": "raw"}
        )


def says(status: int, body: bytes = b"", fields: dict[str, str] | None = None) -> Behaviour:
    async def behave(request: Received, wire: Wire) -> None:
        await wire.answer(status, body, fields)

    return behave


def lambdas(kind: str) -> dict[str, str]:
    return {"x-amzn-errortype": kind}


@pytest.mark.parametrize(
    ("status", "fields", "kind"),
    [
        (403, lambdas("AccessDeniedException"), BackendDenied),
        (413, lambdas("RequestTooLargeException"), BackendDenied),
        (429, lambdas("TooManyRequestsException"), BackendFull),
        (429, {}, BackendFull),
        (503, {}, BackendFull),
        (500, lambdas("ServiceException"), BackendBroke),
        (502, {}, BackendBroke),
    ],
)
async def test_what_a_url_refuses(status: int, fields: dict[str, str], kind: type[BackendError]) -> None:
    async with using(AwsLambdaUrl, says(status, b"{}", fields)) as (backend, _):
        error = await failure(backend)
        assert type(error) is kind
        assert (error.work is Work.NOT_STARTED) == (kind is not BackendBroke)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
async def test_what_the_function_behind_a_url_says_is_the_clients(status: int) -> None:
    async with using(AwsLambdaUrl, says(status, b'{"code": "AccessDeniedException"}')) as (backend, _):
        assert (await read(backend))[0] == status


async def test_an_open_url_is_not_signed() -> None:
    async with using(AwsLambdaUrl, says(200), auth="none", credentials=None) as (backend, provider):
        await read(backend)
        assert not [name for name in provider.seen[0].fields if name.startswith(("x-amz", "authorization"))]


async def test_a_clients_own_aws_fields_do_not_reach_the_signature() -> None:
    headers = [
        (b"x-amz-date", b"20200101T000000Z"),
        (b"x-amzn-requestid", b"1"),
        (b"x-b", b"1"),
        (b"x-b", b"2"),
    ]
    async with using(AwsLambdaUrl, says(200)) as (backend, provider):
        await read(backend, a_call(headers=headers))
        sent = provider.seen[0].fields
        assert sent["x-amz-date"] != "20200101T000000Z"
        assert "x-amzn-requestid" not in sent
        assert sent["x-b"] == "1,2"
        assert "x-b" in sent["authorization"]


async def test_what_is_too_large_for_the_event_is_not_carried() -> None:
    binary, text = [(b"content-type", b"application/octet-stream")], [(b"content-type", b"application/json")]
    async with using(AwsLambdaUrl, says(200)) as (backend, _):
        for headers, share in ((text, 1.0), (binary, 0.75)):
            most = int((PAYLOAD_LIMIT - 4096) * share)
            fits = a_call(ArrivingBody(b"x", declared=most), headers=headers)
            over = a_call(ArrivingBody(b"x", declared=most + 4096), headers=headers)
            assert backend.cannot_carry(fits) is None
            assert backend.cannot_carry(over) is not None


def test_the_region_is_taken_from_the_url_or_asked_for() -> None:
    example = {name: value for name, value in AwsLambdaUrl.example("").items() if name != "region"}
    options = AwsLambdaUrl.Options.model_validate(
        {**example, "url": "https://a.lambda-url.eu-west-1.on.aws/"}
    )
    assert options.signed_for == "eu-west-1"  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match="region is needed"):
        AwsLambdaUrl.Options.model_validate({**example, "url": "https://example.com"})


def booted(age_s: float, *, log: str = REPORT) -> list[bytes]:
    """What a function writes that has been up for so long."""
    fields = {"x-overspill-boot-id": "b" * 32, "x-overspill-boot-age": f"{age_s:.3f}"}
    return [chunk(json.dumps({"statusCode": 200, "headers": fields}).encode() + bytes(8)), complete(log)]


async def test_who_failed_started_the_environment_and_who_came_next_did_not() -> None:
    """The second runs for longer than the environment had been up: it might have waited for that, and has not."""
    failed = complete(REPORT + "Init Duration: 150.20 ms\t", ErrorCode="Unhandled", ErrorDetails="{}")
    answers = [frames(failed), frames(*booted(0.0))]

    async def behave(request: Received, wire: Wire) -> None:
        await answers.pop(0)(request, wire)

    async with using(AwsLambda, behave, response="streamed") as (backend, _):
        await failure(backend)
        assert backend.table.started == 1
        _, _, _, reply = await read(backend)
        assert reply.start is Start.WARM
        assert backend.table.started == 1


async def test_an_invocation_that_was_left_before_the_function_wrote_is_read_to_its_end() -> None:
    writes = asyncio.Event()
    answer = frames(*booted(0.3, log=REPORT + "Init Duration: 150.20 ms\t"), after=writes)
    async with using(AwsLambda, answer, response="streamed") as (backend, provider):
        call = asyncio.ensure_future(read(backend))
        await eventually(lambda: bool(provider.seen), "the function runs")
        for _ in range(20):  # turns of the loop in which the answer's head arrives
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        writes.set()
        await eventually(lambda: backend.table.started == 1, "its start is heard of")
        assert sum(each.usd for each in backend.table.settle(backend.kit.clock.now())) == pytest.approx(USD)


async def test_a_start_counts_though_its_report_never_comes() -> None:
    head = booted(0.0)[0]
    async with using(AwsLambda, frames(head), response="streamed") as (backend, _):
        with pytest.raises(AnswerTruncated):
            await read(backend)
        assert backend.table.started == 1
