"""An attempt that is given up, at whatever moment, leaves nothing: no slot, no task, no connection, no debt."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest

from backends.base import Backend
from gateway.errors import BackendDown, BackendError
from gateway.vocab import Work
from tests.conformance.stubs import ANSWER, FIELDS, answer_to, good, head
from tests.conformance.support import (
    ON_A_SERVER,
    attempted,
    came_of,
    consumed,
    example,
    nothing_owed,
    nothing_runs,
)
from tests.support.provider import Received, Wire, a_call_for, providing, until

MOMENTS = 24


async def slowly(request: Received, wire: Wire) -> None:
    """Every part of an answer on its own, so that there is a moment between any two."""
    await asyncio.sleep(0.0005)
    await wire.write(head()[:30])
    await asyncio.sleep(0.0005)
    await wire.write(head()[30:])
    for start in range(0, len(ANSWER), 100):
        await asyncio.sleep(0.0002)
        await wire.write(answer_to(request)[start : start + 100])


async def given_up(task: asyncio.Task[Any]) -> None:
    """Cancelled, whatever it was about to say."""
    task.cancel()
    try:
        await task
    except (asyncio.CancelledError, BackendError):
        return


@ON_A_SERVER
async def test_given_up_at_any_moment_it_leaves_nothing(kind: type[Backend]) -> None:
    chance = Random(7)
    before = asyncio.all_tasks()
    async with providing(good) as provider:
        async with example(kind, provider.url) as (backend, background):
            fine = await came_of(backend)
            provider.behaviour = slowly
            for moment in range(MOMENTS):
                task = asyncio.ensure_future(consumed(backend))
                if moment < MOMENTS // 2:
                    for _ in range(moment):  # before, at and after the first bytes
                        await asyncio.sleep(0)
                else:
                    await asyncio.sleep(chance.random() * 0.004)
                await given_up(task)
            provider.behaviour = good
            assert (await came_of(backend)).same_as(fine)
            await background.done()
            nothing_runs(backend)
        await until(lambda: provider.connections == 0 and provider.busy == 0)
    await asyncio.sleep(0)
    if not kind.needs:  # a library may keep tasks of its own for the whole process
        assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


@ON_A_SERVER
async def test_a_reader_that_stops_leaves_nothing(kind: type[Backend]) -> None:
    async def long(request: Received, wire: Wire) -> None:
        await wire.head(200, {**FIELDS, "transfer-encoding": "chunked"})
        for _ in range(200):
            await wire.write(b"%x\r\n%b\r\n" % (len(ANSWER), ANSWER))
            await asyncio.sleep(0.001)
        await wire.reset()  # some see a submission through, behind a call that left

    async with providing(long) as provider:
        async with example(kind, provider.url) as (backend, background):
            try:
                async with asyncio.timeout(0.05), backend.send(a_call_for(backend), 0) as reply:
                    assert reply.stream is not None
                    async for _ in reply.stream:
                        break
            except (TimeoutError, BackendError):
                pass  # it reads whole answers only, and this one has no end
            await background.done()
            nothing_runs(backend)
            await until(lambda: provider.busy == 0)
        await until(lambda: provider.connections == 0)


@contextmanager
def deaf() -> Iterator[str]:
    """An address at which connections are neither taken nor refused: its queue of them is full."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for queued in (first, second):
            queued.setblocking(False)
            queued.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@ON_A_SERVER
async def test_a_connection_that_does_not_come_is_given_up_and_nothing_started(kind: type[Backend]) -> None:
    if "connect_timeout" not in kind.Options.model_fields:
        pytest.skip("its library's own limit")
    with deaf() as url:
        async with example(kind, url, {"connect_timeout": "60ms"}) as (backend, background):
            came = await attempted(backend)
            assert isinstance(came, BackendDown)
            assert came.work is Work.NOT_STARTED
            await background.done()
            nothing_runs(backend)
            nothing_owed(backend)


@ON_A_SERVER
@pytest.mark.parametrize("where", ["connecting", "waiting"])
async def test_a_deadline_ends_a_stall(kind: type[Backend], where: str) -> None:
    async def stall(request: Received, wire: Wire) -> None:
        await wire.hang()

    with deaf() as nobody:
        async with providing(stall) as provider:
            url = nobody if where == "connecting" else provider.url
            more = {"connect_timeout": "60ms"} if "connect_timeout" in kind.Options.model_fields else {}
            async with example(kind, url, more) as (backend, background):
                task = asyncio.ensure_future(consumed(backend))
                if where == "waiting":
                    await until(lambda: provider.busy == 1)
                else:
                    await asyncio.sleep(0.01)
                await given_up(task)
                if where == "waiting":
                    await provider.stop()
                await background.done()
                nothing_runs(backend)
                if where == "connecting":
                    nothing_owed(backend)
            await until(lambda: provider.connections == 0 and provider.busy == 0)


@ON_A_SERVER
async def test_many_at_once_and_half_of_them_given_up(kind: type[Backend]) -> None:
    chance = Random(11)
    async with providing(slowly) as provider:
        async with example(kind, provider.url) as (backend, background):
            tasks = [asyncio.ensure_future(came_of(backend)) for _ in range(4)]
            await asyncio.sleep(chance.random() * 0.005)
            for task in tasks[::2]:
                await given_up(task)
            stayed = [await task for task in tasks[1::2]]
            assert all(came.error is None for came in stayed), stayed
            await background.done()
            nothing_runs(backend)
        await until(lambda: provider.connections == 0)
