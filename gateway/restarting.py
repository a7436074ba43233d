"""Why a gateway ends, and whether a new version is to follow in the same process.

A gateway that is alone cannot have its successor beside it: both would give out the same slots. So the new
version is tried first; then this one drains while connections wait at its port, which stays open; then the
process goes on as the new one. Knows signals and processes; no route and no call.
"""

import asyncio
import logging
import signal

from gateway.clock import Clock
from gateway.signals import LATER
from gateway.workers.handover import LAYOUT, TRYING_S, Handover, Try, become
from gateway.workers.ports import Held, descriptors

log = logging.getLogger("overspill")

_LOOK_EVERY_S = 0.05


class Ending:
    """Whether a gateway is to end, and how."""

    def __init__(self) -> None:
        self._told = asyncio.Event()
        self.waits = False
        self.restarts = False

    def stop(self) -> None:
        """For good: those that send it calls are given time to hear of it."""
        self.waits = True
        self.restarts = False
        self._told.set()

    def part(self) -> None:
        """Others serve its port, or will."""
        self._told.set()

    def restart(self) -> None:
        """As `part`; a new version is to follow."""
        self.restarts = True
        self._told.set()

    async def told(self) -> None:
        """Return when it is to end."""
        await self._told.wait()


class Restarting:
    """Restarts a gateway that is alone. `listen`: the addresses of the file."""

    def __init__(self, held: Held, listen: list[str], clock: Clock) -> None:
        self.held = held
        self._listen = listen
        self._clock = clock
        self._trying = False

    async def begin(self, ending: Ending) -> None:
        """Try the new version; when it would start, end this one."""
        if self._trying:
            return
        self._trying = True
        attempt = Try(self._handover(), self._clock.now() + TRYING_S)
        try:
            while (good := attempt.result(self._clock.now())) is None:  # noqa: ASYNC110 - of a process
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            attempt.end()
            self._trying = False
        if good:
            for each in self.held.doors.values():
                each.kept = True
            log.info("restarting: connections wait until the calls in flight have ended")
            ending.restart()

    def become(self) -> None:
        """Go on as the new version. Returns only when there is none."""
        signal.pthread_sigmask(signal.SIG_BLOCK, LATER)  # until it has handlers of its own
        become(self._handover())

    def _handover(self) -> Handover:
        held = self.held
        return Handover(
            layout=LAYOUT,
            listen=self._listen,
            doors=descriptors(held.claims),
            admin=None if held.admin is None else held.admin.fileno(),
        )
