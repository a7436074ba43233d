"""One job of a provider that takes work now and answers later: from its submission to its end, or its cancel.

Knows when to ask and when to give up. It must never know a provider's operations or what a job means: both
are told by its `JobApi`.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from backends.base import Kit
from backends.client import Answer
from backends.instances import Instances, Ticket
from gateway.errors import BackendBroke, BackendError
from gateway.vocab import Work

CONTROL_S = 10.0
"""Seconds for an exchange that no client waits for: a cancel, a probe."""
_SUBMIT_GRACE_S = 30.0  # beyond `wait`, for the upload and the provider's own answer
_FIRST_POLL_S, _LAST_POLL_S, _POLL_GROWTH = 0.05, 1.0, 1.5
_POLL_FAILURES = 5  # in a row, until the job is given up


class Phase(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    FINAL = "final"


class JobGone(BackendBroke):
    """The provider no longer knows the job: nothing is left to be cancelled."""


J = TypeVar("J")


class JobApi(Protocol[J]):
    """A provider's operations on jobs: one exchange each, and what their answers mean."""

    name: str
    kit: Kit
    submission: str
    """The provider's word for a submission."""

    async def submit(self, document: bytes, wait: float) -> Answer:
        """Have a job made, and wait for its end for at most `wait` seconds. Raises as the client does."""
        ...

    async def status(self, job: J) -> Answer:
        """Ask how it is."""
        ...

    async def cancel(self, job: J) -> Answer:
        """Have it stopped."""
        ...

    def accepted(self, answer: Answer) -> J:
        """The job that was made. Raises BackendError if there is none, or it cannot be read."""
        ...

    def latest(self, job: J, answer: Answer) -> J:
        """The job as it is now. Raises JobGone, or BackendBroke for one that cannot be read, or whatever
        `refusal` makes of an answer that says nothing about it.
        """
        ...

    def phase(self, job: J) -> Phase:
        """Where it is."""
        ...

    def busy_s(self, job: J) -> float | None:
        """Seconds that it has run, where the provider says so."""
        ...


class NotTold(BackendError):
    """An answer to a question about a job that says nothing about it: it may be asked again.

    Its text is that of the refusal.
    """


class JobRun(Generic[J]):
    """One job, driven by the task of its call; if the call goes away, finished off behind it.

    ended:  told of a job that had come to its end when its call was gone; it closes the ticket
    """

    def __init__(
        self,
        api: JobApi[J],
        table: Instances,
        ticket: Ticket,
        *,
        ended: Callable[[J], None] | None = None,
    ) -> None:
        self._ended = ended
        self._api = api
        self._table = table
        self._ticket = ticket
        self._submitted: asyncio.Future[Answer | BackendError] = asyncio.get_running_loop().create_future()
        self._job: J | None = None

    async def result(self, document: bytes, wait: float) -> J:
        """Submit, then poll until it is final. Raises BackendError; a job that failed is no error here.

        Being cancelled cancels the job. Its id may still be on its way then, so the submission is a task
        that outlives this one, and the cancel follows as soon as the id is there.
        """
        spawn, name = self._api.kit.spawn, self._api.name
        spawn(self._submit(document, wait), name=f"{name}: {self._api.submission}")
        try:
            answer = await asyncio.shield(self._submitted)
            if isinstance(answer, BackendError):
                raise answer
            job = self._job = self._api.accepted(answer)
            while self._api.phase(job) is not Phase.FINAL:
                job = self._job = await self._changed(job)
            return job
        except asyncio.CancelledError:
            self._ticket.adopted = True
            spawn(self._abandon(), name=f"{name}: cancel")
            raise
        except JobGone as gone:
            raise BackendBroke(str(gone)) from None
        except BackendBroke:
            if self._job is not None and self._api.phase(self._job) is not Phase.FINAL:
                spawn(self._cancel(self._job), name=f"{name}: cancel")
            raise

    async def _submit(self, document: bytes, wait: float) -> None:
        outcome: Answer | BackendError = BackendBroke(f"{self._api.name}: the submission was given up")
        try:
            async with asyncio.timeout(wait + _SUBMIT_GRACE_S):
                outcome = await self._api.submit(document, wait)
        except BackendError as error:
            outcome = error
        except TimeoutError:
            outcome = BackendBroke(f"{self._api.name}: the job was not acknowledged in time")
        finally:
            self._submitted.set_result(outcome)

    async def _changed(self, job: J) -> J:
        """Wait until the job's phase has changed. Trouble with asking is no trouble with the job."""
        phase = self._api.phase(job)
        interval, failures = _FIRST_POLL_S, 0
        while True:
            if phase is Phase.RUNNING:
                self._table.running(self._ticket)
            await asyncio.sleep(interval)
            interval = min(_LAST_POLL_S, interval * _POLL_GROWTH)
            try:
                answer = await self._api.status(job)
            except BackendError as error:
                failures, trouble = failures + 1, str(error)
            else:
                try:
                    latest = self._api.latest(job, answer)
                except NotTold as refusal:
                    failures, trouble = failures + 1, str(refusal)
                    interval = max(interval, min(refusal.retry_after or 0.0, 10 * _LAST_POLL_S))
                else:
                    if self._api.phase(latest) is not phase:
                        return latest
                    failures = 0
                    continue
            if failures > _POLL_FAILURES:
                raise BackendBroke(f"{self._api.name}: the job's status cannot be read: {trouble}")

    async def _abandon(self) -> None:
        """Cancel the job of a call that went away, and account for what it used."""
        job = self._job
        if job is None:
            answer = await self._submitted
            try:
                if isinstance(answer, BackendError):
                    raise answer
                job = self._api.accepted(answer)
            except BackendError as error:
                if error.work is Work.NOT_STARTED:
                    self._table.undo(self._ticket)
                self._table.lose(self._ticket, self._api.kit.clock.now())
                return
        phase = self._api.phase(job)
        if phase is not Phase.FINAL:
            await self._cancel(job)
        if phase is Phase.FINAL and self._ended is not None:
            self._ended(job)
        if phase is Phase.QUEUED:
            self._table.leave(self._ticket, self._api.kit.clock.now())
        self._table.lose(self._ticket, self._api.kit.clock.now(), busy_s=self._api.busy_s(job))

    async def _cancel(self, job: J) -> None:
        """Best effort: whatever limit the provider keeps for a job ends one whose cancel got lost."""
        try:
            async with asyncio.timeout(CONTROL_S):
                await self._api.cancel(job)
        except (BackendError, TimeoutError):
            return
