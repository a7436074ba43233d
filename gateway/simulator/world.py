"""The backends of a simulated run: a fleet with slots, and an endpoint whose instances boot and idle.

They are `Backend`s that no file can name: the pool gives out their slots as it does any other's, and
instead of sending anything they say when a call will have been served, and what was paid for.
Knows the backend contract only; never a policy, a queue or a trace.

The endpoint, one slot to each instance:

    opened ──cold──► serving ──► idle ──► serving ──► … ──► idle for `idle_s` ──► gone
           └────────── billed, to the very end, as its `Rent` says ─────────────┘
"""

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from math import ceil, fsum
from typing import Any, ClassVar

from backends.base import Backend, BackendOptions, Kit
from gateway.vocab import Call, Rent, Reply
from gateway.warmth import AT_ONCE_S

UNLIMITED = 1_000_000_000
"""`max_in_flight` of an endpoint without a limit."""


class Simulated(Backend):
    """A backend on virtual time."""

    Options: ClassVar[type[BackendOptions]] = BackendOptions
    EXAMPLE: ClassVar[dict[str, Any]] = {"type": "simulated", "max_in_flight": 1}

    place = -1
    """Its number among the backends of a run."""

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """Never: nothing is sent in a simulation. RuntimeError."""
        raise RuntimeError(f"{self.name} is simulated: it serves on virtual time only")


class SimulatedFleet(Simulated):
    """Replicas that are always up, as one place with all their slots (the slot model).

    A call that has a slot is served at once: there is nothing to keep account of.
    """

    owned: ClassVar[bool] = True

    def __init__(self, name: str, kit: Kit, *, slots: int) -> None:
        super().__init__(name, BackendOptions(type="simulated_fleet", max_in_flight=slots), kit)


class Instance:
    """One life of one rented instance, in seconds. What of it is billed is not its concern.

    opened, gone:  when it began and ended; `gone` is known once it will serve no more
    cold_s, exec_s, idle_s:  what it did in between
    free_since:    when it last became idle
    ahead:         it was opened or kept ahead of demand, and no call has used it since
    cold_ahead:    it was opened so, and `idle_ahead_s` of `idle_s` it idled so
    pinged:        it was opened by a ping, not by a call
    rounding_s:    seconds added to its calls where each is billed by itself and rounded up
    """

    __slots__ = (
        "ahead", "cold_ahead", "cold_s", "exec_s", "free_since", "gone", "idle_ahead_s", "idle_s", "opened",
        "pinged", "rounding_s", "served",
    )  # fmt: skip

    def __init__(self, opened: float, cold_s: float, *, ahead: bool = False) -> None:
        self.opened = opened
        self.cold_s = cold_s
        self.exec_s = 0.0
        self.idle_s = 0.0
        self.free_since = opened
        self.gone: float | None = None
        self.served = 0
        self.ahead = self.cold_ahead = ahead
        self.idle_ahead_s = 0.0
        self.pinged = False
        self.rounding_s = 0.0

    def idled(self, idle_s: float) -> None:
        """It has idled for so long."""
        self.idle_s += idle_s
        if self.ahead:
            self.idle_ahead_s += idle_s

    def expire(self, idle_s: float) -> None:
        """Nobody came within the idle time-out."""
        self.idled(idle_s)
        self.gone = self.free_since + idle_s


class SimulatedEndpoint(Simulated):
    """Instances on demand: the most recently idle one serves, else a new one boots first.

    `begin` and `end` take the place of `send`.

    colds:  how long activation number N takes to boot, in seconds
    opens:  whether one may boot for nobody in particular; else only a call makes one boot, and waits for it
    """

    can_open = True

    def __init__(
        self,
        name: str,
        kit: Kit,
        *,
        limit: int,
        rent: Rent,
        colds: Callable[[int], float],
        opens: bool = True,
    ) -> None:
        super().__init__(name, BackendOptions(type="simulated_endpoint", max_in_flight=limit), kit)
        self._rent = rent
        self.lives: list[Instance] = []
        """Every instance there was, in the order of their activation."""
        self.served = 0
        self.pings = 0
        """Sent ahead of demand, to open an instance or to keep one."""
        self._idle_s = rent.idle_s
        self._lasts_s = rent.idle_s or AT_ONCE_S
        self._colds = colds
        self._unit_s = 0.0 if rent.bills_idle else rent.round_up_s
        """To whole multiples of this each call is rounded up by itself; 0 where none is."""
        self._idle: list[Instance] = []  # the most recently idle last
        self._busy: dict[int, Instance] = {}
        self.boot_s = 0.0
        """How long the call that began last had to wait for a boot."""
        self.can_open = opens

    @property
    def rent(self) -> Rent:
        """Only what the pool must know: prices are the scenario's."""
        return self._rent

    def begin(self, ticket: int, seconds: float, now: float) -> float:
        """On an idle instance at once, on a new one after its boot."""
        self.served += 1
        instance = self._take_idle(now)
        self.boot_s = 0.0
        if instance is None:
            instance = self._boot(now)
            self.boot_s = instance.cold_s
            now += instance.cold_s
        instance.exec_s += seconds
        if self._unit_s:
            billed = seconds + self.boot_s * self._rent.bills_boot
            instance.rounding_s += rounding(billed, self._unit_s)
        instance.served += 1
        self._busy[ticket] = instance
        return now + seconds

    def boot(self, now: float, *, ahead: bool = False) -> Instance:
        """An instance boots for nobody in particular; call `up` when its `cold_s` are over.

        ahead: for nobody who waits
        """
        self.pings += ahead
        instance = self._boot(now, ahead=ahead)
        instance.pinged = True
        return instance

    def keep(self, now: float) -> Instance | None:
        """The instance that has idled longest is pinged, ahead of demand; call `up` when it has answered.

        None where none idles any more.
        """
        for place, instance in enumerate(self._idle):
            if now < instance.free_since + self._lasts_s:
                del self._idle[place]
                instance.idled(now - instance.free_since)
                instance.ahead = True
                self.pings += 1
                return instance
        return None

    def up(self, instance: Instance, now: float) -> None:
        """It has booted, or answered, and begins to idle."""
        instance.free_since = now
        self._idle.append(instance)

    def _boot(self, now: float, *, ahead: bool = False) -> Instance:
        instance = Instance(now, self._colds(len(self.lives)), ahead=ahead)
        self.lives.append(instance)
        return instance

    def end(self, ticket: int, now: float) -> None:
        """Its instance begins to idle."""
        instance = self._busy.pop(ticket)
        instance.free_since = now
        self._idle.append(instance)

    def _take_idle(self, now: float) -> Instance | None:
        if not self._idle:
            return None
        instance = self._idle[-1]
        if now < instance.free_since + self._lasts_s:
            self._idle.pop()
            instance.idled(now - instance.free_since)
            instance.ahead = False
            return instance
        self.finish()  # the one that would last longest is gone, so all are
        return None

    def finish(self) -> None:
        """Nobody will come for those that idle now: they run into their time-out."""
        for instance in self._idle:
            instance.expire(self._idle_s)
        self._idle.clear()

    @property
    def cold_s(self) -> float:
        """Seconds of booting, but for `ahead_s`."""
        return fsum(instance.cold_s for instance in self.lives if not instance.cold_ahead)

    @property
    def exec_s(self) -> float:
        """Seconds of service."""
        return fsum(instance.exec_s for instance in self.lives)

    @property
    def idle_s(self) -> float:
        """Seconds of idling, of those that are gone and between calls, but for `ahead_s`."""
        return fsum(instance.idle_s - instance.idle_ahead_s for instance in self.lives)

    @property
    def ahead_s(self) -> float:
        """Seconds of booting and idling ahead of demand: nobody's call."""
        idle = (instance.idle_ahead_s for instance in self.lives)
        return fsum((*idle, *(instance.cold_s for instance in self.lives if instance.cold_ahead)))


def rounding(seconds: float, unit_s: float) -> float:
    """What rounding up to whole units adds, in seconds; nothing where there is no unit."""
    # A hair above a whole multiple is that multiple: the sum is of floats.
    return max(0.0, ceil(seconds / unit_s - 1e-9) * unit_s - seconds) if unit_s > 0.0 else 0.0


def no_background(work: Coroutine[Any, Any, None], /, *, name: str) -> None:
    """The `spawn` of a simulated kit: there is no event loop for `work` to run on. RuntimeError."""
    work.close()
    raise RuntimeError(f"{name}: a simulated backend has no background work")
