"""SageMaker's asynchronous endpoints: a place in the queue, and the bucket asked until the answer is there."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from backends.sagemaker_async import INLINE_LIMIT, SageMakerAsync
from backends.workers import kit
from gateway.clock import Clock, FakeClock
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Charge, Start, Work
from tests.support.provider import SECRET, Provider, Received, Wire, a_call, built, providing, until

ENQUEUE = "/endpoints/embed/async-invocations"
OUTPUT, FAILURE = "/answers/out/1.out", "/answers/failed/1.out"


class Aws:
    """SageMaker's queue and the bucket. `objects`: what is in it; `tries`: how often a 404 comes first."""

    def __init__(self, objects: dict[str, bytes] | None = None, tries: int = 0) -> None:
        self.objects = objects or {}
        self.tries = tries
        self.enqueued: tuple[int, bytes, dict[str, str]] = (202, b'{"InferenceId":"req-1"}', {
            "x-amzn-sagemaker-outputlocation": f"s3:/{OUTPUT}",
            "x-amzn-sagemaker-failurelocation": f"s3:/{FAILURE}",
        })  # fmt: skip
        self.s3: list[int] = []  # statuses that S3 answers with first

    async def __call__(self, request: Received, wire: Wire) -> None:
        if request.method == "POST":
            await wire.answer(*self.enqueued)
        elif self.s3:
            await wire.answer(self.s3.pop(0), b"<Error><Code>AccessDenied</Code></Error>")
        elif self.tries > 0 or request.target not in self.objects:
            self.tries -= 1
            await wire.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            await wire.answer(200, self.objects[request.target], {"content-type": "application/json"})


@asynccontextmanager
async def endpoint(
    aws: Aws, clock: Clock | None = None, **options: Any
) -> AsyncIterator[tuple[SageMakerAsync, Provider]]:
    async with providing(aws) as provider:
        described = {**SageMakerAsync.example(provider.url), **options}
        async with built(SageMakerAsync, described, clock=clock) as (backend, _):
            yield backend, provider


async def failure(backend: SageMakerAsync) -> BackendError:
    with pytest.raises(BackendError) as caught:
        async with backend.send(a_call(), 0):
            pass
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("burst: ")
    assert backend.client.in_use == 0
    return caught.value


async def test_the_answer_is_fetched_from_the_bucket_when_it_is_there() -> None:
    async with endpoint(Aws({OUTPUT: b'{"y":1}'}, tries=3)) as (backend, provider):
        call = a_call(b"body", headers=[(b"content-type", b"text/x"), (b"accept", b"text/y")])
        call.deadline = backend.kit.clock.now() + 100
        async with backend.send(call, 0) as reply:
            assert (reply.status, reply.body, reply.start) == (200, b'{"y":1}', Start.UNKNOWN)
            assert reply.headers == [(b"content-type", b"application/json")]
    enqueued, *asked = provider.seen
    assert (enqueued.method, enqueued.target, enqueued.body) == ("POST", ENQUEUE, b"body")
    fields = enqueued.fields
    assert fields["x-amzn-sagemaker-content-type"] == fields["content-type"] == "text/x"
    assert fields["x-amzn-sagemaker-accept"] == "text/y"
    assert fields["x-amzn-sagemaker-inference-id"] == "req-1"
    assert fields["x-amzn-sagemaker-invocationtimeoutseconds"] == "900"
    assert 99 <= int(fields["x-amzn-sagemaker-requestttlseconds"]) <= 100
    assert "/us-east-1/sagemaker/aws4_request" in fields["authorization"]
    assert [request.target for request in asked] == [OUTPUT, FAILURE, OUTPUT, FAILURE, OUTPUT]
    for request in asked:
        assert "/us-east-1/s3/aws4_request" in request.fields["authorization"]
        assert "x-amz-content-sha256" in request.fields


@pytest.mark.parametrize(("left", "ttl"), [(5.0, 60), (1e9, 21600), (float("inf"), 21600)])
async def test_it_does_not_wait_in_the_queue_for_longer_than_its_client(left: float, ttl: int) -> None:
    async with endpoint(Aws({OUTPUT: b"{}"})) as (backend, provider):
        call = a_call()
        call.deadline = backend.kit.clock.now() + left
        async with backend.send(call, 0):
            pass
    assert provider.seen[0].fields["x-amzn-sagemaker-requestttlseconds"] == str(ttl)


async def test_with_the_worker_kit_the_whole_request_is_carried() -> None:
    fields = [("x-overspill-boot-id", "b"), ("x-overspill-boot-age", "300")]
    result = json.dumps(kit.write_result(404, fields, b"none")).encode()
    async with endpoint(Aws({OUTPUT: result}), envelope="event") as (backend, provider):
        async with backend.send(a_call(), 0) as reply:
            assert (reply.status, reply.body, reply.start) == (404, b"none", Start.WARM)
    assert provider.seen[0].json()["rawPath"] == "/v2/models/minilm/infer"


async def test_an_invocation_that_failed_has_run() -> None:
    async with endpoint(Aws({FAILURE: b"ModelError: out of memory " + SECRET.encode()})) as (backend, _):
        came = await failure(backend)
    assert type(came) is BackendBroke
    assert "the invocation failed: ModelError: out of memory …" in str(came)
    assert came.usage is not None


@pytest.mark.parametrize(
    ("status", "kind", "wanted"),
    [
        (400, "ValidationError", BackendDenied),
        (403, "AccessDeniedException", BackendDenied),
        (429, "ThrottlingException", BackendFull),
        (503, "ServiceUnavailable", BackendFull),
        (500, "InternalFailure", BackendBroke),
    ],
)
async def test_what_was_not_taken_into_the_queue(status: int, kind: str, wanted: type[BackendError]) -> None:
    aws = Aws()
    aws.enqueued = (status, b"{}", {"x-amzn-errortype": kind})
    async with endpoint(aws) as (backend, provider):
        came = await failure(backend)
        assert len(provider.seen) == 1
    assert type(came) is wanted


@pytest.mark.parametrize("place", ["", "https://evil.example/x", "s3://bucket"])
async def test_an_answer_that_says_no_place_may_have_run(place: str) -> None:
    aws = Aws()
    aws.enqueued = (202, b"{}", {"x-amzn-sagemaker-outputlocation": place})
    async with endpoint(aws) as (backend, provider):
        came = await failure(backend)
        assert len(provider.seen) == 1
    assert (type(came), came.work) == (BackendBroke, Work.MAYBE)


async def test_s3_may_fail_for_a_moment() -> None:
    aws = Aws({OUTPUT: b"{}"})
    aws.s3 = [503, 500]
    async with endpoint(aws) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.body == b"{}"


@pytest.mark.parametrize(
    ("status", "says_so"), [(403, "s3:ListBucket"), (301, "bucket_region"), (503, "503")]
)
async def test_an_answer_that_s3_does_not_hand_out_has_run_all_the_same(status: int, says_so: str) -> None:
    aws = Aws({OUTPUT: b"{}"})
    aws.s3 = [status] * 50
    async with endpoint(aws) as (backend, _):
        came = await failure(backend)
    assert (type(came), came.work) == (BackendBroke, Work.MAYBE)
    assert says_so in str(came)


async def test_an_answer_that_never_comes_is_given_up() -> None:
    clock = FakeClock()
    async with endpoint(Aws(), clock) as (backend, provider):
        waiting = asyncio.ensure_future(failure(backend))
        await until(lambda: len(provider.seen) > 1)
        clock.advance(100_000)
        assert "neither an output nor a failure" in str(await waiting)


async def test_who_leaves_has_still_to_pay() -> None:
    clock = FakeClock()
    async with endpoint(Aws(), clock, price={"usd_per_replica_hour": 3600}) as (backend, provider):

        async def call() -> None:
            async with backend.send(a_call(), 0):
                raise AssertionError("an answer came")

        waiting = asyncio.ensure_future(call())
        await until(lambda: len(provider.seen) > 1)
        clock.advance(7)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert backend.settle(clock.now()) == [Charge("embed", "spill", 7.0)]


async def test_what_is_never_sent() -> None:
    async with endpoint(Aws()) as (backend, _):
        assert backend.cannot_carry(a_call(bytes(INLINE_LIMIT))) is None
        assert "128000 are allowed" in str(backend.cannot_carry(a_call(bytes(INLINE_LIMIT + 1))))
        assert "cannot answer with a stream" in str(backend.cannot_carry(a_call(stream=True)))
        assert not backend.can_open


@pytest.mark.parametrize(
    ("wrong", "says_so"),
    [({"target_variant": "blue"}, "take target_variant out"), ({"time_limit": "2h"}, "from 1s to 1h")],
)
def test_what_no_asynchronous_invocation_can_say(wrong: dict[str, str], says_so: str) -> None:
    with pytest.raises(ValidationError, match=says_so):
        SageMakerAsync.Options.model_validate({**SageMakerAsync.example("http://127.0.0.1:9"), **wrong})
