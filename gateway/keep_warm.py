"""How long an unused instance of one endpoint should stay up: from the gaps there were between its uses.

Pure and on passed-in time. It never knows how an instance is kept (a ping, or the provider's own time-out),
which route used it, or whether there is money left: it says what would pay.

A histogram of idle gaps decides, as in "Serverless in the Wild" (ATC 2020), with a short and a long memory
side by side, as in INFless (ASPLOS 2022). Where it says too little, stop when idling has cost as much as a
cold start: never more than twice the best choice (ski rental).
"""

from bisect import bisect_left
from math import ceil, inf
from typing import NamedTuple

BINS = 64
SHORTEST_S, LONGEST_S = 0.1, 6 * 3600.0
_STEP = (LONGEST_S / SHORTEST_S) ** (1.0 / (BINS - 1))
EDGES = tuple(SHORTEST_S * _STEP**place for place in range(BINS))
"""Upper edges of the bins, 21 % apart."""

HALF_LIVES_S = (3600.0, 24 * 3600.0)
"""The short and the long memory."""
ENOUGH_GAPS = 8.0
"""Gaps of full weight below which a histogram is not believed."""
LATE_SHARE = 0.5
"""A histogram with more than this beyond its last edge knows no tail: it is not believed either."""

DIFFERS_BY = 2.0
"""A provider's time-out this many times above or below the best is worth a sentence."""


PING_AHEAD_S = 2.0
"""A ping is due this long before the provider would stop the instance: one tick may be missed."""


def ping_age(idle_s: float) -> float:
    """At which idle age an instance with that time-out has to be pinged, seconds."""
    return max(idle_s / 2, idle_s - PING_AHEAD_S)


class Terms(NamedTuple):
    """What keeping and not keeping cost.

    usd_per_second:  an idle second of one instance
    cold_usd:        one cold start: the boot, if it is billed, and the calls that it makes late
    idle_s:          how long the provider keeps an unused instance, billed
    ping_usd:        one ping, beyond the seconds that it prolongs
    """

    usd_per_second: float
    cold_usd: float
    idle_s: float
    ping_usd: float = 0.0

    def pings(self, life_s: float) -> int:
        """Pings that it takes to live through `life_s` idle seconds."""
        return ceil((life_s - self.idle_s) / ping_age(self.idle_s)) if life_s > self.idle_s > 0 else 0

    def idle_usd(self, life_s: float) -> float:
        """What `life_s` idle seconds cost that nobody ended: the last ping lasts to its own time-out."""
        pings = self.pings(life_s)
        lived = pings * ping_age(self.idle_s) + self.idle_s if pings else life_s
        return self.usd_per_second * lived + self.ping_usd * pings

    @property
    def break_even_s(self) -> float:
        """Idling this long, kept up by pings, costs what a cold start does, seconds; at most `LONGEST_S`."""
        within = self.usd_per_second * min(self.idle_s, LONGEST_S)
        if within >= self.cold_usd:
            return self.cold_usd / self.usd_per_second if self.usd_per_second > 0 else 0.0
        pinged = self.usd_per_second + (self.ping_usd / ping_age(self.idle_s) if self.idle_s > 0 else 0.0)
        return min(LONGEST_S, self.idle_s + (self.cold_usd - within) / pinged) if pinged > 0 else LONGEST_S


class _Memory:
    """One decayed histogram."""

    __slots__ = ("_half_life", "counts", "late", "seconds", "since")

    def __init__(self, half_life: float) -> None:
        self.counts = [0.0] * BINS
        self.seconds = [0.0] * BINS
        self.late = 0.0
        self.since = 0.0
        self._half_life = half_life

    def weight(self, now: float) -> float:
        """What a gap weighs that ends now, beside one at `since`; grows, so that the old ones fade."""
        exponent = (now - self.since) / self._half_life
        if exponent > 100.0:  # long before a float ends
            fade = 0.5 ** min(exponent, 1000.0)
            self.counts = [count * fade for count in self.counts]
            self.seconds = [total * fade for total in self.seconds]
            self.late *= fade
            self.since = now
            exponent = 0.0
        return float(2.0**exponent)

    def add(self, gap_s: float, now: float) -> None:
        weight = self.weight(now)
        place = bisect_left(EDGES, gap_s)
        if place == BINS:
            self.late += weight
        else:
            self.counts[place] += weight
            self.seconds[place] += weight * gap_s

    def mass(self, now: float) -> float:
        """Gaps of full weight."""
        weight = self.weight(now)  # first: it may fade the counts
        return (sum(self.counts) + self.late) / weight

    @property
    def informative(self) -> bool:
        """The tail lies inside the histogram."""
        return self.late <= LATE_SHARE * (sum(self.counts) + self.late)


class KeepWarm:
    """The gaps of one endpoint's instances, and how long to keep them.

    A gap is the time from an instance's last use to the next call that it served, or would have served
    had it still been there: a gap that ended in a cold start counts as much as one that did not.

    Informative is a histogram of at least `ENOUGH_GAPS` gaps of full weight, at most half of them beyond its
    last edge (6 h). The short memory is asked first; where it is not informative, the long one.
    """

    def __init__(self) -> None:
        self._memories = tuple(_Memory(half_life) for half_life in HALF_LIVES_S)
        self._version = 0
        self._known: tuple[int, float, Terms] | None = None
        self._life = 0.0

    def gap(self, gap_s: float, now: float) -> None:
        """An instance was used again, or missed, after `gap_s` idle seconds. Negative gaps count as none."""
        for memory in self._memories:
            memory.add(max(0.0, gap_s), now)
        self._version += 1

    def informative(self, now: float) -> bool:
        """True when the histogram decides; False when the break-even time does."""
        return self._memory(now) is not None

    def best_life(self, now: float, terms: Terms, *, at_least: float = 0.0) -> float:
        """The idle time after which to let go, seconds, at least `at_least`.

        The tau that minimises sum(gaps <= tau) price*gap + sum(gaps > tau) (price*tau + cold start), where
        life beyond the provider's own time-out costs pings too.
        """
        memory = self._memory(now)
        if memory is None:
            return max(at_least, terms.break_even_s)
        price, cold = terms.usd_per_second, terms.cold_usd
        beyond = sum(memory.counts) + memory.late  # gaps longer than the life looked at
        within_usd = 0.0
        best, best_usd = at_least, -1.0
        for edge, count, seconds in zip(EDGES, memory.counts, memory.seconds, strict=True):
            if count <= 0.0:
                continue
            gap = seconds / count
            if gap > at_least and best_usd < 0.0:  # all that end by `at_least` are counted: the first choice
                best_usd = within_usd + beyond * (terms.idle_usd(at_least) + cold)
            beyond = max(0.0, beyond - count)
            within_usd += count * (price * gap + terms.ping_usd * terms.pings(gap))
            if gap > at_least:
                usd = within_usd + beyond * (terms.idle_usd(edge) + cold)
                if usd < best_usd * (1.0 - 1e-9):
                    best, best_usd = edge, usd
        return best

    def keep(self, now: float, terms: Terms) -> float:
        """Seconds beyond the provider's time-out to keep an unused instance up; 0.0 when that does not pay.

        A ping is due while the instance would otherwise be stopped before that.
        """
        known = (self._version, now // 60.0, terms)
        if known != self._known:
            self._life = self.best_life(now, terms, at_least=terms.idle_s)
            self._known = known
        return max(0.0, self._life - terms.idle_s)

    def advice(self, now: float, terms: Terms) -> str | None:
        """What to tell the operator when the provider's time-out is far from the best; else None."""
        if self._memory(now) is None:
            return None
        best = self.best_life(now, terms._replace(idle_s=inf))  # a time-out of its own choosing needs no ping
        shortest = max(best, SHORTEST_S)
        if terms.idle_s > DIFFERS_BY * shortest and terms.idle_s - best > 1.0:
            when = "at once" if best == 0.0 else f"after {_spoken(best)}"
            return (
                f"the idle time-out of {_spoken(terms.idle_s)} is too long for the gaps seen here: stopping "
                f"{when} would cost least; lower the provider's time-out"
            )
        if best > DIFFERS_BY * max(terms.idle_s, SHORTEST_S):
            return (
                f"the idle time-out of {_spoken(terms.idle_s)} is too short for the gaps seen here: stopping "
                f"after {_spoken(best)} would cost least; raise the provider's time-out, which beats pings"
            )
        return None

    def _memory(self, now: float) -> _Memory | None:
        for memory in self._memories:
            if memory.mass(now) >= ENOUGH_GAPS and memory.informative:
                return memory
        return None


def _spoken(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min"
