"""How well a route keeps its objective of late, and how careful its predictions should be for it.

Two windows of half an hour, the one that runs and the one before. From the share of answers that
were late among those that may be follows `caution`: the number of standard deviations that a
prediction allows for. Pure: time is an argument. It knows no route and no policy.
"""

from statistics import NormalDist

WINDOW_S = 1800.0
"""Length of one of the two windows."""
AHEAD_S = 600.0
"""How far ahead the error budget may be used: no further than has been seen so far."""
GRACE = 20
"""Answers that count as seen before the first one: a first miss is no reason for panic."""

_AT_99 = NormalDist().inv_cdf(0.99)
_MOST = 3.0
_RISE_FROM, _RISE_TO = 0.8, 1.6
"""Shares of the error budget used, between which caution rises to its most."""


class Attainment:
    """Counts answers and late ones; `caution` follows.

    A prediction errs upwards and downwards alike, and while one instance boots too slowly others are
    early, so one standard deviation is enough for 99 %; other objectives scale with their normal
    quantile. Using up the error budget raises it: dearer, and safer.
    """

    __slots__ = (
        "_allowed", "_base", "_began", "_ends", "_late", "_late_before", "_seen", "_seen_before", "caution",
        "objective",
    )  # fmt: skip

    def __init__(self, objective: float, now: float) -> None:
        self.objective = objective
        self._allowed = 1.0 - objective
        self._base = max(0.0, NormalDist().inv_cdf(min(objective, 0.99999)) / _AT_99) if objective else 0.0
        self._began = now
        self._ends = now + WINDOW_S
        self._seen = self._late = 0
        self._seen_before = self._late_before = 0
        self.caution = self._base
        """Standard deviations to allow for."""

    @property
    def seen(self) -> int:
        """Answers in both windows."""
        return self._seen + self._seen_before

    @property
    def late(self) -> int:
        """Late ones among them."""
        return self._late + self._late_before

    def spare(self, now: float) -> float:
        """Late answers that the objective would still allow; negative: none.

        Of those answered lately and of those to come within `AHEAD_S` at the pace so far: an objective is
        kept over hours, and a burst at their beginning may use what the calm after it will earn.
        """
        seen = self._seen + self._seen_before
        elapsed = now - self._began
        if elapsed < 1.0:
            elapsed = 1.0
        over = now - self._ends + 2.0 * WINDOW_S
        pace = seen / (elapsed if elapsed < over else over)
        ahead = pace * (elapsed if elapsed < AHEAD_S else AHEAD_S)
        return self._allowed * (seen + ahead) - self._late - self._late_before

    def note(self, now: float, *, in_time: bool) -> None:
        """One more answer, or one more call that will get none."""
        if now >= self._ends:
            self._turn(now)
        self._seen += 1
        if not in_time:
            self._late += 1
            self._follow()
        elif not self._seen & 63:  # in time, caution falls slowly: now and then is often enough
            self._follow()

    def _turn(self, now: float) -> None:
        stale = now >= self._ends + WINDOW_S
        self._seen_before, self._late_before = (0, 0) if stale else (self._seen, self._late)
        self._seen = self._late = 0
        self._ends = now + WINDOW_S

    def _follow(self) -> None:
        allowed = self._allowed * (self.seen + GRACE)
        used = self.late / allowed if allowed > 0.0 else _RISE_TO
        rise = min(1.0, max(0.0, (used - _RISE_FROM) / (_RISE_TO - _RISE_FROM)))
        self.caution = self._base + rise * max(0.0, _MOST - self._base)
