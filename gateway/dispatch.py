"""Step 6: carry out one attempt after another until one answers, and try again only what is safe.

    attempt = dispatch.attempt(call, record)
    while attempt.again:
        with attempt:                                   # swallows a failure that may be tried again
            async with pool.slot(call, attempt) as slot:
                async with dispatch.send(call, slot, attempt, record) as reply:
                    ...                                 # the slot is held until the last byte

What is safe is told by the error (`work`) and by the call (`idempotent`, and whether its body is still
held). Nothing is tried again once the client has been sent a byte. It knows nothing of policies: where
the next attempt goes is the pool's question, which is told what has failed already.
"""

import asyncio
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol

from backends.base import Backend
from gateway.clock import Clock
from gateway.errors import BackendError, BackendFull, DeadlinePassed, Shed
from gateway.record import Record
from gateway.vocab import Call, Reason, Reply, Verdict, Work

_NOTHING_TRIED: frozenset[tuple[str, int]] = frozenset()


class HeldSlot(Protocol):
    """What an attempt needs to know about its slot."""

    @property
    def backend(self) -> Backend: ...
    @property
    def replica(self) -> int: ...
    @property
    def reason(self) -> Reason: ...
    @property
    def queued_s(self) -> float: ...
    @property
    def taken_at(self) -> float: ...

    def answered(self, now: float) -> None:
        """The head of the answer has come."""
        ...


class Attempt:
    """One try of one call.

    again:   True while the call may be tried (again)
    number:  0 for the first
    tried:   (backend, replica) pairs that failed this call already
    """

    __slots__ = ("_call", "_clock", "_record", "again", "failure", "number", "slot", "tried")

    def __init__(self, call: Call, record: Record, clock: Clock) -> None:
        self._call = call
        self._record = record
        self._clock = clock
        self.number = 0
        self.tried = _NOTHING_TRIED
        self.again = True
        self.failure: BackendError | None = None
        self.slot: HeldSlot | None = None

    def __enter__(self) -> None:
        self.again = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            return False
        if isinstance(error, Shed) and self._explains(error):
            assert self.failure is not None
            raise self.failure from error
        if not isinstance(error, BackendError) or self.slot is None:
            return False
        slot, self.slot = self.slot, None
        self.failure = error
        if not self._may_try_again(error):
            return False
        name = slot.backend.name
        self._record.tried(
            name,
            error.usage,
            self._clock.now() - slot.taken_at,
            slot.backend.replicas[slot.replica],
            error.work,
        )
        self.tried |= {(name, slot.replica)}
        self.number += 1
        self.again = True
        return True

    def _explains(self, shed: Shed) -> bool:
        """Is the earlier failure the better answer than "no place for another attempt"?"""
        if self.failure is None or isinstance(self.failure, BackendFull):
            return False
        return not isinstance(shed, DeadlinePassed)

    def _may_try_again(self, error: BackendError) -> bool:
        call = self._call
        if error.work is Work.DONE or not call.body.repeatable:
            return False
        if error.work is Work.MAYBE and not call.idempotent:
            return False
        return self._clock.now() < call.deadline


class DeadlineWatch:
    """Cancels attempts whose deadline has passed.

    A timer of its own for each attempt costs more than the rest of this step together, and nearly none
    ever rings. So deadlines that are far away are looked through ten times a second, and only a near
    one gets a timer; none rings early, and none more than `TICK_S` late.
    """

    TICK_S = 0.1
    NEAR_S = 1.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._far: dict[Sending, float] = {}
        self._ticking = False

    def __len__(self) -> int:
        return len(self._far)

    def add(self, sending: "Sending", deadline: float, remaining: float) -> asyncio.TimerHandle | None:
        """Watch an attempt until `remove`. Returns its own timer if it has one."""
        if remaining < self.NEAR_S:
            return asyncio.get_running_loop().call_later(remaining, sending.expire)
        self._far[sending] = deadline
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_later(self.TICK_S, self._tick)
        return None

    def remove(self, sending: "Sending", timer: asyncio.TimerHandle | None) -> None:
        """The attempt has its answer, or has failed."""
        if timer is None:
            self._far.pop(sending, None)
        else:
            timer.cancel()

    def _tick(self) -> None:
        now = self._clock.now()
        for sending in [sending for sending, deadline in self._far.items() if deadline <= now]:
            del self._far[sending]
            sending.expire()
        self._ticking = bool(self._far)
        if self._ticking:
            asyncio.get_running_loop().call_later(self.TICK_S, self._tick)


class Sending:
    """One attempt on its slot: the deadline around the backend's answer."""

    __slots__ = ("_call", "_clock", "_expired", "_record", "_sending", "_slot", "_task", "_watch")

    def __init__(
        self,
        call: Call,
        slot: HeldSlot,
        record: Record,
        clock: Clock,
        watch: DeadlineWatch,
        *,
        task: asyncio.Task[None] | None,
    ) -> None:
        self._call = call
        self._slot = slot
        self._record = record
        self._clock = clock
        self._watch = watch
        self._expired = False
        self._task = task
        self._sending: AbstractAsyncContextManager[Reply] | None = None

    async def __aenter__(self) -> Reply:
        call, slot, record = self._call, self._slot, self._record
        backend = slot.backend
        now = self._clock.now()
        record.took(backend.name, backend.replicas[slot.replica], slot.reason, slot.taken_at)
        record.queued_s += slot.queued_s
        remaining = call.deadline - now
        if remaining <= 0:
            raise DeadlinePassed("the deadline passed before the request could be sent")
        sending = backend.send(call, slot.replica)
        if self._task is None:
            self._task = asyncio.current_task()
        timer = self._watch.add(self, call.deadline, remaining)
        try:
            reply = await sending.__aenter__()
        except asyncio.CancelledError:
            if self._expired and self._task is not None and self._task.uncancel() == 0:
                raise self._too_late(remaining) from None
            raise
        finally:
            self._watch.remove(self, timer)
            head_at = self._clock.now()
            record.upstream_s += head_at - now
        record.head_at = head_at
        slot.answered(head_at)
        self._sending = sending
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sending is not None
        await self._sending.__aexit__(kind, error, trace)

    def expire(self) -> None:
        """The deadline has passed and no head has come."""
        self._expired = True
        assert self._task is not None
        self._task.cancel()

    def _too_late(self, granted: float) -> DeadlinePassed:
        error = DeadlinePassed(
            f"backend {self._slot.backend.name} had not begun to answer when the deadline passed"
        )
        # A backend that was given most of the route's own time and stayed silent has failed. One that
        # got what a queue or an impatient client had left over has not.
        call = self._call
        if not call.deadline_is_clients and granted >= 0.5 * (call.deadline - call.arrived):
            error.verdict = Verdict.FAILURE
        return error


class Dispatch:
    """Carries out attempts."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._watch = DeadlineWatch(clock)

    def attempt(self, call: Call, record: Record) -> Attempt:
        """The first attempt of a call; `again` stays True as long as there may be another."""
        return Attempt(call, record, self._clock)

    def send(
        self,
        call: Call,
        slot: HeldSlot,
        attempt: Attempt,
        record: Record,
        *,
        task: asyncio.Task[None] | None = None,
    ) -> Sending:
        """One attempt as a context manager around its Reply. Raises BackendError or DeadlinePassed.

        `task` is the one that runs it, where that is known: looking it up is not free.
        """
        attempt.slot = slot
        return Sending(call, slot, record, self._clock, self._watch, task=task)
