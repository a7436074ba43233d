"""A restart of a running gateway under load: no call and no connection is lost, whatever way clients call."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.workers_serving.live import Crowd, Served, checked, serving

RESTARTS = 5


@asynccontextmanager
async def load(served: Served) -> AsyncIterator[tuple[Crowd, ...]]:
    """Clients that keep their connections, some that pause between calls, and some that keep none."""
    crowds = (
        Crowd(served.http),
        Crowd(served.http, pause=0.05),
        Crowd(served.http, keep=False),
        Crowd(served.http, keep=False),
    )
    loop = asyncio.get_running_loop()
    running = [loop.create_task(crowd.until_done(clients=4)) for crowd in crowds]
    try:
        yield crowds
        assert not any(task.done() for task in running), "there was load all the time"
    finally:
        for crowd in crowds:
            crowd.done.set()
        await asyncio.gather(*running)


def unharmed(crowds: tuple[Crowd, ...]) -> None:
    for crowd in crowds:
        assert set(crowd.statuses) == {200}
        assert not crowd.broken


async def test_workers_are_replaced_five_times_under_load_and_nothing_fails(tmp_path: Path) -> None:
    state = f"state: {{path: {tmp_path / 'learned'}, every: 1h}}"
    async with (
        checked(0.002) as (checker, replica),
        serving(tmp_path, replica, slots=3, more=state) as served,
    ):
        supervisor, seen = served.process.pid, set()
        async with load(served) as crowds:
            for number in range(1, RESTARTS + 1):
                before = {served.worker(0), served.worker(1)}
                served.process.send_signal(signal.SIGUSR2)
                await served.until("restarted: 2 of 2", count=number)
                assert not before & {served.worker(0), served.worker(1)}
                assert (await served.ask("/readyz"))[0] == 200, "it was ready all the time"
                seen |= before
        unharmed(crowds)
        assert len(seen) == 2 * RESTARTS
        assert checker.most == 3, "the old workers and the new ones share the slots"
        assert len({worker for crowd in crowds for worker in crowd.workers}) >= 2 * RESTARTS
        assert served.process.pid == supervisor
        assert served.process.returncode is None
        assert json.loads((tmp_path / "learned").read_text()), "what was learned was written for the next"
        while await served.metric("overspill_workers") > 2:
            await asyncio.sleep(0.05)
        assert await served.metric("overspill_capacity") == 3
        assert await served.metric("overspill_in_flight") == 0
        assert await served.stop() == 0


async def test_a_gateway_that_is_alone_restarts_without_a_failed_call(tmp_path: Path) -> None:
    async with (
        checked(0.002) as (checker, replica),
        serving(tmp_path, replica, slots=3, workers=1) as served,
    ):
        async with load(served) as crowds:
            for number in range(2, 4):
                served.process.send_signal(signal.SIGUSR2)
                await served.until("INFO overspill serving on", count=number)
                assert (await served.ask("/readyz"))[0] == 200
        unharmed(crowds)
        assert len({worker for crowd in crowds for worker in crowd.workers}) == 3
        assert checker.most == 3
        assert await served.stop() == 0


async def test_a_file_that_is_wrong_restarts_nothing(tmp_path: Path) -> None:
    async with checked(0.0) as (_, replica), serving(tmp_path, replica, slots=3) as served:
        file = tmp_path / "gateway.yaml"
        first = file.read_text()
        before = {served.worker(0), served.worker(1)}
        for number, (old, new, why) in enumerate(
            (
                ("max_in_flight: 3", "max_in_flight: none", "backends.fleet.max_in_flight"),
                ("max_in_flight: 3", "max_in_flight: 5", "max_in_flight cannot change"),
                ('http: "127.0.0.1:0"', 'http: "127.0.0.1:1"', "a restart keeps the ports"),
            ),
            start=1,
        ):
            file.write_text("reload: {watch: false}\n" + first.replace(old, new))
            served.process.send_signal(signal.SIGUSR2)
            await served.until("the new version would not start", count=number)
            assert why in served.log
        assert {served.worker(0), served.worker(1)} == before
        await Crowd(served.http).run(clients=4, calls=4)

        file.write_text(first.replace("  fleet:", "  new:").replace("backend: fleet", "backend: new"))
        served.process.send_signal(signal.SIGUSR2)
        await served.until("restarted: 2 of 2")
        assert [backend["name"] for backend in await served.view("backends")] == ["new"]
        crowd = Crowd(served.http)
        await crowd.run(clients=8, calls=8)
        assert crowd.statuses == {200: 64}
        assert await served.stop() == 0


async def test_connections_of_a_worker_that_does_not_come_back_are_taken_by_the_others(
    tmp_path: Path,
) -> None:
    async with checked(0.0) as (_, replica), serving(tmp_path, replica) as served:
        for _ in range(3):  # each time it stays away for longer
            os.kill(victim := served.worker(0), signal.SIGKILL)
            await served.until(rf"{victim}", count=1)
            crowd = Crowd(served.http, keep=False)
            await asyncio.wait_for(crowd.run(clients=8, calls=4), 20)
            assert crowd.statuses == {200: 32}
            while served.worker(0) == victim:
                await asyncio.sleep(0.02)
        assert await served.stop() == 0
