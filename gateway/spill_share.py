"""The share of a route's calls that may go to rented backends, counted over the last hour.

Pure: the time is an argument. It never knows what a call costs.
"""

from typing import Protocol

from gateway.windows import Window

HOUR_S = 3600.0
HOUR_SLOTS = 120
"""An hour's calls are forgotten at most 30 s late."""


class ShareSource(Protocol):
    """The calls of one route, perhaps counted with those that this process cannot see."""

    def requested(self, now: float) -> None:
        """A call has come."""
        ...

    def allows(self, now: float) -> bool:
        """Would one more call on a rented backend keep them within the share, rounded up to whole calls?"""
        ...

    def take(self, now: float, *, force: bool = False) -> bool:
        """One more is sent there; False when that is too much. With `force` in any case."""
        ...

    def give_back(self, at: float) -> None:
        """The one that was taken `at` was not sent after all."""
        ...


class LocalShare:
    """Calls counted in this process alone, unless the windows are shared."""

    __slots__ = ("_rented", "_requests", "share")

    def __init__(self, share: float, *, requests: Window | None = None, rented: Window | None = None) -> None:
        self.share = share
        self._requests = requests or Window(HOUR_S, HOUR_SLOTS)
        self._rented = rented or Window(HOUR_S, HOUR_SLOTS)

    def requested(self, now: float) -> None:
        """Count a call."""
        self._requests.add(1, now)

    def allows(self, now: float) -> bool:
        """Fewer rented calls than the share of all calls."""
        return self._rented.total(now) < self.share * self._requests.total(now)

    def take(self, now: float, *, force: bool = False) -> bool:
        """Count it: who asks has asked `allows` just before."""
        self._rented.add(1, now)
        return True

    def give_back(self, at: float) -> None:
        """Count it no more."""
        self._rented.add(-1, at)
