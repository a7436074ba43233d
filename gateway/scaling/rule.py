"""How many replicas of an owned backend pay for themselves, from what was seen of its load.

Pure and on passed-in time: every look brings its own. It never knows where a look comes from, nor who acts
on what it says. Three sums over what was seen decide, each for a number of replicas N that need not stand:

    carried(N)   seconds of slots that N replicas would have had in use: on those that stood there what they
                 carried, on further ones what was spilled meanwhile, as far as their slots go
    worth(N, M)  what N replicas would have carried beyond M, at what a second of spill costs
    price(N, M)  the standing price of N - M replicas meanwhile

More are asked for where worth exceeds price over `grow_over`, and over all quarters of it but one: a single
burst is no sustained spill. One less is asked for where the last replica was worth less than `shrink_below`
of its price, over `shrink_over` and over the last `grow_over` of it. Between the two nothing changes, so a
load that stays never makes it flap; a load that swings about the edge does, and ever more seldom: each time
that a replica was asked for again soon after it was let go doubles the wait before the next one is.
Everything is judged for numbers of replicas, not for changes to what stood there at the time: what was seen
before a change counts on after it.

A call counts on a rented backend for as long as it holds a slot there, start-up included, and as much on an
owned one: a fleet that is slower than what it spills to is asked for a little too little. What is spilled
while replicas are down is theirs, and no reason for more of them.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from enum import StrEnum
from math import ceil
from typing import NamedTuple

from gateway import pricing

LONGEST_LOOK_S = 10.0
"""A look stands for the time since the one before it, but for no longer: the rest was not seen."""
PARTS = 4
"""A replica must pay in all of the equal parts of a window but one, or its spill was a burst."""
MOST_PATIENCE = 16.0
"""However often shrinking was wrong, it is tried again after so many times `shrink_over`."""
UNSEEN = 0.1
"""Share of a window that may not have been seen."""
EMPTY_S = 60.0
"""How long a backend may show no replica at all before that is believed: it may not have been looked for."""


class Word(StrEnum):
    """What comes of it: the closed list of the `verdict` of a backend."""

    LEARNING = "learning"
    HOLD = "hold"
    GROW = "grow"
    SHRINK = "shrink"
    UNKNOWN = "unknown"


class Terms(NamedTuple):
    """By what rules: seconds, a share, and numbers of replicas. `most` None: as many as pay."""

    grow_over_s: float = 600.0
    shrink_over_s: float = 1800.0
    shrink_below: float = 0.8
    least: int = 1
    most: int | None = None


class Load(NamedTuple):
    """One look at an owned backend, and at what the routes that prefer it do elsewhere.

    replicas:   those that there are; `ready` of them can take calls
    slots:      calls that one of them has at once
    in_flight:  slots of it in use; `queued` calls wait for one
    spilled:    calls that hold a slot of a rented backend
    spill_usd:  dollars that rented backends have cost since the start; None when that is not known
    replica_usd_per_hour:  the standing price of one replica; None when the file does not say
    """

    replicas: int
    ready: int
    slots: int
    in_flight: int
    queued: int
    spilled: int
    spill_usd: float | None
    replica_usd_per_hour: float | None


class Verdict(NamedTuple):
    """What is asked for, and why.

    wanted:              replicas; None as long as nothing is known of the backend
    spill_slots:         busy seconds of rented slots per second, over the last `grow_over`
    spill_usd_per_hour:  what they cost; None when that is not known
    """

    wanted: int | None
    word: Word
    why: str
    spill_slots: float
    spill_usd_per_hour: float | None


class _Seen(NamedTuple):
    at: float
    seconds: float
    present: int
    own: int
    spilled: int
    slots: int
    usd: float | None
    down: int


_Key = tuple[int, int, int, int]
"""Replicas that stood there; slots' worth of calls that were theirs; calls spilled; slots of a replica."""


class Sizer:
    """The rule for one backend. Tell it a load every few seconds, and ask it now and then."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.load: Load | None = None
        """The last look."""
        self._seen: deque[_Seen] = deque()
        self._began: float | None = None
        self._at = 0.0
        self._wanted: int | None = None
        self._grew: float | None = None
        self._shrank: float | None = None
        self._patience = 1.0
        self._rate: float | None = None
        self._verdict = Verdict(None, Word.LEARNING, "it has not been looked at", 0.0, None)

    def look(self, load: Load, now: float) -> None:
        """Note a load as of `now`, which never goes back."""
        before, self.load = self.load, load
        if before is None or self._began is None:
            self._began = now
        else:
            gap = now - self._at
            seconds = min(gap, LONGEST_LOOK_S)
            usd = _spent(before.spill_usd, load.spill_usd)
            if usd is not None and seconds < gap:
                usd *= seconds / gap
            lame = max(0, load.replicas - load.ready) * load.slots
            theirs = min(load.spilled, lame)
            self._seen.append(
                _Seen(
                    now, seconds, load.replicas, load.in_flight + load.queued + theirs,
                    load.spilled - theirs, load.slots, usd, theirs,
                )
            )  # fmt: skip
        self._at = now
        while self._seen and self._seen[0].at <= now - self.terms.shrink_over_s:
            self._seen.popleft()

    def decide(self) -> Verdict:
        """What to ask for, as of the last look. It may have changed by it; asking again changes nothing."""
        load = self.load
        if load is None or self._began is None:
            return self._verdict
        recent = self._within(self.terms.grow_over_s)
        usd = _sum(each.usd for each in recent)
        seconds = sum(each.seconds for each in recent)
        busy = sum(each.seconds * (each.spilled + each.down) for each in recent)
        if usd is not None and busy > 0.0:
            self._rate = usd / busy
        word, why = self._decided(load, recent, usd)
        self._verdict = Verdict(
            self._wanted,
            word,
            why,
            busy / seconds if seconds else 0.0,
            None if usd is None else usd / seconds * pricing.SECONDS_PER_HOUR if seconds else 0.0,
        )
        return self._verdict

    @property
    def verdict(self) -> Verdict:
        """What was decided last."""
        return self._verdict

    def _decided(self, load: Load, recent: list[_Seen], usd: float | None) -> tuple[Word, str]:
        assert self._began is not None
        terms, age = self.terms, self._at - self._began
        if self._wanted is None and load.replicas == 0 and age < EMPTY_S:
            return Word.LEARNING, "no replica has been seen yet"
        learning = age < terms.grow_over_s or not _covers(recent, terms.grow_over_s)
        if self._wanted is None or (learning and self._grew is None and self._shrank is None):
            self._wanted = max(self._wanted or 0, load.replicas)
        self._wanted = self._bounded(self._wanted)
        hourly = load.replica_usd_per_hour
        if hourly is None:
            return Word.UNKNOWN, "what a replica costs is not known (price: {usd_per_replica_hour: …})"
        if learning:
            return Word.LEARNING, f"{age:.0f} s of {terms.grow_over_s:.0f} s seen"
        larger = None if usd is None else self._larger(recent, hourly)
        if larger is not None:
            count, worth, price = larger
            why = f"{count - self._wanted} more would have saved {worth:.4g} $ of spill for {price:.4g} $"
            self._wanted = count
            self._learn_from_growth()
            return Word.GROW, f"{why} in the last {terms.grow_over_s:.0f} s"
        smaller = self._smaller(recent, hourly)
        if smaller is not None:
            self._wanted -= 1
            self._shrank = self._at
            return Word.SHRINK, smaller
        if usd is None:
            return (
                Word.UNKNOWN,
                "what the spill costs is not known: a backend that is spilled to has no price",
            )
        return Word.HOLD, "no other number of replicas would have paid for itself"

    def _bounded(self, count: int) -> int:
        most = self.terms.most
        count = max(count, self.terms.least)
        return count if most is None else min(count, most)

    def _larger(self, recent: list[_Seen], hourly: float) -> tuple[int, float, float] | None:
        """The number above what is wanted that would have saved most, what it saved, and its price."""
        terms, rate, wanted = self.terms, self._rate, self._wanted
        assert wanted is not None
        if rate is None or (self._shrank is not None and self._at - self._shrank < terms.grow_over_s):
            return None
        since, part = self._at - terms.grow_over_s, terms.grow_over_s / PARTS
        parts = [
            _together(each for each in recent if since + part * i < each.at <= since + part * (i + 1))
            for i in range(PARTS)
        ]
        spans = [sum(each.values()) for each in parts]
        per_s = pricing.per_second(hourly)
        stood = max((each.present for each in recent), default=0)
        end = max((each.present + ceil(each.spilled / max(1, each.slots)) for each in recent), default=0)
        before = [carried_s(each, wanted) for each in parts]
        found, best_net, net, worth = None, 0.0, 0.0, 0.0
        for count in range(wanted + 1, self._bounded(max(end, wanted)) + 1):
            after = [carried_s(each, count) for each in parts]
            gains = [(b - a) * rate for a, b in zip(before, after, strict=True)]
            nets = sorted(gain - per_s * span for gain, span in zip(gains, spans, strict=True))
            worth, before = worth + sum(gains), after
            one = min(nets[1], sum(nets) / PARTS)
            net += one
            if net > best_net:
                best_net, found = net, (count, worth, per_s * (count - wanted) * sum(spans))
            if count > stood and one < 0.0:  # from here on each further one is worth less than the last
                break
        return found

    def _smaller(self, recent: list[_Seen], hourly: float) -> str | None:
        """Why one replica less is enough; None where it is not."""
        terms, wanted = self.terms, self._wanted
        assert wanted is not None
        if wanted <= terms.least or not _covers(self._seen, terms.shrink_over_s):
            return None
        for changed, wait in ((self._grew, self._patience), (self._shrank, 1.0)):
            if changed is not None and self._at - changed < wait * terms.shrink_over_s:
                return None
        whole = _together(self._seen)
        idle_for = terms.shrink_over_s
        for seen in (_together(recent), whole):
            lost_s = carried_s(seen, wanted) - carried_s(seen, wanted - 1)
            if lost_s == 0.0:
                continue
            if self._rate is None:
                return None
            price = pricing.per_second(hourly) * sum(seen.values())
            if lost_s * self._rate >= terms.shrink_below * price:
                return None
        lost = (carried_s(whole, wanted) - carried_s(whole, wanted - 1)) * (self._rate or 0.0)
        price = pricing.per_second(hourly) * sum(whole.values())
        return f"one less would have spilled for {lost:.4g} $ and saved {price:.4g} $ in {idle_for:.0f} s"

    def _learn_from_growth(self) -> None:
        soon = 2.0 * self._patience * self.terms.shrink_over_s
        if self._shrank is not None and self._at - self._shrank < soon:
            self._patience = min(2.0 * self._patience, MOST_PATIENCE)
        elif self._grew is None or self._at - self._grew > MOST_PATIENCE * self.terms.shrink_over_s:
            self._patience = 1.0
        self._grew = self._at

    def _within(self, seconds: float) -> list[_Seen]:
        since = self._at - seconds
        return [each for each in self._seen if each.at > since]


def carried_s(seen: Mapping[_Key, float], replicas: int) -> float:
    """Slot-seconds that so many replicas would have carried."""
    total = 0.0
    for (present, own, spilled, slots), seconds in seen.items():
        stood = min(own, min(replicas, present) * slots)
        total += seconds * (stood + min(spilled, max(0, replicas - present) * slots))
    return total


def _together(seen: Iterable[_Seen]) -> dict[_Key, float]:
    """Seconds of each state: far fewer than looks."""
    found: dict[_Key, float] = {}
    for each in seen:
        key = (each.present, each.own, each.spilled, each.slots)
        found[key] = found.get(key, 0.0) + each.seconds
    return found


def _covers(seen: Iterable[_Seen], seconds: float) -> bool:
    return sum(each.seconds for each in seen) >= seconds * (1.0 - UNSEEN)


def _spent(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, after - before)


def _sum(several: Iterable[float | None]) -> float | None:
    total = 0.0
    for each in several:
        if each is None:
            return None
        total += each
    return total
