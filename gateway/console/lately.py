"""What counters have grown by within the last minute. Pure; knows no clock and no metric."""

from collections import deque
from collections.abc import Iterator, Mapping

WINDOW_S = 60.0


class Lately:
    """Of named counters. `note` must be called with moments that never fall."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Mapping[str, float]]] = deque()

    def note(self, at: float, counts: Mapping[str, float]) -> None:
        """Another look."""
        self._seen.append((at, counts))
        # One that is as old as the window stays: differences are taken from it.
        while len(self._seen) > 1 and self._seen[1][0] <= at - WINDOW_S:
            self._seen.popleft()

    def grown(self, name: str) -> float:
        """How much more it is; 0 where it is not known, or began anew."""
        if not self._seen:
            return 0.0
        return max(0.0, self._seen[-1][1].get(name, 0.0) - self._seen[0][1].get(name, 0.0))

    def grown_of(self, prefix: str) -> Iterator[tuple[str, float]]:
        """The same of all whose name is the prefix, a blank and more: what comes after, if it has grown."""
        for name in self._seen[-1][1] if self._seen else ():
            if name.startswith(f"{prefix} ") and (more := self.grown(name)):
                yield name.removeprefix(f"{prefix} "), more
