"""One scenario, tried at one factor after the other."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from gateway.clock import Clock
from loadtests.overload.calls import Kinds
from loadtests.overload.figures import Figures, Memory, figures
from loadtests.overload.load import Load
from loadtests.overload.scenarios import Scenario, Stage

PATIENCE = 2.5
"""Budgets after which a client leaves."""
_LOOK_S = 0.1
_WARM_UP_S = 1.0
_MEASURE_S = 1.5
_AT_ONCE = 64


async def tried(
    scenario: Scenario,
    factors: Sequence[float],
    *,
    seconds: float,
    folder: Path,
    chance: Random,
    clock: Clock,
    tell: Callable[[Figures], object],
) -> tuple[float, list[Figures]]:
    """Its capacity in calls a second, and the figures of each factor. Raises CannotStart."""
    found: list[Figures] = []
    with Stage(scenario, folder) as stage:
        capacity = scenario.per_s or await _capacity(stage, chance, clock)
        if scenario.per_s is not None:  # what the route's calls are like is learned before it matters
            await _load(stage, 0.5 * capacity, _WARM_UP_S, chance, clock)
        for factor in factors:
            load, memory, before = await _load(stage, factor * capacity, seconds, chance, clock)
            each = figures(
                load.seen, factor=factor, seconds=seconds, budget_s=scenario.mix.budget_s,
                cpu_s=stage.cpu_s - before,
                memory=Memory(memory[0], memory[len(memory) // 2], memory[-1], max(memory)), lags=load.lags,
            )  # fmt: skip
            found.append(each)
            tell(each)
    return capacity, found


async def _capacity(stage: Stage, chance: Random, clock: Clock) -> float:
    load = _new(stage, chance, clock)
    await load.open(_AT_ONCE)
    await load.saturate(_WARM_UP_S, _AT_ONCE)
    load.seen.clear()
    await load.saturate(_MEASURE_S, _AT_ONCE)
    load.close()
    return sum(each.status == 200 for each in load.seen) / _MEASURE_S


async def _load(
    stage: Stage, rate: float, seconds: float, chance: Random, clock: Clock
) -> tuple[Load, list[float], float]:
    load = _new(stage, chance, clock)
    if stage.scenario.per_s is None:
        await load.open(stage.scenario.connections)
    memory, cpu_s = [stage.rss_mib], stage.cpu_s
    watch = asyncio.get_running_loop().create_task(_watch(stage, memory))
    try:
        await load.run(rate, seconds)
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch
        load.close()
    memory.append(stage.rss_mib)
    return load, memory, cpu_s


async def _watch(stage: Stage, memory: list[float]) -> None:
    while True:
        memory.append(stage.rss_mib)
        await asyncio.sleep(_LOOK_S)


def _new(stage: Stage, chance: Random, clock: Clock) -> Load:
    scenario = stage.scenario
    return Load(
        stage.port, Kinds(scenario.mix), connections=scenario.connections,
        patience_s=PATIENCE * scenario.mix.budget_s, chance=chance, clock=clock,
    )  # fmt: skip
