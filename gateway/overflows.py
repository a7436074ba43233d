"""How regularly demand outgrows the fleet: the rhythm that level and trend cannot see.

Pure and on passed-in time. It is told once a second by how many slots demand exceeds the fleet, and knows
neither what a slot is nor what another one would cost.
"""

from collections import deque


class Overflows:
    """The times at which demand outgrew the fleet: when they began, how high and how long they were.

    A renewal process: how long after the last beginning the next one tends to come, from the last ones.
    """

    REMEMBERED = 32
    ENOUGH = 3
    """Intervals without which none is expected again: what came a few times may be chance."""
    PRIOR = 2.0
    """As if twice, after any interval, it had not come: few intervals say little."""
    TOLERANCE_S = 1.5
    """Beginnings are known to the second."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, float]] = deque(maxlen=self.REMEMBERED)  # (interval, peak)
        self._interval: float | None = None
        self._began: float | None = None
        self._peak = 0.0  # of the one under way; 0 when there is none
        self.duration_s: float | None = None
        """Mean length, decayed; None before the first one has ended."""

    def second(self, index: int, excess: float) -> None:
        """One whole second has ended in which demand was `excess` slots above the fleet's."""
        now = index + 1.0
        if excess > 0.0:
            if self._peak == 0.0:
                self._interval = None if self._began is None else now - self._began
                self._began = now
            self._peak = max(self._peak, excess)
        elif self._peak > 0.0:
            if self._interval is not None:
                self._past.append((self._interval, self._peak))
            lasted = now - (self._began or now)
            known = self.duration_s
            self.duration_s = lasted if known is None else known + 0.2 * (lasted - known)
            self._peak = 0.0

    def chance(self, instances: int, within_s: float, now: float) -> float:
        """P(an overflow that needs `instances` begins in the next `within_s`), given that none has since."""
        if self._began is None or self._peak > 0.0 or len(self._past) < self.ENOUGH:
            return 0.0
        age = now - self._began
        still = soon = 0
        for interval, peak in self._past:
            if interval >= age - self.TOLERANCE_S:
                still += 1
                soon += interval <= age + within_s and peak >= instances - 0.5
        return soon / (still + self.PRIOR)
