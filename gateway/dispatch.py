"""Step 6: carry out one attempt after another until one answers, and try again only what is safe.

    attempt = dispatch.attempt(call, record)
    while attempt.again:
        with attempt:                                   # swallows a failure that may be tried again
            with pool.slot(call, attempt) as lease:
                slot = await lease.granted()
                async with dispatch.send(call, slot, attempt, record) as reply:
                    ...                                 # the slot is held until the last byte

What is safe is told by the error (`work`) and by the call (`idempotent`, and whether its body is still
held). Nothing is tried again once the client has been sent a byte. It knows nothing of policies: where
the next attempt goes is the pool's question, which is told what has failed already.

What multiplies load or cost takes a token from the retry budget; without one the client gets the failure
that there is.

    the attempt before                  next on an owned backend     next on a rented one
    may have done its work (a 5xx)      a token: it repeats work     the same token
    did not start (down, unready)       free: it costs nobody        a token: a spill after a failure
    was pushed back (429, full)         free                         free: the fleet is full, not failing

Each place is tried at most once for one call, so what is free stays bounded by the number of places; and
what a full fleet spills is bounded in dollars, by `spill_budget`. The money that the pool has reserved
for an attempt is settled here, before its slot goes back, because here its bill becomes known.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol

from backends.base import Backend
from gateway.clock import Clock
from gateway.errors import BackendError, BackendFull, DeadlinePassed, NoCapacity, Shed
from gateway.lease import Lease
from gateway.record import Record
from gateway.retry_budget import RetryBudget, RetryBudgets
from gateway.spending import Reservation
from gateway.vocab import Call, Discreet, Reason, Reply, Start, Usage, Verdict, Work

_NOTHING_TRIED: frozenset[tuple[str, int]] = frozenset()
_OUTAGE = frozenset((Reason.SPILL_UNHEALTHY, Reason.SPILL_BREAKER))


class HeldSlot(Protocol):
    """What an attempt needs to know about its slot."""

    @property
    def backend(self) -> Backend: ...
    @property
    def replica(self) -> int: ...
    @property
    def replica_name(self) -> str: ...
    @property
    def reason(self) -> Reason: ...
    @property
    def queued_s(self) -> float: ...
    @property
    def taken_at(self) -> float: ...
    @property
    def reservation(self) -> Reservation | None: ...

    used: bool
    """Something was sent."""
    start: Start | None
    """Whether the answer had to wait for a boot; `boot_s` for how long, where that was told."""
    boot_s: float | None
    waited_s: float | None

    def answered(self, now: float) -> None:
        """The head of the answer has come."""
        ...

    def pushed_back(self, now: float) -> None:
        """It was refused as one call too many."""
        ...


class Hedger(Protocol):
    """Who may start a second attempt beside one whose answer does not come; one for each hedged route."""

    def around(
        self,
        sending: "Sending",
        call: Call,
        lease: Lease,
        attempt: "Attempt",
        record: Record,
        *,
        task: asyncio.Task[None] | None,
    ) -> AbstractAsyncContextManager[Reply]:
        """`sending` itself where this call is not to be hedged."""
        ...


class Attempt(Discreet, eq=False):
    """One try of one call.

    again:   True while the call may be tried (again)
    number:  0 for the first
    tried:   (backend, replica) pairs that failed this call already
    """

    _call: Call
    _record: Record
    _clock: Clock
    _budget: RetryBudget | None
    _paid: bool = False
    number: int = 0
    tried: frozenset[tuple[str, int]] = _NOTHING_TRIED
    again: bool = True
    failure: BackendError | None = None
    slot: HeldSlot | None = None

    def __enter__(self) -> None:
        self.again = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            return False
        if isinstance(error, Shed) and self._explains(error):
            assert self.failure is not None
            raise self.failure.again() from error
        if not isinstance(error, BackendError) or self.slot is None:
            return False
        slot, self.slot = self.slot, None
        self.failure = error.again()
        if not self._may_try_again(error):
            return False
        self._paid = error.work is not Work.NOT_STARTED
        if self._paid and not self._withdraw():
            return False
        name = slot.backend.name
        self._record.tried(
            name,
            error.usage,
            self._clock.now() - slot.taken_at,
            slot.replica_name,
            error.work,
        )
        self.tried |= {(name, slot.replica)}
        self.number += 1
        self.again = True
        return True

    def begin(self, slot: HeldSlot, limits_outage: bool) -> None:
        """An attempt is about to be sent. Raises Shed if it takes a token and there is none."""
        if self.number == 0:
            if self._budget is not None:
                self._budget.deposit(slot.taken_at)
            costs = limits_outage and slot.reason in _OUTAGE
        else:
            costs = not self._paid and not isinstance(self.failure, BackendFull)
        if costs and not slot.backend.owned and not self._withdraw():
            raise self._outage()
        self.slot = slot

    def _withdraw(self) -> bool:
        if self._budget is None or self._budget.withdraw(self._clock.now()):
            return True
        self._record.reason = Reason.SHED_BUDGET  # beside the error's own word: why it ended there
        return False

    def may_hedge(self) -> bool:
        """Takes a token for a second attempt beside this one; False when there is none."""
        return self._budget is None or self._budget.withdraw(self._clock.now())

    def went_on(self, slot: HeldSlot, error: BackendError | None) -> None:
        """Another slot than the one it began on carries it now, because of `error` if there was one."""
        before, self.slot = self.slot, slot
        assert before is not None
        self.tried |= {(before.backend.name, before.replica)}
        if error is not None:
            self.failure = error.again()
            self.number += 1

    @staticmethod
    def _outage() -> NoCapacity:
        error = NoCapacity(
            "the fleet is down, and no more calls than the retry budget allows go elsewhere", retry_after=1.0
        )
        error.reason = Reason.SHED_BUDGET
        return error

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


class Sending(Discreet, eq=False):
    """One attempt on its slot: the deadline around the backend's answer."""

    _call: Call
    _slot: HeldSlot
    _record: Record
    _clock: Clock
    _watch: DeadlineWatch
    _task: asyncio.Task[None] | None
    _expired: bool = False
    _sending: AbstractAsyncContextManager[Reply] | None = None
    _reply: Reply | None = None

    def beside(self, call: Call, slot: HeldSlot, record: Record) -> "Sending":
        """Another attempt, to be entered by a task of its own, with a record of its own."""
        return Sending(call, slot, record, self._clock, self._watch, None)

    async def __aenter__(self) -> Reply:
        call, slot, record = self._call, self._slot, self._record
        backend = slot.backend
        now = self._clock.now()
        record.took(backend.name, slot.replica_name, slot.reason, slot.taken_at)
        record.queued_s += slot.queued_s
        remaining = call.deadline - now
        if remaining <= 0:
            raise DeadlinePassed("the deadline passed before the request could be sent")
        carry = backend.carry if call.protocol == "grpc" else backend.send
        sending = carry(call, slot.replica)
        slot.used = True
        if self._task is None:
            self._task = asyncio.current_task()
        timer = self._watch.add(self, call.deadline, remaining)
        try:
            reply = await sending.__aenter__()
        except BaseException as error:
            self._settle(error)
            if isinstance(error, BackendFull):
                slot.pushed_back(self._clock.now())
            if not isinstance(error, asyncio.CancelledError):
                raise
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
        self._reply = reply
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        reply = self._reply
        assert self._sending is not None
        assert reply is not None
        try:
            await self._sending.__aexit__(kind, error, trace)
        finally:
            slot, usage = self._slot, reply.usage
            slot.start = reply.start
            if usage is not None:
                slot.boot_s = usage.boot_s
                slot.waited_s = usage.queued_s
            if slot.reservation is not None:
                self._settle(error)

    def _settle(self, error: BaseException | None) -> None:
        """The money that was reserved for it: what the attempt cost is known now, or never here."""
        reservation = self._slot.reservation
        if reservation is None or not reservation.open:
            return
        usage: Usage | None = None if self._reply is None else self._reply.usage
        if isinstance(error, BackendError):
            usage = error.usage or usage
            if usage is None and error.work is Work.NOT_STARTED:
                reservation.cancel()
                return
        usd = None if usage is None else usage.usd
        now = self._clock.now()
        if error is None or isinstance(error, BackendError) or usd is not None:
            reservation.settle(usd, now)
        else:  # cancelled: what it cost comes as a charge
            reservation.cut_off(now)

    def abandon(self) -> None:
        """Its slot goes back now, though the task that entered it has still to unwind."""
        self._settle(asyncio.CancelledError())

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

    def __init__(
        self,
        *,
        clock: Clock,
        retries: RetryBudgets | None = None,
        hedgers: Mapping[str, Hedger] | None = None,
    ) -> None:
        self._clock = clock
        self._hedgers = hedgers or {}
        self._watch = DeadlineWatch(clock)
        self._budgets = {} if retries is None else retries.routes
        self._limits_outage = retries is not None and retries.limits_outage

    def attempt(self, call: Call, record: Record) -> Attempt:
        """The first attempt of a call; `again` stays True as long as there may be another."""
        return Attempt(call, record, self._clock, self._budgets.get(call.route))

    def send(
        self,
        call: Call,
        slot: HeldSlot,
        attempt: Attempt,
        record: Record,
        task: asyncio.Task[None] | None = None,
        lease: Lease | None = None,
    ) -> AbstractAsyncContextManager[Reply]:
        """One attempt as a context manager around its Reply. Raises BackendError, DeadlinePassed, NoCapacity.

        `task` is the one that runs it, where that is known: looking it up is not free. `lease` is what holds
        the slot; without it there is no hedge.
        """
        attempt.begin(slot, self._limits_outage)
        sending = Sending(call, slot, record, self._clock, self._watch, task)
        if self._hedgers and lease is not None and (hedger := self._hedgers.get(call.route)) is not None:
            return hedger.around(sending, call, lease, attempt, record, task=task)
        return sending
