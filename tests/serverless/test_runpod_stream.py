"""RunPod, streamed: an answer comes as it is made, is never ended cleanly before its end, and is paid for."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.runpod import RunPodEmulator, RunPodOptions
from backends.runpod import RunPod
from backends.runpod_stream import RUN_LIMIT
from backends.workers import kit, runpod_handler
from gateway.clock import FakeClock
from gateway.errors import AnswerTruncated, BackendBroke, BackendDenied, BackendFull
from gateway.vocab import Call, Reply, Start, Work
from tests.support.provider import SECRET, Background, Received, Wire, a_call, built, providing, until

EVENTS = [b'data: {"n": %d}\n\n' % number for number in range(5)] + [b"data: [DONE]\n\n"]
AT_ONCE = FleetOptions(boot=BootTimes(0.0, 0.0, 1.0, 0.0), idle_after_s=60.0)


def streaming_call(body: bytes = b"{}") -> Call:
    return a_call(body, target=b"/v1/chat/completions", stream=True)


class Model:
    """Writes the events one by one; after the first it waits until the test lets it go on."""

    def __init__(self, *, fails_after: int | None = None, free: bool = False) -> None:
        self.go_on = threading.Event()
        self.fails_after = fails_after
        self.written = 0
        if free:
            self.go_on.set()

    def __call__(self, *_: object) -> tuple[int, dict[str, str], Iterator[bytes]]:
        return 200, {"content-type": "text/event-stream"}, self._events()

    def _events(self) -> Iterator[bytes]:
        for number, event in enumerate(EVENTS):
            if number == self.fails_after:
                raise RuntimeError("CUDA error")
            if number:
                assert self.go_on.wait(10)
            self.written += 1
            yield event


@asynccontextmanager
async def worker(
    app: Any, *, generator: bool = True, **options: Any
) -> AsyncIterator[tuple[RunPod, RunPodEmulator, Background]]:
    """The backend, and an emulated endpoint whose workers run the kit's handler."""
    make = runpod_handler.make_streaming_handler if generator else runpod_handler.make_handler
    server = RunPodEmulator(
        lambda _: make(kit.Worker(app, kit.Boot())), options=AT_ONCE,
        endpoint=RunPodOptions(api_key=SECRET, wait_ms=(10, 300_000), return_aggregate_stream=True),
    )  # fmt: skip
    async with server:
        described = {
            **RunPod.example(server.url), "endpoint_id": "emulated", "response": "streamed", **options
        }  # fmt: skip
        async with built(RunPod, described) as (backend, background):
            yield backend, server, background


async def whole(reply: Reply) -> bytes:
    if reply.stream is None:
        return reply.body or b""
    return b"".join([part async for part in reply.stream])


async def test_events_arrive_while_the_worker_still_writes() -> None:
    model = Model()
    async with worker(model) as (backend, server, _), backend.send(streaming_call(), 0) as reply:
        assert (reply.status, reply.headers) == (200, [(b"content-type", b"text/event-stream")])
        assert reply.stream is not None
        assert await anext(aiter(reply.stream)) == EVENTS[0]
        assert model.written == 1
        model.go_on.set()
        assert await whole(reply) == b"".join(EVENTS[1:])
        assert reply.usage is not None
        (job,) = server.jobs.values()
        assert reply.usage.reported, "the final status told the times"
        assert reply.usage.instance == job.worker
        assert reply.start in (Start.COLD, Start.WARM)


async def test_other_calls_to_such_a_worker_are_answered_whole() -> None:
    body = bytes(range(256)) * 6000  # three parts of it

    def large(*_: object) -> tuple[int, dict[str, str], bytes]:
        return 200, {"content-type": "application/octet-stream"}, body

    async with worker(large) as (backend, server, _):
        async with backend.send(a_call(), 0) as reply:
            assert await whole(reply) == body
        (job,) = server.jobs.values()
        assert job.id.startswith("sync-")
        assert [part["part"] for part in job.output] == [0, 1, 2]


async def test_a_large_event_is_cut_into_parts_and_put_together_again() -> None:
    def large(*_: object) -> tuple[int, dict[str, str], Iterator[bytes]]:
        return 200, {}, iter([b"a" * 1_500_000, b"", b"b"])

    async with worker(large) as (backend, _, _), backend.send(streaming_call(), 0) as reply:
        assert await whole(reply) == b"a" * 1_500_000 + b"b"


async def test_a_worker_that_does_not_stream_is_answered_in_one_piece() -> None:
    model = Model(free=True)
    async with worker(model, generator=False) as (backend, _, _):
        async with backend.send(streaming_call(), 0) as reply:
            assert reply.stream is None
            assert reply.body == b"".join(EVENTS)


async def test_a_job_that_fails_before_its_first_part_may_be_tried_elsewhere() -> None:
    async with worker(Model(fails_after=0)) as (backend, _, _):
        with pytest.raises(BackendBroke, match="FAILED") as caught:
            async with backend.send(streaming_call(), 0):
                raise AssertionError("an answer came")
        assert caught.value.work is Work.MAYBE
        assert caught.value.usage is not None
        assert "CUDA error" in str(caught.value)


async def test_a_job_that_fails_midway_is_an_error_and_never_a_clean_end() -> None:
    got = b""
    async with worker(Model(fails_after=3, free=True)) as (backend, _, background):
        with pytest.raises(AnswerTruncated, match="FAILED") as caught:
            async with backend.send(streaming_call(), 0) as reply:
                assert reply.stream is not None
                async for part in reply.stream:
                    got += part
        assert got == b"".join(EVENTS[:3])
        assert caught.value.work is Work.DONE, "no second attempt after the first byte"
        assert caught.value.usage is not None
        assert caught.value.usage.reported
        assert not any("cancel" in name for name in background.names)


async def test_a_client_that_leaves_midway_cancels_the_job() -> None:
    model = Model()
    async with worker(model) as (backend, server, background):
        async with backend.send(streaming_call(), 0) as reply:
            assert reply.stream is not None
            await anext(aiter(reply.stream))
        await background.done()
        assert [job.status for job in server.jobs.values()] == ["CANCELLED"]
        assert backend.instances(backend.kit.clock.now())["busy"] == 0
        model.go_on.set()


async def test_a_batch_that_got_lost_on_its_way_is_found_in_the_jobs_output() -> None:
    model = Model()
    async with worker(model) as (backend, server, _), backend.send(streaming_call(), 0) as reply:
        assert reply.stream is not None
        assert await anext(aiter(reply.stream)) == EVENTS[0]
        (job,) = server.jobs.values()
        model.go_on.set()
        await until(lambda: job.status == "COMPLETED")
        job.yielded.pop(0)
        assert await whole(reply) == b"".join(EVENTS[1:])


async def test_what_is_lost_for_good_is_an_error() -> None:
    model = Model()
    async with worker(model) as (backend, server, _):
        with pytest.raises(AnswerTruncated, match="missing"):
            async with backend.send(streaming_call(), 0) as reply:
                assert reply.stream is not None
                assert await anext(aiter(reply.stream)) == EVENTS[0]
                (job,) = server.jobs.values()
                model.go_on.set()
                await until(lambda: job.status == "COMPLETED")
                job.yielded.pop()
                job.output = []
                await whole(reply)


Step = dict[str, Any] | int | Callable[[Received, Wire], Any]


@asynccontextmanager
async def scripted(
    *steps: Step, clock: FakeClock | None = None, final: dict[str, Any] | None = None
) -> AsyncIterator[tuple[RunPod, Any, Background]]:
    """One step for each `run` and `stream`; `status` is answered with `final`."""
    left = list(steps)

    async def behave(request: Received, wire: Wire) -> None:
        if "/cancel/" in request.target:
            await wire.json(200, {"id": "job-1", "status": "CANCELLED"})
        elif "/status/" in request.target:
            await wire.json(200, {"id": "job-1", **(final or {"status": "COMPLETED", "output": []})})
        elif callable(step := left.pop(0)):
            await step(request, wire)
        elif isinstance(step, int):
            await wire.answer(step, f"refused {SECRET}".encode())
        else:
            await wire.json(200, step)

    async with providing(behave) as provider:
        described = {**RunPod.example(provider.url), "response": "streamed"}
        async with built(RunPod, described, clock=clock) as (backend, background):
            yield backend, provider, background


RUN = {"id": "job-1", "status": "IN_QUEUE"}


def batch(*numbers: int, status: str = "IN_PROGRESS", last: int | None = None) -> dict[str, Any]:
    chunks = []
    for number in numbers:
        content = kit.write_result(200, {"x-n": "1"}.items(), EVENTS[number])
        if number:
            content = {"body": content["body"], "isBase64Encoded": True}
        chunks.append({"output": {**content, "part": number, "last": number == last}})
    return {"status": status, "stream": chunks}


async def test_what_goes_over_the_wire() -> None:
    steps = (RUN, batch(status="IN_QUEUE"), batch(0), batch(1, 2, status="COMPLETED", last=2))
    final = {"status": "COMPLETED", "delayTime": 40, "executionTime": 2000, "workerId": "w1"}
    async with scripted(*steps, final=final) as (backend, provider, background):
        async with backend.send(streaming_call(), 0) as reply:
            starts = [reply.start]
            assert await whole(reply) == b"".join(EVENTS[:3])
            starts.append(reply.start)
            assert starts == [Start.UNKNOWN, Start.WARM], "RunPod says it with the end"
            assert reply.usage is not None
            assert (reply.usage.instance, reply.usage.reported) == ("w1", True)
        await background.done()
    targets = [request.target.removeprefix("/v2/abc123") for request in provider.seen]
    assert targets == ["/run", *["/stream/job-1"] * 3, "/status/job-1"]
    assert provider.seen[0].json()["input"]["streamed"] is True


async def reset(request: Received, wire: Wire) -> None:
    await wire.reset()


async def test_trouble_with_asking_is_no_trouble_with_the_stream() -> None:
    steps = (RUN, reset, 429, batch(0), 500, batch(1, status="COMPLETED", last=1))
    async with scripted(*steps) as (backend, _, _), backend.send(streaming_call(), 0) as reply:
        assert await whole(reply) == b"".join(EVENTS[:2])


async def test_a_part_that_is_told_twice_counts_once() -> None:
    steps = (RUN, batch(0, 1), batch(0, 1, 2, status="COMPLETED", last=2))
    async with scripted(*steps) as (backend, _, _), backend.send(streaming_call(), 0) as reply:
        assert await whole(reply) == b"".join(EVENTS[:3])


async def test_a_stream_that_can_no_longer_be_asked_for_is_cut_short_and_its_job_cancelled() -> None:
    async with scripted(RUN, batch(0), *[500] * 6) as (backend, provider, background):
        with pytest.raises(AnswerTruncated, match="cannot be read") as caught:
            async with backend.send(streaming_call(), 0) as reply:
                await whole(reply)
        assert SECRET not in str(caught.value)
        await background.done()
    assert [request.target for request in provider.seen[8:]] == ["/v2/abc123/cancel/job-1"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, BackendFull), (401, BackendDenied), (400, BackendDenied), (500, BackendBroke)],
)
async def test_a_refused_submission(status: int, kind: type[Exception]) -> None:
    async with scripted(status) as (backend, provider, _):
        with pytest.raises(kind) as caught:
            async with backend.send(streaming_call(), 0):
                raise AssertionError("an answer came")
        assert SECRET not in str(caught.value)
        assert len(provider.seen) == 1


async def test_a_client_that_leaves_before_the_id_is_known_cancels_the_job_afterwards() -> None:
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def late(request: Received, wire: Wire) -> None:
        arrived.set()
        await let_go.wait()
        await wire.json(200, RUN)

    async def enter() -> None:
        async with backend.send(streaming_call(), 0):
            raise AssertionError("an answer came")

    async with scripted(late) as (backend, provider, background):
        task = asyncio.ensure_future(enter())
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(provider.seen) == 1
        let_go.set()
        await background.done()
        assert provider.seen[-1].target == "/v2/abc123/cancel/job-1"
        assert backend.instances(backend.kit.clock.now())["busy"] == 0


async def test_a_client_that_leaves_while_the_job_waits_cancels_it() -> None:
    polled = asyncio.Event()

    async def waits(request: Received, wire: Wire) -> None:
        await wire.json(200, batch(status="IN_QUEUE"))
        polled.set()

    async def enter() -> None:
        async with backend.send(streaming_call(), 0):
            raise AssertionError("an answer came")

    async with scripted(RUN, *[waits] * 50) as (backend, provider, background):
        task = asyncio.ensure_future(enter())
        await polled.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await background.done()
        assert provider.seen[-1].target == "/v2/abc123/cancel/job-1"


async def test_what_is_too_large_for_run_is_not_sent_though_runsync_would_take_it() -> None:
    async with scripted() as (backend, _, _):
        body = bytes(RUN_LIMIT * 3 // 4)
        assert str(RUN_LIMIT) in str(backend.cannot_carry(streaming_call(body)))
        assert backend.cannot_carry(a_call(body)) is None


def test_only_the_worker_kit_streams() -> None:
    options = {**RunPod.example("http://127.0.0.1:1"), "envelope": "raw", "response": "streamed"}
    with pytest.raises(ValidationError, match="needs envelope: event"):
        RunPod.Options.model_validate(options)
