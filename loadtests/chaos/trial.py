"""One fault from beginning to end: steady load, inject, heal, measure, and hold against what is expected.

Must never know how a result is shown.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from random import Random
from typing import NamedTuple

from gateway.clock import Clock
from loadtests.chaos import accounts
from loadtests.chaos.accounts import Seen
from loadtests.chaos.fault import HELD, Expected, Fault
from loadtests.chaos.load import Asked, Load
from loadtests.chaos.stage import FLOOR, PRICE, RUNPOD_USD_PER_S, SHARE, Metrics, Stage

BEFORE_S = 1.0
PATIENCE_S = 15.0
"""What is not healthy after so long is not counted any further."""
_QUIET_S = 6.0
_DYING_S = 0.1
"""What is sent within that time of a SIGKILL may still be taken by the process that is going."""
_TICK = os.sysconf("SC_CLK_TCK")


class Result(NamedTuple):
    """What became of one fault.

    skipped:   why it was not tried, or None
    seen:      its figures; `limits` the most that each may be
    problems:  the figures that are over their limits, and whatever else went wrong; empty when all is well
    statuses:  how many answers had which status
    held:      requests that were on their way when the fault came; `met`: how often it was met
    """

    fault: str
    what: str
    skipped: str | None = None
    seen: Seen | None = None
    limits: dict[str, float] | None = None
    problems: tuple[str, ...] = ()
    statuses: dict[int, int] | None = None
    held: int = 0
    met: int = 0


async def tried(fault: Fault, *, seed: int, seconds: float, patience: float, clock: Clock) -> Result:
    """Try it. Raises CannotStart, OSError.

    seconds:   multiplies how long it lasts; `patience` how long everything may take that has a time limit
    """
    chance = Random(f"{seed}/{fault.name}")
    with tempfile.TemporaryDirectory(prefix="overspill-chaos-", ignore_cleanup_errors=True) as folder:
        stage = Stage(Path(folder), chance=Random(chance.getrandbits(64)), clock=clock)
        try:
            await fault.prepare(stage)
            return await _measured(fault, stage, chance, seconds, patience)
        finally:
            stage.close()
            await fault.cleared(stage)


async def _measured(fault: Fault, stage: Stage, chance: Random, seconds: float, patience: float) -> Result:
    clock = stage.clock
    load = Load(f"{fault.name}-{chance.getrandbits(32):08x}", stage.port, rate=fault.rate, chance=chance,
                clock=clock)  # fmt: skip
    began = clock.now()
    running = asyncio.get_running_loop().create_task(load.run())
    # When it comes within the load is drawn too, so that no fault only ever meets one moment of it.
    pause = BEFORE_S * (1.0 + 0.5 * Random(chance.getrandbits(32)).random())
    problems: list[str] = []
    try:
        await asyncio.sleep(pause)
        cpu, since = _cpu_s(stage), clock.now()
        await fault.inject(stage, load)
        await asyncio.sleep(max(0.0, fault.lasts_s * seconds - (clock.now() - since)))
        used = (_cpu_s(stage) - cpu) / (clock.now() - since)
        try:
            await fault.heal(stage, load)
        except AssertionError as error:
            problems.append(str(error))
        healed = clock.now()
        healthy = await _healthy(load, healed)
    finally:
        load.stop()
        await running
    metrics = await _quiet(stage, fault)
    met = await fault.met(stage, load, metrics)
    if not met:
        problems.append("no request met the fault")
    elapsed = clock.now() - began
    status = await asyncio.to_thread(stage.finish_gateway)
    if status:
        problems.append(f"the gateway ended with status {status}")
    seen = _figures(fault, stage, load, metrics, elapsed)._replace(healthy_s=healthy, cpu=max(0.0, used))
    held = sum(
        each.sent_at <= since + _DYING_S and (each.done_at is None or each.done_at >= since)
        for each in load.asked
    )
    limits = _limits(fault.expected, seen, held, patience)
    problems += _over(seen, limits)
    return Result(
        fault.name, fault.what, seen=seen, limits=limits, problems=tuple(problems),
        statuses=_statuses(load.asked), held=held, met=int(met),
    )  # fmt: skip


async def _healthy(load: Load, healed: float) -> float:
    """Seconds until everything went well again."""
    while True:
        now = load.clock.now()
        since = accounts.healthy_from(load.asked, healed, now)
        if since is not None:
            return since - healed
        if now - healed > PATIENCE_S:
            return now - healed
        await asyncio.sleep(0.1)


async def _quiet(stage: Stage, fault: Fault) -> Metrics:
    """The metrics when nothing is on its way any more, or after a while."""
    gives_up = stage.clock.now() + _QUIET_S
    if "runpod" in fault.rented:  # until its workers have idled out and were billed for it
        await asyncio.sleep(4.0)
    while True:
        metrics = await stage.metrics()
        if not _left_over(metrics) or stage.clock.now() > gives_up:
            return metrics
        await asyncio.sleep(0.2)


def _left_over(metrics: Metrics) -> float:
    return metrics.total("overspill_in_flight") + metrics.total("overspill_queue_depth")


def _figures(fault: Fault, stage: Stage, load: Load, metrics: Metrics, elapsed: float) -> Seen:
    lines = accounts.lines_of(stage.access_log, load.asked[0].name[:-5])
    rented = stage.executed(*fault.rented)
    everywhere = stage.executed(*(name for name in stage.children if name != "gateway"))
    taken = [each for each in load.asked if each.ending != "unreached"]
    missing = sum(each.name not in lines for each in taken)
    ledger = sum(metrics.total("overspill_cost_usd_total", backend=name) for name in fault.rented)
    tokens = SHARE * len(load.asked) + FLOOR * (elapsed + 1.0)
    dearest = PRICE if "cloud" in fault.rented else 10.0 * RUNPOD_USD_PER_S
    return Seen(
        **accounts.count(load.asked),
        twice=len(load.strays),
        billed_twice=accounts.repeated(rented),
        books_usd=_books(fault, stage, rented),
        ledger_usd=ledger,
        repeated=accounts.repeated(everywhere),
        tokens=tokens,
        retry_usd=sum(
            metrics.total("overspill_cost_usd_total", backend=name, kind="retry") for name in fault.rented
        ),
        retry_limit_usd=tokens * dearest,
        gap_s=accounts.longest_gap(load.asked),
        healthy_s=0.0,
        left_over=_left_over(metrics),
        unlogged=missing - int(metrics.total("overspill_access_log_lost_total")),
        logged_twice=accounts.repeated(lines),
        cpu=0.0,
    )


def _books(fault: Fault, stage: Stage, rented: dict[str, int]) -> float:
    if "runpod" in fault.rented:
        return stage.billed("runpod")
    return PRICE * sum(rented.values())


def _limits(expected: Expected, seen: Seen, held: int, patience: float) -> dict[str, float]:
    """The most that each figure may be."""
    calls = seen.calls
    return {
        "lost": held if expected.lost == HELD else float(expected.lost),
        "unreached": calls if expected.unreached else 0,
        "twice": 0,
        "wrong": 0,
        "cut": int(expected.cut * calls),
        "refused": int(expected.refused * calls),
        "billed_twice": expected.billed_twice,
        "repeated": seen.tokens,
        "retry_usd": seen.retry_limit_usd,
        "gap_s": patience * expected.gap_s,
        "healthy_s": patience * expected.healthy_s,
        "left_over": 0,
        "unlogged": held if expected.unlogged == HELD else float(expected.unlogged),
        "logged_twice": 0,
        "cpu": expected.cpu,
        "not_booked": expected.books,
        "overbooked": expected.overbooked,
    }


def books(seen: Seen) -> dict[str, float]:
    """Shares: of what providers ask for, not booked; of what is booked, not asked for."""
    asked, booked = seen.books_usd, seen.ledger_usd
    return {
        "not_booked": max(0.0, asked - booked) / asked if asked else 0.0,
        "overbooked": max(0.0, booked - asked) / booked if booked else 0.0,
    }


def _over(seen: Seen, limits: dict[str, float]) -> list[str]:
    figures = {**seen._asdict(), **books(seen)}
    return [
        f"{name}: {figures[name]:g}, expected at most {limit:g}"
        for name, limit in limits.items()
        if figures[name] > limit + 1e-9
    ]


def _statuses(asked: list[Asked]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for each in asked:
        counts[each.status] = counts.get(each.status, 0) + 1
    return dict(sorted(counts.items()))


def _cpu_s(stage: Stage) -> float:
    """Seconds of CPU that the gateway's processes have used: all that are of its session."""
    ticks = 0
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = each.read_text().rpartition(")")[2].split()
        except OSError:  # it ended just now
            continue
        if int(fields[3]) == stage.children["gateway"].pid:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK
