"""A changed file on a running gateway: real sockets, real clients."""

import asyncio
import gc
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from backends.triton import Triton
from tests.reloading.support import backend, infer, route, running, text
from tests.support.upstream import Received, upstream
from tests.support.wire import Peer, eventually


class Held:
    """Answers health at once and calls when it is told to."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.running = self.most = 0

    async def answer(self, received: Received, writer: asyncio.StreamWriter) -> None:
        if received.line.startswith(b"POST"):
            self.running += 1
            self.most = max(self.most, self.running)
            await self.gate.wait()
            self.running -= 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


@asynccontextmanager
async def frozen() -> AsyncIterator[None]:
    """What is there already is not looked through at each reload: as `overspill serve` does."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def call(port: int, model: str = "m") -> int:
    peer = await Peer.connect(port)
    peer.send(infer(model))
    return (await peer.answer())[0]


async def test_hundreds_of_reloads_under_load_fail_no_request_and_leave_nothing(tmp_path: Path) -> None:
    async with upstream() as one, upstream() as other:
        files = [
            text({"a": backend(one.url)}, {"r": route("a")}),
            text({"b": backend(other.url)}, {"r": route("b", more=", timeout: 20s")}),
            text({"a": backend(one.url, slots=2), "b": backend(other.url)}, {"s": route("b"), "r": route("a", model="n")}),
        ]  # fmt: skip
        files[2] = files[2].replace("match: {model: m}", "match: {model: '*'}")
        # Nobody else takes a file over, between its being written and the request for it.
        files = [f"{each}\nreload: {{watch: false}}\n" for each in files]
        async with running(tmp_path, files[0]) as run, frozen():
            statuses, over = Counter[int](), asyncio.Event()

            async def load() -> None:
                peer = await Peer.connect(run.http)
                while not over.is_set():
                    peer.send(infer())
                    statuses[(await peer.answer())[0]] += 1
                    await asyncio.sleep(0.002)  # the file is read by the same interpreter

            tasks = [asyncio.get_running_loop().create_task(load()) for _ in range(6)]
            before, tasks_before = 0, 0
            for number in range(1, 201):
                status, told = await run.reload(files[number % 3])
                assert (status, told["result"]) == (200, "ok"), told
                if number == 30:
                    before, tasks_before = descriptors(), len(asyncio.all_tasks())
            over.set()
            await asyncio.gather(*tasks)
            assert set(statuses) == {200}
            assert statuses[200] > 200
            await eventually(lambda: not list(run.gateway.tables.parting), "old backends are closed")
            await eventually(lambda: descriptors() <= before, "no descriptor is left")
            await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before, "no task is left")
            assert run.gateway.ledger.closed == run.gateway.ledger.opened
            assert await run.metric('overspill_config_reloads_total{result="ok"}') == 200


async def test_a_wrong_file_changes_nothing_and_is_told_as_check_tells_it(tmp_path: Path) -> None:
    async with upstream() as replica:
        good = text({"a": backend(replica.url)}, {"r": route("a")})
        async with running(tmp_path, good) as run:
            revision = (await run.ask("GET", "/admin/config", accept="application/json"))[1]["running"][
                "revision"
            ]
            status, told = await run.reload(good.replace("max_in_flight: 4", "max_in_flight: four"))
            assert status == 422
            (problem,) = told["problems"]
            assert (problem["path"], problem["line"]) == ("backends.a.max_in_flight", 4)
            assert await call(run.http) == 200
            words = await run.words("/admin/config")
            assert words.startswith("version: 1")
            assert "backends.a.max_in_flight" in words
            config = (await run.ask("GET", "/admin/config", accept="application/json"))[1]
            assert config["running"]["revision"] == revision
            assert config["rejected"]["problems"] == told["problems"]
            assert await run.metric("overspill_config_last_reload_successful") == 0
            assert await run.metric('overspill_config_reloads_total{result="rejected"}') == 1

            status, told = await run.reload(good)
            assert (status, told["result"]) == (200, "unchanged")
            assert await run.metric("overspill_config_last_reload_successful") == 1
            assert "rejected" not in await run.words("/admin/config")


async def test_what_needs_a_restart_is_refused_by_name(tmp_path: Path) -> None:
    async with upstream() as replica:
        good = text({"a": backend(replica.url)}, {"r": route("a")})
        async with running(tmp_path, good) as run:
            moved = good.replace("http: '127.0.0.1:0'", "http: '127.0.0.1:1'")
            status, told = await run.reload(moved)
            assert status == 409
            assert [problem["path"] for problem in told["problems"]] == ["listen"]
            assert "restart" in told["problems"][0]["message"]
            assert await call(run.http) == 200


async def test_a_good_file_that_cannot_be_taken_over_now_leaves_everything(tmp_path: Path) -> None:
    async with upstream() as replica:
        good = text({"a": backend(replica.url)}, {"r": route("a")})
        async with running(tmp_path, good) as run:
            pools, estimates = run.gateway.pools["r"], run.gateway.estimates.of("r", "a")
            run.gateway.draining = True
            status, told = await run.reload(good.replace("max_in_flight: 4", "max_in_flight: 5"))
            run.gateway.draining = False
            assert (status, told["result"]) == (409, "rejected")
            assert run.gateway.pools["r"] is pools
            assert run.gateway.estimates.of("r", "a") is estimates
            assert run.gateway.settings.backends["a"].max_in_flight == 4


async def test_what_is_unchanged_goes_on_with_its_calls_connections_and_lessons(tmp_path: Path) -> None:
    held = Held()
    async with upstream(held.answer) as replica, upstream() as other:
        first = text({"a": backend(replica.url)}, {"r": route("a")})
        second = text(
            {"a": backend(replica.url), "b": backend(other.url)},
            {"r": route("a", more=", timeout: 33s"), "s": route("b", model="n")},
        )
        async with running(tmp_path, first) as run:
            gateway = run.gateway
            loop = asyncio.get_running_loop()
            calls = [loop.create_task(call(run.http)) for _ in range(6)]
            await eventually(
                lambda: held.running == 4 and gateway.pools["r"].queue_depth == 2, "slots are full"
            )
            supply, known, server = (
                gateway.capacities["a"],
                gateway.estimates.of("r", "a"),
                gateway.backends["a"],
            )
            status, told = await run.reload(second)
            assert status == 200
            assert told["changed"] == {
                "backends": {"added": ["b"], "removed": [], "changed": []},
                "routes": {"added": ["s"], "removed": [], "changed": ["r"]},
                "settings": [],
            }
            assert gateway.capacities["a"] is supply
            assert gateway.backends["a"] is server
            assert supply.in_flight == 4
            assert await run.metric('overspill_in_flight{backend="a"}') == 4
            assert gateway.estimates.of("r", "a") is known
            assert await run.metric("overspill_config_draining_calls") == 6
            late = loop.create_task(call(run.http))
            await eventually(lambda: gateway.pools["r"].queue_depth == 1, "it waits by the new table")
            held.gate.set()
            assert await asyncio.gather(*calls, late) == [200] * 7
            assert held.most == 4, "the queue of the old table and that of the new one share the slots"
            assert await call(run.http, "n") == 200
            await eventually(lambda: not gateway.tables.draining, "the old table is out")
            assert await run.metric('overspill_requests_total{backend="a",outcome="ok",route="r"}') == 7


async def test_a_removed_backend_finishes_its_calls_and_is_then_closed(tmp_path: Path) -> None:
    held = Held()
    async with upstream(held.answer) as replica, upstream() as other:
        first = text({"a": backend(replica.url)}, {"r": route("a")})
        async with running(tmp_path, first) as run:
            running_call = asyncio.get_running_loop().create_task(call(run.http))
            await eventually(lambda: held.running == 1, "it runs")
            assert (await run.reload(text({"b": backend(other.url)}, {"s": route("b", model="n")})))[0] == 200
            assert await call(run.http) == 404
            assert await call(run.http, "n") == 200
            assert replica.open
            held.gate.set()
            assert await running_call == 200
            await eventually(lambda: not replica.open, "its connections are closed")
            booked = 'overspill_requests_total{backend="a",outcome="ok",route="r"}'
            assert await run.metric(booked) == 1, "the call was booked where it ran"
            assert (await run.metric('overspill_cost_usd_total{backend="a",kind="fleet",route="r"}') or 1) > 0


async def test_a_changed_backend_never_gives_its_replica_more_than_its_slots(tmp_path: Path) -> None:
    held = Held()
    async with upstream(held.answer) as replica:
        first = text({"a": backend(replica.url, slots=3)}, {"r": route("a")})
        second = text({"a": backend(replica.url, slots=4)}, {"r": route("a")})
        async with running(tmp_path, first) as run:
            loop = asyncio.get_running_loop()
            calls = [loop.create_task(call(run.http)) for _ in range(3)]
            await eventually(lambda: held.running == 3, "they run")
            assert (await run.reload(second))[0] == 200
            calls += [loop.create_task(call(run.http)) for _ in range(6)]
            await eventually(lambda: held.running == 4, "one more than before")
            assert run.gateway.capacities["a"].free_slots == 0
            held.gate.set()
            assert await asyncio.gather(*calls) == [200] * 9
            assert held.most == 4
            await eventually(lambda: not list(run.gateway.tables.parting), "the earlier one is closed")
            assert run.gateway.capacities["a"].free_slots == 4


async def test_a_saved_file_is_taken_over_and_so_is_a_link_that_points_elsewhere(tmp_path: Path) -> None:
    async with upstream() as replica:
        first = text({"a": backend(replica.url)}, {"r": route("a")})
        async with running(tmp_path, first) as run:
            gateway = run.gateway
            run.file.write_text(first.replace("model: m", "model: n"))
            await eventually(lambda: gateway.routes.find("kserve", "n") is not None, "it was seen")
            for name, model in (("one", "o"), ("two", "p")):
                (tmp_path / name).mkdir()
                (tmp_path / name / "gateway.yaml").write_text(first.replace("model: m", f"model: {model}"))
            link = tmp_path / "..data"
            link.symlink_to("one")
            (tmp_path / "new").symlink_to("..data/gateway.yaml")
            (tmp_path / "new").replace(run.file)
            await eventually(lambda: gateway.routes.find("kserve", "o") is not None, "the link was followed")
            (tmp_path / "next").symlink_to("two")
            (tmp_path / "next").replace(link)
            await eventually(lambda: gateway.routes.find("kserve", "p") is not None, "the swap was seen")


async def test_a_file_that_is_not_watched_is_left_alone_until_told(tmp_path: Path) -> None:
    async with upstream() as replica:
        first = text({"a": backend(replica.url)}, {"r": route("a")}, more="reload: {watch: false}")
        async with running(tmp_path, first) as run:
            run.file.write_text(first.replace("model: m", "model: n"))
            os.utime(run.file)
            await asyncio.sleep(1.6)  # longer than between two looks
            assert run.gateway.routes.find("kserve", "n") is None
            assert (await run.ask("POST", "/admin/reload"))[0] == 200
            assert run.gateway.routes.find("kserve", "n") is not None


@pytest.mark.parametrize("slots", [1, 8])
async def test_readiness_of_new_backends_is_known_before_they_are_used(tmp_path: Path, slots: int) -> None:
    async with upstream() as replica:
        first = text({"a": backend(replica.url)}, {"r": route("a")})
        async with running(tmp_path, first) as run:
            await run.reload(text({"b": backend(replica.url, slots=slots)}, {"r": route("b")}))
            assert run.gateway.capacities["b"].ready(0) is True


async def test_old_backends_are_forgotten_though_calls_of_later_ones_are_always_inside(
    tmp_path: Path,
) -> None:
    gates: list[asyncio.Event] = []

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        if received.line.startswith(b"POST"):
            gates.append(gate := asyncio.Event())
            await gate.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

    def version(number: int) -> str:
        return text({"a": backend(one.url, slots=4 + number)}, {"r": route("a")}, "reload: {watch: false}")

    def here() -> int:
        gc.collect()
        return sum(isinstance(each, Triton) for each in gc.get_objects())

    async with upstream(answer) as one, running(tmp_path, version(0)) as run, frozen():
        calls: list[asyncio.Task[int]] = []
        for number in range(1, 9):
            calls.append(asyncio.get_running_loop().create_task(call(run.http)))
            await eventually(lambda: len(gates) == len(calls), "the call is at the replica")
            assert (await run.reload(version(number)))[0] == 200
            if number > 1:
                gates[number - 2].set()
                assert await calls[number - 2] == 200
        await eventually(lambda: here() <= 3, "only those that are in use are in memory")
        gates[-1].set()
        assert await calls[-1] == 200
