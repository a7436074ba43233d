"""What each backend of each route can be expected to do, learned online from what it did.

Knows sketches and their like only: no pool, no policy, no clock; nothing awaits. Every moment is an argument,
in seconds on one monotonic clock, so that the simulator learns in virtual time with these very objects. What
was not yet seen is never used: there is no way to look ahead.

Only successes teach. A neutral outcome (back-pressure, a client that left) says nothing of how long the
work takes, a failure neither: there is no method for them, the caller calls nothing.
"""

from collections.abc import Mapping
from math import frexp, inf, isnan
from pathlib import Path
from typing import Any, Final, NamedTuple

from gateway.calibration import HIGHEST, LOWEST, recalibrated, steps
from gateway.cold_modes import Modes, modes
from gateway.estimates_file import read, refusal, write
from gateway.profiles import Family, HalfLives, Prior, Profile
from gateway.sketch import number
from gateway.survival import Survival

SERVICE_HALF_LIVES: Final = HalfLives(2 * 60.0, 30 * 60.0)
COLD_HALF_LIVES: Final = HalfLives(30 * 60.0, 24 * 3600.0)
"""Cold starts are rare: a sketch that forgets in half an hour would never know more than one."""

BUCKETS: Final = 16
_MIDDLE: Final = 8
_LARGEST: Final = 1e300
_FORGOTTEN_AFTER: Final = 7 * 86_400.0
"""Seconds after which a saved pair that the configuration no longer names is dropped."""


class Expectation(NamedTuple):
    """What the configuration says of a backend before anything was measured.

    objective:  share of the calls that a tail covers (the route's objective), between 0 and 1
    service:    seconds of service on a warm instance
    cold:       seconds until a new instance serves
    idle_s:     declared idle time-out of an instance, seconds; 0 when it is not known
    """

    objective: float = 0.99
    service: Prior = Prior(1.0, 3.0)
    cold: Prior = Prior(10.0, 40.0)
    idle_s: float = 0.0


class BackendEstimates:
    """One backend under one route.

    profiles:     service seconds by size bucket; `profiles[bucket].mean` is always safe and never waits. Read
                  from the list each time: a bucket without samples shares the profile of all sizes
    service:      service seconds of all sizes
    cold:         seconds of a cold start, of all idle ages
    calibration:  stretch a predicted finish by it: mean + calibration * (tail - mean)
    """

    __slots__ = (
        "_anchor", "_cold", "_expectation", "_service", "_steps", "_survival", "calibration", "cold",
        "profiles", "service",
    )  # fmt: skip

    def __init__(self, expectation: Expectation) -> None:
        objective = expectation.objective
        self._expectation = expectation
        self._steps = steps(objective)
        self._service = Family(BUCKETS, objective, expectation.service, SERVICE_HALF_LIVES)
        self._cold = Family(4, objective, expectation.cold, COLD_HALF_LIVES)
        self._survival = Survival(expectation.idle_s)
        self._anchor: int | None = None
        self.calibration = 1.0
        self.profiles = self._service.parts
        self.service = self._service.whole
        self.cold = self._cold.whole

    @property
    def expectation(self) -> Expectation:
        """What the configuration says."""
        return self._expectation

    def bucket_of(self, size: float | None) -> int:
        """The bucket of a size in any unit: one per doubling, 0 for an unknown size.

        The first size that is asked for is put in the middle, so that a range of 2^15 has buckets of its
        own whether sizes are tokens or bytes; what lies outside goes to the outermost bucket.
        """
        if size is None or isnan(size):
            return 0
        if size <= 0:
            return 1
        exponent = frexp(size if size < _LARGEST else _LARGEST)[1]
        if self._anchor is None:
            self._anchor = exponent
        bucket = exponent - self._anchor + _MIDDLE
        return 1 if bucket < 1 else bucket if bucket < BUCKETS else BUCKETS - 1

    def learn_service(self, bucket: int, seconds: float, now: float) -> None:
        """A call of this bucket was served in `seconds` on a warm instance, queue and boot not counted.

        Raises ValueError when `seconds` is no duration.
        """
        self._service.learn(bucket, seconds, now)

    def learn_served(self, bucket: int, seconds: float, now: float) -> None:
        """The same, and what had been predicted for it is held against it first."""
        known = self.profiles[bucket]
        mean, stretched = known.mean, self.calibration
        predicted = mean + stretched * (known.tail - mean)
        self.calibration = recalibrated(stretched, self._steps, predicted, seconds)
        self._service.learn(bucket, seconds, now)

    def cold_at(self, age: float | None) -> Profile:
        """Seconds of a cold start when the last instance was used `age` seconds ago; None: there was none.

        Classes: under 1 min, under 10 min, longer, never. Caches go cold in that order.
        """
        return self._cold.parts[_cold_class(age)]

    def learn_cold(self, age: float | None, seconds: float, now: float) -> None:
        """An instance took `seconds` to be ready, `age` seconds after the last one was used."""
        self._cold.learn(_cold_class(age), seconds, now)

    def cold_modes(self) -> Modes | None:
        """(share_fast, fast_mean, slow_mean) when cold starts come in two kinds, else None.

        As of the last samples that were taken in: asking changes nothing.
        """
        return modes(*self._cold.counts())

    def warm_chance(self, age: float) -> float:
        """The chance that an instance idle for `age` seconds still lives: 0 to 1, never rising with age."""
        return self._survival.chance(age)

    def learn_start(self, age: float, cold: bool) -> None:
        """An instance idle for `age` seconds was needed and had gone (`cold`) or not. Call it only when it
        is known: an unknown start teaches nothing.
        """
        self._survival.learn(age, cold)

    def refresh(self) -> None:
        """Take in the last samples of a burst, which otherwise wait for the next one: for a slow tick."""
        self._service.refresh()
        self._cold.refresh()

    def expect(self, expectation: Expectation) -> None:
        """The configuration has changed: nothing learned is lost, except survival under another time-out."""
        if expectation == self._expectation:
            return
        self._service.retune(expectation.objective, expectation.service)
        self._cold.retune(expectation.objective, expectation.cold)
        if expectation.idle_s != self._expectation.idle_s:
            self._survival = Survival(expectation.idle_s)
        self._steps = steps(expectation.objective)
        self._expectation = expectation

    def to_dict(self, now: float) -> dict[str, Any]:
        """For JSON, as of `now`."""
        return {
            "service": self._service.to_dict(now),
            "cold": self._cold.to_dict(now),
            "survival": self._survival.to_dict(),
            "calibration": self.calibration,
            "anchor": self._anchor,
        }

    def restore(self, data: Mapping[str, Any], now: float) -> None:
        """Take over what `to_dict` gave when this clock showed `now`.

        Raises ValueError, naming what is wrong, when the data is damaged; nothing has changed then.
        """
        anchor = data.get("anchor")
        if anchor is not None and (isinstance(anchor, bool) or not isinstance(anchor, int)):
            raise ValueError(f"anchor is neither null nor a whole number: {anchor!r}")
        calibration = number(data, "calibration")
        before = self._cold.to_dict(now), self._survival.to_dict()
        try:
            self._cold.restore(_table(data, "cold"), now)
            self._survival.restore(_table(data, "survival"))
            self._service.restore(_table(data, "service"), now)
        except ValueError:
            self._cold.restore(before[0], now)
            self._survival.restore(before[1])
            raise
        self.calibration = min(max(calibration, LOWEST), HIGHEST)
        self._anchor = anchor


class _Saved(NamedTuple):
    """A pair read from the file that the configuration has not asked for yet."""

    wall: float
    data: Mapping[str, Any]


class Estimates:
    """The table of all (route, backend). Pairs are made on first use and live as long as the process."""

    def __init__(self) -> None:
        self._table: dict[tuple[str, str], BackendEstimates] = {}
        self._saved: dict[tuple[str, str], _Saved] = {}
        self._loaded_at = (0.0, 0.0)

    def of(self, route: str, backend: str, expectation: Expectation | None = None) -> BackendEstimates:
        """The pair's estimates, always the same object: ask once and keep it.

        With an `expectation` the pair is (re)tuned to it; without, a new pair has the default one.
        """
        key = (route, backend)
        found = self._table.get(key)
        if found is None:
            found = BackendEstimates(expectation or Expectation())
            if key in self._saved:
                self._restore(found, self._saved.pop(key))
            self._table[key] = found
        elif expectation is not None:
            found.expect(expectation)
        return found

    def refresh(self) -> None:
        """Take in the last samples everywhere: for a slow tick."""
        for estimates in self._table.values():
            estimates.refresh()

    def save(self, path: Path, *, now: float, wall: float) -> str | None:
        """Write the file in one step. `wall` is the epoch time at `now`: it carries ages to another clock.

        Returns None, or the sentence to log. Blocks on the disk: call it off the event loop's busy path.
        """
        pairs = [
            {"route": route, "backend": backend, "wall": wall, **estimates.to_dict(now)}
            for (route, backend), estimates in self._table.items()
        ]
        pairs += [
            {**saved.data, "route": route, "backend": backend, "wall": saved.wall}
            for (route, backend), saved in self._saved.items()
            if wall - saved.wall < _FORGOTTEN_AFTER
        ]
        return write(path, {"pairs": pairs})

    def load(self, path: Path, *, now: float, wall: float) -> str | None:
        """Read the file. Ages continue: what was a minute old when saved an hour ago is 61 minutes old.

        Returns None (also when there is no file yet), or the sentence to log when the file is damaged,
        foreign or of another version: then nothing has changed.
        """
        document, problem = read(path)
        if document is None:
            return problem
        try:
            saved = _pairs(document)
            for key, pair in saved.items():
                try:
                    BackendEstimates(Expectation()).restore(pair.data, 0.0)
                except ValueError as error:
                    raise ValueError(f"route {key[0]!r}, backend {key[1]!r}: {error}") from None
        except ValueError as error:
            return refusal(path, str(error))
        self._loaded_at = (now, wall)
        self._saved = saved
        for key in saved.keys() & self._table.keys():
            self._restore(self._table[key], self._saved.pop(key))
        return None

    def _restore(self, estimates: BackendEstimates, saved: _Saved) -> None:
        now, wall = self._loaded_at
        # A wall clock that was set back makes nothing younger than it was.
        estimates.restore(saved.data, now - max(0.0, wall - saved.wall))


def _pairs(document: Mapping[str, Any]) -> dict[tuple[str, str], _Saved]:
    pairs = document.get("pairs")
    if not isinstance(pairs, list):
        raise ValueError("pairs is not a list")
    saved = {}
    for index, pair in enumerate(pairs):
        if not isinstance(pair, dict):
            raise ValueError(f"pairs[{index}] is not a table")
        route, backend = pair.get("route"), pair.get("backend")
        if not isinstance(route, str) or not isinstance(backend, str):
            raise ValueError(f"pairs[{index}] does not name its route and backend")
        try:
            saved[route, backend] = _Saved(number(pair, "wall"), pair)
        except ValueError as error:
            raise ValueError(f"route {route!r}, backend {backend!r}: {error}") from None
    return saved


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = data.get(key)
    if not isinstance(table, dict):
        raise ValueError(f"{key} is not a table")
    return table


def _cold_class(age: float | None) -> int:
    if age is None or age == inf:
        return 3
    return 0 if age < 60.0 else 1 if age < 600.0 else 2


__all__ = ["BUCKETS", "BackendEstimates", "Estimates", "Expectation", "Modes", "Prior", "Profile"]
