"""The running gateway: what a route's `prewarm` does, and that its books say the same as the bills."""

import asyncio
from random import Random
from typing import Any

import pytest

from backends.emulators.instance import BootTimes, FleetOptions
from gateway.app import Gateway, registries
from gateway.config.load import load
from gateway.errors import OverspillError
from gateway.recorder import Line, Recorder
from gateway.simulator.replay import difference, replay
from tests.pool.parts import FIRST, call, holding
from tests.support.gateways import running
from tests.support.virtual_time import LoopClock
from tests.support.wire import eventually
from tests.wire import test_money
from tests.wire.test_gateway import server

ROUTE = "twice"
PREWARM = "    prewarm: {max_instances: 3, usd_per_hour: 50, miss_usd: 0.01}\n"
IDLE_S, BOOT_S = 1.0, 0.3


def late_binding(fleet: str, rented: str) -> str:
    file = test_money.late_binding(fleet, rented).replace(
        f"idle_after: {test_money.IDLE_S}s", f"idle_after: {IDLE_S}s"
    )
    file = file.replace("cheapest_in_budget", "spill_when_full")
    return file.replace("{backend: fleet}", "{backend: fleet, when_full: spill}") + PREWARM


def emulated(provider: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    boots = BootTimes(fast_s=BOOT_S, slow_s=BOOT_S, spread=0.0)
    monkeypatch.setattr(test_money, "options", lambda: FleetOptions(cap=4, idle_after_s=IDLE_S, boot=boots))
    emulator, section = provider()
    secret = emulator.function.key if provider is test_money.modal else emulator.endpoint.api_key
    monkeypatch.setenv("RENTED_KEY", secret)
    monkeypatch.setenv("RENTED_SECRET", emulator.function.secret if provider is test_money.modal else "none")
    return emulator, section


async def costs(gateway: Gateway) -> tuple[float, float]:
    """(prewarm, spill) once everything has idled away."""
    await asyncio.sleep(IDLE_S + 0.7)  # the provider's own time
    gateway.settle(gateway.clock.now())
    seen = await test_money.metrics(gateway)
    return (
        seen.get(("overspill_cost_usd_total", "rented", "prewarm", ROUTE), 0.0),
        seen.get(("overspill_cost_usd_total", "rented", "spill", ROUTE), 0.0),
    )


@pytest.mark.parametrize("provider", [test_money.runpod, test_money.modal])
async def test_what_is_opened_ahead_is_prewarm_money_until_a_call_uses_it(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator, section = emulated(provider, monkeypatch)
    async with emulator, server(pace_s=0.3) as fleet:
        async with running(late_binding(fleet.url, section.format(emulator))) as gateway:
            supply = gateway.capacities["rented"]
            ahead = gateway.prewarming[ROUTE]
            allowed = ahead.controller.cap.remaining(gateway.clock.now())
            ahead.open("rented", 2, kind="prewarm")
            await eventually(lambda: supply.warm == 2, "both are up")
            async with holding(
                gateway.pools[ROUTE].slot(call(deadline=gateway.clock.now() + 9.0), FIRST)
            ) as held:
                assert held.backend.name == "fleet"
                answers = await test_money.burst(gateway, 1)
            assert answers == [("rented", "warm")]
            prewarm, spill = await costs(gateway)
            bill = emulator.bill()
            assert bill.cold_starts == 2
            assert prewarm + spill == pytest.approx(
                bill.usd, rel=0.02 if provider is test_money.runpod else 0.1
            )
            assert prewarm > 0.0 < spill
            left = ahead.controller.cap.remaining(gateway.clock.now())
            assert allowed - left == pytest.approx(prewarm), "the hour's money knows of it"


async def test_an_instance_that_is_kept_lives_on_and_every_second_of_it_is_prewarm_money(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emulator, section = emulated(test_money.runpod, monkeypatch)
    async with emulator, server() as fleet:
        async with running(late_binding(fleet.url, section.format(emulator))) as gateway:
            supply, ahead = gateway.capacities["rented"], gateway.prewarming[ROUTE]
            ahead.open("rented", 1, kind="prewarm")
            await eventually(lambda: supply.warm == 1, "it is up")
            for _ in range(4):
                await asyncio.sleep(0.5 * IDLE_S)
                ahead.ping("rented", 1, kind="prewarm")
                await eventually(lambda: supply.in_flight == 0, "it has answered")
            state = ahead.prewarm_state(gateway.clock.now())
            assert state is not None
            (idle,) = state.idle
            assert idle.age_s < IDLE_S < 2 * IDLE_S <= idle.unused_s
            prewarm, spill = await costs(gateway)
            bill = emulator.bill()
            assert bill.cold_starts == 1
            assert prewarm == pytest.approx(bill.usd, rel=0.02)
            assert spill == 0.0


FILE = """
version: 1
listen: {http: '127.0.0.1:0', admin: '127.0.0.1:0'}
backends:
  fleet: {type: loopback, max_in_flight: 2, latency: 500ms}
  burst: {type: loopback_rented, max_in_flight: 8, latency: 500ms, boot: 4s, idle_after: 3s,
          price: {usd_per_second: 0.0003}}
routes:
  embed:
    match: {model: embed}
    latency_budget: {within: 2s}
    policy: POLICY
    tiers: [{backend: fleet, when_full: spill}, {backend: burst, when_full: {queue: 60s, then: shed}}]
"""
KEY = "    prewarm: {max_instances: 4, usd_per_hour: 10, miss_usd: 0.001}\n"
PERIOD, BURST, PERIODS = 14, 3, 8


async def served(gateway: Gateway) -> list[float]:
    """One call a second, and eight in each of the first three of every fourteen: how late each was answered."""
    pool, answers = gateway.pools["embed"], list[float]()

    async def ask() -> None:
        asked = call(deadline=gateway.clock.now() + 60.0)
        asked.arrived = gateway.clock.now()
        try:
            async with holding(pool.slot(asked, FIRST)) as slot:
                async with slot.backend.send(asked, slot.replica):
                    pass
        except OverspillError:
            answers.append(60.0)
        else:
            answers.append(gateway.clock.now() - asked.arrived)

    async with asyncio.TaskGroup() as calls:
        for second in range(PERIOD * PERIODS):
            count = 8 if second % PERIOD < BURST else 1
            for _ in range(count):
                calls.create_task(ask())
                await asyncio.sleep(1.0 / count)
    return answers


async def live(policy: str, key: str) -> tuple[int, list[Line]]:
    """(late answers, recording) of that load on a gateway without its sockets."""
    settings = load(FILE.replace("POLICY", policy) + key, *registries()).settings
    recorder = Recorder(clock=LoopClock(), timers=asyncio.get_running_loop())
    gateway = Gateway(settings, clock=LoopClock(), chance=Random(7), recorder=recorder)
    for each in gateway.prewarming.values():
        gateway.background.spawn(each.run(), name="open ahead")
    answers = await served(gateway)
    await gateway.opening.close()
    await gateway.background.close(grace=0.0)
    return sum(answer > 2.0 for answer in answers), recorder.lines


def ahead_of(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.get("event") == "open" and line["kind"] == "prewarm"]


@pytest.mark.virtual_time
async def test_the_loop_opens_ahead_of_a_periodic_burst_and_a_recording_of_it_can_be_replayed() -> None:
    (late, lines), (late_without, lines_without) = await asyncio.gather(
        live("spill_when_full", KEY), live("spill_when_full", "")
    )
    assert late < late_without
    assert ahead_of(lines)
    assert not ahead_of(lines_without)
    rule = registries()[1].get("spill_when_full")
    again = replay(lines, {"embed": rule(rule.Options())})
    assert again.stopped is None
    assert difference(lines, again.lines) is None


@pytest.mark.virtual_time
async def test_without_the_key_nobody_counts_and_nothing_is_opened() -> None:
    settings = load(FILE.replace("POLICY", "spill_when_full"), *registries()).settings
    gateway = Gateway(settings, clock=LoopClock(), chance=Random(7))
    assert gateway.prewarming == {}
    assert gateway.pools["embed"].demand is None


@pytest.mark.virtual_time
async def test_nothing_is_opened_any_more_once_the_gateway_drains() -> None:
    settings = load(FILE.replace("POLICY", "spill_when_full") + KEY, *registries()).settings
    gateway = Gateway(settings, clock=LoopClock(), chance=Random(7))
    ahead = gateway.prewarming["embed"]
    assert ahead.prewarm_state(gateway.clock.now()) is not None
    await gateway.close()
    assert ahead.prewarm_state(gateway.clock.now()) is None
