r"""The scaling signals of a gateway: looks at the loads, lets the rule decide, and tells what is wanted.

Knows the rule and how loads are asked for. It never knows who listens, and scales nothing itself.

The document, as GET /scaler/metrics.json answers:

    {"backends": {NAME: {
        "wanted_replicas":       what KEDA is to follow: `valueLocation: backends.NAME.wanted_replicas`
        "present_replicas":      those there are; "ready_replicas" of them can take calls
        "in_flight", "queue":    calls on it, and calls that wait for it
        "spill_slots":           busy seconds of rented slots per second, over the last `grow_over`
        "spill_usd_per_hour":    what they cost; null: not known
        "replica_usd_per_hour":  the price of one more; null: not known
        "verdict", "why":        what was decided last (learning, hold, grow, shrink, unknown), and why
    }}, "grow_over_s": …, "shrink_over_s": …}

A backend of which nothing is known yet has no `wanted_replicas`: whoever scales by it changes nothing then.
A dot in a backend's name is written `\.` in a valueLocation.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway.clock import Clock
from gateway.config.scaling import Scaling
from gateway.scaling.rule import Load, Sizer, Terms, Verdict, Word

log = logging.getLogger("overspill.scaling")

LOOK_EVERY_S = 2.0
DECIDE_EVERY = 8
"""Looks from one decision to the next."""

Loads = Callable[[], Awaitable[Mapping[str, Load]]]


class ScalingSignals:
    """What is wanted of each owned backend.

    options:  the section of the file
    loads:    asks for the loads of now
    """

    def __init__(self, options: Scaling, loads: Loads, clock: Clock) -> None:
        self.options = options
        self._loads = loads
        self._clock = clock
        self._sizers: dict[str, Sizer] = {}
        self._looks = 0
        self.change = asyncio.Event()
        """Set once something else is wanted somewhere; then another one stands here."""

    @property
    def backends(self) -> list[str]:
        """Owned backends that have been looked at."""
        return list(self._sizers)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once; now and then decide."""
        loads = await self._loads()
        now = self._clock.now()
        changed = False
        for name in [name for name in self._sizers if name not in loads]:
            del self._sizers[name]
            changed = True
        for name, load in loads.items():
            sizer = self._sizers.get(name)
            if sizer is None:
                sizer = self._sizers[name] = Sizer(self._terms(name))
                changed = True
            sizer.look(load, now)
            before = sizer.verdict
            if before.wanted is None or self._looks % DECIDE_EVERY == 0:
                changed |= self._decide(name, sizer, before)
        self._looks += 1
        if changed:
            self.change.set()
            self.change = asyncio.Event()

    def verdict(self, backend: str) -> Verdict | None:
        """What was decided last; None for a backend that has not been looked at."""
        sizer = self._sizers.get(backend)
        return None if sizer is None else sizer.verdict

    def document(self) -> dict[str, Any]:
        """All of it, as plain values."""
        return {
            "backends": {name: _entry(sizer) for name, sizer in self._sizers.items()},
            "grow_over_s": self.options.grow_over,
            "shrink_over_s": self.options.shrink_over,
        }

    def _terms(self, backend: str) -> Terms:
        options, bounds = self.options, self.options.bounds(backend)
        return Terms(options.grow_over, options.shrink_over, options.shrink_below, bounds.min, bounds.max)

    def _decide(self, name: str, sizer: Sizer, before: Verdict) -> bool:
        verdict = sizer.decide()
        if verdict.word in (Word.GROW, Word.SHRINK):
            log.info("%s: %s replicas are wanted: %s", name, verdict.wanted, verdict.why)
        return verdict.wanted != before.wanted


def _entry(sizer: Sizer) -> dict[str, Any]:
    load, verdict = sizer.load, sizer.verdict
    assert load is not None
    entry: dict[str, Any] = {} if verdict.wanted is None else {"wanted_replicas": verdict.wanted}
    return {
        **entry,
        "present_replicas": load.replicas,
        "ready_replicas": load.ready,
        "in_flight": load.in_flight,
        "queue": load.queued,
        "spill_slots": verdict.spill_slots,
        "spill_usd_per_hour": verdict.spill_usd_per_hour,
        "replica_usd_per_hour": load.replica_usd_per_hour,
        "verdict": str(verdict.word),
        "why": verdict.why,
    }
