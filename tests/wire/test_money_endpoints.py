"""The same as test_money, for endpoints reached with the call's own request, and for streamed invocations.

Cold starts are counted as the provider counts them, and the money is the provider's bill within 1 %.
"""

import asyncio
from typing import Any

import pytest

from backends.emulators.aws_lambda import LambdaEmulator
from backends.emulators.aws_lambda_url import streamed
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.runpod_lb import RunPodLbEmulator
from backends.workers import kit, lambda_handler, modal_app
from tests.support.gateways import running
from tests.wire.test_gateway import server
from tests.wire.test_money import burst, metrics, twice

# A life of 0.3 + 0.2 + 0.8 seconds is billed as 2: not near the edge between two and three, nor one and two.
BOOT_S, IDLE_S = 0.3, 0.8


def options() -> FleetOptions:
    return FleetOptions(cap=4, idle_after_s=IDLE_S, boot=BootTimes(fast_s=BOOT_S, slow_s=BOOT_S, spread=0.0))


def runpod_lb() -> tuple[Any, str]:
    emulator = RunPodLbEmulator(lambda _: modal_app.make_asgi(twice), options=options())
    return (
        emulator,
        "type: runpod_lb, endpoint_id: abc, url: '{0.url}', api_key: {{env: RENTED_KEY}}, "
        "price: {{usd_per_second: {0.endpoint.usd_per_second}}}",
    )


def lambda_stream() -> tuple[Any, str]:
    emulator = LambdaEmulator(
        lambda _: streamed(lambda_handler.make_handler(kit.Worker(twice, kit.Boot()))), options=options()
    )
    return (
        emulator,
        "type: aws_lambda, response: streamed, function: {0.function.function}, region: us-east-1, "
        "endpoint_url: '{0.url}', memory: {0.function.memory_mb}MiB, "
        "credentials: {{access_key: {{env: RENTED_KEY}}, secret_key: {{env: RENTED_SECRET}}}}, "
        "price: {{usd_per_gb_second: {0.function.usd_per_gb_second}, "
        "usd_per_request: {0.function.usd_per_request:.9f}}}",
    )


def config(fleet: str, rented: str) -> str:
    return f"""
backends:
  fleet: {{type: triton, replicas: ["{fleet}"], max_in_flight: 2, price: {{usd_per_replica_hour: 1}}}}
  rented: {{{rented}, max_in_flight: 4, cold_start: {{expect: {BOOT_S}s, idle_after: {IDLE_S}s}}}}
routes:
  twice:
    match: {{model: twice}}
    policy: spill_when_full
    tiers: [{{backend: fleet, when_full: spill}}, {{backend: rented, when_full: {{queue: 5s, then: shed}}}}]
"""


@pytest.mark.parametrize("provider", [runpod_lb, lambda_stream])
async def test_cold_starts_and_money_are_the_providers(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator, section = provider()
    keys = emulator.function.keys if provider is lambda_stream else None
    monkeypatch.setenv("RENTED_KEY", keys.access_key if keys else emulator.endpoint.api_key)
    monkeypatch.setenv("RENTED_SECRET", keys.secret_key if keys else "none")
    async with emulator, server(pace_s=0.1) as fleet:
        async with running(config(fleet.url, section.format(emulator))) as gateway:
            answers = await burst(gateway, 6)
            assert {backend for backend, _ in answers} == {"fleet", "rented"}
            await asyncio.sleep(2 * IDLE_S + 0.5)  # the provider's own time: instances idle and are gone
            gateway.settle(gateway.clock.now())
            seen = await metrics(gateway)
            bill = emulator.bill()
            assert bill.cold_starts > 0
            assert seen["overspill_starts_total", "rented", "twice", "cold"] == bill.cold_starts
            assert seen["overspill_cost_usd_total", "rented", "spill", "twice"] == pytest.approx(
                bill.usd, rel=0.01
            )
