"""The live tick of one pool's prewarm controller: look, decide, have it carried out; once a second.

It knows the controller and what it needs of a pool, no more: not how an instance is opened, nor who pays.
"""

import asyncio
import logging
from typing import Protocol

from gateway.clock import Clock
from gateway.errors import OverspillError
from gateway.prewarm import Controller, Plan, State

log = logging.getLogger("overspill.prewarm")

TICK_S = 1.0


class Prewarmable(Protocol):
    """What prewarming needs of a pool."""

    def prewarm_state(self, now: float) -> State | None:
        """The pool beside the rented backend to warm for it; None while there is none that takes calls."""
        ...

    def open(self, backend: str, count: int, *, kind: str) -> None:
        """Begin to open `count` instances and return at once; their cost is booked as `kind`."""
        ...

    def ping(self, backend: str, count: int, *, kind: str) -> None:
        """Begin to ping the `count` oldest idle instances and return at once; booked as `kind`."""
        ...


def step(controller: Controller, pool: Prewarmable, now: float) -> Plan | None:
    """One tick: the plan that was carried out, None when there was nothing to look at."""
    state = pool.prewarm_state(now)
    if state is None:
        return None
    plan = controller.tick(now, state)
    if plan.ping:
        pool.ping(plan.backend, plan.ping, kind=plan.kind)
    if plan.open:
        pool.open(plan.backend, plan.open, kind=plan.kind)
    return plan


async def run(controller: Controller, pool: Prewarmable, clock: Clock, *, every: float = TICK_S) -> None:
    """Tick for ever, every `every` seconds of the clock; ends only by cancellation.

    A backend that cannot be opened costs its tick, not the loop. After a stall the missed ticks are
    skipped, not made up for.
    """
    due = clock.now()
    while True:
        try:
            step(controller, pool, clock.now())
        except OverspillError as error:
            log.warning("route %s: nothing was opened ahead: %s", controller.route, error)
        due = max(due + every, clock.now())
        await asyncio.sleep(max(0.0, due - clock.now()))
