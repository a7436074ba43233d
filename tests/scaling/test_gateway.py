"""A whole gateway tells what is wanted, with loopback backends."""

import asyncio
from typing import Any

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.scaling.external import SERVICE
from tests.scaling.test_external import metric, request
from tests.support.gateways import port_of, running

FILE = """
backends:
  fleet: {type: loopback, max_in_flight: 1, replicas: 2, latency: 2s}
  rented:
    type: loopback_rented
    max_in_flight: 8
    latency: 2s
    price: {usd_per_second: 0.001}
routes:
  chat: {tiers: [{backend: fleet}, {backend: rented}], policy: spill_when_full}
"""


async def document(gateway: Gateway) -> Any:
    assert gateway.admin_address is not None
    host, port = gateway.admin_address
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}/scaler/metrics.json") as answer,
    ):
        assert answer.status == 200
        return await answer.json()


async def test_the_document_tells_the_load_and_what_is_wanted() -> None:
    async with running(FILE) as gateway:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port_of(gateway)}/invoke/chat"
            calls = [asyncio.ensure_future(session.post(url, data=b"x")) for _ in range(5)]
            while sum(each.in_flight for each in gateway.capacities.values()) < 5:
                await asyncio.sleep(0.005)
            await gateway.scaling.signals.look()
            entry = (await document(gateway))["backends"]["fleet"]
            for call in calls:
                (await call).release()
        assert entry.items() >= {
            "wanted_replicas": 2,
            "present_replicas": 2,
            "ready_replicas": 2,
            "in_flight": 2,
            "queue": 0,
            "replica_usd_per_hour": None,
            "verdict": "unknown",
        }.items()  # fmt: skip
        load = gateway.scaling.signals._sizers["fleet"].load
        assert load is not None
        assert load.spilled == 3
        await gateway.scaling.signals.look()
        load = gateway.scaling.signals._sizers["fleet"].load
        assert load is not None
        assert (load.spilled, load.in_flight) == (0, 0)
        assert load.spill_usd == pytest.approx(sum(gateway.ledger.lanes["chat", "rented"].usd.values()))
        assert load.spill_usd is not None
        assert load.spill_usd >= 3 * 2 * 0.001


async def test_rented_backends_are_not_in_it_and_prices_may_be_unknown() -> None:
    async with running(FILE.replace("    price: {usd_per_second: 0.001}\n", "")) as gateway:
        await gateway.scaling.signals.look()
        told = await document(gateway)
        assert list(told["backends"]) == ["fleet"]
        entry = told["backends"]["fleet"]
        assert (entry["replica_usd_per_hour"], entry["verdict"]) == (None, "unknown")
        assert entry["wanted_replicas"] == 2


async def test_the_grpc_port_is_opened_where_the_file_names_one() -> None:
    grpc = pytest.importorskip("grpc", reason="grpcio is an extra")
    async with running(FILE + "scaling: {external_scaler: '127.0.0.1:0'}\n") as gateway:
        await gateway.scaling.signals.look()
        async with grpc.aio.insecure_channel(str(gateway.scaling.address)) as channel:
            answer = await channel.unary_unary(f"/{SERVICE}/GetMetrics")(request("m", backend="fleet"))
        assert metric(answer) == ("m", 2, 2.0)
