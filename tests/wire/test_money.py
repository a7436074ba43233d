"""What the gateway says it cost is what the owner of the fleet and the provider would bill.

A burst through the whole gateway on real sockets: the fleet fills, the rest goes to an emulated RunPod or
Lambda that keeps a bill of its own, without knowing the gateway.
"""

import asyncio
import time
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backends.emulators.aws_lambda import LambdaEmulator
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.modal import ModalEmulator
from backends.emulators.runpod import RunPodEmulator
from backends.workers import kit, lambda_handler, modal_app, runpod_handler
from gateway.app import Gateway
from tests.support.gateways import port_of, running
from tests.support.wire import eventually
from tests.wire.test_gateway import BODY, server

BOOT_S, IDLE_S, HOURLY = 0.3, 0.4, 3600.0


def twice(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    time.sleep(0.2)  # the work: each instance that boots finds a call to serve
    assert (method, path, body) == ("POST", "/v2/models/twice/infer", BODY)
    return 200, {"content-type": "application/json"}, b'{"spilled":true}'


def options() -> FleetOptions:
    # The pace keeps the worker that is up first from taking the ping that another one boots for.
    boot = BootTimes(fast_s=BOOT_S, slow_s=BOOT_S, spread=0.0)
    return FleetOptions(cap=4, idle_after_s=IDLE_S, boot=boot, pace_s=0.1)


def runpod() -> tuple[Any, str]:
    emulator = RunPodEmulator(
        lambda _: runpod_handler.make_handler(kit.Worker(twice, kit.Boot())), options=options()
    )
    return (
        emulator,
        "type: runpod, endpoint_id: {0.endpoint.endpoint_id}, base_url: '{0.base_url}', "
        "api_key: {{env: RENTED_KEY}}, price: {{usd_per_second: {0.endpoint.usd_per_second}}}",
    )


def aws_lambda() -> tuple[Any, str]:
    emulator = LambdaEmulator(
        lambda _: lambda_handler.make_handler(kit.Worker(twice, kit.Boot())), options=options()
    )
    return (
        emulator,
        "type: aws_lambda, function: {0.function.function}, region: us-east-1, "
        "endpoint_url: '{0.url}', memory: {0.function.memory_mb}MiB, "
        "credentials: {{access_key: {{env: RENTED_KEY}}, secret_key: {{env: RENTED_SECRET}}}}, "
        "price: {{usd_per_gb_second: {0.function.usd_per_gb_second}, usd_per_request: {0.function.usd_per_request:.9f}}}",
    )


def config(fleet: str, rented: str) -> str:
    return f"""
backends:
  fleet: {{type: triton, replicas: ["{fleet}"], max_in_flight: 2, price: {{usd_per_replica_hour: {HOURLY}}}}}
  rented: {{{rented}, max_in_flight: 4, cold_start: {{expect: {BOOT_S}s, idle_after: {IDLE_S}s}}}}
routes:
  twice:
    match: {{model: twice}}
    policy: spill_when_full
    tiers: [{{backend: fleet, when_full: spill}}, {{backend: rented, when_full: {{queue: 5s, then: shed}}}}]
"""


async def burst(gateway: Gateway, calls: int) -> list[tuple[str, str]]:
    url = f"http://127.0.0.1:{port_of(gateway)}/v2/models/twice/infer"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> tuple[str, str]:
            async with session.post(url, data=BODY) as reply:
                assert reply.status == 200, await reply.text()
                return reply.headers["x-overspill-backend"], reply.headers["x-overspill-start"]

        return await asyncio.gather(*(ask() for _ in range(calls)))


async def metrics(gateway: Gateway) -> dict[tuple[str, ...], float]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{gateway.admin_address}/metrics") as reply:
            text = await reply.text()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("provider", [runpod, aws_lambda])
async def test_the_books_equal_the_bills(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator, section = provider()
    keys = emulator.function.keys if provider is aws_lambda else None
    monkeypatch.setenv("RENTED_KEY", keys.access_key if keys else emulator.endpoint.api_key)
    monkeypatch.setenv("RENTED_SECRET", keys.secret_key if keys else "none")
    async with emulator, server(pace_s=0.1) as fleet:
        async with running(config(fleet.url, section.format(emulator))) as gateway:
            # As many calls as slots: a provider that lets any worker take any job may boot one that then
            # finds nothing to do, and bill it, which nobody outside can see.
            answers = await burst(gateway, 6)
            assert {backend for backend, _ in answers} == {"fleet", "rented"}
            assert ("rented", "cold") in answers
            await asyncio.sleep(2 * IDLE_S + 0.7)  # the provider's own time: instances idle and are gone
            gateway.settle(gateway.clock.now())
            seen = await metrics(gateway)
            ended = gateway.clock.now()
            bill = emulator.bill()

            spilled = seen["overspill_cost_usd_total", "rented", "spill", "twice"]
            assert spilled == pytest.approx(bill.usd, rel=0.02)
            assert bill.usd > 0

            busy = seen["overspill_cost_usd_total", "fleet", "fleet", "twice"]
            idle = seen["overspill_fleet_idle_usd_total", "fleet"]
            usd_per_second = HOURLY / 3600
            assert busy > 0
            assert busy + idle == pytest.approx(
                (ended - gateway.ledger.standing["fleet"].since) * usd_per_second, rel=0.05
            )

            per_1k = seen["overspill_cost_per_1k_requests_usd", "twice"]
            assert per_1k == pytest.approx(1000 * (spilled + busy + idle) / len(answers), rel=0.01)
            cold = seen["overspill_starts_total", "rented", "twice", "cold"]
            assert cold == sum(answer == ("rented", "cold") for answer in answers)


def modal() -> tuple[Any, str]:
    emulator = ModalEmulator(lambda _: modal_app.make_asgi(twice), options=options())
    return (
        emulator,
        "type: modal, url: '{0.url}', proxy_auth: {{key: {{env: RENTED_KEY}}, secret: {{env: RENTED_SECRET}}}}, "
        "price: {{usd_per_second: {0.function.usd_per_second}}}",
    )


def late_binding(fleet: str, rented: str) -> str:
    return f"""
backends:
  fleet: {{type: triton, replicas: ["{fleet}"], max_in_flight: 1, price: {{usd_per_replica_hour: {HOURLY}}}}}
  rented: {{{rented}, max_in_flight: 4, cold_start: {{expect: {BOOT_S}s, idle_after: {IDLE_S}s}}}}
routes:
  twice:
    match: {{model: twice}}
    latency_budget: {{within: 1500ms}}
    policy: cheapest_in_budget
    tiers: [{{backend: fleet}}, {{backend: rented}}]
"""


@pytest.mark.parametrize("provider", [runpod, modal])
async def test_calls_wait_while_instances_open_and_the_books_equal_the_bill(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a policy opens is opened by pings, and calls find it up.

    Where a queue's first worker answered several pings, the others are taken to be up a moment early, so
    that now and then a call meets the end of a boot: it may, but it is not the rule.
    """
    emulator, section = provider()
    tokens = emulator.function if provider is modal else None
    monkeypatch.setenv("RENTED_KEY", tokens.key if tokens else emulator.endpoint.api_key)
    monkeypatch.setenv("RENTED_SECRET", tokens.secret if tokens else "none")
    async with emulator, server(pace_s=0.2) as fleet:
        async with running(late_binding(fleet.url, section.format(emulator))) as gateway:
            answers = await burst(gateway, 12)
            assert {backend for backend, _ in answers} == {"fleet", "rented"}
            rented = [answer for answer in answers if answer[0] == "rented"]
            assert rented.count(("rented", "cold")) <= len(rented) / 2
            cold_starts = emulator.bill().cold_starts
            assert 1 <= cold_starts <= 4
            await asyncio.sleep(2 * IDLE_S + 0.7)  # the provider's own time: instances idle and are gone
            gateway.settle(gateway.clock.now())
            seen = await metrics(gateway)
            bill = emulator.bill()
            assert bill.cold_starts == cold_starts
            answered = [value for name, value in seen.items() if name[0] == "overspill_requests_total"]
            assert sum(answered) == len(answers)
            # What a ping made start may never be heard of: the gateway books it, and says that it is presumed.
            booked, presumed = (
                seen["overspill_cost_usd_total", "rented", "spill", "twice"],
                seen["overspill_presumed_usd_total", "rented"],
            )
            allowed = (0.02 if provider is runpod else 0.1) * bill.usd
            assert booked - presumed <= bill.usd + allowed
            assert booked >= bill.usd - allowed


@pytest.mark.parametrize("provider", [runpod, modal])
async def test_what_was_opened_ahead_and_not_used_is_all_prewarm_money(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator, section = provider()
    tokens = emulator.function if provider is modal else None
    monkeypatch.setenv("RENTED_KEY", tokens.key if tokens else emulator.endpoint.api_key)
    monkeypatch.setenv("RENTED_SECRET", tokens.secret if tokens else "none")
    async with emulator, server() as fleet:
        async with running(late_binding(fleet.url, section.format(emulator))) as gateway:
            supply = gateway.capacities["rented"]
            assert gateway.pools["twice"].open("rented", 2, kind="prewarm") == 2
            assert (supply.in_flight, supply.warm) == (2, 0)
            await eventually(lambda: supply.in_flight == 0, "both are up")
            assert supply.warm == 2
            await asyncio.sleep(2 * IDLE_S + 0.7)
            gateway.settle(gateway.clock.now())
            seen = await metrics(gateway)
            assert emulator.bill().cold_starts == 2
            assert seen["overspill_cost_usd_total", "rented", "prewarm", "twice"] == pytest.approx(
                emulator.bill().usd, rel=0.02 if provider is runpod else 0.1
            )
            spilled = seen.get(("overspill_cost_usd_total", "rented", "spill", "twice"), 0.0)
            assert spilled == 0.0
