"""What the lines of a recording are made of, and the clock that stands still while one is made.

Shared by who records (`gateway.recorder`) and who replays. Values only: it knows no pool and no file.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from gateway.clock import Clock
from gateway.estimates import BackendEstimates
from gateway.tier import Learned
from policies.base import Action, Hold, Run

VERSION = 1

Line = dict[str, Any]


def decisions(lines: Iterable[Line]) -> list[Line]:
    """Only what the policies answered."""
    return [line for line in lines if "decision" in line]


def action_line(action: Action) -> Line:
    """What a policy answered."""
    if isinstance(action, Run):
        return {"run": action.backend, "reason": str(action.reason)}
    if isinstance(action, Hold):
        until = None if action.until == inf else action.until
        opens = [[each.backend, each.instances] for each in action.opens]
        return {"hold": until, "opens": opens, "late": action.late}
    return {"shed": str(action.reason), "contended": action.contended}


def estimates_line(learned: Learned | None, now: float) -> Line | None:
    """What is expected, and, where that is something else, what is known."""
    if not isinstance(learned, BackendEstimates):
        return None
    expected = learned.expectation
    known = learned.to_dict(now)
    fresh = BackendEstimates(expected).to_dict(now)
    return {
        "objective": expected.objective,
        "service": list(expected.service),
        "cold": list(expected.cold),
        "idle_s": expected.idle_s,
        "known": None if known == fresh else known,
    }


class Still:
    """A clock that stands still while an event is dealt with."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moment: float | None = None

    def now(self) -> float:
        return self._clock.now() if self._moment is None else self._moment

    def wall(self) -> float:
        return self._clock.wall()

    @property
    def stands(self) -> bool:
        return self._moment is not None

    @contextmanager
    def at(self, moment: float) -> Iterator[float]:
        before, self._moment = self._moment, moment
        try:
            yield moment
        finally:
            self._moment = before
