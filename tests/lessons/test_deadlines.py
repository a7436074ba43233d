"""What is left of a call's time is told to who works for it, so that nothing goes on that nobody waits for."""

import asyncio
import json

import pytest

from backends.replicate import Replicate
from backends.runpod import RunPod
from backends.time_left import AFTERWARDS_S, time_left
from backends.workers import kit
from gateway.clock import FakeClock
from tests.support.endpoints import answer, endpoint
from tests.support.provider import SECRET, Received, Wire, a_call

OUTPUT = kit.write_result(200, [("content-type", "text/plain")], b"answer")
JOB = {
    "id": "j",
    "status": "COMPLETED",
    "output": OUTPUT,
    "delayTime": 1,
    "executionTime": 2,
    "workerId": "w",
}
PREDICTION = {
    "id": "p", "status": "succeeded", "output": json.dumps(OUTPUT), "error": None, "metrics": {"predict_time": 1.0},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", SECRET)


async def _job(request: Received, wire: Wire) -> None:
    await wire.json(200, JOB)


async def _prediction(request: Received, wire: Wire) -> None:
    await wire.json(201, PREDICTION)


@pytest.mark.parametrize(
    ("left", "written", "policy"),
    [
        (20.0, {}, {"executionTimeout": 25_000, "ttl": 25_000}),
        (0.5, {}, {"executionTimeout": 10_000, "ttl": 10_000}),
        (3600.0, {}, {"ttl": 3_605_000}),  # its own ten minutes in a worker are not made longer
        (20.0, {"execution_timeout": "8s"}, {"executionTimeout": 8_000, "ttl": 25_000}),
        (3600.0, {"ttl": "1m"}, {"ttl": 60_000}),
        (3600.0, {"execution_timeout": "2h"}, {"executionTimeout": 3_605_000, "ttl": 3_605_000}),
        (float("inf"), {}, None),
        (1e9, {}, None),
    ],
)
async def test_a_job_is_given_no_more_time_than_its_call(
    left: float, written: dict[str, str], policy: dict[str, int] | None
) -> None:
    clock = FakeClock()
    async with endpoint(RunPod, _job, clock=clock, policy=written) as (backend, provider):
        call = a_call(b"body")
        call.deadline = clock.now() + left
        assert (await answer(backend, call)).body == b"answer"
    assert provider.seen[0].json().get("policy") == policy


@pytest.mark.parametrize(("left", "field"), [(20.2, "26s"), (-3.0, "5s"), (float("inf"), None)])
async def test_a_prediction_is_stopped_when_its_call_is_over(left: float, field: str | None) -> None:
    clock = FakeClock()
    async with endpoint(Replicate, _prediction, clock=clock) as (backend, provider):
        call = a_call(b"body")
        call.deadline = clock.now() + left
        assert (await answer(backend, call)).body == b"answer"
    assert provider.seen[0].fields.get("cancel-after") == field


async def test_calls_at_once_each_have_their_own_time() -> None:
    clock = FakeClock()
    async with endpoint(Replicate, _prediction, clock=clock) as (backend, provider):
        calls = [a_call(b"body") for _ in range(3)]
        for number, call in enumerate(calls):
            call.deadline = clock.now() + 10.0 * (number + 1)
        await asyncio.gather(*(answer(backend, call) for call in calls))
    assert sorted(request.fields["cancel-after"] for request in provider.seen) == ["15s", "25s", "35s"]


def test_a_provider_is_told_a_little_more_so_that_the_gateways_own_deadline_comes_first() -> None:
    clock = FakeClock()
    call = a_call()
    call.deadline = clock.now() + 30.0
    assert time_left(call, clock, least=5) == 30.0 + AFTERWARDS_S
