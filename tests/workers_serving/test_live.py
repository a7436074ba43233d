"""Several workers behind one port, as real processes."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import grpc.aio

from tests.demo.test_processes import gone
from tests.support.upstream import upstream
from tests.workers_serving.live import Crowd, checked, serving


async def test_replicas_never_see_more_than_their_slots_and_the_views_add_up(tmp_path: Path) -> None:
    async with checked(0.005) as (checker, replica), serving(tmp_path, replica, slots=3) as served:
        assert (await served.ask("/livez"))[0] == 200
        assert (await served.ask("/readyz"))[0] == 200
        crowd = Crowd(served.http)
        await crowd.run(clients=24, calls=25)
        assert crowd.statuses == {200: 600}
        assert not crowd.broken
        assert len(crowd.workers) == 2, "both workers have had calls"
        assert checker.total == 600
        assert checker.most == 3, "all slots were used, and never more"

        assert await served.metric("overspill_requests_total", outcome="ok") == 600
        assert await served.metric("overspill_decisions_total") == 600
        assert await served.metric("overspill_request_duration_seconds_count", route="everything") == 600
        assert await served.metric("overspill_request_duration_seconds_bucket", le="+Inf") == 600
        assert await served.metric("overspill_in_flight") == 0
        assert await served.metric("overspill_queue_depth") == 0
        assert await served.metric("overspill_capacity") == 3
        assert await served.metric("overspill_workers") == 2
        (route,) = await served.view("routes")
        assert route["requests"] == 600
        assert route["outcomes"] == {"ok": 600}
        assert isinstance(route["latency_s"], dict)
        assert route["latency_s"]["p50"] > 0.005
        (backend,) = await served.view("backends")
        assert (backend["in_flight"], backend["free"], backend["capacity"]) == (0, 3, 3)
        assert (await served.ask("/admin/config"))[1].startswith("version: 1")
        assert (await served.ask("/admin/explain"))[0] == 200
        assert await served.stop() == 0


async def test_a_killed_worker_loses_only_the_calls_it_held(tmp_path: Path) -> None:
    async with checked(0.01) as (checker, replica), serving(tmp_path, replica, slots=4) as served:
        crowd = Crowd(served.http)
        load = asyncio.get_running_loop().create_task(crowd.run(clients=16, calls=80))
        while crowd.statuses[200] < 300:
            await asyncio.sleep(0.01)
        before = set(crowd.workers)
        victim = served.worker(0)
        os.kill(victim, signal.SIGKILL)
        await load
        assert crowd.statuses == {200: 16 * 80}, "whoever called again was served"
        assert len({worker for worker in crowd.broken if worker is not None}) <= 1
        assert len(crowd.broken) <= 16, "no call broke twice"
        assert len(before) == 2
        assert checker.most == 4, "what the dead worker held was not given out while it ran"

        await served.until("worker 0 is process", count=2)
        assert served.worker(0) != victim
        gone(victim)
        while await served.metric("overspill_workers") < 2:
            await asyncio.sleep(0.05)
        assert await served.metric("overspill_worker_restarts_total") == 1
        for _ in range(100):
            (backend,) = await served.view("backends")
            if backend["free"] == 4:
                break
            await asyncio.sleep(0.05)
        again = Crowd(served.http)
        checker.most = 0
        await again.run(clients=16, calls=20)
        assert again.statuses == {200: 320}
        assert not again.broken
        assert checker.most == 4, "its slots came back, all of them"
        assert await served.stop() == 0


async def test_counters_do_not_fall_when_a_worker_dies(tmp_path: Path) -> None:
    async with checked(0.0) as (_, replica), serving(tmp_path, replica) as served:
        await Crowd(served.http).run(clients=12, calls=10)
        assert await served.metric("overspill_requests_total") == 120
        os.kill(served.worker(1), signal.SIGKILL)
        await served.until("worker 1 ended with SIGKILL")
        assert await served.metric("overspill_requests_total") == 120
        await served.until("worker 1 is process", count=2)
        while await served.metric("overspill_workers") < 2:
            await asyncio.sleep(0.05)
        assert await served.metric("overspill_requests_total") == 120
        await Crowd(served.http).run(clients=12, calls=10)
        assert await served.metric("overspill_requests_total") == 240
        (route,) = await served.view("routes")
        assert route["requests"] == 240
        assert await served.stop() == 0


async def test_sigterm_finishes_what_is_in_flight_and_leaves_no_process(tmp_path: Path) -> None:
    async with checked(0.7) as (checker, replica), serving(tmp_path, replica, slots=16) as served:
        crowd = Crowd(served.http)
        load = asyncio.get_running_loop().create_task(crowd.run(clients=12, calls=1))
        while checker.running < 12:
            await asyncio.sleep(0.01)
        served.process.send_signal(signal.SIGTERM)
        await served.until("draining", count=2)
        status, body = await served.ask("/readyz")
        assert (status, json.loads(body)["status"]) == (503, "draining")
        await load
        assert crowd.statuses == {200: 12}
        assert not crowd.broken
        assert await asyncio.wait_for(served.process.wait(), 30) == 0
        for pid in served.children():
            gone(pid)


async def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    async with upstream() as replica, serving(tmp_path, replica) as served:
        served.process.kill()
        await served.process.wait()
        for pid in served.children():
            await asyncio.to_thread(gone, pid)


async def test_grpc_calls_are_dealt_out_to_all_workers(tmp_path: Path) -> None:
    async with upstream() as replica, serving(tmp_path, replica, listen=', grpc: "127.0.0.1:0"') as served:
        for number in range(8):
            options = (("grpc.use_local_subchannel_pool", 1), ("overspill.number", number))
            async with grpc.aio.insecure_channel(f"127.0.0.1:{served.grpc}", options=options) as channel:
                live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
                assert await live(b"", timeout=20) == b"\x08\x01"
        assert await served.stop() == 0


async def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    async with upstream() as replica, serving(tmp_path, replica) as served:
        config = tmp_path / "second.yaml"
        config.write_text(
            (tmp_path / "gateway.yaml").read_text().replace("127.0.0.1:0", f"127.0.0.1:{served.http}", 1)
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "serve", "-c", str(config), "--workers", "2",
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, said = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 1
        assert f"cannot listen on 127.0.0.1:{served.http}" in said.decode()
        assert await served.stop() == 0
