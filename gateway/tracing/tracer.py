"""Notes what the spans of a sampled call need while it runs, and hands it on once the call is booked.

A call that is not sampled costs it a random number, where it came without a trace. What a decision was made
on is worked out after the answer was sent, a few calls at a time, so that no request waits for it. Knows the
pool's witness and explanations; never a span, and never how spans leave.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final, NamedTuple, Self

from gateway.clock import Clock
from gateway.errors import BackendError
from gateway.exchange import Conversation
from gateway.explain.record import explain_noted
from gateway.explain.ring import Noted
from gateway.pool import Pool
from gateway.record import Record
from gateway.tracing.sampling import Sampler
from gateway.tracing.trace import Decision, Failure, Trace
from gateway.vocab import Call
from policies.base import Hold, Run
from policies.explanation import Explanation

log = logging.getLogger("overspill.tracing")

DELAY_S: Final = 0.25
"""Calls that ended within this time are looked at together."""
AT_ONCE: Final = 8
PAUSE_S: Final = 0.002
"""After so many calls the event loop has other things to do first."""
MOST_WAITING: Final = 2048
"""Ended calls that wait to be looked at; more are dropped."""
_MOST_NOTED = 16
"""Decisions about one call: its first ones, beyond which it only waits."""


class Finished(NamedTuple):
    """A sampled call that is over.

    offset:  from its clock to seconds since the Unix epoch
    """

    record: Record
    trace: Trace
    decisions: tuple[Decision, ...]
    offset: float


class Tracer:
    """Of one event loop.

    share:      of the calls that come without a caller's trace
    hand_on:    takes what is finished, at once and without failing
    dropped:    calls of which no spans were made, because too many ended at once
    before_look:  has the records that were closed booked, so that they hold their dollars
    """

    def __init__(
        self, *, share: float, clock: Clock, chance: Random, hand_on: Callable[[Finished], None]
    ) -> None:
        self.dropped = 0
        self.before_look: Callable[[], None] = _nothing
        self._sampler = Sampler(share, chance)
        self._clock = clock
        self._hand_on = hand_on
        self._open: dict[str, Trace] = {}
        self._ended: deque[Record] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._puzzled = False

    # -- while a call runs -----------------------------------------------------------------------

    def begin(self, record: Record, exchange: Conversation) -> Self | None:
        """A call has come: name its trace, for itself and for all that is sent on. Returns who is to be told
        of what becomes of it: nobody where it is not sampled.
        """
        self._sampler.begin(record, exchange.method, exchange.target)
        exchange.traceparent = record.traceparent
        return None if record.trace is None else self

    def attempt(self, record: Record, call: Call, failure: BackendError | None) -> None:
        """The pool is about to be asked for a slot, again where there was a `failure`."""
        trace = record.trace
        assert trace is not None
        told = None
        if failure is not None:
            told = Failure(failure.word, 0 if failure.answer is None else failure.answer.status)
        call.traceparent = sent = trace.attempt(self._clock.now(), told)
        self._open[sent] = trace

    def decided(self, pool: Pool, call: Call, noted: tuple[Any, ...]) -> None:
        """The pool's policy has answered."""
        trace = self._open.get(call.traceparent)
        if trace is not None and len(trace.noted) < _MOST_NOTED:
            trace.noted.append((pool, noted))

    def end(self, record: Record) -> None:
        """The call is booked."""
        trace = record.trace
        assert trace is not None
        for sent in trace.sent:
            self._open.pop(sent, None)
        if len(self._ended) >= MOST_WAITING:
            self.dropped += 1
            return
        self._ended.append(record)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY_S, self._look)

    # -- afterwards --------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand on all that has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.before_look()
        while self._ended:
            self._finish(self._ended.popleft())

    def _look(self) -> None:
        self.before_look()
        for _ in range(min(AT_ONCE, len(self._ended))):
            self._finish(self._ended.popleft())
        self._timer = None
        if self._ended:
            self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._look)

    def _finish(self, record: Record) -> None:
        trace = record.trace
        assert trace is not None
        decisions: list[Decision] = []
        for pool, noted in trace.noted:
            try:
                decisions.append(_told(pool, Noted(*noted)))
            except Exception:
                if not self._puzzled:  # said once: the next ones fail alike
                    log.exception("a decision about request %s cannot be explained", record.request_id)
                self._puzzled = True
        trace.noted.clear()
        self._hand_on(Finished(record, trace, tuple(decisions), self._clock.wall() - self._clock.now()))


def _nothing() -> None:
    """Nobody keeps records for later."""


def _told(pool: Pool, noted: Noted) -> Decision:
    return Decision(noted.at, described(noted, explain_noted(noted, pool, pool.attainment.objective)))


def described(noted: Noted, explanation: Explanation) -> dict[str, str | float | bool]:
    """A decision as attributes. What is not known is left out; durations are seconds, money US dollars."""
    action = noted.action
    told: dict[str, Any] = {"overspill.rule": explanation.rule}
    if isinstance(action, Run):
        told |= {"overspill.action": "run", "overspill.backend": action.backend}
        told["overspill.reason"] = str(action.reason)
    elif isinstance(action, Hold):
        told |= {"overspill.action": "hold", "overspill.opens": sum(each.instances for each in action.opens)}
        told["overspill.late"] = action.late
    else:
        told |= {"overspill.action": "shed", "overspill.reason": str(action.reason)}
    left = noted.due - noted.at
    if left < float("inf"):
        told["overspill.budget.left"] = left
    line = next((line for line in explanation.candidates if line.chosen), None)
    if line is not None:
        told |= {
            "overspill.predicted.backend": line.backend,
            "overspill.predicted.way": line.way,
            "overspill.predicted.wait": line.waits_s,
            "overspill.predicted.finish": line.finish_s,
            "overspill.predicted.finish_tail": line.tail_s,
            "overspill.predicted.probability": line.chance,
            "overspill.predicted.cost_usd": line.usd,
        }
    return {name: value for name, value in told.items() if value is not None}
