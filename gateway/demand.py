"""What a pool tells those who open instances ahead: every call that comes, and every use of what is rented.

It turns uses into gaps: how long the instance that a call uses had not been used, or would not have been,
had it still been up. Pure and on passed-in time; it never knows a pool, a backend or who listens.
"""

from collections import deque
from collections.abc import Callable

REMEMBERED = 256
"""Instances whose last use is known; the longest unused one is forgotten first."""

ArrivalSink = Callable[[float], None]
GapSink = Callable[[float, float], None]


class Demand:
    """The uses of one route's rented instances, as if none were ever stopped.

    The one that was used last serves next, as everywhere, so the last uses are a stack.

    arrived:  is told when a call comes (`now`)
    gap:      is told of each gap and when it ended (seconds, `now`)
    """

    __slots__ = ("_ended", "_gap", "arrived")

    def __init__(self, arrived: ArrivalSink, gap: GapSink) -> None:
        self.arrived = arrived
        self._gap = gap
        self._ended: deque[float] = deque(maxlen=REMEMBERED)

    def taken(self, now: float) -> None:
        """A call begins to use a rented instance."""
        if self._ended:
            self._gap(now - self._ended.pop(), now)

    def freed(self, now: float) -> None:
        """It has ended, whatever came of it."""
        self._ended.append(now)
