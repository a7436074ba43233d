"""How much comes per second lately: an exponentially weighted rate.

Standard library only; time is an argument. It knows no unit but its caller's.
"""

from math import exp


class Rate:
    """Amounts per second, the last `memory_s` seconds counting most.

    A steady stream reads as its rate; a single amount fades as exp(-age / memory).
    """

    __slots__ = ("_at", "_grain_s", "_memory_s", "_sum")

    def __init__(self, memory_s: float, now: float) -> None:
        self._memory_s = memory_s
        self._grain_s = memory_s / 100.0
        self._sum = 0.0
        self._at = now

    def add(self, amount: float, now: float) -> None:
        """Something has come."""
        age = now - self._at
        if age > self._grain_s:  # a shorter while makes no difference, and is the common one
            self._sum *= exp(-age / self._memory_s)
            self._at = now
        self._sum += amount

    def per_second(self, now: float) -> float:
        """The rate as of now."""
        age = now - self._at
        faded = exp(-age / self._memory_s) if age > 0.0 else 1.0
        return self._sum * faded / self._memory_s
