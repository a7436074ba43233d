"""Starts that were told of by an invocation which did not say who ran it: it failed, or its answer broke off.

Who has started so may live on, and says its name with the next call, which did not wait for its start: that
is one start, not two. Pure; it must never know a provider.
"""

from collections import deque
from typing import NamedTuple

from backends.instance import Instance

REMEMBERED = 256
"""Starts that are remembered, the latest."""


class _Told(NamedTuple):
    """`instance`: which record was counted for it; between `earliest` and `latest` it has started."""

    instance: Instance
    earliest: float
    latest: float


class Nameless:
    """The starts of one endpoint of which that is so."""

    def __init__(self) -> None:
        self._told: deque[_Told] = deque(maxlen=REMEMBERED)

    def add(self, instance: Instance, earliest: float, latest: float) -> None:
        """A start has been counted."""
        self._told.append(_Told(instance, earliest, latest))

    def drop(self, instance: Instance) -> None:
        """Whose start was counted on this record has been named."""
        for told in self._told:
            if told.instance is instance:
                self._told.remove(told)
                return

    def take(self, earliest: float, latest: float) -> bool:
        """Whether one of these started between the two; it has a name from now on."""
        for told in reversed(self._told):
            if told.earliest <= latest and earliest <= told.latest:
                self._told.remove(told)
                return True
        return False
