"""Clients of the gRPC port that call all the time, through a restart too, and what became of their calls."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from tests.grpc_ingress.support import Replica, request

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
OWN = (("grpc.use_local_subchannel_pool", 1),)
"""Each channel its own connection."""
PATIENCE_S = 30.0


def backend(replica: Replica) -> str:
    """To be put into the line of the fleet."""
    return f', grpc: {{replicas: ["127.0.0.1:{replica.port}"]}}'


@dataclass
class Callers:
    """Those of one kind. `lost`: why each call that failed did; `workers`: who answered, where it is told."""

    name: str
    port: int
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    workers: Counter[str] = field(default_factory=Counter)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def heard(self, trailers: Any) -> None:
        self.answered += 1
        named = dict(trailers).get("x-request-id", "")
        self.workers[str(named).partition("-")[0]] += 1

    async def until_done(self, call: Callable[[], Awaitable[None]]) -> None:
        while not self.done.is_set():
            try:
                await call()
            except asyncio.InvalidStateError as error:
                self.lost.append(str(error))
            except grpc.RpcError as error:
                self.lost.append(f"{error.code()} {error.details()}")


async def kept(callers: Callers, pause: float = 0.002) -> None:
    """One call after the other on one channel."""
    async with grpc.aio.insecure_channel(callers.address, options=OWN) as channel:
        ask = channel.unary_unary(INFER)

        async def call() -> None:
            running = ask(request(), timeout=PATIENCE_S)
            await running
            callers.heard(await running.trailing_metadata())
            await asyncio.sleep(pause)

        await callers.until_done(call)


async def paused(callers: Callers) -> None:
    """As `kept`, with time between the calls."""
    await kept(callers, 0.05)


async def many(callers: Callers) -> None:
    """Eight at once on one channel."""
    async with grpc.aio.insecure_channel(callers.address, options=OWN) as channel:
        ask = channel.unary_unary(INFER)

        async def call() -> None:
            running = ask(request(raw_input_contents=[bytes(20_000)]), timeout=PATIENCE_S)
            await running
            callers.heard(await running.trailing_metadata())
            await asyncio.sleep(0.01)

        await asyncio.gather(*(callers.until_done(call) for _ in range(8)))


async def fresh(callers: Callers) -> None:
    """A channel, and so a connection, for each call."""

    async def call() -> None:
        async with grpc.aio.insecure_channel(callers.address, options=OWN) as channel:
            running = channel.unary_unary(INFER)(request(), timeout=PATIENCE_S)
            await running
            callers.heard(await running.trailing_metadata())

    await callers.until_done(call)


async def streams(callers: Callers) -> None:
    """A stream of four messages after the other, each message when the one before is answered."""
    async with grpc.aio.insecure_channel(callers.address, options=OWN) as channel:
        ask = channel.stream_stream(STREAM_INFER)

        async def call() -> None:
            running = ask(timeout=PATIENCE_S)
            await asyncio.sleep(0.02)  # it is open, and nothing was said on it yet
            for _ in range(4):
                await running.write(request())
                await running.read()
            await running.done_writing()
            assert await running.read() is grpc.aio.EOF
            callers.heard(await running.trailing_metadata())

        await callers.until_done(call)


KINDS = (kept, paused, many, fresh, streams)


class TritonClients:
    """The same with Triton's own client, in a process of its own."""

    def __init__(self, port: int) -> None:
        self.crowd = [Callers(name, port) for name in ("triton_calls", "triton_streams")]
        self._port = port

    async def run(self) -> None:
        """Until the callers are done."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.restarts.triton_clients", str(self._port),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        try:
            hearing = asyncio.get_running_loop().create_task(self._hear(process))
            await self.crowd[0].done.wait()
            process.stdin.close()
            await asyncio.wait_for(hearing, PATIENCE_S)
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _hear(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            told = json.loads(line)
            for callers in self.crowd:
                callers.answered, callers.lost = told[callers.name]


@asynccontextmanager
async def grpc_load(port: int, *, served: bool = True) -> AsyncIterator[list[Callers]]:
    """Two clients of each kind, which call until this ends. `served`: all have been answered when it begins."""
    crowd = [Callers(kind.__name__, port) for kind in KINDS]
    loop = asyncio.get_running_loop()
    running = [
        loop.create_task(kind(callers)) for callers, kind in zip(crowd, KINDS, strict=True) for _ in range(2)
    ]
    others = TritonClients(port)
    running.append(loop.create_task(others.run()))
    crowd += others.crowd
    try:
        if served:
            await all_go_on(crowd)
        yield crowd
        assert not any(task.done() for task in running), "there was load all the time"
    finally:
        for callers in crowd:
            callers.done.set()
        await asyncio.gather(*running)


async def all_go_on(crowd: list[Callers], more: int = 2) -> None:
    """Wait until each kind has had that many more calls answered."""
    wanted = {callers.name: callers.answered + more for callers in crowd}
    async with asyncio.timeout(PATIENCE_S):
        while any(callers.answered < wanted[callers.name] for callers in crowd):
            await asyncio.sleep(0.02)


def unharmed(crowd: list[Callers]) -> None:
    """None lost a call."""
    assert {callers.name: callers.lost for callers in crowd} == {callers.name: [] for callers in crowd}
    assert all(callers.answered for callers in crowd)
