"""The operations of RunPod's queue API on jobs, for `remote_job.py`.

Knows the API's exchanges and statuses. It must never know what a job's input and output mean.

Wire facts: RunPod documentation ("Send API requests", "Endpoint operations") and its Python SDK:
- `runsync` answers within `wait`, with whatever status the job has by then; only then is its id known;
- asking for the status of a known id is always safe; `cancel` stops a queued or a running job;
- a job whose time to live is over is deleted: its status is 404.
"""

import re
from collections import OrderedDict
from typing import Any

import msgspec

from backends.client import Answer
from backends.elastic import Elastic, retry_after
from backends.remote_job import JobGone, NotTold, Phase
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Headers

FINAL = frozenset(("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"))
_STARTED = frozenset(("IN_PROGRESS", "RUNNING"))
STATUSES = FINAL | _STARTED | {"IN_QUEUE"}
_MOST_KNOWN = 4096
_JOB_ID = re.compile(r"[A-Za-z0-9._~-]+")


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
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return str(error)
        if isinstance(error, dict):
            return f"{error.get('error_type', '')} {error.get('error_message', '')}".strip()
        return "" if error is None else str(error)


class RunPodApi:
    """The endpoint's operations: one exchange each, and the meaning of a refusal."""

    submission = "runsync"

    def __init__(self, owner: Elastic, url: str) -> None:
        self.name = owner.name
        self.kit = owner.kit
        self.credentials = owner.credentials
        self._client = owner.client
        self._added = owner.added
        self._url = url
        self._known: OrderedDict[str, None] = OrderedDict()
        """Ids of the last jobs: no submission is answered with one of them."""

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
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BackendBroke(f"{self.name}: RunPod's answer is no job") from None
        if job.status not in STATUSES:
            said = self.credentials.excerpt(job.status)
            raise BackendBroke(f"{self.name}: RunPod reports a job status that is not known: {said}")
        if job.status not in FINAL and not _JOB_ID.fullmatch(job.id):
            raise BackendBroke(f"{self.name}: RunPod reports a job in progress without a usable id")
        return job

    async def submit(self, document: bytes, wait: float) -> Answer:
        """Have a job made, and wait for its end."""
        return await self.ask("POST", f"/runsync?wait={round(wait * 1000)}", document)

    async def status(self, job: Job) -> Answer:
        """Ask how it is."""
        return await self.ask("GET", f"/status/{job.id}")

    async def cancel(self, job: Job) -> Answer:
        """Have it stopped."""
        return await self.ask("POST", f"/cancel/{job.id}")

    def accepted(self, answer: Answer) -> Job:
        """The job that was made."""
        if answer.status != 200:
            raise self.refusal(answer)
        job = self.read(answer)
        if job.id in self._known:
            # An answer that was sent twice: the second one came in the place of another job's.
            answer.distrust()
            raise BackendBroke(f"{self.name}: RunPod answered with a job that was answered before")
        if job.id:
            self._known[job.id] = None
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        return job

    def latest(self, job: Job, answer: Answer) -> Job:
        """The job as it is now."""
        if answer.status == 200:
            latest = self.read(answer)
            if latest.id and latest.id != job.id:
                answer.distrust()
                raise NotTold(f"{self.name}: RunPod answered with another job than it was asked for")
            return latest
        if answer.status == 404:
            raise JobGone(f"{self.name}: RunPod no longer knows the job; its ttl is over")
        refusal = self.refusal(answer)
        raise NotTold(str(refusal), retry_after=refusal.retry_after)

    def phase(self, job: Job) -> Phase:
        """Where it is."""
        if job.status in FINAL:
            return Phase.FINAL
        return Phase.RUNNING if job.status in _STARTED else Phase.QUEUED

    def busy_s(self, job: Job) -> float | None:
        """Seconds in the worker's handler."""
        return job.execution_s
