"""What is expected of a duration: mean, tail and deviation as plain floats, kept fresh by what is learned.

Knows sketches only: no route, no backend, no clock. Reading costs one attribute; all the work is done while
learning, once the samples in hand are worth it: `NEWS` of the weight, twice the samples, or `LATE` seconds
after the last time. `refresh` takes in whatever is left.

A family holds one profile for the whole and one per part (a size bucket, a class of idle age). Each is kept
at two half-lives; the tail is the worse of the two quantiles, so that a change is believed at once and an
accident is not forgotten at once. Where a part has few samples it borrows:

    k      = min(BORROW, cv^2 / (ln(own mean / base mean)^2 - cv^2 / n))
    mean   = (n * own mean + k * base mean) / (n + k)
    shape  = (n * own shape + BORROW * base shape) / (n + BORROW)    shape: tail / mean, and the squared cv

The base is the prior for the whole, and for a part the whole with the spread that is usual within parts. A
mean borrows at most BORROW samples, and fewer the further it lies outside what chance explains (shrinkage by
the variance within over the variance between, as James and Stein's estimator does): a bucket of long requests
is soon believed to be long.

Decay runs only while samples come: of a longer gap, a twentieth of the long half-life counts. A quiet night
teaches nothing, so it makes nothing unsure, and a route with a call per hour still knows its last 29.
"""

from collections.abc import Mapping
from math import inf, log, nan
from typing import Any, Final, NamedTuple

from gateway.sketch import Sketch, clipped, insert_both, number

NEWS: Final = 1 / 16
"""Share of the short sketch's weight that is worth measuring again: 10 s of steady traffic at a half-life of
2 min, and every sample while there are few."""
LATE: Final = 10.0
"""Seconds after which one new sample is enough."""
BORROW: Final = 20.0
"""Samples that a base is worth, at most."""
GAP: Final = 1 / 20
"""Long half-lives by which a gap between samples ages what is known, at most."""

_LONGEST_QUIET: Final = 1e9  # keeps a damaged file from costing the clock its precision


class Prior(NamedTuple):
    """What is expected before anything was seen: mean and objective's quantile, in seconds."""

    mean: float
    tail: float

    def check(self) -> None:
        """Raises ValueError unless 0 < mean <= tail < infinity."""
        if not 0 < self.mean <= self.tail < inf:
            raise ValueError(
                f"a prior wants 0 < mean <= tail, in seconds, not {self.mean!r} and {self.tail!r}"
            )


class Profile:
    """Seconds, ready to be read.

    mean:       what to pay for
    tail:       what to promise: the objective's quantile, never below the mean
    deviation:  standard deviation
    samples:    how many fresh samples those it rests on are worth (decayed; 0 for the prior alone)
    """

    __slots__ = ("deviation", "mean", "samples", "tail")

    def __init__(self, mean: float, tail: float, deviation: float, samples: float = 0.0) -> None:
        self.mean = mean
        self.tail = tail
        self.deviation = deviation
        self.samples = samples


class HalfLives(NamedTuple):
    """Seconds after which a sample weighs half, in the quick and in the steady sketch."""

    short: float
    long: float


class _Track:
    """One profile and what it is made of."""

    __slots__ = (
        "cv2", "enough", "fresh", "late", "long", "mean", "pending", "profile", "seen", "shape", "short",
    )  # fmt: skip

    def __init__(self, half_lives: HalfLives, origin: float, profile: Profile) -> None:
        self.profile = profile
        self.short = Sketch(half_lives.short, origin)
        self.long = Sketch(half_lives.long, origin)
        self.pending: list[float] = []  # value, moment, value, moment: floats give the collector no work
        self.seen = 0  # samples ever
        self.fresh = 0  # samples since it was measured
        self.enough = 0.0  # length of `pending` to measure again
        self.late = -inf  # or the moment from which any sample is enough
        self.mean = nan
        self.shape = self.cv2 = 0.0

    def measure(self, objective: float, now: float) -> None:
        """Mean, tail / mean and squared cv of the samples alone."""
        short, long = self.short, self.long
        recent = short.count(now)
        self.fresh = 0
        self.enough = 2.0 * min(self.seen + 1.0, NEWS * recent)
        self.late = now + LATE
        if long.weight <= 0:
            return
        mean = long.mean
        cv2 = long.variance / (mean * mean)
        tail = long.quantile(objective)
        if recent > 1e-9 and short.weight > 0:
            quick = short.mean
            borrowed = _borrowed(cv2, recent, quick, mean)
            tail += max(0.0, short.quantile(objective) - tail) * recent / (recent + BORROW)
            mean = (recent * quick + borrowed * mean) / (recent + borrowed)
        self.mean = mean
        self.shape = max(1.0, tail / mean)
        self.cv2 = cv2

    def publish(self, base: Profile, samples: float, now: float) -> None:
        """Put into the profile what the samples say, with what a base is worth beside them."""
        profile = self.profile
        profile.samples = self.long.count(now)
        if samples <= 0 or not self.mean > 0:
            profile.mean, profile.tail, profile.deviation = base.mean, base.tail, base.deviation
            return
        base_cv2 = (base.deviation / base.mean) ** 2
        cv2 = (samples * self.cv2 + BORROW * base_cv2) / (samples + BORROW)
        borrowed = _borrowed(cv2, samples, self.mean, base.mean)
        profile.mean = mean = (samples * self.mean + borrowed * base.mean) / (samples + borrowed)
        shape = (samples * self.shape + BORROW * base.tail / base.mean) / (samples + BORROW)
        profile.tail = mean * shape
        profile.deviation = mean * cv2**0.5


def _borrowed(cv2: float, samples: float, own: float, base: float) -> float:
    """How many samples the base is worth: fewer where chance does not explain how far apart they are."""
    apart = log(own / base) ** 2 - cv2 / samples
    return BORROW if apart * BORROW <= cv2 else cv2 / apart


class Family:
    """One profile for the whole and one per part.

    `parts[i]` is always there to be read. Until part `i` has a sample of its own it *is* the whole's profile,
    so read it from the list each time rather than keeping it.
    """

    __slots__ = (
        "_half_lives", "_last", "_objective", "_prior", "_settled", "_tracks", "_typical", "_whole",
        "parts", "whole",
    )  # fmt: skip

    def __init__(self, parts: int, objective: float, prior: Prior, half_lives: HalfLives) -> None:
        self._half_lives = half_lives
        self._whole = _Track(half_lives, 0.0, Profile(nan, nan, nan))
        self._tracks: list[_Track | None] = [None] * parts
        self.whole = self._whole.profile
        self.parts: list[Profile] = [self.whole] * parts
        self._typical = Profile(nan, nan, nan)  # what parts borrow from
        self._last = 0.0  # the latest moment that was learned from; free to jump until there is a sample
        self.retune(objective, prior)

    def retune(self, objective: float, prior: Prior) -> None:
        """Another objective or prior: nothing learned is lost. Raises ValueError when they make no sense."""
        if not 0 < objective < 1:
            raise ValueError(f"an objective is a share between 0 and 1, not {objective!r}")
        prior.check()
        self._objective = objective
        # The deviation of a normal whose quantile is 2.33 deviations up: a prior knows no more of its shape.
        self._prior = Profile(prior.mean, prior.tail, (prior.tail - prior.mean) / 2.33)
        self._settle()

    def learn(self, part: int, seconds: float, now: float) -> None:
        """One sample of one part. Raises ValueError when it is no duration."""
        if not seconds >= 0.0:
            clipped(seconds)
        track = self._tracks[part]
        if track is None:
            track = self._begin(part)
        pending = track.pending
        pending += seconds, now
        if len(pending) >= track.enough or now >= track.late:
            self._take_in([track])

    def refresh(self) -> None:
        """Take in all that was learned, and measure everything as of the last sample."""
        ready = [track for track in self._tracks if track is not None and track.pending]
        if ready:
            self._take_in(ready)
        if not self._settled:
            self._settle()

    def _settle(self) -> None:
        for track in self._everyone():
            if track.seen:
                track.measure(self._objective, self._last)
        self._publish()
        self._settled = True

    def _take_in(self, ready: list[_Track]) -> None:
        self._settled = False
        whole = self._whole
        now = max(track.pending[-1] for track in ready)
        if now > self._last:
            if whole.seen:
                self._skip(now - self._last - GAP * self._half_lives.long)
            if whole.short.needs_rebase(now) or whole.long.needs_rebase(now):
                self._rebase(now)
            self._last = now
        for track in ready:
            fresh = len(track.pending) // 2
            turns = iter(track.pending)
            insert_both(zip(turns, turns, strict=True), (track.short, whole.short), (track.long, whole.long))
            track.pending = []
            track.seen += fresh
            whole.seen += fresh
            whole.fresh += fresh
            track.measure(self._objective, self._last)
        if 2 * whole.fresh >= whole.enough or self._last >= whole.late:
            self._measure_whole()
        else:
            for track in ready:
                self._publish_part(track)

    def _measure_whole(self) -> None:
        self._whole.measure(self._objective, self._last)
        self._publish()

    def _publish(self) -> None:
        whole = self._whole
        whole.publish(self._prior, whole.seen, self._last)
        self._draw_typical()
        for track in self._tracks:
            if track is not None:
                self._publish_part(track)

    def _publish_part(self, track: _Track) -> None:
        track.publish(self._typical, track.long.count(self._last), self._last)

    def _draw_typical(self) -> None:
        """The spread within a part is not that of the whole, in which large and small are mixed: parts that
        know theirs lend it to those that do not.
        """
        whole, typical = self.whole, self._typical
        weights, shape = BORROW, BORROW * whole.tail / whole.mean
        cv2 = BORROW * (whole.deviation / whole.mean) ** 2
        for track in self._tracks:
            if track is not None and track.seen:
                samples = track.long.count(self._last)
                weight = samples * samples / (samples + BORROW)  # a few samples have no tail to lend
                weights += weight
                shape += weight * track.shape
                cv2 += weight * track.cv2
        typical.mean = whole.mean
        typical.tail = whole.mean * shape / weights
        typical.deviation = whole.mean * (cv2 / weights) ** 0.5

    def counts(self) -> tuple[list[float], float]:
        """The bins of the whole at the long half-life, and the factor that makes fresh samples of them."""
        long = self._whole.long
        return long.counts, long.count(self._last) / long.weight if long.weight > 0 else 1.0

    def _begin(self, part: int) -> _Track:
        track = _Track(self._half_lives, 0.0, Profile(self.whole.mean, self.whole.tail, self.whole.deviation))
        track.short.rebase(self._whole.short.origin)
        track.long.rebase(self._whole.long.origin)
        self._tracks[part] = track
        self.parts[part] = track.profile
        return track

    def _everyone(self) -> list[_Track]:
        return [self._whole, *(track for track in self._tracks if track is not None)]

    def _skip(self, seconds: float) -> None:
        """Part of a gap does not count: everything known becomes that much younger."""
        if seconds <= 0:
            return
        earliest = self._last + seconds
        for track in self._everyone():
            track.short.origin += seconds
            track.long.origin += seconds
            track.pending[1::2] = [max(moment, earliest) for moment in track.pending[1::2]]

    def _rebase(self, now: float) -> None:
        for track in self._everyone():
            track.short.rebase(now)
            track.long.rebase(now)

    def to_dict(self, now: float) -> dict[str, Any]:
        """For JSON: weights as of the last sample, and how many seconds before `now` it came."""
        self.refresh()
        return {
            "quiet": max(0.0, now - self._last) if self._whole.seen else 0.0,
            "whole": _saved(self._whole, self._last),
            "parts": {
                str(part): _saved(track, self._last)
                for part, track in enumerate(self._tracks)
                if track is not None
            },
        }

    def restore(self, data: Mapping[str, Any], now: float) -> None:
        """Take over what `to_dict` gave when this clock showed `now`, in place of all that was learned.

        Raises ValueError when the data is damaged; nothing has changed then.
        """
        last = now - min(number(data, "quiet"), _LONGEST_QUIET)
        saved = data.get("parts")
        if not isinstance(saved, dict):
            raise ValueError("parts is not a table of parts")
        whole = _restored(data.get("whole"), self._half_lives, last, self.whole)
        tracks: list[_Track | None] = [None] * len(self._tracks)
        for key, part in saved.items():
            if not (key.isascii() and key.isdigit() and int(key) < len(tracks)):
                raise ValueError(f"parts: {key!r} is not a part from 0 to {len(tracks) - 1}")
            tracks[int(key)] = _restored(part, self._half_lives, last, Profile(nan, nan, nan))
        self._whole, self._tracks, self._last = whole, tracks, last
        self.parts[:] = [self.whole if track is None else track.profile for track in tracks]
        self._settle()


def _saved(track: _Track, now: float) -> dict[str, Any]:
    return {
        "seen": track.seen,
        "short": track.short.to_dict(now),
        "long": track.long.to_dict(now),
    }


def _restored(data: Any, half_lives: HalfLives, now: float, profile: Profile) -> _Track:
    if not (
        isinstance(data, dict) and isinstance(data.get("short"), dict) and isinstance(data.get("long"), dict)
    ):
        raise ValueError("a profile is not a table of seen, short and long")
    track = _Track(half_lives, now, profile)
    track.seen = int(number(data, "seen"))
    track.short = Sketch.from_dict(data["short"], half_lives.short, now)
    track.long = Sketch.from_dict(data["long"], half_lives.long, now)
    return track


__all__ = ["BORROW", "Family", "HalfLives", "Prior", "Profile"]
