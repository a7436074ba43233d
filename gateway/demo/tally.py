"""The client's own figures while the load runs: how many, how fast, from where, and why.

Must never know how they are shown. Rates and percentiles speak of the last few seconds.
"""

from collections import Counter, deque

from gateway.clock import Clock
from gateway.demo.load import Sample
from gateway.demo.replay import percentile
from gateway.vocab import Start

WINDOW = 4.0
"""Seconds that the live rate and percentiles look back."""


class Tally:
    """Everything seen so far. Told by the load driver, read by the screen."""

    def __init__(self, clock: Clock, owned: str) -> None:
        self._clock = clock
        self._owned = owned
        self._recent: deque[tuple[float, float]] = deque()  # (when it ended, latency)
        self._since = clock.now()
        self.in_flight = 0
        self.requests = 0
        self.lost = 0
        self.wrong = 0
        self.shed = 0
        self.reasons: Counter[str] = Counter()
        self.backends: dict[str, Counter[str]] = {}

    def left(self) -> None:
        """A request has been sent."""
        self.in_flight += 1

    def ended(self, sample: Sample) -> None:
        """A request is over."""
        self.in_flight -= 1
        self.requests += 1
        self.lost += sample.lost
        self.wrong += sample.wrong
        self.shed += sample.shed
        if sample.reason:
            self.reasons[sample.reason] += 1
        if sample.backend and sample.status == 200:
            self.backends.setdefault(sample.backend, Counter())[sample.start] += 1
        self._recent.append((self._clock.now(), sample.latency))

    def _latencies(self) -> list[float]:
        horizon = self._clock.now() - WINDOW
        while self._recent and self._recent[0][0] < horizon:
            self._recent.popleft()
        return [latency for _, latency in self._recent]

    def rps(self) -> float:
        """Answers per second over the last few seconds."""
        return len(self._latencies()) / max(0.5, min(WINDOW, self._clock.now() - self._since))

    def latency(self, share: float) -> float:
        """A percentile of the last few seconds' latencies, in seconds."""
        return percentile(self._latencies(), share)

    def starts(self, start: Start) -> int:
        """Answers by this kind of start, from every backend."""
        return sum(counts[start.value] for counts in self.backends.values())

    def served(self) -> int:
        """Answers that a backend gave."""
        return sum(sum(counts.values()) for counts in self.backends.values())

    def spilled(self) -> float:
        """Share of the answers that came from a rented backend."""
        total = self.served()
        own = sum(self.backends.get(self._owned, Counter()).values())
        return (total - own) / total if total else 0.0
