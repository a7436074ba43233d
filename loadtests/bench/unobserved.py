"""`python -m loadtests.bench.unobserved CONFIG [--without metrics,decisions]`: a gateway that observes less.

For the bench of what observing costs, and for nothing else: access log and tracing can be left out of the
file, metrics and the last decisions cannot. What is left out is replaced where the gateway is put together,
so that no call meets a switch. Runs the gateway as `overspill serve` does, without reading its file again.
"""

import argparse
import asyncio
import gc
import signal
from pathlib import Path
from random import Random

import uvloop

from gateway.app import Gateway, load_file
from gateway.clock import SystemClock
from gateway.config.schema import Settings
from gateway.explain.ring import Ring, Witness
from gateway.lease import Lease
from gateway.ledger import Ledger
from gateway.pool import Pool
from gateway.record import Hedged, Record
from gateway.succession import Succession
from gateway.table import route_facts
from gateway.tallies import NONE, Lane, Tally
from policies.base import Action, Run

METRICS, DECISIONS = "metrics", "decisions"
"""What can be left out."""


class Unbooked(Ledger):
    """Opens and closes records and counts nothing of them; the access log has no dollars then."""

    def _book_all(self, records: list[Record]) -> list[tuple[Record, Tally]]:
        """See `Ledger._book_all`."""
        return [(record, self._counted(record)) for record in records]

    def _counted(self, record: Record) -> Tally:
        if (stay := record.stay) is not None:
            stay.leave(record, record.closed_at or record.arrived)
        labels = (record.route, record.backend, record.reason, record.start, record.outcome)
        tally = self._tallies.get(labels)
        if tally is None:
            lane = self._lanes.get((record.route, record.backend)) or self._nowhere()
            tally = self._tallies[labels] = Tally(lane, record.reason, record.start, record.outcome)
        return tally

    def _nowhere(self) -> Lane:
        return Lane(next(iter(self._routes.values())), NONE, None, None)


class Forgetful(Ring):
    """Keeps no decision."""

    def of(self, pool: Pool) -> Witness:
        """See `Ring.of`."""
        return Absent(pool, self._noted)


class Absent(Witness):
    """Sees nothing."""

    __slots__ = ()

    def note(self, lease: Lease, action: Action, now: float) -> None:
        """See `Witness.note`."""

    def hedges(self, lease: Lease, action: Run, now: float, hedged: Hedged) -> None:
        """See `Witness.hedges`."""


class Unobserved(Gateway):
    """A gateway less some of what it notes. `without`: of `METRICS` and `DECISIONS`."""

    def __init__(self, settings: Settings, *, without: frozenset[str]) -> None:
        self._without = without
        chance = Random()
        super().__init__(settings, clock=SystemClock(), chance=chance)

    def _ledger(self) -> Ledger:
        if METRICS not in self._without:
            return super()._ledger()
        settings = self.settings
        return Unbooked(
            routes=[route_facts(name, settings) for name in settings.routes],
            backends=self._backend_facts(),
            now=self.clock.now(),
            access_log=self.access_log,
        )

    def _succession(self, settings: Settings, chance: Random) -> Succession:
        if DECISIONS in self._without:
            self._ring = Forgetful()
        return super()._succession(settings, chance)


async def _serve(settings: Settings, without: frozenset[str]) -> None:
    gateway, stop = Unobserved(settings, without=without), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await gateway.open()
    gc.collect()  # as `overspill serve` does once it is up
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    await stop.wait()
    await gateway.close()


def main() -> None:
    """Serve until SIGTERM. Raises ConfigProblems for a file that is wrong."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("config", type=Path)
    options.add_argument("--without", default="", help=f"of {METRICS},{DECISIONS}")
    given = options.parse_args()
    without = frozenset(filter(None, given.without.split(",")))
    if unknown := without - {METRICS, DECISIONS}:
        options.error(f"--without knows {METRICS} and {DECISIONS}, not {', '.join(sorted(unknown))}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(load_file(given.config).settings, without))


if __name__ == "__main__":
    main()
