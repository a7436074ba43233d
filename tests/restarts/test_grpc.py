"""A restart of a running gateway under gRPC load: no call and no stream is lost, whatever way clients call."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.grpc_ingress.support import replica, request
from tests.restarts.grpc_clients import (
    INFER,
    OWN,
    STREAM_INFER,
    all_go_on,
    backend,
    grpc_load,
    unharmed,
)
from tests.restarts.test_activation import activated, listening, port_of, written
from tests.workers_serving.live import serving

LISTEN = ', grpc: "127.0.0.1:0"'
SLOTS = 32
"""One for each client: who has no deadline would wait as long as others with one do."""


ANSWER = pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(id="x")).SerializeToString()


async def test_workers_are_replaced_under_load_and_no_call_is_lost(tmp_path: Path) -> None:
    async with (
        replica() as played,
        serving(tmp_path, played, slots=SLOTS, listen=LISTEN, fleet=backend(played)) as served,
    ):
        async with grpc_load(served.grpc) as crowd:
            for number in range(1, 3):
                before = {served.worker(0), served.worker(1)}
                served.process.send_signal(signal.SIGUSR2)
                await served.until("restarted: 2 of 2", count=number)
                assert not before & {served.worker(0), served.worker(1)}
                assert (await served.ask("/readyz"))[0] == 200, "it was ready all the time"
                await all_go_on(crowd)
        unharmed(crowd)
        assert len({worker for callers in crowd for worker in callers.workers}) >= 4
        assert await served.stop() == 0


async def test_a_gateway_that_is_alone_restarts_and_no_call_is_lost(tmp_path: Path) -> None:
    async with (
        replica() as played,
        serving(tmp_path, played, workers=1, slots=SLOTS, listen=LISTEN, fleet=backend(played)) as served,
    ):
        async with grpc_load(served.grpc) as crowd:
            served.process.send_signal(signal.SIGUSR2)
            await served.until("INFO overspill serving gRPC", count=2)
            await all_go_on(crowd)
        unharmed(crowd)
        assert len({worker for callers in crowd for worker in callers.workers}) == 2
        assert await served.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_service_that_is_stopped_and_started_loses_no_call(tmp_path: Path, workers: int) -> None:
    async with replica() as played, AsyncExitStack() as load:
        with listening() as http, listening() as rpc, listening() as admin:
            config = written(
                tmp_path, played, port_of(http), port_of(admin), f', grpc: "127.0.0.1:{port_of(rpc)}"'
            )
            config.write_text(
                config.read_text().replace("in_flight: 4", f"in_flight: {SLOTS}{backend(played)}")
            )
            crowd = await load.enter_async_context(grpc_load(port_of(rpc), served=False))
            for last in (False, True):
                async with activated(
                    config, (http, rpc, admin), "http:grpc:admin", workers=workers
                ) as served:
                    await served.until("serving gRPC")
                    await all_go_on(crowd)
                    if last:
                        await load.aclose()
                    assert await served.stop() == 0
        unharmed(crowd)


class _Slow:
    """A replica whose answers, and those of whose streams that follow the first, come when they may."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def infer(self, message: bytes, context: Any) -> bytes:
        await self.go.wait()
        return b"late"

    async def stream(self, messages: AsyncIterator[bytes], context: Any) -> None:
        async for _ in messages:
            await context.write(ANSWER)
            await self.go.wait()
            await context.write(ANSWER)


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_is_in_flight_ends_and_a_stream_that_nobody_used_goes_over(
    tmp_path: Path, workers: int
) -> None:
    slow, done = _Slow(), "restarted: 2 of 2" if workers == 2 else "draining for up to"
    async with (
        replica(slow.infer, slow.stream) as played,
        serving(tmp_path, played, workers=workers, listen=LISTEN, fleet=backend(played)) as served,
        grpc.aio.insecure_channel(f"127.0.0.1:{served.grpc}", options=OWN) as channel,
    ):
        call = channel.unary_unary(INFER)(request(), timeout=30)
        used, unused = (channel.stream_stream(STREAM_INFER)(timeout=30) for _ in range(2))
        await used.write(request())
        assert await used.read() == ANSWER
        while played.running < 2:
            await asyncio.sleep(0.01)
        served.process.send_signal(signal.SIGUSR2)
        await served.until(done)
        meanwhile = asyncio.ensure_future(_asked(served.grpc, "ServerLive"))
        await asyncio.sleep(1.5)  # longer than the time in which clients must have heard of it
        assert not call.done()
        assert not used.done()
        assert meanwhile.done() == (workers == 2), "with one worker, connections wait for its successor"
        slow.go.set()
        assert await call == b"late"
        assert await used.read() == ANSWER
        await used.done_writing()
        assert await used.read() is grpc.aio.EOF
        assert await used.code() is grpc.StatusCode.OK
        assert await meanwhile == b"\x08\x01"
        await unused.write(request())
        assert await unused.read() == ANSWER
        await unused.done_writing()
        while await unused.read() is not grpc.aio.EOF:
            pass
        assert await unused.code() is grpc.StatusCode.OK, "its client has opened it again by itself"
        assert await served.stop() == 0


async def _asked(port: int, name: str) -> bytes:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OWN) as channel:
        answer: bytes = await channel.unary_unary(f"/inference.GRPCInferenceService/{name}")(b"", timeout=30)
        return answer


async def test_it_is_not_ready_before_it_takes_no_more_calls(tmp_path: Path) -> None:
    async with (
        replica() as played,
        serving(
            tmp_path, played, workers=1, listen=LISTEN, fleet=backend(played), more="drain_delay: 1s"
        ) as served,
        grpc.aio.insecure_channel(f"127.0.0.1:{served.grpc}", options=OWN) as channel,
    ):
        live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        await live(b"", timeout=20)
        served.process.send_signal(signal.SIGTERM)
        await served.until("calls are taken for another 1 s")
        status, body = await served.ask("/readyz")
        assert (status, json.loads(body)["status"]) == (503, "draining")
        assert await live(b"", timeout=20) == b"\x08\x01"
        assert await _asked(served.grpc, "ServerLive") == b"\x08\x01", "who has not heard of it is served"
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 20)
        assert await asyncio.wait_for(served.process.wait(), 30) == 0
