"""The whole gateway in front of replicas that tell their load and come and go."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import aiohttp
import pytest

from backends import triton
from backends.discovery import DnsDiscovery
from gateway.app import Gateway
from tests.support.gateways import port_of, running
from tests.support.provider import Provider, Received, Wire, providing, until

INFER = "/v2/models/m/infer"
ONE = '{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}'


class Fleet:
    """Replicas and their metrics, at one address: the metrics port is the HTTP port here."""

    def __init__(self) -> None:
        self.pending = 0
        self.metrics_status = 200
        self.hold: asyncio.Event | None = None
        self.refuse = 0
        self.extra: dict[str, str] = {}
        self.inferred: list[Received] = []

    async def answer(self, request: Received, wire: Wire) -> None:
        if request.target == "/metrics":
            line = f'nv_inference_pending_request_count{{model="m",version="1"}} {self.pending}\n'
            await wire.answer(self.metrics_status, line.encode(), {"content-type": "text/plain"})
        elif request.target == "/v2/health/ready":
            await wire.answer(200)
        elif self.refuse:
            self.refuse -= 1
            await wire.json(503, {"error": "[request id: <id_unknown>] Exceeds maximum queue size"})
        else:
            self.inferred.append(request)
            if self.hold is not None:
                await self.hold.wait()
            await wire.json(200, {"outputs": []}, self.extra)


def config(backend: str, *, policy: str = "spill_when_full", full: str = "shed") -> str:
    return f"""
backends:
  fleet: {{type: triton, price: {{usd_per_replica_hour: 3.6}}, probe_every: 100ms, {backend}}}
routes:
  embed: {{match: {{model: m}}, policy: {policy}, tiers: [{{backend: fleet, when_full: {full}}}]}}
"""


async def ask(gateway: Gateway, path: str = INFER, body: str = ONE) -> tuple[int, Any, Any]:
    url = f"http://127.0.0.1:{port_of(gateway)}{path}"
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


async def admin(gateway: Gateway, path: str) -> str:
    assert gateway.admin_address is not None
    host, port = gateway.admin_address
    url = f"http://{host}:{port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


async def backend(gateway: Gateway) -> dict[str, Any]:
    (entry,) = json.loads(await admin(gateway, "/admin/backends"))["backends"]
    assert isinstance(entry, dict)
    return entry


@asynccontextmanager
async def watched(fleet: Fleet, slots: int | str = 4) -> AsyncIterator[tuple[Gateway, Provider]]:
    async with providing(fleet.answer) as server:
        port = server.url.rpartition(":")[2]
        section = (
            f"replicas: ['{server.url}'], max_in_flight: {slots}, metrics: {{port: {port}, every: 100ms}}"
        )
        async with running(config(section)) as gateway:
            yield gateway, server


async def test_calls_that_another_client_has_waiting_there_take_slots() -> None:
    fleet = Fleet()
    async with watched(fleet) as (gateway, _):
        supply = gateway.capacities["fleet"]
        assert (await ask(gateway))[0] == 200
        fleet.pending = 3
        await until(lambda: supply.free_slots == 1)
        entry = (await backend(gateway))["replicas"][0]
        assert entry["load"]["pending"] == entry["load"]["elsewhere"] == 3
        assert 0 <= entry["load"]["age_s"] < 5
        metrics = await admin(gateway, "/metrics")
        name = entry["name"]
        assert f'overspill_replica_load{{backend="fleet",replica="{name}"}} 3.0' in metrics
        assert f'overspill_replica_load_age_seconds{{backend="fleet",replica="{name}"}} 0.' in metrics
        fleet.hold = asyncio.Event()
        running_call = asyncio.get_running_loop().create_task(ask(gateway))
        await until(lambda: len(fleet.inferred) == 2)
        assert (await ask(gateway))[0] == 429, "one of ours and three of others are four"
        fleet.hold.set()
        assert (await running_call)[0] == 200
        fleet.pending = 0
        await until(lambda: supply.free_slots == 4)


async def test_figures_that_grow_old_are_dropped() -> None:
    fleet = Fleet()
    async with watched(fleet) as (gateway, _):
        fleet.pending = 9
        await until(lambda: gateway.capacities["fleet"].free_slots == 1)
        fleet.metrics_status = 500
        await until(lambda: gateway.capacities["fleet"].free_slots == 4)
        assert (await backend(gateway))["replicas"][0]["load"] is None
        assert "overspill_replica_load{" not in await admin(gateway, "/metrics")
        fleet.metrics_status = 200
        await until(lambda: gateway.capacities["fleet"].free_slots == 1)


async def test_a_load_report_is_asked_for_read_and_kept_from_a_client_that_did_not_ask() -> None:
    fleet = Fleet()
    fleet.extra = {"endpoint-load-metrics": 'JSON {"named_metrics":{"kv_cache_utilization":0.75}}'}
    async with watched(fleet) as (gateway, _):
        status, _, headers = await ask(gateway, "/v2/models/m/generate", '{"text_input":"x"}')
        assert status == 200
        assert "endpoint-load-metrics" not in headers
        assert fleet.inferred[0].fields["endpoint-load-metrics-format"] == "JSON"
        await until(lambda: gateway.capacities["fleet"].replicas[0].load is not None)

        def told() -> bool:
            load = gateway.capacities["fleet"].replicas[0].load
            return load is not None and load.kv_cache == 0.75

        await until(told)


async def test_slots_are_learned_refusals_lower_them_and_calls_cost_by_what_there_is() -> None:
    fleet = Fleet()
    async with watched(fleet, "auto") as (gateway, _):
        supply = gateway.capacities["fleet"]
        assert supply.capacity == 4
        standing = gateway.ledger.standing["fleet"]
        assert standing.slot_usd == pytest.approx(0.001 / 4)
        fleet.refuse = 1
        assert (await ask(gateway))[0] == 503
        assert supply.capacity < 4
        limit = supply.capacity
        await until(lambda: standing.slot_usd == pytest.approx(0.001 / limit))


class Zone:
    """What the name stands for."""

    def __init__(self) -> None:
        self.answer: Sequence[str] = ()

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return self.answer


async def test_replicas_come_and_go_while_calls_run(monkeypatch: pytest.MonkeyPatch) -> None:
    zone, fleets = Zone(), [Fleet(), Fleet()]

    def found_here(name: str, options: object, kit: object) -> DnsDiscovery:
        return DnsDiscovery("triton.test", 8000, every=0.05, chance=Random(1), lookup=zone.resolve)

    monkeypatch.setattr(triton, "_discovery", found_here)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(providing(fleet.answer)) for fleet in fleets]
        names = [server.url.removeprefix("http://") for server in servers]
        zone.answer = [names[0]]
        gateway = await stack.enter_async_context(
            running(config("discover: {dns: triton.test}, max_in_flight: 1"))
        )
        assert (await ask(gateway))[0] == 200, "known and ready before the first call"
        standing = gateway.ledger.standing["fleet"]
        assert standing.rate == pytest.approx(0.001)
        fleets[0].hold = asyncio.Event()
        running_call = asyncio.get_running_loop().create_task(ask(gateway))
        await until(lambda: len(fleets[0].inferred) == 2)
        assert (await ask(gateway))[0] == 429
        zone.answer = [names[1]]
        supply = gateway.capacities["fleet"]
        await until(lambda: supply.replicas[0].retired and supply.free_slots == 1)
        assert (await ask(gateway))[0] == 200
        assert len(fleets[1].inferred) == 1
        entry = await backend(gateway)
        assert [(each["name"], each["leaving"]) for each in entry["replicas"]] == [
            (names[0], True),
            (names[1], False),
        ]
        fleets[0].hold.set()
        assert (await running_call)[0] == 200, "what it had, it finished"
        zone.answer = []
        await until(lambda: gateway.backends["fleet"].report(0.0)["discovery"]["trouble"] is not None)
        assert (await ask(gateway))[0] == 200, "no answer does not empty the fleet"
        assert "has no address" in (await backend(gateway))["discovery"]["trouble"]
        zone.answer = names
        await until(lambda: supply.free_slots == 2)
        await until(lambda: standing.rate == pytest.approx(0.002))


async def test_a_fleet_that_is_not_found_at_the_start_is_unready_and_served_once_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    zone = Zone()
    monkeypatch.setattr(
        triton,
        "_discovery",
        lambda *_: DnsDiscovery("triton.test", 8000, every=0.05, chance=Random(1), lookup=zone.resolve),
    )
    async with (
        providing(Fleet().answer) as server,
        running(config("discover: {dns: triton.test}, max_in_flight: 1")) as gateway,
    ):
        assert (await ask(gateway))[0] == 503
        assert json.loads(await admin(gateway, "/readyz"))["status"] == "not_ready"
        zone.answer = [server.url.removeprefix("http://")]
        await until(lambda: gateway.capacities["fleet"].free_slots == 1)
        assert (await ask(gateway))[0] == 200
