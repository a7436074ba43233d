"""RunPod serverless, queue API: submit with `runsync`, poll `status`, cancel when nobody waits any more.

Knows RunPod's statuses and what they mean for a call; the JSON of a job is read by runpod_job. It
never retries a submission: job ids are the server's, so sending again could run the work twice.

Wire facts: RunPod documentation ("Send API requests", "Endpoint operations") and its Python SDK:
- `runsync` answers within `wait`, with whatever status the job has by then; only then is its id known;
- polling a known id is always safe; `cancel` stops a queued or running job;
- failures of the worker come as HTTP 200 with status FAILED;
- the answer is one JSON document: a streamed answer arrives in one piece.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field

from backends.base import Backend, BackendOptions, Kit, backends
from backends.client import Answer
from backends.elastic import ColdStart, Elastic, ElasticOptions, PricePerSecond, retry_after, start_by_boot
from backends.envelope import encoded_size, from_result, overhead, to_event
from backends.instances import Instances, Span, Ticket, take_boot
from backends.runpod_job import FINAL, RUNNING, Job, read_job
from gateway.errors import BackendBroke, BackendDenied, BackendDown, BackendError, BackendFull
from gateway.options import Duration, Options, SecretRef
from gateway.vocab import Call, Headers, Reply, Start, Usage

RUNSYNC_LIMIT = 20_000_000
"""Bytes of a `runsync` request (documented as 20 MB)."""

_FIRST_POLL_S, _LAST_POLL_S, _POLL_GROWTH = 0.05, 1.0, 1.5
_POLL_FAILURES = 5  # in a row, before the job is given up
_CONTROL_S = 10.0  # for a cancel, a probe, and for a submission whose client has left


class JobPolicy(Options):
    """Limits that RunPod itself keeps for each job; its own defaults apply to what is left out."""

    execution_timeout: Duration | None = Field(default=None, ge=5, le=7 * 86400)
    """Longest time in a worker before the job is TIMED_OUT."""
    ttl: Duration | None = Field(default=None, ge=10, le=7 * 86400)
    """Longest life of a job, queue time included, before it is deleted."""
    low_priority: bool = False
    """Never make a new worker start for it."""


class RunPodOptions(ElasticOptions):
    """A serverless endpoint of RunPod, through its queue API."""

    type: Literal["runpod"]
    """Kind of backend."""
    endpoint_id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Id of the endpoint, as in its URL."""
    api_key: SecretRef
    """API key of the account, by reference."""
    base_url: str = Field(default="https://api.runpod.ai/v2", pattern=r"^https?://[^/?#@]+[^?#]*$")
    """Address of the API, without the endpoint id."""
    envelope: Literal["event", "raw"] = "event"
    """`event` carries the whole HTTP request to the worker kit; `raw` sends the JSON body as `input`
    to a handler that exists already, and answers with its `output`."""
    wait: Duration = Field(default=2.0, ge=1, le=300)
    """How long `runsync` may take before polling starts. A job cannot be cancelled before it answers."""
    policy: JobPolicy = JobPolicy()
    """Limits that RunPod keeps for each job."""
    price: PricePerSecond | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "10s", "idle_after": "5s"})
    """What is known ahead about its workers."""


@backends.add("runpod")
class RunPod(Elastic):
    """One endpoint."""

    Options: ClassVar[type[BackendOptions]] = RunPodOptions
    options: RunPodOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, RunPodOptions)
        self._usd = options.price.usd_per_second if options.price else None
        table = Instances(
            idle_after=options.cold_start.idle_after, usd_per_second=self._usd, round_up_to=1.0
        )
        super().__init__(name, options, kit, table=table, secrets={"api_key": options.api_key})
        self._url = f"{options.base_url.rstrip('/')}/{options.endpoint_id}"
        # Below this a queue delay is not a boot. RunPod's revived ("FlashBoot") workers stay under it.
        self._cold_delay = options.cold_start.expect / 4
        self.workers: Mapping[str, int] = {}
        """Workers by RunPod's own states, as of the last probe."""

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint whose API is served at `url`."""
        return {
            "type": "runpod",
            "endpoint_id": "abc123",
            "api_key": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "base_url": f"{url}/v2",
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.00022},
            "cold_start": {"expect": "8s", "idle_after": "5s"},
        }

    @property
    def price_known(self) -> bool:
        """True when the file says what a second costs."""
        return self._usd is not None

    def price(self, span: Span) -> float | None:
        """US dollars of a call's seconds."""
        return None if self._usd is None else span.billed_s * self._usd

    def cannot_carry(self, call: Call) -> str | None:
        """Too large for `runsync`, or, with `envelope: raw`, no JSON document in and out."""
        size = call.body.length or 0
        if self.options.envelope == "event":
            size = encoded_size(size) + overhead(call)
        else:
            if call.stream:
                return f"{self.name}: `envelope: raw` cannot answer with a stream"
            if call.method != b"POST" or any(n == b"inference-header-content-length" for n, _ in call.headers):
                return f"{self.name}: `envelope: raw` carries JSON bodies of POST requests only"
            size += 1024
        if size > RUNSYNC_LIMIT:
            return f"{self.name}: {size} bytes as a RunPod job, {RUNSYNC_LIMIT} are allowed"
        return None

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """One job. The answer is complete when it is there, so leaving has nothing to release."""
        return self._send(call)

    @contextlib.asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[Reply]:
        body = await call.body.read(RUNSYNC_LIMIT)
        job_input = self._input(call, body)
        if job_input is None:
            yield Reply(400, [(b"content-type", b"application/json")], _NOT_JSON)
            return
        with self.attempt(call) as ticket:
            run = _Run(self, ticket, self.kit.clock.now())
            reply = await run.result(self._document(job_input))
        yield reply

    def _input(self, call: Call, body: bytes) -> msgspec.Raw | None:
        """The job's `input`; None when the client's body is not the JSON object that `raw` needs."""
        if self.options.envelope == "event":
            return msgspec.Raw(msgspec.json.encode(to_event(call, body)))
        try:
            document = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return msgspec.Raw(msgspec.json.encode(document))

    def _document(self, job_input: msgspec.Raw) -> bytes:
        document: dict[str, Any] = {"input": job_input}
        policy = self.options.policy
        limits: dict[str, Any] = {}
        if policy.execution_timeout is not None:
            limits["executionTimeout"] = round(policy.execution_timeout * 1000)
        if policy.ttl is not None:
            limits["ttl"] = round(policy.ttl * 1000)
        if policy.low_priority:
            limits["lowPriority"] = True
        if limits:
            document["policy"] = limits
        return msgspec.json.encode(document)

    async def ask(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """One exchange with the API, whatever its status. Raises as the client does."""
        headers: Headers = [(b"authorization", b"Bearer " + self.credentials["api_key"].encode())]
        if body is not None:
            headers.append((b"content-type", b"application/json"))
        return await self.client.exchange(method, self._url + path, headers=self.with_added(headers), body=body)

    def refusal(self, answer: Answer) -> BackendError:
        """What an HTTP status other than 200 means for a submission (RunPod's error codes)."""
        said = f"{self.name}: RunPod answered {answer.status}: {self.credentials.excerpt(answer.body)}"
        if answer.status == 429:
            return BackendFull(said, retry_after=retry_after(answer.headers, self.kit.clock.wall()))
        if answer.status in (401, 403):
            self.credentials.forget()
        if answer.status >= 500 or answer.status == 408:
            return BackendBroke(said)
        return BackendDenied(said)

    def reply(self, job: Job, start: Start, usage: Usage) -> Reply:
        """The client's answer from the output of a COMPLETED job."""
        if self.options.envelope == "raw":
            body = bytes(job.output) if job.output is not None else b"null"
            return Reply(200, [(b"content-type", b"application/json")], body, start=start, usage=usage)
        status, headers, body = from_result(job.value())
        headers, _ = take_boot(headers)
        return Reply(status, headers, body, start=start, usage=usage)

    def judge(self, job: Job, ticket: Ticket, elapsed: float) -> tuple[Start, float | None, str]:
        """Warm or cold, seconds of start-up, and the instance's name, from all that came back."""
        boot = None
        if self.options.envelope == "event" and job.status == "COMPLETED":
            with contextlib.suppress(BackendBroke):
                _, boot = take_boot(from_result(job.value())[1])
        now = self.kit.clock.now()
        instance = job.worker or (boot.id if boot else "")
        seen = self.table.knows(instance, now)
        delay = job.delay_s
        if boot is not None:
            start = start_by_boot(boot, elapsed, seen=seen)
        elif seen:
            start = Start.WARM
        elif delay is None:
            start = Start.UNKNOWN
        elif delay <= self._cold_delay:
            start = Start.WARM
        else:
            start = Start.COLD if job.worker else Start.UNKNOWN
        if start is Start.COLD:
            waited = max(0.0, elapsed - (job.execution_s or 0.0))
            return start, delay if delay is not None else waited, instance
        return start, 0.0 if start is Start.WARM else None, instance

    async def probe(self, replica: int) -> bool | None:
        """GET /health, which is free: False when the API refuses us or cannot be reached."""
        try:
            async with asyncio.timeout(_CONTROL_S):
                answer = await self.ask("GET", "/health")
        except (BackendError, TimeoutError):
            return False
        if answer.status != 200:
            # Too many questions, or trouble with this one question, say nothing about jobs.
            return False if answer.status in (401, 403, 404) else None
        with contextlib.suppress(msgspec.MsgspecError):
            self.workers = msgspec.json.decode(answer.body, type=_Health).workers
        return True


class _Health(msgspec.Struct):
    workers: dict[str, int] = {}


_NOT_JSON = b'{"error":"the body has to be a JSON object: it becomes the input of a job"}'


class _Run:
    """One job's life: submitted, polled, answered; or, when its client leaves, cancelled behind it."""

    def __init__(self, backend: RunPod, ticket: Ticket, sent: float) -> None:
        self._backend = backend
        self._ticket = ticket
        self._sent = sent
        self._submitted: asyncio.Future[Answer | BackendError] = asyncio.get_running_loop().create_future()
        self._patience = asyncio.timeout(None)
        self._job: Job | None = None

    async def result(self, document: bytes) -> Reply:
        """Carry the job to its end. Being cancelled cancels the job, in the background."""
        kit = self._backend.kit
        # The submission is a task of its own: if the client leaves while `runsync` is waiting, the id
        # that a cancel needs is still to come.
        kit.spawn(self._submit(document), name=f"{self._backend.name}: runsync")
        try:
            answer = await asyncio.shield(self._submitted)
            if isinstance(answer, BackendError):
                raise answer
            self._job = self._accepted(answer)
            while self._job.status not in FINAL:
                self._note(self._job)
                self._job = await self._poll(self._job.id)
            return self._finish(self._job)
        except asyncio.CancelledError:
            self._leave()
            raise
        except BackendBroke:
            if self._job is not None and self._job.status not in FINAL:
                self._leave()
            raise

    async def _submit(self, document: bytes) -> None:
        path = f"/runsync?wait={round(self._backend.options.wait * 1000)}"
        outcome: Answer | BackendError
        try:
            async with self._patience:
                outcome = await self._backend.ask("POST", path, document)
        except BackendError as error:
            outcome = error
        except TimeoutError:
            outcome = BackendBroke(f"{self._backend.name}: RunPod did not acknowledge the job")
        except asyncio.CancelledError:
            self._submitted.cancel()
            raise
        self._submitted.set_result(outcome)

    def _accepted(self, answer: Answer) -> Job:
        if answer.status != 200:
            raise self._backend.refusal(answer)
        return read_job(self._backend.name, answer.body)
