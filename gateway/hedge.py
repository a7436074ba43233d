"""A second attempt beside one whose answer does not come: who wins, and what becomes of the other.

    first   sent ────────────────────────────────► head: the hedge is cancelled      `lost`
                 └─ after ─► hedge sent ─────────► head: the first is cancelled      `won`

Whichever answers first is the call's answer; the other is cancelled at once, gives its slot back, teaches
nothing and is booked as `hedge`. When one of them fails, the other goes on as if it had been alone, so that
only the failure of both is a failure of the attempt.

The first attempt runs in the task of its call, as it does without a hedge; only the second has a task of its
own. A call that is answered before the time is up costs a timer. When and where is asked of `hedging.py`; it
never knows a pool, a policy or how a backend works.
"""

import asyncio
import contextlib
from types import TracebackType
from typing import NamedTuple, Protocol

from backends.base import Spawn
from gateway.clock import Clock
from gateway.dispatch import Attempt, Sending
from gateway.errors import BackendError, DeadlinePassed, Shed
from gateway.lease import Lease, verdict_of
from gateway.record import Hedged, Record
from gateway.slot import Slot
from gateway.vocab import Call, Reason, Reply, Verdict, Work


class Second(NamedTuple):
    """A second attempt that has its slot."""

    call: Call
    lease: Lease
    slot: Slot
    hedged: Hedged


class Terms(Protocol):
    """What a race asks of its route."""

    clock: Clock
    spawn: Spawn

    def after(self, backend: str, bucket: int) -> float | None:
        """Seconds until a second attempt; None while that is not known."""
        ...

    def learn(self, backend: str, bucket: int, seconds: float, now: float) -> None:
        """The first attempt took so long to answer, or longer."""
        ...

    def permits(self, now: float) -> bool:
        """There may be one more."""
        ...

    def second(self, call: Call, lease: Lease, attempt: Attempt) -> Second | None:
        """Its slot, paid for; None where it cannot be had."""
        ...


class Race:
    """One attempt with a second one beside it, as a context manager around the answer of either.

    Everything here happens between two waits of one event loop, so who wins is decided once: by the head that
    is seen first, in the task of the call or in that of the hedge.
    """

    __slots__ = (
        "_attempt", "_call", "_failure", "_first", "_hedger", "_hedging", "_lease", "_over", "_record",
        "_reply", "_second", "_sending", "_settled", "_task", "_winner", "_won",
    )  # fmt: skip

    def __init__(
        self,
        hedging: Terms,
        first: Sending,
        call: Call,
        lease: Lease,
        attempt: Attempt,
        record: Record,
        task: asyncio.Task[None] | None,
    ) -> None:
        self._hedging = hedging
        self._first = self._winner = first
        self._call = call
        self._lease = lease
        self._attempt = attempt
        self._record = record
        self._task = task
        self._second: Second | None = None  # while its outcome is open, or it carries the call
        self._sending: Sending | None = None  # the second's
        self._hedger: asyncio.Task[None] | None = None
        self._reply: Reply | None = None  # of the second
        self._failure: BaseException | None = None  # likewise
        self._settled: asyncio.Future[None] | None = None  # once the second is alone
        self._won = self._over = False

    # -- the call's own task -------------------------------------------------------------------

    async def __aenter__(self) -> Reply:
        hedging, lease = self._hedging, self._lease
        slot = lease.slot
        assert slot is not None
        backend, sent_at = slot.backend.name, hedging.clock.now()
        after = hedging.after(backend, lease.bucket)
        timer = None
        if after is not None and sent_at + after < self._call.deadline:
            if self._task is None:
                self._task = asyncio.current_task()
            timer = asyncio.get_running_loop().call_later(after, self._due)
        try:
            reply = await self._first.__aenter__()
        except BaseException as error:
            if timer is not None:
                timer.cancel()
            if self._won or isinstance(error, DeadlinePassed):
                now = hedging.clock.now()
                hedging.learn(backend, lease.bucket, now - sent_at, now)
            return await self._without_first(error)
        if timer is not None:
            timer.cancel()
        now = hedging.clock.now()
        hedging.learn(backend, lease.bucket, now - sent_at, now)
        if self._won:  # the backend has answered in spite of having been cancelled
            assert self._task is not None
            self._task.uncancel()
            self._call.lost = False
            await self._without_second()
        else:
            self._drop()
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._winner.__aexit__(kind, error, trace)

    async def _without_first(self, error: BaseException) -> Reply:
        """The first has ended without an answer: that of the second, or raises."""
        try:
            if self._won:
                assert self._task is not None
                assert self._reply is not None
                if self._task.uncancel() > 0:  # and so has the client
                    await self._without_second()
                    raise error
                self._promote(None)
                return self._reply
            if self._second is None or not isinstance(error, BackendError):
                self._drop()
                raise error
            self._promote(error)
            return await self._last()
        finally:
            del error  # which holds this frame, if it is raised here

    async def _last(self) -> Reply:
        """The second's answer, or its failure."""
        assert self._sending is not None
        began = self._hedging.clock.now()
        self._settled = asyncio.get_running_loop().create_future()
        try:
            await self._settled
        except asyncio.CancelledError:
            if self._reply is not None:  # it came in the very moment in which the client left
                await self._sending.__aexit__(None, None, None)
            elif self._hedger is not None:
                self._over = True
                self._sending.abandon()
                self._hedger.cancel()
            raise
        finally:
            self._record.upstream_s += self._hedging.clock.now() - began
        if self._reply is None:
            failure, self._failure = self._failure, None
            assert failure is not None
            try:
                raise failure
            finally:
                del failure  # which holds this frame
        self._finish()
        return self._reply

    def _promote(self, error: BackendError | None) -> None:
        """The second carries the call from here on; the first has failed with `error`, or lost."""
        record, second, lease = self._record, self._second, self._lease
        assert second is not None
        assert self._sending is not None
        slot = lease.slot
        assert slot is not None
        held_s = self._hedging.clock.now() - slot.taken_at
        name, replica = slot.backend.name, slot.replica_name
        if error is None:
            record.lost(name, replica, None, held_s, refused=False, began=slot.taken_at)
        else:
            record.tried(name, error.usage, held_s, replica, error.work, error=error.word)
        lease.take_over(second.lease, Verdict.NEUTRAL if error is None else error.verdict)
        self._attempt.went_on(second.slot, error)
        second.hedged.slot_at = None
        record.took(second.hedged.backend, second.hedged.replica, Reason.HEDGE, second.slot.taken_at)
        self._winner = self._sending
        if error is None:
            self._finish()

    def _finish(self) -> None:
        """The second's answer is the call's."""
        assert self._second is not None
        self._second.hedged.result = "won"
        self._record.head_at = self._second.slot.answered_at

    def _drop(self) -> None:
        """There is no need of a second any more."""
        self._over = True
        second, self._second = self._second, None
        if second is None:
            return
        second.call.lost = True
        self._note_end(second, None)
        assert self._hedger is not None
        self._hedger.cancel()  # gives back what it holds

    async def _without_second(self) -> None:
        """The second has an answer that nobody wants."""
        second, sending, reply = self._second, self._sending, self._reply
        assert second is not None
        assert sending is not None
        assert reply is not None
        self._second = None
        second.call.lost = True
        self._note_end(second, reply)
        try:
            await sending.__aexit__(None, None, None)
        finally:
            second.lease.release(Verdict.NEUTRAL)

    def _note_end(self, second: Second, ended: Reply | BackendError | None) -> None:
        """What it cost goes into the record now, because the record may be closed in this very step."""
        held_s = self._hedging.clock.now() - second.slot.taken_at
        usage = None if ended is None else ended.usage
        refused = isinstance(ended, BackendError) and ended.work is Work.NOT_STARTED and usage is None
        hedged = second.hedged
        hedged.slot_at = None
        self._record.attempts += 1
        self._record.lost(
            hedged.backend, hedged.replica, usage, held_s, refused=refused, began=second.slot.taken_at,
            error=ended.word if isinstance(ended, BackendError) else "",
        )  # fmt: skip

    # -- the second's task ---------------------------------------------------------------------

    def _due(self) -> None:
        """No head has come in time."""
        hedging = self._hedging
        if hedging.permits(hedging.clock.now()):
            hedging.spawn(self._hedge(), name=f"hedge of {self._call.request_id}")

    async def _hedge(self) -> None:
        if self._over:
            return
        # It ends well even when it is cancelled: a task keeps its error, and that would keep this.
        with contextlib.suppress(asyncio.CancelledError):
            await self._run()

    async def _run(self) -> None:
        second = self._hedging.second(self._call, self._lease, self._attempt)
        if second is None:
            return
        self._hedger = asyncio.current_task()
        self._second = second
        self._record.hedge = second.hedged
        if self._record.trace is not None:
            second.call.traceparent = self._record.trace.hedged(second.slot.taken_at)
        apart = Record(self._record.request_id, self._record.traceparent, self._record.arrived)
        sending = self._sending = self._first.beside(second.call, second.slot, apart)
        try:
            reply = await sending.__aenter__()
        except BaseException as error:
            self._failed(second, error)
            if not isinstance(error, BackendError | Shed):
                raise
            return
        await self._answered(second, sending, reply)

    async def _answered(self, second: Second, sending: Sending, reply: Reply) -> None:
        self._reply = reply
        if self._over:  # the backend has answered in spite of having been cancelled
            try:
                await sending.__aexit__(None, None, None)
            finally:
                if self._winner is not sending:
                    second.lease.release(Verdict.NEUTRAL)
        elif self._settled is not None:
            if not self._settled.done():  # else the client has just left, and the call's task looks after it
                self._settled.set_result(None)
        else:
            assert self._task is not None
            self._won = self._call.lost = True
            self._task.cancel()

    def _failed(self, second: Second, error: BaseException) -> None:
        """The second has ended without an answer."""
        if self._winner is self._sending:  # it carries the call, and so does the call's lease its slot
            self._failure = error
            if self._settled is not None and not self._settled.done():
                self._settled.set_result(None)
            return
        if not self._over:
            self._second = None
            self._attempt.tried |= {(second.slot.backend.name, second.slot.replica)}
            self._note_end(second, error if isinstance(error, BackendError) else None)
        second.lease.release(verdict_of(error))
