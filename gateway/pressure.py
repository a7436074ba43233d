"""Whether this process is asked for more than its CPU can do, and whom it then turns away at the door.

What waits for an event loop waits in sockets, where no queue counts it. So the loop is asked for a tick every
ten milliseconds: for how long the one that is due has not come, so long has a call waited that is read now,
about. Turning a call away by its head takes a part of what it takes to carry it out: the rest is left for
those inside, and how long they wait stays bounded.

A loop that did not get the CPU, or that was busy for once, is no overload: late ticks count only as far as
this process was working meanwhile, and only where they have been late for a while. Knows no call but its
priority.
"""

from collections.abc import Callable, Mapping
from math import exp

from gateway.clock import Clock, Timer, TimerHost
from gateway.errors import Contended
from gateway.vocab import Headers

TICK_S = 0.01
MEMORY_S = 0.5
"""Time constant of the average over late ticks."""
LASTING_S = 0.08
"""Average lateness from which on it was not for once. A tick counts when it has come, so that nobody who was
read during a single pause is turned away, however long that was."""
LIMITS: Mapping[str, float] = {"critical": 0.4, "default": 0.2, "best_effort": 0.1}
"""Seconds by which the loop may be late before calls of a class are turned away: more than a thousand clients
who each wait for their answer before they ask again can make it.
"""

_FIRST = min(LIMITS.values())
_NAMES = {name.encode(): name for name in LIMITS}


class Pressure:
    """One event loop's lateness. `cpu` gives the seconds of CPU that the process has used."""

    __slots__ = ("_clock", "_cpu", "_cpu_before", "_due", "_error", "_timer", "_timers", "average", "refused")

    def __init__(self, *, clock: Clock, timers: TimerHost, cpu: Callable[[], float]) -> None:
        self._clock = clock
        self._timers = timers
        self._cpu = cpu
        self._cpu_before = 0.0
        self._due = float("inf")
        self._timer: Timer | None = None
        self.average = 0.0
        """Lateness of the last half second, in seconds."""
        self.refused = dict.fromkeys(LIMITS, 0)
        """Calls that were turned away, by priority."""
        self._error = Contended(
            "the gateway is asked for more than it can do; try again in 1 s", retry_after=1.0
        )

    def watch(self) -> None:
        """Begin to look; until then nobody is turned away."""
        self._cpu_before = self._cpu()
        self._set(self._clock.now())

    def close(self) -> None:
        """Look no more."""
        self._due = float("inf")
        if self._timer is not None:
            self._timer.cancel()

    @property
    def late(self) -> bool:
        """Whether anybody might be turned away now: what costs next to nothing to ask for every call."""
        return self.average > LASTING_S and self._clock.now() - self._due > _FIRST

    def refusal(self, priority: str) -> Contended | None:
        """For a call that is not to be taken in now; None where it may come in."""
        if self.average <= LASTING_S or self._clock.now() - self._due <= LIMITS[priority]:
            return None
        self.refused[priority] += 1
        return self._error

    def refusal_of(self, headers: Headers) -> Contended | None:
        """The same by the head of a request."""
        priority = "default"
        for name, value in headers:
            if name == b"x-overspill-priority":
                priority = _NAMES.get(value, priority)
        return self.refusal(priority)

    def _tick(self) -> None:
        now, cpu = self._clock.now(), self._cpu()
        late = max(0.0, min(now - self._due, cpu - self._cpu_before))
        self._cpu_before = cpu
        self.average += (late - self.average) * (1.0 - exp(-(TICK_S + late) / MEMORY_S))
        self._set(now)

    def _set(self, now: float) -> None:
        self._due = now + TICK_S
        self._timer = self._timers.call_at(self._due, self._tick)
