"""A changed file with several workers: all of them take it over, or none does."""

import asyncio
import json
import os
import signal
from pathlib import Path

from tests.support.upstream import upstream
from tests.workers_serving.live import Crowd, Served, all_serve, checked, serving


async def post(served: Served, path: str) -> tuple[int, dict[str, object]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.admin)
    writer.write(
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
    )
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body)


async def test_all_workers_change_under_load_and_no_call_fails(tmp_path: Path) -> None:
    async with (
        checked(0.002) as (checker, replica),
        upstream() as other,
        serving(tmp_path, replica) as served,
    ):
        file = tmp_path / "gateway.yaml"
        first = file.read_text() + "\nreload: {watch: false}\n"
        added = first.replace(
            "routes:", f'  more: {{type: triton, replicas: ["{other.url}"], max_in_flight: 2}}\nroutes:'
        ).replace("tiers: [{backend: fleet}]", "tiers: [{backend: fleet}, {backend: more}]")
        headed = first.replace("max_in_flight: 4", "max_in_flight: 4, connect_timeout: 900ms")
        assert len({first, added, headed}) == 3
        await all_serve(served.http)
        crowd = Crowd(served.http)
        load = asyncio.get_running_loop().create_task(crowd.until_done(clients=12))
        revisions = set()
        for number in range(45):
            file.write_text((added, headed, first)[number % 3])
            status, told = await post(served, "/admin/reload")
            assert (status, told["result"]) == (200, "ok"), told
            revisions.add(told["revision"])
        assert not load.done(), "there was load all the time"
        crowd.done.set()
        await load
        assert len(revisions) == 3
        assert set(crowd.statuses) == {200}
        assert crowd.statuses[200] > 45, "there were calls between one reload and the next"
        assert not crowd.broken
        assert len(crowd.workers) == 2
        assert checker.most == 4, "the slots of a replica that stays are those of all workers, all the time"
        assert await served.metric("overspill_config_reloads_total", result="ok") == 45
        assert await served.metric("overspill_capacity") == 4
        assert await served.metric("overspill_config_last_reload_successful") == 1
        while await served.metric("overspill_config_draining_calls"):
            await asyncio.sleep(0.05)
        assert await served.stop() == 0


async def test_a_wrong_file_and_one_that_a_worker_cannot_take_change_nobody(tmp_path: Path) -> None:
    async with checked(0.0) as (_, replica), serving(tmp_path, replica) as served:
        file = tmp_path / "gateway.yaml"
        first = file.read_text()
        file.write_text(first.replace("max_in_flight: 4", "max_in_flight: none"))
        status, told = await post(served, "/admin/reload")
        assert status == 422
        assert "backends.fleet.max_in_flight" in json.dumps(told)
        assert "# a file was rejected" not in first
        assert "a file was rejected" in (await served.ask("/admin/config"))[1]

        file.write_text(first.replace("max_in_flight: 4", "max_in_flight: 5"))
        status, told = await post(served, "/admin/reload")
        assert status == 409
        assert "max_in_flight cannot change while several workers share" in json.dumps(told)

        os.kill(served.worker(1), signal.SIGSTOP)
        try:
            file.write_text(first.replace('{match: {model: "*"}', '{timeout: 9s, match: {model: "*"}'))
            status, told = await post(served, "/admin/reload")
            assert (status, told["result"]) == (409, "rejected")
            assert (await served.ask("/admin/config"))[1].count("timeout: 9s") == 0
        finally:
            os.kill(served.worker(1), signal.SIGCONT)
        await Crowd(served.http).run(clients=6, calls=5)
        for _ in range(2):
            served.process.send_signal(signal.SIGHUP)
        await served.until("configuration [0-9a-f]+ taken over: routes changed: everything")
        assert "timeout: 9s" in (await served.ask("/admin/config"))[1]
        assert await served.stop() == 0


async def test_a_worker_that_is_started_again_runs_by_what_all_have_taken_over(tmp_path: Path) -> None:
    async with checked(0.0) as (_, replica), upstream() as other, serving(tmp_path, replica) as served:
        file = tmp_path / "gateway.yaml"
        file.write_text(file.read_text().replace(replica.url, other.url).replace("fleet", "other"))
        assert (await post(served, "/admin/reload"))[0] == 200
        os.kill(served.worker(0), signal.SIGKILL)
        await served.until("worker 0 is process", count=2)
        while await served.metric("overspill_workers") < 2:
            await asyncio.sleep(0.05)
        before = replica.connections
        await all_serve(served.http)
        crowd = Crowd(served.http, keep=False)
        await crowd.run(clients=12, calls=20)
        assert crowd.statuses == {200: 240}
        assert len(crowd.workers) == 2
        assert replica.connections == before, "nobody calls the old one"
        assert [backend["name"] for backend in await served.view("backends")] == ["other"]
        assert await served.stop() == 0
