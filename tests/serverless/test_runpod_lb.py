"""RunPod load balancing: HTTP as it is, the wait for a first worker, and whose failure it was."""

import asyncio

import pytest

from backends.runpod_lb import PAYLOAD_LIMIT, NoWorker, RunPodLb
from gateway.errors import AnswerTruncated, BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Start, Work
from tests.support.endpoints import endpoint, failure, read, says
from tests.support.provider import (
    SECRET,
    Received,
    Wire,
    a_call,
    built,
    until,
)
from tests.support.requests import ArrivingBody

WORKER = {"X-Runpod-Worker-Id": "w1"}


class Starting:
    """No worker until the health path has been asked so often; each time as RunPod may put it."""

    def __init__(self, refusals: list[tuple[int, bytes]], unhealthy: int = 2) -> None:
        self.refusals = list(refusals)
        self.unhealthy = unhealthy

    async def __call__(self, request: Received, wire: Wire) -> None:
        if request.target == "/ping":
            self.unhealthy -= 1
            await wire.answer(204 if self.unhealthy >= 0 else 200)
        elif self.refusals:
            status, body = self.refusals.pop()
            await wire.answer(status, body)
        else:
            await wire.answer(200, request.body[::-1], WORKER)


def alive(backend: RunPodLb) -> int:
    return sum(backend.instances(backend.kit.clock.now()).values())


async def test_the_address_follows_from_the_id() -> None:
    example = {name: value for name, value in RunPodLb.example("").items() if name != "url"}
    async with built(RunPodLb, example) as (backend, _):
        assert backend.address(a_call(target=b"/v1/x?a=%20")) == "https://abc123.api.runpod.ai/v1/x?a=%20"


async def test_the_call_goes_out_as_it_came_with_the_key_and_no_choice_of_worker() -> None:
    async with endpoint(RunPodLb, says(200, b"answer", {**WORKER, "content-type": "text/plain"})) as (
        backend,
        provider,
    ):
        call = a_call(
            b"\x00body",
            target=b"/v2/models/a%20b/infer?x=1",
            headers=[
                (b"x-runpod-worker-id", b"strict w9"),
                (b"authorization", b"Bearer client"),
                (b"x-a", b"1"),
            ],
        )
        async with backend.send(call, 0) as reply:
            assert (reply.status, reply.body) == (200, b"answer")
            assert b"x-runpod-worker-id" not in dict(reply.headers)
            assert reply.usage is not None
            assert reply.usage.instance == "w1"
        sent = provider.seen[0]
        assert (sent.method, sent.target, sent.body) == ("POST", "/v2/models/a%20b/infer?x=1", b"\x00body")
        assert sent.fields["authorization"] == f"Bearer {SECRET}"
        assert sent.fields["x-a"] == "1"
        assert "x-runpod-worker-id" not in sent.fields


@pytest.mark.parametrize(
    "refusal",
    [(400, b"no workers available"), (503, b'{"error":"No Workers Available"}'), (502, b"no healthy worker")],
)
async def test_a_call_waits_for_the_first_worker(refusal: tuple[int, bytes]) -> None:
    async with endpoint(RunPodLb, Starting([refusal, refusal])) as (backend, provider):
        assert await read(backend, a_call(b"ab")) == b"ba"
        assert [r.target for r in provider.seen].count("/ping") == 4  # 204, 204, 200, and 200 again
        assert all(r.fields["authorization"] == f"Bearer {SECRET}" for r in provider.seen)


async def test_a_worker_that_does_not_come_up_in_time_means_full() -> None:
    starting = Starting([(400, b"no workers available")] * 9, unhealthy=99)
    async with endpoint(RunPodLb, starting, wait_for_worker="0.3s") as (backend, _):
        error = await failure(backend)
        assert isinstance(error, NoWorker)
        assert (error.work, error.retry_after) == (Work.NOT_STARTED, 8.0)
        assert alive(backend) == 0


async def test_a_body_that_cannot_be_sent_twice_does_not_wait() -> None:
    class Once(ArrivingBody):
        repeatable = False

    async with endpoint(RunPodLb, Starting([(400, b"no workers available")])) as (backend, _):
        with pytest.raises(NoWorker):
            await read(backend, a_call(Once(b"x" * 50, declared=50)))


async def test_leaving_while_waiting_for_a_worker_ends_the_wait() -> None:
    async with endpoint(RunPodLb, Starting([(400, b"no workers available")] * 9, unhealthy=99)) as (
        backend,
        provider,
    ):
        task = asyncio.ensure_future(read(backend))
        await until(lambda: any(r.target == "/ping" for r in provider.seen))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert backend.client.in_use == 0


@pytest.mark.parametrize(
    ("status", "body", "fields", "kind"),
    [
        (401, b"unauthorized", {}, BackendDenied),
        (403, b"forbidden", {}, BackendDenied),
        (404, b"endpoint not found", {}, BackendDenied),
        (429, b"slow down", {}, BackendFull),
        (503, b"busy", WORKER, BackendFull),
        (502, b"bad gateway", {}, BackendBroke),
        (504, b"request timed out", {}, BackendBroke),
        (500, b"a worker of mine", WORKER, BackendBroke),
    ],
)
async def test_whose_failure_it_was(
    status: int, body: bytes, fields: dict[str, str], kind: type[BackendError]
) -> None:
    async with endpoint(RunPodLb, says(status, body, fields)) as (backend, _):
        error = await failure(backend)
        assert type(error) is kind
        if fields:
            # The application's own words reach the client where nobody else answers.
            assert error.answer is not None
            assert error.answer.body == body


@pytest.mark.parametrize("status", [400, 403, 404, 422])
async def test_what_a_worker_says_of_the_request_is_the_clients(status: int) -> None:
    async with endpoint(RunPodLb, says(status, b"no workers of that name, endpoint", WORKER)) as (backend, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.status == status


async def test_a_new_worker_is_not_called_warm_and_a_known_one_is() -> None:
    answered = asyncio.Event()

    async def behave(request: Received, wire: Wire) -> None:
        if not answered.is_set():
            await asyncio.sleep(0.15)  # longer than a quarter of a start
            answered.set()
        await wire.answer(200, b"a", WORKER)

    slow = {"expect": "400ms", "idle_after": "60s"}
    async with endpoint(RunPodLb, behave, cold_start=slow) as (backend, _):
        starts = []
        for _ in range(2):
            async with backend.send(a_call(), 0) as reply:
                starts.append(reply.start)
        assert starts == [Start.UNKNOWN, Start.WARM]


async def test_a_stream_is_relayed_as_it_comes_and_its_break_is_seen() -> None:
    async def behave(request: Received, wire: Wire) -> None:
        await wire.head(200, {**WORKER, "transfer-encoding": "chunked"})
        await wire.write(b"4\r\none \r\n")
        await wire.write(b"4\r\ntw")
        await wire.reset()

    async with endpoint(RunPodLb, behave) as (backend, _):
        got = b""
        with pytest.raises(AnswerTruncated):
            async with backend.send(a_call(), 0) as reply:
                assert reply.stream is not None
                async for chunk in reply.stream:
                    got += chunk
        assert got.startswith(b"one ")


async def test_a_body_over_the_limit_is_not_carried() -> None:
    async with endpoint(RunPodLb, says(200)) as (backend, _):
        fits = a_call(ArrivingBody(b"x", declared=PAYLOAD_LIMIT))
        over = a_call(ArrivingBody(b"x", declared=PAYLOAD_LIMIT + 1))
        assert backend.cannot_carry(fits) is None
        assert "30000001 bytes" in (backend.cannot_carry(over) or "")


async def test_a_ping_waits_for_the_worker_that_it_makes_start() -> None:
    async with endpoint(RunPodLb, Starting([(400, b"no workers available")])) as (backend, provider):
        await backend.ping(0, route="embed", kind="spill")
        assert provider.seen[-1].target.startswith("/.overspill/ping")
        assert alive(backend) == 1
