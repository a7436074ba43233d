"""The gRPC channels to a replica that has gone: closed when its last call is over, and not before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from backends.base import Kit
from backends.discovery import DnsDiscovery
from backends.triton import Triton
from backends.triton_grpc import GrpcFleet, GrpcOptions
from gateway.clock import SystemClock
from gateway.vocab import Call, WholeBody
from tests.grpc_ingress.support import SERVICE, Replica, replica, request
from tests.support.provider import Background, until


def a_call(method: str = "ModelInfer", *, stream: bool = False) -> Call:
    return Call(
        protocol="grpc",
        operation="infer",
        method=b"POST",
        target=f"{SERVICE}{method}".encode(),
        headers=[],
        body=WholeBody(request()),
        model="m",
        stream=stream,
    )


@asynccontextmanager
async def calling(one: Replica) -> AsyncIterator[tuple[GrpcFleet, Background]]:
    background = Background()
    fleet = GrpcFleet(
        GrpcOptions(port=one.port, channels=2),
        connect_timeout=1.0,
        fields=list,
        clock=SystemClock(),
        spawn=background.spawn,
    )
    try:
        yield fleet, background
    finally:
        await background.done()
        await fleet.close()


async def infer(fleet: GrpcFleet, *, retired: bool = False) -> bytes | None:
    async with fleet.send(a_call(), host="127.0.0.1", index=0, retired=retired) as reply:
        return reply.body


async def test_channels_that_nobody_uses_are_closed_at_once() -> None:
    async with replica() as one, calling(one) as (fleet, background):
        assert await infer(fleet) == b"echo:" + request()
        fleet.retire(host="127.0.0.1", index=0)
        assert background.names == [f"close the channels to 127.0.0.1:{one.port}"]


async def test_one_that_was_never_called_has_nothing_to_close() -> None:
    async with replica() as one, calling(one) as (fleet, background):
        fleet.retire(host="127.0.0.1", index=0)
        assert background.names == []


async def test_a_call_that_is_under_way_is_finished_first() -> None:
    go_on = asyncio.Event()

    async def slowly(message: bytes, context: Any) -> bytes:
        await go_on.wait()
        return b"late"

    async with replica(slowly) as one, calling(one) as (fleet, background):
        call = asyncio.ensure_future(infer(fleet))
        await until(lambda: one.running == 1)
        fleet.retire(host="127.0.0.1", index=0)
        assert background.names == []
        go_on.set()
        assert await call == b"late"
        assert len(background.names) == 1


async def test_a_stream_that_is_under_way_is_finished_first() -> None:
    async with replica() as one, calling(one) as (fleet, background):
        call = a_call("ModelStreamInfer", stream=True)
        async with fleet.send(call, host="127.0.0.1", index=0) as reply:
            assert reply.stream is not None
            fleet.retire(host="127.0.0.1", index=0)
            assert len([part async for part in reply.stream if part]) == 1
            assert background.names == []
        assert len(background.names) == 1


async def test_one_that_comes_back_is_called_over_new_channels() -> None:
    async with replica() as one, calling(one) as (fleet, background):
        await infer(fleet)
        before = set(one.peers)
        fleet.retire(host="127.0.0.1", index=0)
        await background.done()
        assert await infer(fleet) == b"echo:" + request()
        assert one.peers - before
        assert len(background.names) == 1


async def test_a_call_whose_replica_went_before_it_was_sent_leaves_no_channel_behind() -> None:
    async with replica() as one, calling(one) as (fleet, background):
        assert await infer(fleet, retired=True) == b"echo:" + request()
        assert len(background.names) == 1


async def test_a_fleet_lets_go_of_a_replica_that_is_found_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    async def lookup(host: str, port: int) -> list[str]:
        return found

    discovery = DnsDiscovery("triton.test", 8000, every=0.02, chance=Random(1), lookup=lookup)
    monkeypatch.setattr("backends.triton._discovery", lambda *_: discovery)
    async with replica() as one:
        found.append(one.url.removeprefix("http://"))
        options = {
            "type": "triton", "discover": {"dns": "triton.test"}, "grpc": {"port": one.port}, "max_in_flight": 1
        }  # fmt: skip
        background = Background()
        kit = Kit(SystemClock(), Random(7), background.spawn)
        fleet = Triton("fleet", Triton.Options.model_validate(options), kit)
        await fleet.open()
        try:
            async with fleet.send(a_call(), 0) as reply:
                assert reply.body == b"echo:" + request()
            found[:] = ["127.0.0.1:1"]
            await until(lambda: f"close the channels to 127.0.0.1:{one.port}" in background.names)
        finally:
            for task in background.tasks:
                if not task.get_name().startswith("close"):
                    task.cancel()
            await asyncio.gather(*background.tasks, return_exceptions=True)
            await fleet.close()
