"""How many calls a pool will get in the seconds that a cold start takes, and whether a burst has begun.

Pure and on passed-in time: every figure comes from the counts of whole seconds it was given, so equal
arrivals give equal forecasts. It never knows a slot, a price or a backend: those are the business of
who asks.

    Arrivals        one increment per call; whole seconds are read out by the tick
    Forecast        level and trend (Holt, damped), and the spread of its own past errors
    Season          optional hour-of-week factors, learned over days
    BurstDetector   arrivals of the last 1, 2, 4, 8 s against what such windows usually hold
"""

from collections import deque
from math import log2

HORIZONS_S = (5, 10, 20, 40, 80)
"""Seconds ahead for which errors are kept. A horizon between two uses the longer, whose errors are wider."""
LIFE_MAX_S = 60
"""The longest stretch behind the horizon whose peak is forecast."""

LEVEL_GAIN = 0.05
TREND_GAIN = 0.02
DAMPING = 0.98
"""Per second: a trend is believed for about a minute, never for ever."""
ERROR_HALF_LIFE_S = 1800.0
MINIMUM_ERRORS = 60.0
"""Seconds of own errors without which no probability is claimed."""

_REACH = tuple(DAMPING * (1.0 - DAMPING**horizon) / (1.0 - DAMPING) for horizon in HORIZONS_S)
"""How many seconds of a damped trend lie within each horizon."""
_SEASON_EVERY_S = 15

BURST_WINDOWS_S = (1, 2, 4, 8)
BURST_SHARE = 0.995
BURST_MARGIN = 2.0
"""Standard deviations (of a Poisson count) above the envelope, which 1 second in 200 breaks by definition."""
BURST_MINIMUM = 4
"""Fewer calls than this in one window are no burst, however quiet it was before."""
BURST_HISTORY_S = 60
_ENVELOPE_EVERY_S = 8

CATCH_UP_S = 600
"""After a longer silence only this many empty seconds are told: all that decays has decayed by then."""


class Sketch:
    """Decayed counts of positive values in log buckets, eight to the octave (9 % wide).

    lowest, octaves:  2**lowest is the lower end; values outside count in the first or last bucket
    """

    __slots__ = ("_counts", "_growth", "_lowest", "_one", "_total")

    def __init__(self, lowest: int, octaves: int, half_life: float) -> None:
        self._lowest = lowest * 8
        self._counts = [0.0] * (octaves * 8)
        self._total = 0.0
        self._one = 1.0  # what one new value weighs: growing it ages all that is there
        self._growth = 2.0 ** (1.0 / half_life)

    def add(self, value: float) -> None:
        """Count one value and let the older ones fade by one step."""
        place = int(log2(value) * 8 + 0.5 - self._lowest) if value > 0 else 0  # 1.0 amid its bucket
        counts = self._counts
        if place < 0:
            place = 0
        elif place >= len(counts):
            place = len(counts) - 1
        counts[place] += self._one
        self._total += self._one
        self._one *= self._growth
        if self._one > 1e100:
            self._counts = [count / self._one for count in counts]
            self._total = sum(self._counts)
            self._one = 1.0

    @property
    def mass(self) -> float:
        """How many values of full weight it holds."""
        return self._total / self._one

    def above(self, value: float) -> float:
        """The share of the values that are at least `value`; 0.0 while there are none."""
        if self._total <= 0.0:
            return 0.0
        place = log2(value) * 8 + 0.5 - self._lowest if value > 0 else -1.0
        if place < 0:
            return 1.0
        whole = int(place)
        if whole >= len(self._counts):
            return 0.0
        mass = sum(self._counts[whole + 1 :]) + self._counts[whole] * (1.0 - (place - whole))
        return min(1.0, mass / self._total)

    def quantile(self, share: float) -> float | None:
        """What `share` of the values do not exceed, linear within a bucket; None while there is no value."""
        if self._total <= 0.0:
            return None
        left = (1.0 - share) * self._total
        counts = self._counts
        place = len(counts) - 1
        while place > 0 and counts[place] <= left:
            left -= counts[place]
            place -= 1
        within = left / counts[place] if counts[place] > 0.0 else 0.0
        return float(2.0 ** ((place + 0.5 - min(within, 1.0) + self._lowest) / 8))


class Arrivals:
    """Calls per whole second of the clock."""

    __slots__ = ("_closed", "_count", "_end", "_second")

    def __init__(self, now: float) -> None:
        self._second = int(now)
        self._end = self._second + 1.0
        self._count = 0
        self._closed: list[tuple[int, int]] = []

    def arrived(self, now: float) -> None:
        """A call has come. A tenth of a microsecond, but once a second."""
        if now >= self._end:
            self._roll(now)
        self._count += 1

    @property
    def current(self) -> int:
        """Calls in the second that has not ended yet."""
        return self._count

    def drain(self, now: float) -> list[tuple[int, int]]:
        """(second, calls) of every second that ended since the last drain, in order, empty ones too."""
        if now >= self._end:
            self._roll(now)
        closed, self._closed = self._closed, []
        return closed

    def _roll(self, now: float) -> None:
        second = int(now)
        self._closed.append((self._second, self._count))
        first_empty = max(self._second + 1, second - CATCH_UP_S)
        self._closed += [(empty, 0) for empty in range(first_empty, second)]
        del self._closed[: -2 * CATCH_UP_S]  # nobody drains: it must not grow for ever
        self._second = second
        self._end = second + 1.0
        self._count = 0


class Season:
    """Factors by hour of the week: how far an hour usually lies above or below the running mean.

    A week is learned as hours of a day first, and as its own hours where they have been seen again.

    offset_s:  what to add to a second of the clock to get seconds since a Monday (or any fixed weekday)
               at midnight; hours follow whatever zone that midnight was in
    """

    HOUR_S = 3600
    _LOW, _HIGH = 0.1, 10.0

    def __init__(self, offset_s: float = 0.0) -> None:
        self._offset = int(offset_s)
        self._day = [1.0] * 24
        self._day_seen = [0] * 24
        self._week = [1.0] * 168
        self._week_seen = [0] * 168
        self._mean = 0.0
        self._hours = 0
        self._hour: int | None = None
        self._calls = 0
        self._seconds = 0

    def second(self, index: int, count: int) -> None:
        """One whole second of the clock."""
        hour = (index + self._offset) // self.HOUR_S
        if hour != self._hour:
            if self._hour is not None and self._seconds * 2 >= self.HOUR_S:  # half an hour tells of none
                self._learn(self._hour, self._calls / self._seconds)
            self._hour, self._calls, self._seconds = hour, 0, 0
        self._calls += count
        self._seconds += 1

    def factor(self, index: int) -> float:
        """The factor of that second, gliding from the middle of one hour to the middle of the next."""
        place = (index + self._offset) / self.HOUR_S - 0.5
        hour = int(place // 1)
        share = place - hour
        return self._of(hour) * (1.0 - share) + self._of(hour + 1) * share

    def _of(self, hour: int) -> float:
        seen = self._week_seen[hour % 168]
        weight = seen / (seen + 1.0)
        return weight * self._week[hour % 168] + (1.0 - weight) * self._day[hour % 24]

    def _learn(self, hour: int, rate: float) -> None:
        self._hours += 1
        self._mean += (rate - self._mean) / min(self._hours, 168)
        if self._hours <= 24 or self._mean <= 0.0:  # no mean yet that an hour could be held against
            return
        ratio = min(max(rate / self._mean, self._LOW), self._HIGH)
        for factors, seen, place in (
            (self._day, self._day_seen, hour % 24),
            (self._week, self._week_seen, hour % 168),
        ):
            seen[place] += 1
            factors[place] += (ratio - factors[place]) / min(seen[place], 4)


class Forecast:
    """Demand ahead, in calls per second, with the spread of its own past errors.

    What is forecast is what a queue cannot smooth away: the highest mean over `window_s` seconds that
    ends between the horizon and `life_s` later. Errors are kept as ratios, so that they fit a louder day.
    Level and trend are Holt's, damped (Gardner and McKenzie, 1985).
    """

    def __init__(self, *, window_s: float = 1.0, life_s: float = 0.0, season: Season | None = None) -> None:
        self._season = season
        self._level = 0.0
        self._trend = 0.0
        self._factor = 1.0
        self._slope = 0.0  # of the factor, per second
        self._seconds = 0
        self._last = 0
        self._recent: deque[int] = deque([0] * LIFE_MAX_S, maxlen=LIFE_MAX_S)
        self.window_s = self.life_s = 0
        self.aim(window_s, life_s)

    def aim(self, window_s: float, life_s: float) -> None:
        """Forecast peaks of this shape from now on.

        The errors of another shape are forgotten, so a shape that is nearly the one there is changes nothing.
        """
        window = min(max(1, round(window_s)), LIFE_MAX_S)
        life = min(max(0, round(life_s)), LIFE_MAX_S)
        if self._seconds and _near(window, self.window_s) and _near(life, self.life_s):
            return
        self.window_s, self.life_s = window, life
        self._sum = sum(list(self._recent)[-window:])
        self._means: deque[float] = deque(maxlen=life + 1)
        self._pending: list[deque[float]] = [deque() for _ in HORIZONS_S]
        self._errors = [Sketch(-8, 20, ERROR_HALF_LIFE_S) for _ in HORIZONS_S]

    def second(self, index: int, count: int) -> None:
        """One whole second of the clock has ended with `count` arrivals."""
        if self._season is not None:
            self._season.second(index, count)
            if self._seconds == 0 or index % _SEASON_EVERY_S == 0:
                self._factor = self._season.factor(index)
                self._slope = (self._season.factor(index + HORIZONS_S[-1]) - self._factor) / HORIZONS_S[-1]
        self._last = index
        self._learn(count / self._factor)
        self._sum += count - self._recent[-self.window_s]
        self._recent.append(count)
        self._means.append(self._sum / self.window_s)
        one, life = 1.0 / self.window_s, self.life_s
        peak = max(self._means) + one
        level, trend, factor, slope = self._level, self._trend, self._factor, self._slope
        for place, horizon in enumerate(HORIZONS_S):
            pending = self._pending[place]
            value = (level + trend * _REACH[place]) * (factor + slope * horizon)
            pending.append(value if value > 0.0 else 0.0)
            if len(pending) > horizon + life:
                # One call more on both sides: from silence, too, there is a ratio.
                self._errors[place].add(peak / (pending.popleft() + one))

    def _learn(self, value: float) -> None:
        if self._seconds == 0:
            self._level = value
        expected = self._level + DAMPING * self._trend
        error = value - expected
        self._level = max(0.0, expected + LEVEL_GAIN * error)
        self._trend = DAMPING * self._trend + LEVEL_GAIN * TREND_GAIN * error
        self._seconds += 1

    def rate(self, seconds: int) -> float:
        """Mean arrivals per second over the last whole seconds, at most `LIFE_MAX_S` of them."""
        seconds = min(max(1, seconds), LIFE_MAX_S)
        return sum(list(self._recent)[-seconds:]) / seconds

    @property
    def windowed(self) -> float:
        """Mean arrivals per second over the last window."""
        return self._sum / self.window_s

    def demand(self, horizon_s: float, quantile: float, now: float) -> float:
        """Arrivals per second that will not be exceeded `horizon_s` from `now`, with that probability.

        Until there are errors to take the quantile of: the forecast itself.
        """
        errors = self._errors_at(horizon_s)
        point, one = self._ahead(horizon_s, now), 1.0 / self.window_s
        ratio = errors.quantile(quantile) if errors.mass >= MINIMUM_ERRORS else None
        return point if ratio is None else max(0.0, (point + one) * ratio - one)

    def chance(self, horizon_s: float, rate: float, now: float) -> float:
        """The probability that demand reaches `rate` then; 0.0 until there is a history to say so."""
        errors = self._errors_at(horizon_s)
        if errors.mass < MINIMUM_ERRORS:
            return 0.0
        one = 1.0 / self.window_s
        return errors.above((rate + one) / (self._ahead(horizon_s, now) + one))

    def _errors_at(self, horizon_s: float) -> Sketch:
        for horizon, errors in zip(HORIZONS_S, self._errors, strict=True):
            if horizon_s <= horizon:
                return errors
        return self._errors[-1]

    def _ahead(self, horizon_s: float, now: float) -> float:
        stale = min(max(0.0, now - self._last - 1.0), float(CATCH_UP_S))
        return self._point(horizon_s + stale)

    def _point(self, ahead: float) -> float:
        reach = DAMPING * (1.0 - DAMPING**ahead) / (1.0 - DAMPING)
        value = (self._level + self._trend * reach) * (
            self._factor + self._slope * min(ahead, HORIZONS_S[-1])
        )
        return value if value > 0.0 else 0.0


def _near(wanted: int, current: int) -> bool:
    return abs(wanted - current) <= 1 + current // 4


class BurstDetector:
    """More calls in the last 1, 2, 4 or 8 seconds than such windows usually hold.

    Usually: the 99.5 % quantile of the window's own counts, decayed, and a margin for chance. An envelope
    of this kind is what InferLine (SoCC 2020) reacts with in seconds, where a mean needs minutes.
    """

    def __init__(self) -> None:
        self._recent: deque[int] = deque([0] * BURST_WINDOWS_S[-1], maxlen=BURST_WINDOWS_S[-1])
        self._sums = [0] * len(BURST_WINDOWS_S)
        self._usual = [Sketch(0, 20, ERROR_HALF_LIFE_S) for _ in BURST_WINDOWS_S]
        self._limits = [0.0] * len(BURST_WINDOWS_S)
        self._seconds = 0
        self._last = -1
        self._above = False

    def second(self, index: int, count: int) -> None:
        """One whole second of the clock has ended with `count` arrivals."""
        recent, sums = self._recent, self._sums
        for place, window in enumerate(BURST_WINDOWS_S):
            sums[place] += count - recent[-window]
        recent.append(count)
        self._last = index
        self._seconds += 1
        if self._seconds >= BURST_HISTORY_S and (
            self._seconds == BURST_HISTORY_S or self._seconds % _ENVELOPE_EVERY_S == 0
        ):
            self._limits = [_limit(usual) for usual in self._usual]
        # Held against the past before it becomes part of it.
        self._above = any(map(_exceeds, sums, self._limits))
        for usual, total in zip(self._usual, sums, strict=True):
            usual.add(total + 1.0)

    def burst(self, now: float) -> bool:
        """True when the window that ended last breaks the envelope; False without enough history."""
        return self._seconds > BURST_HISTORY_S and now - self._last < 3.0 and self._above

    def rate(self) -> float:
        """Arrivals per second in the busiest of the windows."""
        return max(total / window for total, window in zip(self._sums, BURST_WINDOWS_S, strict=True))


def _limit(usual: Sketch) -> float:
    quantile = usual.quantile(BURST_SHARE)
    envelope = 0.0 if quantile is None else max(0.0, quantile - 1.0)
    return float(envelope + BURST_MARGIN * envelope**0.5)


def _exceeds(total: int, limit: float) -> bool:
    return total >= BURST_MINIMUM and total > limit
