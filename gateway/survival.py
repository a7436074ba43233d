"""The chance that an instance which has been idle for a while is still warm.

Standard library only. It never knows which provider it watches, nor the time: only idle ages, and whether
the next start after them was cold.

Every observation says of one idle period whether its instance lived to the age at which it was needed
(current-status data). The share of warm starts at an age therefore estimates the survival itself, and the
best monotone curve through the shares is the maximum-likelihood estimate (Ayer, Brunk, Ewing, Reid,
Silverman, 1955: pool adjacent violators). A product of (1 - cold share) over the bins would count the
same deaths again in every bin and say "cold" far too often.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.sketch import number

_STEP: Final = 1.5
_BELOW: Final = 13
_ABOVE: Final = 12
_UNDECLARED: Final = 60.0
_MEMORY: Final = 50.0
"""A bin's observations are halved when there are this many: providers change their habits."""
_UNSEEN: Final = 0.1
"""What a bin without observations weighs when neighbours are pooled: it yields to any that has some."""


class Survival:
    """Chance of a warm start by idle age. The prior is a step: warm up to the declared idle time-out, cold
    after it, worth one observation per bin of age. With no time-out declared (0) nothing is taken as warm
    until it was seen.
    """

    __slots__ = ("_curve", "_edges", "_prior", "_seen", "_stale", "_warm", "idle_s")

    def __init__(self, idle_s: float = 0.0) -> None:
        if not 0 <= idle_s < float("inf"):
            raise ValueError(f"an idle time-out is a number of seconds from 0 up, not {idle_s!r}")
        self.idle_s = idle_s
        # The declared time-out is an edge, so that the step stands exactly where it was declared.
        anchor = idle_s or _UNDECLARED
        self._edges = [anchor * _STEP**power for power in range(-_BELOW, _ABOVE + 1)]
        bins = len(self._edges) + 1
        self._prior = [1.0 if idle_s and index <= _BELOW else 0.0 for index in range(bins)]
        self._warm = [0.0] * bins
        self._seen = [0.0] * bins
        self._curve = list(self._prior)
        self._stale = False  # drawn anew when it is read: it is learned far more often

    def chance(self, age: float) -> float:
        """0 to 1, never rising with the age (seconds idle)."""
        if self._stale:
            self._draw()
        return self._curve[bisect_left(self._edges, age)]

    def learn(self, age: float, cold: bool) -> None:
        """An instance idle for `age` seconds was needed, and had gone (`cold`) or not."""
        if not age >= 0:
            raise ValueError(f"an idle age is a number of seconds from 0 up, not {age!r}")
        index = bisect_left(self._edges, age)
        if self._seen[index] >= _MEMORY:
            self._seen[index] /= 2
            self._warm[index] /= 2
        self._seen[index] += 1
        self._warm[index] += not cold
        self._stale = True

    def _draw(self) -> None:
        self._stale = False
        pairs = zip(self._warm, self._seen, self._prior, strict=True)
        shares = [(warm + prior) / (seen + 1) for warm, seen, prior in pairs]
        self._curve = falling(shares, [seen + _UNSEEN for seen in self._seen])

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the observations."""
        seen = {str(index): [self._warm[index], count] for index, count in enumerate(self._seen) if count}
        return {"idle_s": self.idle_s, "bins": seen}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take over what `to_dict` gave. Observations made under another declared time-out are left out:
        their ages are of other bins. Raises ValueError when the data is damaged; nothing has changed then.
        """
        idle_s = number(data, "idle_s")
        bins = data.get("bins")
        if not isinstance(bins, dict):
            raise ValueError("bins is not a table of bin and observations")
        warm, seen = [0.0] * len(self._warm), [0.0] * len(self._seen)
        for key, pair in bins.items():
            if not (key.isascii() and key.isdigit() and int(key) < len(warm)):
                raise ValueError(f"bins: {key!r} is not a bin from 0 to {len(warm) - 1}")
            if not isinstance(pair, list) or len(pair) != 2:
                raise ValueError(f"bins: {key} is not a pair of warm and all")
            counts = {"warm": pair[0], "all": pair[1]}
            warm[int(key)], seen[int(key)] = number(counts, "warm"), number(counts, "all")
            if warm[int(key)] > seen[int(key)]:
                raise ValueError(f"bins: {key} has more warm starts than starts")
        if idle_s != self.idle_s:
            return
        self._warm, self._seen = warm, seen
        self._draw()


def falling(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The closest sequence (weighted least squares) that never rises."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        size = 1
        while blocks and blocks[-1][0] < value:
            above, mass, length = blocks.pop()
            value = (above * mass + value * weight) / (mass + weight)  # noqa: PLW2901 - the pooled block
            weight += mass  # noqa: PLW2901
            size += length
        blocks.append((value, weight, size))
    return [value for value, _, size in blocks for _ in range(size)]
