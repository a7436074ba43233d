"""One elastic instance as far as a caller knows it, and one call's place on it.

Values and the table of states only; when anything happens to them is said in `instances.py`.
"""

import math
from enum import StrEnum

CALLS_KIND = "spill"
"""Kind of charge of what a call leaves behind."""


class State(StrEnum):
    """Where an instance is in its life. `closed` has no entry in the table: it does not exist yet."""

    CLOSED = "closed"
    OPENING = "opening"
    BUSY = "busy"
    IDLE = "idle"
    GONE = "gone"


_NEXT: dict[tuple[State, str], State] = {
    (State.CLOSED, "begin"): State.OPENING,
    (State.IDLE, "begin"): State.BUSY,
    (State.OPENING, "running"): State.BUSY,
    (State.BUSY, "running"): State.BUSY,
    (State.OPENING, "end"): State.IDLE,
    (State.BUSY, "end"): State.IDLE,
    (State.OPENING, "undo"): State.GONE,
    (State.BUSY, "undo"): State.IDLE,
    (State.OPENING, "left"): State.OPENING,
    (State.BUSY, "left"): State.IDLE,
    (State.OPENING, "died"): State.GONE,
    (State.BUSY, "died"): State.GONE,
    (State.OPENING, "up"): State.IDLE,
    (State.IDLE, "expire"): State.GONE,
    (State.GONE, "return"): State.IDLE,
}


class Instance:
    """One inferred instance. `counted`: among those that are known to have started."""

    __slots__ = (
        "began", "billed_s", "counted", "holder", "id", "kind", "last_end", "newest", "outlasted_s", "route",
        "spare", "state", "up_at", "users",
    )  # fmt: skip

    def __init__(self, began: float) -> None:
        self.id = ""
        self.began = began
        self.counted = False
        self.holder: Ticket | None = None  # who is taken to run there, or to wait for it
        self.newest = -math.inf  # when the latest call began that has ended there
        self.state = State.CLOSED
        self.users = 0
        self.route = ""
        self.kind = CALLS_KIND
        self.last_end: float | None = None  # None until a first call has ended there
        self.billed_s = 0.0
        self.outlasted_s = 0.0  # how long it had been coming up when it was known not to be up
        self.spare = False  # stands for what a ping still looks for, whose own start another has met
        self.up_at = math.inf  # when it should be up, where nobody waits for it any more

    @property
    def unheard(self) -> bool:
        """Whether it is taken to come up, and nothing has been heard of it."""
        return not self.id and self.last_end is None

    def move(self, event: str) -> None:
        """Follow the table; an event that the state does not allow is a programming error."""
        self.state = _NEXT[self.state, event]


class Ticket:
    """One call's place in the table, from `begin` until exactly one of `end`, `undo` or `lose`.

    kind:     of charge: `spill`, `hedge`, or what a ping was made for
    fresh:    it is to make an instance open, whatever idles
    met:      which instance serves it is known, not guessed
    adopted:  True when a background task will close it, not the call's own
    origin:   what a ping made start before another instance answered it; None where that did not happen
    died:     the provider says that the instance has died under it
    """

    __slots__ = ("adopted", "began", "closed", "died", "fresh", "instance", "kind", "met", "origin", "route")

    def __init__(self, instance: Instance, began: float, route: str, kind: str, *, fresh: bool) -> None:
        self.instance = instance
        self.began = began
        self.route = route
        self.kind = kind
        self.fresh = fresh
        self.closed = False
        self.adopted = False
        self.met = False
        self.died = False
        self.origin: Instance | None = None
