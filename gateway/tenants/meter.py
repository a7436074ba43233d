"""What one tenant uses of its rates: requests, tokens and places, in a handful of whole numbers.

Requests and tokens are leaky buckets in the form of the generic cell rate algorithm (GCRA, ITU-T I.371): the
state of a bucket is the moment at which all of it will be back, its theoretical arrival time. Over any T
seconds a bucket lets in at most its burst and its rate times T. Tokens are set aside while a call runs and
counted when it ends, at what it has used: beyond what was set aside that may push the moment out further than
the burst allows, a debt that time has to work off before anything is let in again.

The numbers may lie in memory that several processes share, with a lock around every step, so that the limits
hold for all of them together. Pure: the time is an argument, seconds on the monotonic clock, which all
processes of a machine have in common; the numbers are nanoseconds. It never knows a call, a name or a dollar.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import ceil
from typing import NamedTuple, Protocol

SECOND = 10**9
_FARTHEST = 10**17
"""Nanoseconds that a debt reaches ahead at most, some three years: no number may outgrow its cell."""
_REQUESTS, _TOKENS, _TOKEN_NS = range(3)
_HEAD, _EACH = 3, 2


class Rates(NamedTuple):
    """What is allowed; 0: not limited.

    request_ns:   nanoseconds in which one request comes back; `burst` come in at one moment
    token_ns:     the same of tokens; `token_burst` of them
    most:         calls at once
    """

    request_ns: int = 0
    burst: int = 0
    token_ns: int = 0
    token_burst: int = 0
    most: int = 0


def interval(per_second: float) -> int:
    """Nanoseconds in which one comes back, rounded up: never more than the rate."""
    return ceil(SECOND / per_second)


class TooMuch(NamedTuple):
    """A call that was not let in.

    limit:   `requests`, `tokens` or `concurrency`
    wait_s:  until it would be, as far as time alone decides that; None where calls have to end first
    """

    limit: str
    wait_s: float | None


class Left(NamedTuple):
    """What is left now, in whole units, and in how many seconds all of it will be back."""

    requests: int
    requests_full_s: int
    tokens: int
    tokens_full_s: int
    places: int


class Cells(Protocol):
    """Where the numbers are: a list, or shared memory."""

    def __getitem__(self, place: int, /) -> int: ...
    def __setitem__(self, place: int, value: int, /) -> None: ...


def meter_cells(workers: int) -> int:
    """How many numbers the meter of so many processes takes."""
    return _HEAD + _EACH * workers


class Meter:
    """The meter of one tenant, as one of `workers` processes uses it.

    lock:  makes the context in which the cells are touched
    """

    __slots__ = ("_cells", "_inside", "_lock", "_reserved", "_workers")

    def __init__(
        self,
        cells: Cells | None = None,
        *,
        worker: int = 0,
        workers: int = 1,
        lock: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._cells: Cells = [0] * meter_cells(workers) if cells is None else cells
        self._workers = workers
        self._lock = lock
        self._reserved = _HEAD + _EACH * worker
        self._inside = self._reserved + 1

    @property
    def inside(self) -> int:
        """Calls in all processes."""
        return self._sum(1)

    def admit(self, rates: Rates, tokens: int, now: float) -> TooMuch | None:
        """Let a call in that is expected to use so many tokens, or say why not; then it has used nothing."""
        with self._lock():
            moment, cells = int(now * SECOND), self._cells
            if rates.most and self._sum(1) >= rates.most:
                return TooMuch("concurrency", None)
            if rates.token_ns and tokens:
                wait = self._tokens_used(rates, moment) + (tokens - rates.token_burst) * rates.token_ns
                if wait > 0:
                    return TooMuch("tokens", wait / SECOND)
            if rates.request_ns:
                full_at = max(cells[_REQUESTS], moment) + rates.request_ns
                wait = full_at - moment - rates.burst * rates.request_ns
                if wait > 0:
                    return TooMuch("requests", wait / SECOND)
                cells[_REQUESTS] = full_at
            cells[_TOKEN_NS] = rates.token_ns
            cells[self._reserved] += tokens
            cells[self._inside] += 1
            return None

    def leave(self, reserved: int, used: int, now: float) -> None:
        """A call ends for which `reserved` tokens were set aside, and which has used so many."""
        with self._lock():
            self._spend(used, now)
            self._cells[self._reserved] -= reserved
            self._cells[self._inside] -= 1

    def forfeit(self, now: float) -> None:
        """The process is dead: its calls are gone, and what they had set aside counts as used."""
        with self._lock():
            self._spend(self._cells[self._reserved], now)
            self._cells[self._reserved] = self._cells[self._inside] = 0

    def left(self, rates: Rates, now: float) -> Left:
        """What is left."""
        with self._lock():
            moment = int(now * SECOND)
            ahead = max(0, self._cells[_REQUESTS] - moment)
            used, places = self._tokens_used(rates, moment), self._sum(1)
        return Left(
            _rest(ahead, rates.request_ns, rates.burst),
            -(-ahead // SECOND),
            _rest(used, rates.token_ns, rates.token_burst),
            -(-used // SECOND),
            max(0, rates.most - places),
        )

    def _tokens_used(self, rates: Rates, moment: int) -> int:
        """Nanoseconds until all tokens are back, if those that are set aside are used."""
        return max(0, self._cells[_TOKENS] - moment) + self._sum(0) * rates.token_ns

    def _spend(self, tokens: int, now: float) -> None:
        each, moment = self._cells[_TOKEN_NS], int(now * SECOND)
        if each and tokens:
            ahead = max(self._cells[_TOKENS], moment) + min(tokens * each, _FARTHEST)
            self._cells[_TOKENS] = min(ahead, moment + _FARTHEST)

    def _sum(self, what: int) -> int:
        cells = self._cells
        if self._workers == 1:
            return cells[_HEAD + what]
        return sum(cells[_HEAD + _EACH * worker + what] for worker in range(self._workers))


def _rest(ahead: int, each: int, burst: int) -> int:
    return max(0, burst - -(-ahead // each)) if each else 0
