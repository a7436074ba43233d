"""Calls with an `Idempotency-Key`: the first is carried out, the others get its answer.

What the header means is `draft-ietf-httpapi-idempotency-key-header` (06, "The Idempotency-Key HTTP Header
Field"): a key stands for one request; the same key with another request is 422; of a call that is complete
the answer is given again, whatever it was. Where the draft leaves room, and why it is filled so:

- A call that comes while the first runs waits for its answer, until its own deadline (the draft: 409):
  a client that gave up waiting and asks again wants the answer, and 409 would only make it ask more often.
  Beyond `MOST_WAITING` calls for one key it is 409.
- What was shed or never reached a backend was not carried out: the key is as if it had not been used, so
  that a retry may run.
- Of a call that failed in the middle, or whose client left, nobody knows whether it was carried out. Where
  the route is `idempotent` (running twice does no harm, and the gateway repeats calls there itself) the key
  is free again. Where it is not, the key stays taken and answers 409: only the client can find out.
- An answer that is too large to be kept is the same case, with another explanation.

Keys are scoped by who calls, and held as digests only: none can be read from a log, a metric or the store.
"""

import asyncio
import hashlib
import re
from collections.abc import Callable

from gateway.clock import Clock
from gateway.errors import BadCall, BodyTooLarge, DeadlinePassed, IdempotencyConflict, IdempotencyMismatch
from gateway.exchange import Conversation
from gateway.idempotency.capture import Capture
from gateway.idempotency.store import Kept, State, Store
from gateway.identity import Identity
from gateway.record import Record
from gateway.vocab import Call, Outcome

MOST_WAITING = 16
"""Calls that may wait for the first one with their key: each holds a place inside the gateway."""
SOONEST_S, LATEST_S = 0.025, 0.25
"""How often another process is looked after whose call runs."""

_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
"""Methods that do nothing, whose keys mean nothing (the draft is about POST and PATCH)."""
_MEANING = frozenset((b"content-type", b"content-encoding", b"inference-header-content-length"))
"""Fields without which the bytes of a body are another request."""
_PASSING = frozenset((408, 425, 429))
"""Rejections that speak of the moment, not of the call."""


def scope_of(caller: Identity | None) -> str:
    """Whose keys these are: the same key of two callers is two keys."""
    return "" if caller is None else f"{caller.kind}\n{caller.tenant or ''}\n{caller.name}"


class Claim:
    """A call that is carried out in the name of its key. Every way out ends in `close`."""

    __slots__ = ("_capture", "_close", "_idempotent", "_max_answer")

    def __init__(
        self, close: Callable[[Kept | State | None], None], *, idempotent: bool, max_answer: int
    ) -> None:
        self._close = close
        self._idempotent = idempotent
        self._max_answer = max_answer
        self._capture: Capture | None = None

    def around(self, exchange: Conversation) -> Capture:
        """The same conversation; what is answered on it is noted."""
        self._capture = Capture(exchange, self._max_answer)
        return self._capture

    def close(self, record: Record) -> None:
        """The call has ended as its record says."""
        self._close(self._ending(record))

    def _ending(self, record: Record) -> Kept | State | None:
        capture = self._capture
        final = record.outcome in {Outcome.OK, Outcome.BACKEND_REJECTED} and record.status not in _PASSING
        if capture is not None and capture.complete and final:
            if (kept := capture.kept()) is not None:
                return kept
            return None if self._idempotent else State.NOT_KEPT
        return None if self._idempotent or not _started(record) else State.UNKNOWN


def _started(record: Record) -> bool:
    """May some attempt have been carried out?"""
    last = record.slot_at is not None and not record.refused
    return last or any(not tried.refused for tried in record.failed)


class _Turn:
    """One key whose call is under way here."""

    __slots__ = ("done", "request", "waiting")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.waiting = 0
        self.done: asyncio.Future[Kept | None] = asyncio.get_running_loop().create_future()


class Keys:
    """All keys of a gateway.

    max_answer:   bytes; larger answers are not kept
    max_request:  bytes; larger requests cannot have a key
    """

    def __init__(self, store: Store, *, clock: Clock, max_answer: int, max_request: int) -> None:
        self.store = store
        self._clock = clock
        self._max_answer = max_answer
        self._max_request = max_request
        self._turns: dict[bytes, _Turn] = {}

    async def enter(self, call: Call, caller: str = "") -> Claim | Kept | None:
        """Wait for the key's turn. The answer there is; else a claim; None where the key means nothing.

        Raises BadCall, BodyTooLarge, IdempotencyMismatch, IdempotencyConflict, DeadlinePassed, KeysDown.
        """
        if not call.inference or call.method in _SAFE:
            return None
        if not _KEY.fullmatch(call.idempotency_key):
            raise BadCall(
                "idempotency-key must have 1 to 255 visible ASCII characters", field="idempotency-key"
            )
        if call.protocol == "grpc" and call.stream:
            raise BadCall("an idempotency-key stands for one request; a stream of messages has none")
        key = hashlib.sha256(b"%d:%b%b" % (len(caller), caller.encode(), call.idempotency_key)).digest()
        request = await self._digest(call)
        pause = SOONEST_S
        while True:
            if (turn := self._turns.get(key)) is not None:
                if turn.request != request:
                    raise _mismatch()
                kept = await self._wait(turn, call)
                if kept is not None:
                    return kept
                continue
            found = await self._claim(key, request, call)
            if not isinstance(found, State):
                return found
            await asyncio.sleep(min(pause, max(0.0, call.deadline - self._clock.now())))
            pause = min(LATEST_S, 2 * pause)
            if self._clock.now() >= call.deadline:
                raise _too_late()

    async def _digest(self, call: Call) -> bytes:
        body = call.body.whole()
        if body is None:
            try:
                body = await call.body.read(self._max_request)
            except BodyTooLarge:
                body = None
        if body is None or len(body) > self._max_request:
            raise BodyTooLarge(
                f"with an idempotency-key a body has {self._max_request} bytes at most here: it is compared"
            )
        digest = hashlib.sha256()
        meaning = [field for field in call.headers if field[0] in _MEANING]
        for part in (
            call.protocol.encode(),
            call.method,
            call.target,
            *(each for f in meaning for each in f),
        ):
            digest.update(b"%d:" % len(part))
            digest.update(part)
        digest.update(body)
        return digest.digest()

    async def _wait(self, turn: _Turn, call: Call) -> Kept | None:
        if turn.waiting >= MOST_WAITING:
            raise IdempotencyConflict(
                "the first call with this idempotency-key still runs, and others wait for it", retry_after=1.0
            )
        turn.waiting += 1
        try:
            async with asyncio.timeout(call.deadline - self._clock.now()):
                return await asyncio.shield(turn.done)
        except TimeoutError:
            raise _too_late() from None
        finally:
            turn.waiting -= 1

    async def _claim(self, key: bytes, request: bytes, call: Call) -> Claim | Kept | State:
        """A State only where the key's call runs in another process."""
        turn = self._turns[key] = _Turn(request)
        found: Kept | State | None = None
        try:
            found = await self.store.claim(key, request, again=call.idempotent)
        finally:
            if found is not State.FRESH:
                self._end(key, turn, found if isinstance(found, Kept) else None)
        if found is State.FRESH:
            return Claim(
                lambda ending: self._settle(key, turn, ending),
                idempotent=call.idempotent,
                max_answer=self._max_answer,
            )
        if found is State.OTHER:
            raise _mismatch()
        if found is State.UNKNOWN or found is State.NOT_KEPT:
            raise _taken(found)
        return found

    def _settle(self, key: bytes, turn: _Turn, ending: Kept | State | None) -> None:
        kept = ending if isinstance(ending, Kept) else None
        self.store.settle(key, turn.request, ending, lambda: self._end(key, turn, kept))

    def _end(self, key: bytes, turn: _Turn, kept: Kept | None) -> None:
        del self._turns[key]
        turn.done.set_result(kept)


def _mismatch() -> IdempotencyMismatch:
    return IdempotencyMismatch(
        "this idempotency-key was used for another request; use a new key for each request, and the same "
        "one only to repeat it",
        field="idempotency-key",
    )


def _taken(state: State) -> IdempotencyConflict:
    if state is State.NOT_KEPT:
        return IdempotencyConflict(
            "the call with this idempotency-key was carried out, and its answer was too large to be kept; it "
            "is not carried out again; use a new key if it may be"
        )
    return IdempotencyConflict(
        "the call with this idempotency-key broke off, and whether it was carried out is not known; it is "
        "not carried out again; find out, and use a new key if it may be"
    )


def _too_late() -> DeadlinePassed:
    return DeadlinePassed("the first call with this idempotency-key still ran when the deadline passed")
