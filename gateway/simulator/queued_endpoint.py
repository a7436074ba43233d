"""A simulated endpoint whose provider has a queue: a call waits there for what is up or free first.

A call that finds none idle makes one boot, unless one does that nobody waits for any more: the provider wants
as many instances as there are calls. Which of them serves it is seen when one can.
Knows instances and virtual time; never a policy or a trace.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from backends.base import Kit
from gateway.simulator.engine import VirtualTime
from gateway.simulator.world import Instance, SimulatedEndpoint, rounding
from gateway.vocab import Rent


class Sent(Protocol):
    """A call that was sent there."""

    def served_from(self, now: float, seconds: float, *, boot_s: float, waited_s: float) -> None:
        """An instance begins to serve it, after a boot or after a wait without one."""
        ...


class _Waiting(NamedTuple):
    call: Sent
    ticket: int
    seconds: float
    since: float


class QueuedEndpoint(SimulatedEndpoint):
    """First come, first served. `send_call` takes the place of `begin`."""

    binds_late = True

    def __init__(
        self,
        name: str,
        kit: Kit,
        *,
        limit: int,
        rent: Rent,
        colds: Callable[[int], float],
        time: VirtualTime,
    ) -> None:
        super().__init__(name, kit, limit=limit, rent=rent, colds=colds, opens=False)
        self._time = time
        self._queue: deque[_Waiting] = deque()
        self._booting = 0

    def send_call(self, call: Sent, ticket: int, seconds: float, now: float) -> None:
        """It is told when an instance begins to serve it: now, or later."""
        self.served += 1
        sent = _Waiting(call, ticket, seconds, now)
        instance = self._take_idle(now)
        if instance is not None:
            self._serve(instance, sent, now, booted=False)
            return
        self._queue.append(sent)
        if self._booting >= len(self._queue):
            return  # one that boots, and that nobody waits for any more, is there for it
        instance = self._boot(now)
        self._booting += 1
        self._time.at(now + instance.cold_s, partial(self._came_up, instance))

    def end(self, ticket: int, now: float) -> None:
        """Its instance serves whoever has waited longest, or begins to idle."""
        instance = self._busy.pop(ticket)
        if self._queue:
            self._serve(instance, self._queue.popleft(), now, booted=False)
        else:
            self.up(instance, now)

    def _came_up(self, instance: Instance) -> None:
        now = self._time.instant
        self._booting -= 1
        if self._queue:
            self._serve(instance, self._queue.popleft(), now, booted=True)
        else:
            self.up(instance, now)

    def _serve(self, instance: Instance, sent: _Waiting, now: float, *, booted: bool) -> None:
        instance.exec_s += sent.seconds
        if self._unit_s:
            billed = sent.seconds + (instance.cold_s * self._rent.bills_boot if booted else 0.0)
            instance.rounding_s += rounding(billed, self._unit_s)
        instance.served += 1
        self._busy[sent.ticket] = instance
        waited = now - sent.since
        sent.call.served_from(
            now, sent.seconds, boot_s=waited if booted else 0.0, waited_s=0.0 if booted else waited
        )
