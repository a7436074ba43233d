"""RunPod: the life of a job, what it says about warm and cold, and what every failure means."""

import asyncio
import base64
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from backends.runpod import RUNSYNC_LIMIT, RunPod
from backends.workers import kit
from gateway.clock import FakeClock
from gateway.errors import (
    BackendBroke,
    BackendDenied,
    BackendDown,
    BackendError,
    BackendFull,
    BodyTooLarge,
    ConfigError,
)
from gateway.vocab import Charge, Start, Verdict, Work
from tests.support.provider import (
    SECRET,
    Background,
    Behaviour,
    Provider,
    Received,
    Wire,
    a_call,
    built,
    providing,
    refusing_url,
    until,
)
from tests.support.requests import ArrivingBody


def result(body: bytes = b"answer", boot: tuple[str, float] | None = None) -> dict[str, Any]:
    fields = [("content-type", "text/plain")]
    if boot is not None:
        fields += [("x-overspill-boot-id", boot[0]), ("x-overspill-boot-age", str(boot[1]))]
    return kit.write_result(200, fields, body)


def job(status: str = "COMPLETED", **more: Any) -> dict[str, Any]:
    document = {"id": "job-1", "status": status, **more}
    if status == "COMPLETED":
        document = {"output": result(), "delayTime": 40, "executionTime": 2000, "workerId": "w1", **document}
    return document


Step = dict[str, Any] | int | Callable[[Received, Wire], Any]


def scripted(*steps: Step) -> Behaviour:
    """One step per request, cancels apart: a job to answer, a status without one, or a behaviour."""
    left = list(steps)

    async def behave(request: Received, wire: Wire) -> None:
        if "/cancel/" in request.target:
            await wire.json(200, {"id": "job-1", "status": "CANCELLED"})
            return
        step = left.pop(0)
        if callable(step):
            await step(request, wire)
        elif isinstance(step, int):
            await wire.answer(step, f"refused {request.fields.get('authorization')}".encode())
        else:
            await wire.json(200, step)

    return behave


@asynccontextmanager
async def endpoint(
    behaviour: Behaviour, clock: FakeClock | None = None, **options: Any
) -> AsyncIterator[tuple[RunPod, Provider, Background]]:
    async with providing(behaviour) as provider:
        described = {**RunPod.example(provider.url), **options}
        async with built(RunPod, described, clock=clock) as (backend, background):
            yield backend, provider, background


async def failure(backend: RunPod) -> BackendError:
    with pytest.raises(BackendError) as caught:
        async with backend.send(a_call(), 0):
            raise AssertionError("an answer came")
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("burst: ")
    return caught.value


async def test_a_call_becomes_a_job_and_its_output_the_answer() -> None:
    async with endpoint(scripted(job())) as (backend, provider, _):
        async with backend.send(a_call(b"body"), 0) as reply:
            assert (reply.status, reply.headers) == (200, [(b"content-type", b"text/plain")])
            assert reply.body == b"answer"
    request = provider.seen[0]
    assert (request.method, request.target) == ("POST", "/v2/abc123/runsync?wait=2000")
    assert request.fields["authorization"] == f"Bearer {SECRET}"
    event = request.json()["input"]
    assert event["rawPath"] == "/v2/models/minilm/infer"
    assert base64.b64decode(event["body"]) == b"body"
    assert "policy" not in request.json()


async def test_a_job_that_takes_longer_is_polled_until_it_is_final() -> None:
    steps = (job("IN_QUEUE"), job("IN_QUEUE"), job("IN_PROGRESS"), job("RUNNING"), job())
    async with endpoint(scripted(*steps)) as (backend, provider, background):
        async with backend.send(a_call(), 0) as reply:
            assert reply.body == b"answer"
    assert [request.target for request in provider.seen[1:]] == ["/v2/abc123/status/job-1"] * 4
    assert background.names == ["burst: runsync"]


async def test_the_reported_times_are_the_usage() -> None:
    steps = job(delayTime=40, executionTime=5000)
    async with endpoint(scripted(steps), price={"usd_per_second": 0.34 / 3600}) as (backend, _, _):
        async with backend.send(a_call(), 0) as reply:
            usage = reply.usage
    assert usage is not None
    assert (usage.billed_s, usage.boot_s, usage.instance, usage.reported) == (5.0, 0.0, "w1", True)
    assert usage.usd == pytest.approx(0.00047, abs=5e-6)


async def test_a_cold_start_is_part_of_the_price() -> None:
    async with endpoint(scripted(job(delayTime=8000, executionTime=1000)), price={"usd_per_second": 1.0}) as (
        backend,
        _,
        _,
    ):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is Start.COLD
            assert reply.usage is not None
            assert (reply.usage.billed_s, reply.usage.boot_s, reply.usage.usd) == (9.0, 8.0, 9.0)


async def test_an_unknown_price_is_unknown_and_not_zero() -> None:
    async with endpoint(scripted(job()), price=None) as (backend, _, _):
        assert not backend.price_known
        async with backend.send(a_call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is None
        assert backend.settle(math.inf) == []


async def test_the_idle_tail_is_charged_to_the_route_and_rounded_up_with_the_life() -> None:
    clock = FakeClock()
    async with endpoint(scripted(job(executionTime=1200)), clock, price={"usd_per_second": 1.0}) as (
        backend,
        _,
        _,
    ):
        async with backend.send(a_call(), 0):
            pass
        assert backend.instances(clock.now()) == {"opening": 0, "busy": 0, "idle": 1}
        clock.advance(5)
        (charge,) = backend.settle(clock.now())
        # 1.2 s of work and 5 s idle make 6.2 s, of which RunPod bills 7.
        assert charge[:2] == ("embed", "spill")
        assert charge.usd == pytest.approx(5.8)
        assert backend.instances(clock.now()) == {"opening": 0, "busy": 0, "idle": 0}


@pytest.mark.parametrize(
    ("final", "start"),
    [
        ({"delayTime": 40}, Start.WARM),
        ({"delayTime": 7900}, Start.COLD),  # a worker never seen before
        ({"delayTime": 7900, "workerId": None}, Start.UNKNOWN),  # a boot or a queue
        ({"delayTime": None, "workerId": None}, Start.UNKNOWN),
        ({"delayTime": 40, "output": result(boot=("b", 0.01))}, Start.COLD),  # booted while we waited
        ({"delayTime": 7900, "output": result(boot=("b", 600))}, Start.WARM),  # it was the queue
    ],
)
async def test_warm_or_cold(final: dict[str, Any], start: Start) -> None:
    async with endpoint(scripted(job(**final))) as (backend, _, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is start
            assert all(not name.startswith(b"x-overspill") for name, _ in reply.headers)
            assert reply.usage is not None
            assert (reply.usage.boot_s is None) == (start is Start.UNKNOWN)


async def test_a_worker_seen_before_was_warm_however_long_the_queue() -> None:
    async with endpoint(scripted(job(delayTime=7900), job(id="job-2", delayTime=7900))) as (backend, _, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is Start.COLD
        async with backend.send(a_call(), 0) as reply:
            assert reply.start is Start.WARM


@pytest.mark.parametrize(
    ("status", "kind", "work", "verdict"),
    [
        (429, BackendFull, Work.NOT_STARTED, Verdict.NEUTRAL),
        (400, BackendDenied, Work.NOT_STARTED, Verdict.FAILURE),
        (401, BackendDenied, Work.NOT_STARTED, Verdict.FAILURE),
        (403, BackendDenied, Work.NOT_STARTED, Verdict.FAILURE),
        (404, BackendDenied, Work.NOT_STARTED, Verdict.FAILURE),
        (302, BackendDenied, Work.NOT_STARTED, Verdict.FAILURE),
        (500, BackendBroke, Work.MAYBE, Verdict.FAILURE),
        (502, BackendBroke, Work.MAYBE, Verdict.FAILURE),
        (503, BackendBroke, Work.MAYBE, Verdict.FAILURE),
    ],
)
async def test_a_refused_submission(
    status: int, kind: type[BackendError], work: Work, verdict: Verdict
) -> None:
    async with endpoint(scripted(status)) as (backend, provider, _):
        error = await failure(backend)
        assert type(error) is kind
        assert (error.work, error.verdict) == (work, verdict)
        assert len(provider.seen) == 1
        assert backend.instances(0.0)["busy"] == 0


async def test_a_full_endpoint_says_when_to_come_back() -> None:
    async def full(request: Received, wire: Wire) -> None:
        await wire.answer(429, b"slow down", {"retry-after": "7"})

    async with endpoint(scripted(full)) as (backend, _, _):
        assert (await failure(backend)).retry_after == 7.0


async def reset(request: Received, wire: Wire) -> None:
    await wire.reset()


async def cut(request: Received, wire: Wire) -> None:
    await wire.head(200, {"content-length": "500"})
    await wire.write(b'{"id":"job-1"')
    await wire.reset()


def text(body: bytes) -> Callable[[Received, Wire], Any]:
    async def answer(request: Received, wire: Wire) -> None:
        await wire.answer(200, body)

    return answer


@pytest.mark.parametrize(
    "step",
    [
        reset,
        cut,
        text(b"<html>"),
        text(b"[]"),
        text(b'{"id":"job-1"}'),
        text(b'{"id":"job-1","status":7}'),
        text(b'{"id":"job-1","status":"DREAMING"}'),
        text(b'{"status":"IN_QUEUE"}'),
        text(b'{"id":"../cancel","status":"IN_QUEUE"}'),
        job("FAILED"),
        job("TIMED_OUT"),
        job("CANCELLED"),
        job(output=None),
        job(output={"statusCode": 200, "body": "!", "isBase64Encoded": True}),
    ],
)
async def test_a_job_that_may_have_run(step: Step) -> None:
    async with endpoint(scripted(step)) as (backend, _, _):
        error = await failure(backend)
        assert type(error) is BackendBroke
        assert (error.work, error.verdict) == (Work.MAYBE, Verdict.FAILURE)


async def test_a_failed_job_says_why_and_what_it_cost() -> None:
    why = {
        "error_type": "<class 'ValueError'>",
        "error_message": f"bad {SECRET}",
        "error_traceback": "x" * 900,
    }
    failed = job("FAILED", error=json.dumps(why), executionTime=2000, delayTime=30, workerId="w1")
    async with endpoint(scripted(failed), price={"usd_per_second": 0.5}) as (backend, _, _):
        error = await failure(backend)
    assert "<class 'ValueError'> bad …" in str(error)
    assert error.usage is not None
    assert (error.usage.billed_s, error.usage.usd) == (2.0, 1.0)


async def test_trouble_with_polling_is_no_trouble_with_the_job() -> None:
    steps = (job("IN_PROGRESS"), reset, 500, 429, cut, job())
    async with endpoint(scripted(*steps)) as (backend, _, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.body == b"answer"


async def test_a_job_that_can_no_longer_be_asked_about_is_cancelled() -> None:
    async with endpoint(scripted(job("IN_PROGRESS"), *[500] * 6)) as (backend, provider, background):
        error = await failure(backend)
        assert type(error) is BackendBroke
        assert error.work is Work.MAYBE
        await background.done()
    assert provider.seen[-1].target == "/v2/abc123/cancel/job-1"


async def test_a_job_that_was_deleted_is_broken_and_not_cancelled() -> None:
    async with endpoint(scripted(job("IN_QUEUE"), 404)) as (backend, provider, background):
        assert type(await failure(backend)) is BackendBroke
        await background.done()
    assert not any("cancel" in request.target for request in provider.seen)


async def test_a_client_that_leaves_while_polling_cancels_the_job() -> None:
    polled = asyncio.Event()

    async def still(request: Received, wire: Wire) -> None:
        await wire.json(200, job("IN_PROGRESS"))
        polled.set()

    clock = FakeClock()
    behaviour = scripted(job("IN_QUEUE"), *[still] * 50)
    async with endpoint(behaviour, clock, price={"usd_per_second": 1.0}) as (backend, provider, background):
        task = asyncio.ensure_future(_enter(backend))
        await polled.wait()
        await until(lambda: backend.instances(clock.now())["busy"] == 1)
        clock.advance(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await background.done()
        assert provider.seen[-1].target == "/v2/abc123/cancel/job-1"
        # The seconds that it ran are somebody's: the route's.
        assert backend.settle(clock.now()) == [Charge("embed", "spill", 3.0)]
        assert backend.client.in_use == 0


async def test_a_client_that_leaves_before_the_id_is_known_cancels_the_job_afterwards() -> None:
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        arrived.set()
        await let_go.wait()
        await wire.json(200, job("IN_QUEUE"))

    async with endpoint(scripted(late)) as (backend, provider, background):
        task = asyncio.ensure_future(_enter(backend))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(provider.seen) == 1
        let_go.set()
        await background.done()
        assert provider.seen[-1].target == "/v2/abc123/cancel/job-1"
        # It never left the queue: no work is charged, but the worker that was asked for comes up, and idles.
        assert backend.instances(backend.kit.clock.now())["opening"] == 1
        assert [charge.kind for charge in backend.settle(math.inf)] == ["spill"]


async def test_a_job_that_finished_before_it_could_be_cancelled_is_charged() -> None:
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        arrived.set()
        await let_go.wait()
        await wire.json(200, job(executionTime=1500))

    clock = FakeClock()
    async with endpoint(scripted(late), clock, price={"usd_per_second": 1.0}) as (
        backend,
        provider,
        background,
    ):
        task = asyncio.ensure_future(_enter(backend))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        let_go.set()
        await background.done()
        assert not any("cancel" in request.target for request in provider.seen)
        assert backend.settle(clock.now()) == [Charge("embed", "spill", 1.5)]


async def _enter(backend: RunPod) -> None:
    async with backend.send(a_call(), 0):
        pass


async def test_raw_sends_the_body_as_input_and_answers_with_the_output() -> None:
    output = {"vector": [1, 2.5], "big": 12345678901234567890}
    async with endpoint(scripted(job(output=output)), envelope="raw") as (backend, provider, _):
        async with backend.send(a_call(b'{"prompt": "hi"}'), 0) as reply:
            assert (reply.status, reply.headers) == (200, [(b"content-type", b"application/json")])
            assert json.loads(reply.body or b"") == output
    assert provider.seen[0].json() == {"input": {"prompt": "hi"}}


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b"\xff"])
async def test_raw_blames_a_body_that_is_no_object_on_the_client(body: bytes) -> None:
    async with endpoint(scripted(), envelope="raw") as (backend, provider, _):
        async with backend.send(a_call(body), 0) as reply:
            assert reply.status == 400
            assert b"JSON object" in (reply.body or b"")
    assert provider.seen == []


async def test_what_it_cannot_carry() -> None:
    async with endpoint(scripted()) as (backend, _, _):
        assert backend.cannot_carry(a_call()) is None
        assert backend.cannot_carry(a_call(stream=True)) is None
        # base64 makes 4 bytes of 3
        fits = RUNSYNC_LIMIT // 4 * 3 - 4096
        assert backend.cannot_carry(a_call(ArrivingBody(b"x", declared=fits))) is None
        assert "20000000" in (backend.cannot_carry(a_call(ArrivingBody(b"x", declared=fits + 8192))) or "")
        assert backend.cannot_carry(a_call(ArrivingBody(b"x", declared=None))) is None
        with pytest.raises(BodyTooLarge):
            async with backend.send(a_call(ArrivingBody(bytes(RUNSYNC_LIMIT + 1), declared=None)), 0):
                pass
    async with endpoint(scripted(), envelope="raw") as (backend, _, _):
        assert "stream" in (backend.cannot_carry(a_call(stream=True)) or "")
        assert "POST" in (backend.cannot_carry(a_call(method=b"GET")) or "")
        binary = a_call(headers=[(b"inference-header-content-length", b"9")])
        assert "JSON" in (backend.cannot_carry(binary) or "")


async def test_limits_and_added_fields_are_sent_along() -> None:
    policy = {"execution_timeout": "30s", "ttl": "1m", "low_priority": True}
    fields = {"X-Team": "search", "X-Key": {"env": "OVERSPILL_EXAMPLE_SECRET"}}
    options: dict[str, Any] = {"policy": policy, "headers": fields, "wait": "5s"}
    async with endpoint(scripted(job()), **options) as (backend, provider, _):
        await _enter(backend)
    assert provider.seen[0].json()["policy"] == {"executionTimeout": 30000, "ttl": 60000, "lowPriority": True}
    assert provider.seen[0].fields["x-team"] == "search"
    assert provider.seen[0].fields["x-key"] == SECRET
    assert provider.seen[0].target.endswith("wait=5000")


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint_id": "a/b"},
        {"endpoint_id": ""},
        {"base_url": "ftp://x"},
        {"base_url": "https://user:pw@x/v2"},
        {"base_url": "https://x/v2?a=b"},
        {"wait": "500ms"},
        {"wait": "10m"},
        {"policy": {"ttl": "1s"}},
        {"api_key": SECRET},
        {"envelope": "xml"},
        {"max_in_flight": 0},
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        RunPod.Options.model_validate({**RunPod.example("http://127.0.0.1:9"), **wrong})
    assert SECRET not in str([(e["loc"], e["msg"]) for e in caught.value.errors()])


@pytest.mark.parametrize(
    ("status", "healthy"), [(200, True), (401, False), (403, False), (404, False), (429, None), (500, None)]
)
async def test_a_probe_asks_the_free_question(status: int, healthy: bool | None) -> None:
    async def health(request: Received, wire: Wire) -> None:
        await wire.json(status, {"jobs": {}, "workers": {"idle": 1, "throttled": 2}})

    async with endpoint(health) as (backend, provider, _):
        assert await backend.probe(0) is healthy
        assert backend.workers == ({"idle": 1, "throttled": 2} if healthy else {})
    assert (provider.seen[0].method, provider.seen[0].target) == ("GET", "/v2/abc123/health")


async def test_an_api_that_cannot_be_reached() -> None:
    async with built(RunPod, RunPod.example(await refusing_url())) as (backend, _):
        assert await backend.probe(0) is False
        error = await failure(backend)
        assert type(error) is BackendDown
        assert (error.work, error.verdict) == (Work.NOT_STARTED, Verdict.FAILURE)


async def test_a_missing_key_stops_the_start_and_names_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVERSPILL_EXAMPLE_SECRET")
    with pytest.raises(ConfigError, match="OVERSPILL_EXAMPLE_SECRET is not set"):
        async with built(RunPod, RunPod.example("http://127.0.0.1:9")):
            pass


async def test_a_refused_key_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with endpoint(scripted(401, job())) as (backend, provider, _):
        await failure(backend)
        monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "rotated")
        await _enter(backend)
    assert provider.seen[1].fields["authorization"] == "Bearer rotated"
