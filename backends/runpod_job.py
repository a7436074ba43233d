"""One job of RunPod's queue API, from its submission to its final status, or to its cancel.

Knows the API's exchanges and statuses. It must never know what a job's input and output mean.

Wire facts: RunPod documentation ("Send API requests", "Endpoint operations") and its Python SDK:
- `runsync` answers within `wait`, with whatever status the job has by then; only then is its id known;
- asking for the status of a known id is always safe; `cancel` stops a queued or a running job;
- a job whose time to live is over is deleted: its status is 404.
"""

import asyncio
import re
from typing import Any

import msgspec

from backends.client import Answer
from backends.elastic import Elastic, retry_after
from backends.instances import Instances, Ticket
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Headers, Work

FINAL = frozenset(("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"))
_STARTED = frozenset(("IN_PROGRESS", "RUNNING"))
_STATUSES = FINAL | _STARTED | {"IN_QUEUE"}
_JOB_ID = re.compile(r"[A-Za-z0-9._~-]+")

CONTROL_S = 10.0
"""Seconds for an exchange that no client waits for: a cancel, a probe."""
_SUBMIT_GRACE_S = 30.0  # beyond `wait`, for the upload and RunPod's own answer
_FIRST_POLL_S, _LAST_POLL_S, _POLL_GROWTH = 0.05, 1.0, 1.5
_POLL_FAILURES = 5  # in a row, until the job is given up


class Job(
    msgspec.Struct, rename={"delay_ms": "delayTime", "execution_ms": "executionTime", "worker": "workerId"}
):
    """A job as RunPod reports it. Times in milliseconds; `output` is JSON as received."""

    status: str
    id: str = ""
    delay_ms: float | None = None
    execution_ms: float | None = None
    worker: str | None = None
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None

    @property
    def delay_s(self) -> float | None:
        """Seconds before a worker took it: queue and cold start together."""
        return None if self.delay_ms is None else max(0.0, self.delay_ms / 1000)

    @property
    def execution_s(self) -> float | None:
        """Seconds in the worker's handler."""
        return None if self.execution_ms is None else max(0.0, self.execution_ms / 1000)

    def why(self) -> str:
        """What the worker said went wrong. A handler's exception is JSON within a string."""
        error = self.error
        if isinstance(error, str):
            try:
                error = msgspec.json.decode(error)
            except msgspec.DecodeError:
                return str(error)
        if isinstance(error, dict):
            return f"{error.get('error_type', '')} {error.get('error_message', '')}".strip()
        return "" if error is None else str(error)


class RunPodApi:
    """The endpoint's operations: one exchange each, and the meaning of a refusal."""

    def __init__(self, owner: Elastic, url: str) -> None:
        self.name = owner.name
        self.kit = owner.kit
        self.credentials = owner.credentials
        self._client = owner.client
        self._added = owner.added
        self._url = url

    async def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """One exchange, whatever its status. Raises as the client does."""
        headers: Headers = [(b"authorization", b"Bearer " + self.credentials["api_key"].encode())]
        if body is not None:
            headers.append((b"content-type", b"application/json"))
        headers = self._added.onto(headers, self.credentials)
        return await self._client.exchange(method, self._url + path, headers=headers, body=body)

    def refusal(self, answer: Answer) -> BackendError:
        """What an HTTP status other than 200 means for a submission.

        429 is the only sign of a full endpoint. 400, 401, 403 and 404 speak of this gateway's request,
        key or endpoint id: nothing ran, and nothing will until the file is changed. Anything from 500
        on may have come after the job was queued.
        """
        said = f"{self.name}: RunPod answered {answer.status}: {self.credentials.excerpt(answer.body)}"
        if answer.status == 429:
            return BackendFull(said, retry_after=retry_after(answer.headers, self.kit.clock.wall()))
        if answer.status in (401, 403):
            self.credentials.forget()
        if answer.status >= 500 or answer.status == 408:
            return BackendBroke(said)
        return BackendDenied(said)

    def read(self, answer: Answer) -> Job:
        """The job in a 200. Raises BackendBroke when it is not one: the work may be under way."""
        try:
            job = msgspec.json.decode(answer.body, type=Job)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise BackendBroke(f"{self.name}: RunPod's answer is no job") from None
        if job.status not in _STATUSES:
            said = self.credentials.excerpt(job.status)
            raise BackendBroke(f"{self.name}: RunPod reports a job status that is not known: {said}")
        if job.status not in FINAL and not _JOB_ID.fullmatch(job.id):
            raise BackendBroke(f"{self.name}: RunPod reports a job in progress without a usable id")
        return job


class JobRun:
    """One job, driven by the task of its call; if the call goes away, finished off behind it."""

    def __init__(self, api: RunPodApi, table: Instances, ticket: Ticket) -> None:
        self._api = api
        self._table = table
        self._ticket = ticket
        self._submitted: asyncio.Future[Answer | BackendError] = asyncio.get_running_loop().create_future()
        self._job: Job | None = None

    async def result(self, document: bytes, wait: float) -> Job:
        """Submit, then poll until the status is final. Raises BackendError; a FAILED job is no error here.

        Being cancelled cancels the job. Its id may still be on its way then, so the submission is a task
        that outlives this one, and the cancel follows as soon as the id is there.
        """
        spawn, name = self._api.kit.spawn, self._api.name
        spawn(self._submit(document, wait), name=f"{name}: runsync")
        try:
            answer = await asyncio.shield(self._submitted)
            if isinstance(answer, BackendError):
                raise answer
            self._job = self._accepted(answer)
            while self._job.status not in FINAL:
                self._job = await self._poll(self._job)
            return self._job
        except asyncio.CancelledError:
            self._ticket.adopted = True
            spawn(self._abandon(), name=f"{name}: cancel")
            raise
        except BackendBroke:
            if self._job is not None and self._job.status not in FINAL:
                spawn(self._cancel(self._job.id), name=f"{name}: cancel")
            raise

    async def _submit(self, document: bytes, wait: float) -> None:
        outcome: Answer | BackendError = BackendBroke(f"{self._api.name}: the submission was given up")
        try:
            async with asyncio.timeout(wait + _SUBMIT_GRACE_S):
                outcome = await self._api.ask("POST", f"/runsync?wait={round(wait * 1000)}", document)
        except BackendError as error:
            outcome = error
        except TimeoutError:
            outcome = BackendBroke(f"{self._api.name}: RunPod did not acknowledge the job in time")
        finally:
            self._submitted.set_result(outcome)

    def _accepted(self, answer: Answer) -> Job:
        if answer.status != 200:
            raise self._api.refusal(answer)
        return self._api.read(answer)

    async def _poll(self, job: Job) -> Job:
        """Wait until the job's status has changed. Trouble with asking is no trouble with the job."""
        interval, failures = _FIRST_POLL_S, 0
        while True:
            if job.status in _STARTED:
                self._table.running(self._ticket)
            await asyncio.sleep(interval)
            interval = min(_LAST_POLL_S, interval * _POLL_GROWTH)
            try:
                answer = await self._api.ask("GET", f"/status/{job.id}")
            except BackendError as error:
                failures, trouble = failures + 1, str(error)
            else:
                if answer.status == 200:
                    latest = self._api.read(answer)
                    if latest.status != job.status:
                        return latest
                    failures = 0
                    continue
                if answer.status == 404:
                    # Deleted: nothing is left to be cancelled.
                    self._job = msgspec.structs.replace(job, status="TIMED_OUT")
                    raise BackendBroke(f"{self._api.name}: RunPod no longer knows the job; its ttl is over")
                refusal = self._api.refusal(answer)
                failures, trouble = failures + 1, str(refusal)
                interval = max(interval, min(refusal.retry_after or 0.0, 10 * _LAST_POLL_S))
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
                job = self._accepted(answer)
            except BackendError as error:
                if error.work is Work.NOT_STARTED:
                    self._table.undo(self._ticket)
                self._table.lose(self._ticket, self._api.kit.clock.now())
                return
        if job.status not in FINAL:
            await self._cancel(job.id)
        if job.status == "IN_QUEUE":
            self._table.undo(self._ticket)
        self._table.lose(self._ticket, self._api.kit.clock.now(), busy_s=job.execution_s)

    async def _cancel(self, job_id: str) -> None:
        """Best effort: RunPod's own `ttl` and `executionTimeout` end a job whose cancel got lost."""
        try:
            async with asyncio.timeout(CONTROL_S):
                await self._api.ask("POST", f"/cancel/{job_id}")
        except (BackendError, TimeoutError):
            return
