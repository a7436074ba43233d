"""KEDA's service, asked by a real gRPC client over a real port."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backends.protobuf_wire import delimited, fields, string
from gateway.clock import FakeClock
from gateway.config.scaling import Scaling
from gateway.scaling.external import SERVICE, ExternalScaler
from gateway.scaling.rule import Load
from gateway.scaling.signals import ScalingSignals

grpc = pytest.importorskip("grpc", reason="grpcio is an extra")


class Cluster:
    """Loads as the test sets them, and a channel to the service."""

    def __init__(self, scaling: Scaling) -> None:
        self.loads: dict[str, Load] = {}
        self.clock = FakeClock()
        self.signals = ScalingSignals(scaling, self._told, self.clock)
        self.channel: Any = None

    async def _told(self) -> dict[str, Load]:
        return self.loads

    async def look(self) -> None:
        self.clock.advance(2.0)
        await self.signals.look()

    async def ask(self, method: str, message: bytes) -> Any:
        return await self.channel.unary_unary(f"/{SERVICE}/{method}")(message)


@asynccontextmanager
async def cluster(scaling: Scaling | None = None) -> AsyncIterator[Cluster]:
    made = Cluster(scaling or Scaling())
    service = ExternalScaler(made.signals)
    host, port = await service.open("127.0.0.1", 0)
    async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
        made.channel = channel
        try:
            yield made
        finally:
            await service.close()


def ref(**metadata: str) -> bytes:
    entries = (delimited(3, string(1, word) + string(2, value)) for word, value in metadata.items())
    return string(1, "triton-fleet") + string(2, "inference") + b"".join(entries)


def request(metric: str, **metadata: str) -> bytes:
    return delimited(1, ref(**metadata)) + string(2, metric)


def metric(answer: bytes) -> tuple[str, int, float]:
    (outer,) = fields(memoryview(answer), "answer")
    found = {field.number: field for field in fields(outer.data, "metric")}
    exact = struct.unpack("<d", found[3].data)[0] if 3 in found else 0.0
    return str(found[1].data, "utf-8"), found[2].value if 2 in found else 0, exact


def idle(replicas: int) -> Load:
    return Load(replicas, replicas, 4, 0, 0, 0, 0.0, 1.0)


async def test_it_tells_how_many_replicas_are_wanted() -> None:
    async with cluster() as made:
        made.loads = {"fleet": idle(3), "other": idle(1)}
        await made.look()
        spec = metric(await made.ask("GetMetricSpec", ref(backend="fleet")))
        assert spec == ("overspill-wanted-replicas-fleet", 1, 1.0)
        value = metric(await made.ask("GetMetrics", request("s0-any-name", backend="fleet")))
        assert value == ("s0-any-name", 3, 3.0)
        assert await made.ask("IsActive", ref(backend="fleet")) == b"\x08\x01"


async def test_an_only_backend_needs_no_name() -> None:
    async with cluster() as made:
        made.loads = {"fleet": idle(2)}
        await made.look()
        assert metric(await made.ask("GetMetrics", request("m")))[1] == 2


@pytest.mark.parametrize(
    ("metadata", "told"),
    [({}, "is missing"), ({"backend": "flet"}, "'flet'"), ({"backend": "x" * 5000}, "no owned backend")],
)
async def test_a_wrong_name_is_explained(metadata: dict[str, str], told: str) -> None:
    async with cluster() as made:
        made.loads = {"fleet": idle(3), "other": idle(1)}
        await made.look()
        for method, message in (
            ("IsActive", ref(**metadata)),
            ("GetMetricSpec", ref(**metadata)),
            ("GetMetrics", request("m", **metadata)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await made.ask(method, message)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert told in error.value.details()
            assert "write one of: fleet, other" in error.value.details()
            assert len(error.value.details()) < 300


async def test_what_is_not_known_yet_is_unavailable() -> None:
    async with cluster() as made:
        for load in ({}, {"fleet": idle(0)}):
            made.loads = load
            await made.look()
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await made.ask("GetMetrics", request("m"))
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_what_is_no_message_is_refused() -> None:
    async with cluster() as made:
        made.loads = {"fleet": idle(1)}
        await made.look()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await made.ask("IsActive", b"\x0a\x7fshort")
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await made.ask("Unknown", b"")
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_stream_tells_when_an_empty_fleet_is_wanted() -> None:
    scaling = Scaling.model_validate(
        {"grow_over": "1m", "shrink_over": "1m", "replicas": {"fleet": {"min": 0}}}
    )
    async with cluster(scaling) as made:
        made.loads = {"fleet": idle(1)}
        await made.look()
        call = made.channel.unary_stream(f"/{SERVICE}/StreamIsActive")(ref(backend="fleet"))
        assert await call.read() == b"\x08\x01"
        while made.signals.verdict("fleet").wanted:  # type: ignore[union-attr]
            await made.look()
        assert await asyncio.wait_for(call.read(), 5) == b""
        usd = 0.0
        while not made.signals.verdict("fleet").wanted:  # type: ignore[union-attr]
            usd += 1.0
            made.loads = {"fleet": Load(0, 0, 4, 0, 0, 4, usd, 1.0)}
            await made.look()
        assert await asyncio.wait_for(call.read(), 5) == b"\x08\x01"
        call.cancel()


async def test_a_port_in_use_is_an_error_with_its_name() -> None:
    first, second = (ExternalScaler(Cluster(Scaling()).signals) for _ in range(2))
    _, port = await first.open("127.0.0.1", 0)
    with pytest.raises(OSError, match=f"external_scaler: 127.0.0.1:{port}"):
        await second.open("127.0.0.1", port)
    await first.close()
    await first.close()
    await second.close()
