"""Virtual time: a clock and the host of its timers, which jump from one event to the next.

Standard library and the clock's contract only. It knows no request and no backend: a callback is all
it ever sees. Events at the same moment happen in the order in which they were asked for, so equal
inputs give equal runs.
"""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count

Callback = Callable[[], object]


class Appointment:
    """One timer (`gateway.clock.Timer`)."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callback) -> None:
        self._callback: Callback | None = callback

    def cancel(self) -> None:
        """It will not be kept."""
        self._callback = None

    def __call__(self) -> None:
        """The moment has come."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class VirtualTime:
    """A `Clock` and a `TimerHost` over one heap of events."""

    __slots__ = ("events", "instant", "turn")

    def __init__(self) -> None:
        self.instant = 0.0
        """What `now` says: one look-up less for those who ask for every event."""
        self.turn = count()
        self.events: list[tuple[float, int, Callback]] = []
        """A heap of (when, turn, callback): who adds one for every request does it without a call of `at`."""

    def now(self) -> float:
        """Seconds since the run began."""
        return self.instant

    def wall(self) -> float:
        """The same: a simulated run has no date."""
        return self.instant

    def call_at(self, when: float, callback: Callback, /) -> Appointment:
        """Call `callback` at `when`, or as the next thing if that is over; it may be cancelled."""
        appointment = Appointment(callback)
        self.at(when, appointment)
        return appointment

    def at(self, when: float, callback: Callback) -> None:
        """The same for what is certain to happen: no timer to cancel, and none to make."""
        when = when if when > self.instant else self.instant
        heappush(self.events, (when, next(self.turn), callback))

    def run(self, arrivals: Sequence[float], arrive: Callable[[int], object]) -> None:
        """Let everything happen, until nothing is left to come.

        `arrive(N)` is called at `arrivals[N]`, which are in the order of time: events known ahead need no
        place in the heap. At one moment they come after what was asked for, so that a slot freed then is
        free for them.
        """
        events = self.events
        for index, arrival in enumerate(arrivals):
            while events and events[0][0] <= arrival:
                when, _, callback = heappop(events)
                self.instant = when
                callback()
            self.instant = arrival
            arrive(index)
        while events:
            when, _, callback = heappop(events)
            self.instant = when
            callback()
