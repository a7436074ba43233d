"""The breaker of one replica: after repeated failures, stop sending calls there for a while.

    closed ──tripped──► open ──cooled──► half_open ──recovered──► closed
                         ▲                  │
                         └─────tripped──────┘

Closed, every call may go. Open, none may. Half-open, exactly one at a time may try, and where the
replica can be asked for nothing, it is asked first: no client's call finds out that it is still down. It
counts attempts, not calls, and it never hears of back-pressure or of clients that left as failures.

Pure: time is an argument, the only chance in it is handed in. Knows no backend and no timer.
"""

from collections.abc import Mapping
from enum import StrEnum
from random import Random

from gateway.vocab import NEUTRAL, SUCCESS, Verdict

STREAK = 5
"""Failures in a row that open it: the default of Envoy's outlier detection (`consecutive_5xx`)."""
WINDOW_S = 10
"""Seconds over which the share of failures is taken, counted in whole seconds of the clock."""
WINDOW_ATTEMPTS = 20
"""Fewer attempts than this in the window say nothing about a share."""
WINDOW_SHARE = 0.5
"""Share of failed attempts in the window that opens it."""
OPEN_S = 1.0
"""How long it stays open the first time; each failed trial doubles it."""
OPEN_MAX_S = 30.0
"""Where the doubling ends."""
ANSWER_S = 2.5
"""How long a trial waits for the gateway's own question. After that it goes unasked, so that a question
whose answer never comes keeps no replica out."""
EJECTED_S = 5.0
"""How long one that stands out from its siblings is left out the first time; each further time doubles it."""
EJECTED_MAX_S = 300.0
"""Where that doubling ends: the default of Envoy's outlier detection (`max_ejection_time`)."""
JITTER = 0.1
"""Open times vary by this share either way, so that many gateways do not try again in step."""


class State(StrEnum):
    """What the breaker lets through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


HALF_OPEN = State.HALF_OPEN


class Event(StrEnum):
    """What moves it."""

    TRIPPED = "tripped"
    COOLED = "cooled"
    RECOVERED = "recovered"


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.CLOSED: {Event.TRIPPED: State.OPEN},
    State.OPEN: {Event.COOLED: State.HALF_OPEN, Event.RECOVERED: State.CLOSED},
    State.HALF_OPEN: {Event.TRIPPED: State.OPEN, Event.RECOVERED: State.CLOSED},
}
"""Every move there is; the drawing above is this table. A move that is not in it does not happen."""


class _Window:
    """Attempts and failures of the last `WINDOW_S` seconds, the second that runs included."""

    __slots__ = ("_past", "_second", "attempts", "ends", "failures")

    def __init__(self) -> None:
        self.attempts = 0  # in the second that runs
        self.failures = 0
        self.ends = 0.0  # when it is over
        self._second = 0
        self._past: list[tuple[int, int, int]] = []  # (second, attempts, failures)

    def turn(self, now: float) -> None:
        """The second is over: put it by, forget what is too old, begin the one that `now` is in."""
        self._past.append((self._second, self.attempts, self.failures))
        self._second = int(now)
        oldest = self._second - WINDOW_S
        self._past = [entry for entry in self._past if entry[0] > oldest and entry[1]]
        self.attempts = self.failures = 0
        self.ends = self._second + 1.0

    def totals(self) -> tuple[int, int]:
        attempts = self.attempts + sum(entry[1] for entry in self._past)
        failures = self.failures + sum(entry[2] for entry in self._past)
        return attempts, failures

    def failing(self) -> bool:
        attempts, failures = self.totals()
        return attempts >= WINDOW_ATTEMPTS and failures >= WINDOW_SHARE * attempts


class Breaker:
    """Three states and the rules between them. `chance` spreads the open times.

    An attempt enters with `enter`, whose ticket it shows again in `note`. Tickets expire with every
    change of state, so an attempt from before an outage says nothing about the time after it: it
    neither closes a breaker that opened meanwhile nor trips one that has recovered.
    """

    __slots__ = (
        "_answers", "_chance", "_ejected_s", "_open_s", "_outage_probed", "_state", "_streak", "_trial",
        "_window", "closed", "generation", "retry_at", "unasked_at",
    )  # fmt: skip

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._state = State.CLOSED
        self.closed = True
        self._window = _Window()
        self._streak = 0
        self._open_s = OPEN_S
        self._trial = False
        self._outage_probed = False
        self._answers = False  # probes of it say something
        self._ejected_s = EJECTED_S
        self.generation = 0
        self.retry_at = 0.0
        """When an open breaker lets a trial through, on the clock."""
        self.unasked_at: float | None = None
        """Half-open, and a probe is to be heard first: when a trial may go all the same, on the clock."""

    def state(self, now: float) -> State:
        """Where it stands. An open breaker whose time is over is half-open, asked or not."""
        if self._state is State.OPEN and now >= self.retry_at:
            self._move(Event.COOLED)
            if self._answers:
                self.unasked_at = now + ANSWER_S
        return self._state

    def allows(self, now: float) -> bool:
        """May an attempt start now?"""
        if self.closed:
            return True
        if self.state(now) is not State.HALF_OPEN or self._trial:
            return False
        return self.unasked_at is None or now >= self.unasked_at

    def enter(self, now: float) -> int:
        """Start an attempt and get its ticket; RuntimeError when none is allowed."""
        if not self.closed:
            if not self.allows(now):
                raise RuntimeError(f"an attempt started while the breaker was {self._state}")
            self._trial = True
        return self.generation

    def note(self, verdict: Verdict, ticket: int, now: float) -> bool:
        """An attempt ended. True when that changed what the breaker allows."""
        if ticket != self.generation:
            return False
        if self._state is HALF_OPEN:
            return self._note_trial(verdict, now)
        if verdict is NEUTRAL:
            return False
        window = self._window
        if now >= window.ends:
            window.turn(now)
        window.attempts += 1
        if verdict is SUCCESS:
            self._streak = 0
            return False
        window.failures += 1
        self._streak += 1
        return (self._streak >= STREAK or window.failing()) and self._trip(now)

    def _note_trial(self, verdict: Verdict, now: float) -> bool:
        self._trial = False
        if verdict is Verdict.SUCCESS:
            self._recover()
        elif verdict is Verdict.FAILURE:
            self._trip(now)
        return True

    def note_probe(self, ok: bool, now: float) -> bool:
        """A health probe answered. True when that changed what the breaker allows.

        A probe that has seen the outage may end it. One that was content all along while calls
        failed (the server is up, the model is broken) has no say: it would close the breaker again
        again. But it is heard before a trial: a call goes there once a probe since the breaker cooled was
        content, and a failed one is the trial, lost. A failed probe does not open a closed breaker: the
        replica is then unready, which stops traffic by itself and under its own name.
        """
        self._answers = True
        awaited = self.state(now) is State.HALF_OPEN and self.unasked_at is not None
        if not ok:
            self._outage_probed = True
            return awaited and not self._trial and self._trip(now)
        seen, self._outage_probed = self._outage_probed, False
        if seen and self.state(now) is not State.CLOSED:
            self._recover()
            return True
        self.unasked_at = None
        return awaited

    def totals(self, now: float) -> tuple[int, int]:
        """Attempts and failures in the window."""
        if now >= self._window.ends:
            self._window.turn(now)
        return self._window.totals()

    def eject(self, now: float) -> None:
        """Leave out a replica that works, and stands out from its siblings: closed so far."""
        self._move(Event.TRIPPED)
        self.retry_at = now + self._spread(self._ejected_s)
        self._ejected_s = min(EJECTED_MAX_S, 2.0 * self._ejected_s)

    def hasten(self, now: float) -> None:
        """Open, and nobody else is left: the next trial is no further away than the first one was."""
        self.retry_at = min(self.retry_at, now + self._spread(OPEN_S))

    def fits_in(self) -> None:
        """It does not stand out any more: the next ejection is a first one."""
        self._ejected_s = EJECTED_S

    def _trip(self, now: float) -> bool:
        self._move(Event.TRIPPED)
        self.retry_at = now + self._spread(self._open_s)
        self._open_s = min(OPEN_MAX_S, 2.0 * self._open_s)
        return True

    def _spread(self, seconds: float) -> float:
        return seconds * (1.0 + JITTER * (2.0 * self._chance.random() - 1.0))

    def _recover(self) -> None:
        self._move(Event.RECOVERED)
        self._open_s = OPEN_S

    def _move(self, event: Event) -> None:
        self._state = TRANSITIONS[self._state][event]
        self.closed = self._state is State.CLOSED
        self.generation += 1
        self._streak = 0
        self._trial = False
        self.unasked_at = None
        self._window = _Window()
