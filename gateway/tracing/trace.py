"""What is kept of one sampled call while it runs, for the spans that are made of it later; and their ids.

Pure values. It never holds a body or a header field, and it never knows OpenTelemetry. The form of a
traceparent: version "-" trace id "-" parent id "-" flags (W3C Trace Context, "traceparent Header").
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

SAMPLED: Final = 1
"""The flag of a caller that keeps its spans (W3C Trace Context, "Sampled flag")."""
SAMPLED_ENDS: Final = frozenset("13579bdf")
"""The last digits of a traceparent that has it."""

RECEIVE, QUEUE, ATTEMPT, HEDGE, RELAY = range(1, 6)
"""What a span below that of the whole call is about."""

_FIRST_BIT = 1 << 63


def flags_of(traceparent: str) -> int:
    """Its flags."""
    return int(traceparent[53:], 16)


class Failure(NamedTuple):
    """How an attempt failed: a word from a closed list, and the backend's own status, 0 for none."""

    word: str
    status: int


class Decision(NamedTuple):
    """One answer of the policy: when, on the call's clock, and what it was, as attributes."""

    at: float
    attributes: Mapping[str, str | float | bool]


class Trace:
    """One sampled call.

    parent:     id of the caller's span, 0 where the trace begins here
    span:       id of the span of the whole call; those below it are `child(kind, number)`
    method:     of the request, and its path without a query; how much of it is shown is decided later
    asked:      when the pool was asked for a slot, once for each time around
    failures:   how the attempts before the last one failed, one less than `asked`
    hedges:     when a second attempt took its slot -> its span's id
    noted:      (pool, decision) as the pool's witness wrote them down
    sent:       the traceparents under which decisions about the call are found
    """

    __slots__ = (
        "asked", "failures", "hedges", "method", "noted", "parent", "path", "sent", "span", "traceparent",
    )  # fmt: skip

    def __init__(self, traceparent: str, parent: int, span: int, method: bytes, path: bytes) -> None:
        self.traceparent = traceparent
        self.parent = parent
        self.span = span | _FIRST_BIT  # so that no child has the id 0, which is none
        self.method = method
        self.path = path
        self.asked: list[float] = []
        self.failures: list[Failure] = []
        self.hedges: dict[float, int] = {}
        self.noted: list[tuple[Any, tuple[Any, ...]]] = []
        self.sent: list[str] = []

    @property
    def trace_id(self) -> int:
        """Of all spans."""
        return int(self.traceparent[3:35], 16)

    def child(self, kind: int, number: int = 0) -> int:
        """The id of the span of a step; its number tells several of one kind apart."""
        return self.span ^ (kind << 16 | number)

    def attempt(self, now: float, failure: Failure | None) -> str:
        """The pool is about to be asked: the traceparent for the attempt. `failure`: of the one before."""
        number = len(self.asked)
        if number:
            self.failures.append(failure or Failure("internal_error", 0))
        self.asked.append(now)
        traceparent = self._under(self.child(ATTEMPT, number))
        self.sent.append(traceparent)
        return traceparent

    def hedged(self, slot_at: float) -> str:
        """A second attempt has taken its slot: the traceparent for it."""
        span = self.hedges[slot_at] = self.child(HEDGE, len(self.hedges))
        return self._under(span)

    def _under(self, span: int) -> str:
        return f"{self.traceparent[:36]}{span:016x}{self.traceparent[52:]}"
