"""One run of the load against a stage that is set: drive, watch, wait for the last bills, report.

Must never know how the processes were started.
"""

import asyncio
from random import Random

import aiohttp
from rich.console import Console

from gateway.clock import Clock
from gateway.demo.figures import Figures, read
from gateway.demo.load import drive, questions
from gateway.demo.plan import FLEET, RENTED, Plan
from gateway.demo.screen import Moment, Screen
from gateway.demo.shape import arrivals, phase_at, phases
from gateway.demo.stage import Stage
from gateway.demo.summary import Report, report
from gateway.demo.tally import Tally

REFRESH = 0.5
"""Seconds between two looks at the gateway's figures."""

SETTLE = 1.5
"""Seconds after an idle time within which the gateway has booked it."""


async def perform(stage: Stage, plan: Plan, *, clock: Clock, console: Console) -> Report:
    """Run the load and return every figure of it."""
    plan_phases = phases(plan.seconds, calm_rps=plan.calm_rps, burst_rps=plan.burst_rps)
    moments = arrivals(plan_phases, Random(plan.seed))  # noqa: S311 - a seeded load, not a secret
    asked = questions(stage.trained.model, stage.trained.images, 240)
    tally = Tally(clock, FLEET)
    limits = aiohttp.ClientTimeout(total=5)
    connector = aiohttp.TCPConnector(limit=2)
    async with aiohttp.ClientSession(connector=connector, timeout=limits) as session:
        before = await _figures(session, stage.admin)
        began = clock.now()
        with Screen(console, plan, tally) as screen:

            async def watch() -> None:
                while True:
                    elapsed = clock.now() - began
                    money = (await _figures(session, stage.admin)).since(before)
                    screen.show(Moment(phase_at(plan_phases, elapsed).name, elapsed), money)
                    await asyncio.sleep(REFRESH)

            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(watch())
                samples = await drive(stage.url, moments, asked, clock=clock, watch=tally)
                watching.cancel()
            # The fleet is paid for until the planned end, even if the last request was a little earlier.
            await asyncio.sleep(max(0.0, began + plan.seconds - clock.now()))
            end = (await _figures(session, stage.admin)).since(before)
            elapsed = clock.now() - began
            screen.show(Moment("settling", elapsed), end)
            await asyncio.sleep(max(each.idle_after for each in RENTED) + SETTLE)
            settled = (await _figures(session, stage.admin)).since(before)
            money = end.with_tails(settled, FLEET)
            screen.show(Moment("done", elapsed), money)
    return report(plan, samples, money, seconds=elapsed, triton=stage.triton)


async def _figures(session: aiohttp.ClientSession, admin: str) -> Figures:
    async with session.get(f"{admin}/metrics") as page:
        page.raise_for_status()
        return read(await page.text())
