"""The emulated RunPod queue API over a real socket, as its documentation describes it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.runpod import RunPodEmulator, RunPodOptions
from backends.workers import kit, runpod_handler
from gateway.clock import FakeClock
from tests.emulators.apps import Gate, echo, until

AT_ONCE = BootTimes(0.0, 0.0, 1.0, 0.0)
LASTING = FleetOptions(boot=AT_ONCE, idle_after_s=60.0)
KEY = {"Authorization": "Bearer rp-emulated"}


def same(job: Any) -> Any:
    return {"echo": job["input"]}


@asynccontextmanager
async def runpod(
    handler: Callable[[Any], Any] = same,
    *,
    options: FleetOptions = LASTING,
    clock: Any = None,
    make: Callable[[str], Any] | None = None,
    **endpoint: Any,
) -> AsyncIterator["Client"]:
    endpoint = {"wait_ms": (10, 300_000)} | endpoint
    server = RunPodEmulator(
        make or (lambda _: handler), options=options, endpoint=RunPodOptions(**endpoint), clock=clock
    )
    async with server, aiohttp.ClientSession(headers=KEY) as session:
        yield Client(server, session)


class Client:
    """Raw calls; each gives status and document."""

    def __init__(self, server: RunPodEmulator, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    async def post(self, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"{self.server.base_url}/emulated{path}"
        async with self.session.post(url, data=data, **options) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.session.get(f"{self.server.base_url}/emulated{path}", **options) as answer:
            return answer.status, await answer.json()

    async def final(self, job: str) -> Any:
        async with asyncio.timeout(5):
            while True:
                _, document = await self.get(f"/status-sync/{job}?wait=1000")
                if document["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
                    return document


async def test_runsync_answers_with_the_output_and_the_times() -> None:
    async with runpod() as client:
        status, document = await client.post("/runsync", {"input": {"a": 1}})
    assert status == 200
    assert set(document) == {"id", "status", "delayTime", "executionTime", "workerId", "output"}
    assert document["status"] == "COMPLETED"
    assert document["output"] == {"echo": {"a": 1}}
    assert document["id"].startswith("sync-")
    assert isinstance(document["delayTime"], int)


async def test_delay_time_contains_the_cold_start_and_execution_time_does_not() -> None:
    boot = BootTimes(0.3, 0.3, 1.0, 0.0)
    async with runpod(options=FleetOptions(boot=boot, idle_after_s=60.0)) as client:
        _, cold = await client.post("/runsync", {"input": {}})
        _, warm = await client.post("/runsync", {"input": {}})
    assert cold["delayTime"] >= 295  # timers may fire a little early
    assert cold["executionTime"] < cold["delayTime"]
    assert warm["delayTime"] < cold["delayTime"]
    assert warm["workerId"] == cold["workerId"]


async def test_run_queues_and_status_follows_the_job_to_its_end() -> None:
    gate = Gate()
    async with runpod(gate) as client:
        status, document = await client.post("/run", {"input": {"a": 1}})
        assert (status, document) == (200, {"id": document["id"], "status": "IN_QUEUE"})
        await asyncio.to_thread(gate.entered.acquire)
        _, running = await client.get(f"/status/{document['id']}")
        assert running["status"] == "IN_PROGRESS"
        assert "output" not in running
        assert "executionTime" not in running
        gate.open.set()
        done = await client.final(document["id"])
        assert (done["status"], done["output"]) == ("COMPLETED", {"echo": {"a": 1}})
        assert (await client.post(f"/status/{document['id']}"))[1] == done


async def test_runsync_that_outlives_its_wait_says_where_the_job_is() -> None:
    gate = Gate()
    async with runpod(gate) as client:
        status, document = await client.post("/runsync?wait=30", {"input": {"a": 1}})
        assert (status, document["status"]) == (200, "IN_PROGRESS")
        gate.open.set()
        assert (await client.final(document["id"]))["status"] == "COMPLETED"


async def test_handler_exception_is_a_failed_job_with_json_in_its_error() -> None:
    def broken(job: Any) -> Any:
        raise ValueError("boom")

    async with runpod(broken) as client:
        status, document = await client.post("/runsync", {"input": {}})
    assert (status, document["status"]) == (200, "FAILED")
    error = json.loads(document["error"])
    assert error["error_type"] == "<class 'ValueError'>"
    assert error["error_message"] == "boom"
    assert {"error_traceback", "hostname", "worker_id", "runpod_version"} <= set(error)


async def test_error_key_in_a_handlers_answer_fails_the_job() -> None:
    async with runpod(lambda job: {"error": "no such voice"}) as client:
        _, document = await client.post("/runsync", {"input": {}})
    assert (document["status"], document["error"]) == ("FAILED", "no such voice")


async def test_execution_timeout_ends_the_job_and_its_worker() -> None:
    async def slow(job: Any) -> Any:
        await asyncio.sleep(60)

    async with runpod(slow) as client:
        body = {"input": {}, "policy": {"executionTimeout": 50}}
        _, document = await client.post("/runsync", body)
        assert document["status"] == "TIMED_OUT"
        assert client.server.fleet.state()["gone"] == 1


async def test_job_is_forgotten_when_its_time_to_live_is_over() -> None:
    clock = FakeClock()
    async with runpod(clock=clock) as client:
        body = {"input": {}, "policy": {"ttl": 10_000}}
        _, document = await client.post("/run", body)
        assert (await client.final(document["id"]))["status"] == "COMPLETED"
        clock.advance(9.9)
        assert (await client.get(f"/status/{document['id']}"))[0] == 200
        clock.advance(0.1)
        assert (await client.get(f"/status/{document['id']}"))[0] == 404


@pytest.mark.parametrize(("operation", "kept_s"), [("/run", 1800), ("/runsync", 60)])
async def test_results_are_kept_as_long_as_documented(operation: str, kept_s: float) -> None:
    clock = FakeClock()
    async with runpod(clock=clock) as client:
        _, document = await client.post(operation, {"input": {}})
        await client.final(document["id"])
        clock.advance(kept_s - 0.1)
        assert (await client.get(f"/status/{document['id']}"))[0] == 200
        clock.advance(0.2)
        assert (await client.get(f"/status/{document['id']}"))[0] == 404


async def test_cancel_in_the_queue_removes_the_job() -> None:
    gate = Gate()
    async with runpod(gate, options=FleetOptions(cap=1, boot=AT_ONCE, idle_after_s=60.0)) as client:
        await client.post("/run", {"input": {}})
        await asyncio.to_thread(gate.entered.acquire)
        _, queued = await client.post("/run", {"input": {}})
        status, document = await client.post(f"/cancel/{queued['id']}")
        assert (status, document) == (200, {"id": queued["id"], "status": "CANCELLED"})
        await until(lambda: client.server.fleet.waiting == 0)
        gate.open.set()
        assert (await client.get(f"/status/{queued['id']}"))[1]["status"] == "CANCELLED"


async def test_cancel_in_progress_ends_the_wait_and_frees_the_worker_when_its_thread_is_through() -> None:
    gate = Gate()
    async with runpod(gate) as client:
        waiting = asyncio.ensure_future(client.post("/runsync", {"input": {}}))
        await asyncio.to_thread(gate.entered.acquire)
        (name,) = client.server.jobs
        await client.post(f"/cancel/{name}")
        assert (await waiting)[1]["status"] == "CANCELLED"
        assert (await client.get("/health"))[1]["workers"]["running"] == 1
        gate.open.set()
        async with asyncio.timeout(5):
            while (await client.get("/health"))[1]["workers"]["idle"] != 1:
                await asyncio.sleep(0.01)


async def test_retry_runs_a_failed_job_again_under_its_id() -> None:
    async with runpod() as client:
        client.server.fail_next(1, "error")
        _, failed = await client.post("/runsync", {"input": {"a": 1}})
        assert failed["status"] == "FAILED"
        assert (await client.post(f"/retry/{failed['id']}"))[0] == 200
        again = await client.final(failed["id"])
        assert again["output"] == {"echo": {"a": 1}}
        assert (await client.post(f"/retry/{failed['id']}"))[0] == 400


async def test_purge_removes_what_is_queued_and_nothing_else() -> None:
    gate = Gate()
    async with runpod(gate, options=FleetOptions(cap=1, boot=AT_ONCE, idle_after_s=60.0)) as client:
        _, running = await client.post("/run", {"input": {}})
        await asyncio.to_thread(gate.entered.acquire)
        for _ in range(3):
            await client.post("/run", {"input": {}})
        assert await client.post("/purge-queue") == (200, {"removed": 3, "status": "completed"})
        gate.open.set()
        assert (await client.final(running["id"]))["status"] == "COMPLETED"


async def test_health_counts_jobs_and_workers() -> None:
    gate = Gate()
    async with runpod(gate, options=FleetOptions(cap=1, boot=AT_ONCE, idle_after_s=60.0)) as client:
        _, empty = await client.get("/health")
        assert set(empty["jobs"]) == {"completed", "failed", "inProgress", "inQueue", "retried"}
        assert set(empty["workers"]) == {
            "idle", "initializing", "ready", "running", "throttled", "unhealthy",
        }  # fmt: skip
        assert sum(empty["workers"].values()) == 0
        _, first = await client.post("/run", {"input": {}})
        await asyncio.to_thread(gate.entered.acquire)
        await client.post("/run", {"input": {}})
        _, busy = await client.get("/health")
        assert (busy["jobs"]["inProgress"], busy["jobs"]["inQueue"]) == (1, 1)
        assert busy["workers"]["running"] == 1
        gate.open.set()
        await client.final(first["id"])
        assert (await client.get("/health"))[1]["jobs"]["completed"] >= 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer rp-emulated"}, 200),
        ({"Authorization": "rp-emulated"}, 200),
        ({"Authorization": "Bearer other"}, 401),
        ({"Authorization": ""}, 401),
    ],
)
async def test_only_the_key_opens(headers: dict[str, str], status: int) -> None:
    async with runpod() as client:
        assert (await client.get("/health", headers=headers))[0] == status


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"{}", 400), (b'{"input": 1}', 400), (b"[]", 400), (b'{"input": {}}', 200)],
)
async def test_body_must_have_an_object_as_input(body: bytes, status: int) -> None:
    async with runpod() as client:
        assert (await client.post("/run", body))[0] == status


async def test_sizes_over_the_limit_are_refused() -> None:
    async with runpod(run_bytes=100, sync_bytes=200) as client:
        body = {"input": {"text": "x" * 120}}
        assert (await client.post("/run", body))[0] == 413
        assert (await client.post("/runsync", body))[0] == 200


async def test_unknown_endpoint_and_unknown_job_are_404() -> None:
    async with runpod() as client:
        assert (await client.get("/status/nobody"))[0] == 404
        url = f"{client.server.base_url}/other/health"
        async with client.session.get(url) as answer:
            assert answer.status == 404


async def test_rate_over_the_limit_is_429_until_the_window_has_passed() -> None:
    clock = FakeClock()
    async with runpod(clock=clock, rates={"run": 3}) as client:
        statuses = [(await client.post("/run", {"input": {}}))[0] for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        clock.advance(10)
        assert (await client.post("/run", {"input": {}}))[0] == 200


async def test_full_queue_is_429_and_takes_no_job() -> None:
    gate = Gate()
    options = FleetOptions(cap=1, boot=AT_ONCE, idle_after_s=60.0, queue_limit=1)
    async with runpod(gate, options=options) as client:
        await client.post("/run", {"input": {}})
        await asyncio.to_thread(gate.entered.acquire)
        assert (await client.post("/run", {"input": {}}))[0] == 200
        await until(lambda: client.server.fleet.waiting == 1)
        assert (await client.post("/run", {"input": {}}))[0] == 429
        assert len(client.server.jobs) == 2
        gate.open.set()


async def test_one_worker_has_one_job_at_a_time() -> None:
    running: list[int] = [0, 0]

    async def counting(job: Any) -> Any:
        running[0] += 1
        running[1] = max(running)
        await asyncio.sleep(0.01)
        running[0] -= 1
        return {}

    async with runpod(counting, options=FleetOptions(cap=2, boot=AT_ONCE, idle_after_s=60.0)) as client:
        await asyncio.gather(*(client.post("/runsync", {"input": {}}) for _ in range(10)))
    assert running[1] == 2


async def test_failures_come_on_cue_over_the_admin_path() -> None:
    async with runpod() as client:
        url = f"{client.server.url}/__emulator"

        async def cue(**wish: Any) -> int:
            async with client.session.post(f"{url}/fail", json=wish) as answer:
                return answer.status

        assert await cue(kind="throttle") == 200
        assert (await client.post("/runsync", {"input": {}}))[0] == 429
        assert await cue(kind="kill") == 200
        assert (await client.post("/runsync", {"input": {}}))[1]["status"] == "FAILED"
        assert await cue(kind="drop") == 200
        with pytest.raises(aiohttp.ClientError):
            await client.post("/runsync", {"input": {}})
        assert await cue(kind="nonsense") == 400
        assert (await client.post("/runsync", {"input": {}}))[1]["status"] == "COMPLETED"


async def test_bill_and_state_can_be_read_over_the_admin_path() -> None:
    clock = FakeClock()
    options = FleetOptions(boot=AT_ONCE, idle_after_s=5.0)
    async with runpod(clock=clock, options=options, usd_per_second=0.5) as client:
        await client.post("/runsync", {"input": {}})
        clock.advance(60)
        async with client.session.get(f"{client.server.url}/__emulator/bill") as answer:
            bill = await answer.json()
        async with client.session.get(f"{client.server.url}/__emulator/state") as answer:
            state = await answer.json()
    assert bill == {
        "billed_seconds": 5.0, "gb_seconds": 0.0, "requests": 1, "cold_starts": 1, "usd": 2.5,
    }  # fmt: skip
    assert (state["instances"], state["gone"]) == ([], 1)


async def test_worker_kit_in_each_worker_looks_like_a_process_of_its_own() -> None:
    def make(name: str) -> Any:
        return runpod_handler.make_handler(kit.Worker(echo, kit.Boot()))

    event = {
        "version": "2.0",
        "rawPath": "/v2/models/m/infer",
        "rawQueryString": "a=b",
        "headers": {},
        "requestContext": {"http": {"method": "POST"}},
        "body": "abc",
        "isBase64Encoded": False,
    }
    async with runpod(make=make, options=FleetOptions(cap=1, boot=AT_ONCE, idle_after_s=60.0)) as client:
        outputs = []
        for cue in (False, False, True, False):
            if cue:
                client.server.fail_next(1, "kill")
            outputs.append((await client.post("/runsync", {"input": event}))[1])
        first, second, killed, third = outputs
    assert first["output"]["headers"]["x-seen"] == "POST /v2/models/m/infer?a=b"
    assert killed["status"] == "FAILED"
    ids = [each["output"]["headers"]["x-overspill-boot-id"] for each in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]
