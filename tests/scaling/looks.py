"""Fleets in miniature: a load in slots, a fleet that follows what is wanted after a while, and money."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from gateway.scaling.rule import Load, Sizer, Terms, Verdict

EVERY_S = 5.0


@dataclass
class Fleet:
    """An owned backend under a demand in slots; what does not fit is spilled at once."""

    sizer: Sizer
    replicas: int = 1
    slots: int = 4
    usd_per_hour: float | None = 1.0
    usd_per_spilled_second: float | None = 0.001
    follows_after_s: float | None = 60.0
    """None: nobody acts on what is wanted."""
    now: float = 0.0
    usd: float = 0.0
    ready: int | None = None
    asked: list[tuple[float, int]] = field(default_factory=list)
    """Every time that something else was wanted."""
    _due: list[tuple[float, int]] = field(default_factory=list)

    def run(self, seconds: float, demand: Callable[[float], int]) -> Verdict:
        for _ in self.looks(seconds, demand):
            pass
        return self.sizer.verdict

    def looks(self, seconds: float, demand: Callable[[float], int]) -> Iterator[Verdict]:
        end = self.now + seconds
        while self.now < end:
            self.now += EVERY_S
            while self._due and self._due[0][0] <= self.now:
                self.replicas = self._due.pop(0)[1]
            ready = self.replicas if self.ready is None else min(self.ready, self.replicas)
            wanted = demand(self.now)
            served = min(wanted, ready * self.slots)
            spilled = wanted - served
            rate = self.usd_per_spilled_second
            self.usd += EVERY_S * spilled * (rate or 0.0)
            usd = None if rate is None else self.usd
            self.sizer.look(
                Load(self.replicas, ready, self.slots, served, 0, spilled, usd, self.usd_per_hour), self.now
            )
            before = self.sizer.verdict.wanted
            verdict = self.sizer.decide()
            if verdict.wanted != before and verdict.wanted is not None:
                self.asked.append((self.now, verdict.wanted))
                if self.follows_after_s is not None:
                    self._due.append((self.now + self.follows_after_s, verdict.wanted))
            yield verdict


def fleet(terms: Terms | None = None, **state: object) -> Fleet:
    return Fleet(Sizer(terms or Terms()), **state)  # type: ignore[arg-type]


def constant(slots: int) -> Callable[[float], int]:
    return lambda _: slots
