"""A replica whose gRPC side is played by the test, and a gateway in front of several of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as pb

from gateway.app import Gateway
from tests.support.gateways import running
from tests.support.upstream import upstream

SERVICE = "/inference.GRPCInferenceService/"

Unary = Callable[[bytes, Any], Awaitable[bytes]]
Stream = Callable[[AsyncIterator[bytes], Any], Awaitable[None]]


@dataclass
class Replica:
    """What the played replica was asked. `infer` and `stream` play it; other methods echo."""

    infer: Unary
    stream: Stream
    port: int = 0
    url: str = ""
    seen: list[tuple[str, bytes, dict[str, str | bytes]]] = field(default_factory=list)
    running: int = 0
    most: int = 0
    cancelled: int = 0
    peers: set[str] = field(default_factory=set)
    server: Any = None

    def service(self, details: Any) -> Any:
        name = details.method.removeprefix(SERVICE)
        if name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(partial(self._streamed, name))
        return grpc.unary_unary_rpc_method_handler(partial(self._asked, name))

    async def _asked(self, name: str, message: bytes, context: Any) -> bytes:
        self.seen.append((name, message, dict(context.invocation_metadata())))
        with self._counted(context):
            return await (self.infer if name == "ModelInfer" else echo)(message, context)

    async def _streamed(self, name: str, messages: AsyncIterator[bytes], context: Any) -> None:
        self.seen.append((name, b"", dict(context.invocation_metadata())))
        with self._counted(context):
            await self.stream(messages, context)

    def _counted(self, context: Any) -> "_Counted":
        self.peers.add(context.peer())
        return _Counted(self)


class _Counted:
    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def __enter__(self) -> None:
        self._replica.running += 1
        self._replica.most = max(self._replica.most, self._replica.running)

    def __exit__(self, kind: Any, *_: object) -> None:
        self._replica.running -= 1
        self._replica.cancelled += kind is asyncio.CancelledError


async def echo(message: bytes, context: Any) -> bytes:
    return b"echo:" + message


async def echo_stream(messages: AsyncIterator[bytes], context: Any) -> None:
    """One response for each request, as a model that is not decoupled gives."""
    async for message in messages:
        request = pb.ModelInferRequest.FromString(message)
        answer = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        await context.write(pb.ModelStreamInferResponse(infer_response=answer).SerializeToString())


async def always_ready(received: Any, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


@asynccontextmanager
async def replica(infer: Unary = echo, stream: Stream = echo_stream) -> AsyncIterator[Replica]:
    played = Replica(infer, stream)
    played.server = grpc.aio.server()
    played.server.add_generic_rpc_handlers((played,))
    played.port = played.server.add_insecure_port("127.0.0.1:0")
    await played.server.start()
    try:
        async with upstream(always_ready) as http:
            played.url = http.url
            yield played
    finally:
        await played.server.stop(None)


def fleet(*replicas: Replica, slots: int = 4, more: str = "") -> str:
    """A `triton` backend with these replicas, as one line of the file."""
    urls = ", ".join(f'"{each.url}"' for each in replicas)
    addresses = ", ".join(f'"127.0.0.1:{each.port}"' for each in replicas)
    return (
        f"{{type: triton, replicas: [{urls}], grpc: {{replicas: [{addresses}]}}, max_in_flight: {slots},"
        f" price: {{usd_per_replica_hour: 1.0}}{more}}}"
    )


def file(backends: dict[str, str], tiers: str, route: str = "", top: str = "") -> str:
    lines = "\n".join(f"  {name}: {text}" for name, text in backends.items())
    return (
        f"{top}\nbackends:\n{lines}\nroutes:\n  one:\n    match: {{model: m}}\n    policy: spill_when_full\n"
        f"    {route}\n    tiers: {tiers}\n"
    )


SHED = "[{backend: fleet, when_full: {queue: 2s, then: shed}}]"
SPILL = "[{backend: fleet, when_full: spill}, {backend: burst, when_full: {queue: 2s, then: shed}}]"


@dataclass
class Front:
    """A gateway and a channel to its gRPC port."""

    gateway: Gateway
    channel: Any
    address: str

    def unary(self, name: str, message: bytes, **options: Any) -> Any:
        return self.channel.unary_unary(SERVICE + name)(message, **options)

    def infer(self, message: bytes, **options: Any) -> Any:
        return self.unary("ModelInfer", message, **options)

    def open_stream(self, **options: Any) -> Any:
        return self.channel.stream_stream(SERVICE + "ModelStreamInfer")(**options)

    @property
    def in_flight(self) -> int:
        return sum(capacity.in_flight for capacity in self.gateway.capacities.values())


@asynccontextmanager
async def front(text: str) -> AsyncIterator[Front]:
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(running(text, grpc=True))
        assert gateway.grpc_address is not None
        address = str(gateway.grpc_address)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        yield Front(gateway, channel, address)


def request(model: str = "m", version: str = "", **more: Any) -> bytes:
    message: bytes = pb.ModelInferRequest(model_name=model, model_version=version, **more).SerializeToString()
    return message


async def failure(call: Any) -> Any:
    """The error that this call ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call was answered")


def fields(metadata: Any) -> dict[str, str]:
    return dict(metadata)


def logged(path: Path) -> list[dict[str, Any]]:
    """The access log of a gateway that has stopped."""
    return [json.loads(line) for line in path.read_text().splitlines()]
