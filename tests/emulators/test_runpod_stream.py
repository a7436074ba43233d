"""The emulated `stream` operation, as RunPod's documentation and its SDK describe it."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.emulators.apps import Gate
from tests.emulators.test_runpod import Client, runpod


def counting(job: Any) -> Iterator[Any]:
    for number in range(job["input"]["n"]):
        yield {"n": number}


async def drained(client: Client, job: str) -> tuple[list[Any], str]:
    """All that is yielded, and the final status."""
    outputs: list[Any] = []
    async with asyncio.timeout(5):
        while True:
            _, answer = await client.get(f"/stream/{job}")
            assert set(answer) == {"status", "stream"}
            outputs += [chunk["output"] for chunk in answer["stream"]]
            if answer["status"] not in ("IN_QUEUE", "IN_PROGRESS") and not answer["stream"]:
                return outputs, answer["status"]


async def test_what_a_generator_yields_is_told_once_and_in_order() -> None:
    async with runpod(counting) as client:
        _, job = await client.post("/run", {"input": {"n": 5}})
        assert await drained(client, job["id"]) == ([{"n": n} for n in range(5)], "COMPLETED")
        assert (await client.get(f"/stream/{job['id']}"))[1]["stream"] == []


async def test_parts_are_told_while_the_generator_runs() -> None:
    gate = Gate()

    def waiting(job: Any) -> Iterator[Any]:
        yield "first"
        yield gate(job)

    async with runpod(waiting) as client:
        _, job = await client.post("/run", {"input": {}})
        await asyncio.to_thread(gate.entered.acquire)
        _, answer = await client.get(f"/stream/{job['id']}")
        assert answer == {"status": "IN_PROGRESS", "stream": [{"output": "first"}]}
        gate.open.set()
        outputs, status = await drained(client, job["id"])
        assert (len(outputs), status) == (1, "COMPLETED")


@pytest.mark.parametrize(("aggregates", "output"), [(True, [{"n": 0}, {"n": 1}]), (False, [])])
async def test_the_jobs_output_is_all_that_was_yielded_if_the_worker_says_so(
    aggregates: bool, output: list[Any]
) -> None:
    async with runpod(counting, return_aggregate_stream=aggregates) as client:
        _, document = await client.post("/runsync", {"input": {"n": 2}})
    assert (document["status"], document["output"]) == ("COMPLETED", output)


async def test_an_error_that_is_yielded_and_one_that_is_raised_fail_the_job() -> None:
    def failing(job: Any) -> Iterator[Any]:
        yield 1
        if job["input"]["how"] == "raise":
            raise ValueError("boom")
        yield {"error": "boom"}

    async with runpod(failing) as client:
        for how in ("raise", "yield"):
            _, job = await client.post("/run", {"input": {"how": how}})
            assert await drained(client, job["id"]) == ([1], "FAILED")
            assert "boom" in (await client.get(f"/status/{job['id']}"))[1]["error"]


async def test_a_part_that_is_too_large_fails_the_job() -> None:
    def large(job: Any) -> Iterator[Any]:
        yield "x" * 1001

    async with runpod(large, part_bytes=1000) as client:
        _, document = await client.post("/runsync", {"input": {}})
    assert document["status"] == "FAILED"


async def test_a_handler_that_does_not_yield_has_nothing_to_stream() -> None:
    async with runpod() as client:
        _, job = await client.post("/run", {"input": {}})
        assert await drained(client, job["id"]) == ([], "COMPLETED")


async def test_of_a_job_that_is_not_known_there_is_no_stream() -> None:
    async with runpod(counting) as client:
        assert (await client.get("/stream/nobody"))[0] == 404
