"""RunPod serverless, queue API: one job per call, its output turned back into an HTTP answer.

Knows what a job's output, times and failure mean for a call; remote_job carries the job through. It
never sends a job twice: ids are the server's, so sending again could run the work twice.

RunPod's queue API answers with one JSON document, and a streamed answer arrives in one piece; with `response:
streamed` it is asked for in parts, while the job runs (`runpod_stream.py`).
"""

import asyncio
import contextlib
from asyncio import timeout
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from pydantic import Field, model_validator

from backends.base import BackendOptions, Kit, backends
from backends.elastic import (
    ColdStart,
    Elastic,
    ElasticOptions,
    HttpUrl,
    PricePerSecond,
    check_envelope,
    rent_by_second,
    start_by_boot,
)
from backends.envelope import encoded_size, overhead, to_event, unfit_for_raw
from backends.instances import Boot, Ticket, take_boot
from backends.pings import Pinged
from backends.remote_job import CONTROL_S, JobRun
from backends.runpod_control import WORKERS_STEP_S, ControlOptions, RunPodControl, control_secrets
from backends.runpod_job import Job, RunPodApi
from backends.runpod_stream import RUN_LIMIT, STREAMED, Part, StreamRun, parts_of
from backends.time_left import time_left
from backends.worker_answer import hear
from gateway.errors import AnswerTruncated, BackendBroke, BackendError, BackendFull
from gateway.options import Duration, Options, SecretRef
from gateway.vocab import Call, Charge, Headers, Reply, Start, Usage

RUNSYNC_LIMIT = 20_000_000
"""Bytes of a `runsync` request (documented as 20 MB)."""

LONGEST_PING_S = 30.0
"""Most seconds of `runsync` for a ping, before polling."""

_NOT_JSON = b'{"error":"the body has to be a JSON object: it becomes the input of a job"}'


_OWN_EXECUTION_S, _OWN_TTL_S = 600, 86_400
"""RunPod's own defaults: a job is never given more than these unless the file says so."""


class JobPolicy(Options):
    """Limits that RunPod itself keeps for each job, none above what its call has left; RunPod's own defaults
    apply to what is left out.
    """

    execution_timeout: Annotated[Duration, Field(ge=5, le=7 * 86400)] | None = None
    """Longest time in a worker before the job is TIMED_OUT."""
    ttl: Annotated[Duration, Field(ge=10, le=7 * 86400)] | None = None
    """Longest life of a job, queue time included, before it is deleted."""
    low_priority: bool = False
    """Never make a new worker start for it."""

    def document(self, left: int | None = None) -> dict[str, Any]:
        """The `policy` of a job, in RunPod's words; `left`: seconds that its call has, 10 or more."""
        document: dict[str, Any] = {}
        execution, ttl = self.execution_timeout, self.ttl
        if left is not None and left < (execution or _OWN_EXECUTION_S):
            execution = left
        if left is not None and left < (ttl or _OWN_TTL_S):
            ttl = left
        if execution is not None:
            document["executionTimeout"] = round(execution * 1000)
        if ttl is not None:
            document["ttl"] = round(ttl * 1000)
        if self.low_priority:
            document["lowPriority"] = True
        return document


class RunPodOptions(ElasticOptions):
    """A serverless endpoint of RunPod, through its queue API."""

    QUEUES: ClassVar[bool] = True
    type: Literal["runpod"]
    """Kind of backend."""
    endpoint_id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Id of the endpoint, as in its URL."""
    api_key: SecretRef
    """API key of the account, by reference."""
    base_url: HttpUrl = "https://api.runpod.ai/v2"
    """Address of the API, without the endpoint id."""
    envelope: Literal["event", "raw"] = "event"
    """`event` carries the whole HTTP request to the worker kit; `raw` sends the JSON body as `input`
    to a handler that exists already, and answers with its `output`."""
    response: Literal["buffered", "streamed"] = "buffered"
    """How calls that want a stream are answered: `buffered`, in one piece when all of it is there, or
    `streamed`, as it is made, by a worker that serves with `OVERSPILL_STREAM=1`."""
    wait: Annotated[Duration, Field(ge=1, le=300)] = 2.0
    """How long `runsync` may take before polling starts. A job cannot be cancelled before it answers."""
    policy: JobPolicy = JobPolicy()
    """Limits that RunPod keeps for each job."""
    control: ControlOptions | None = None
    """Access to the endpoint's settings, with a key of its own. Left out, they are not even read."""
    price: PricePerSecond | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "10s", "idle_after": "5s"})
    """What is known ahead about its workers."""

    @model_validator(mode="after")
    def _kit_answers_pings(self) -> Self:
        check_envelope(self, self.envelope)
        if self.envelope == "raw" and self.response == "streamed":
            raise ValueError("response: streamed needs envelope: event, and the worker kit on the other side")
        return self


@backends.add("runpod")
class RunPod(Elastic):
    """One endpoint."""

    Options: ClassVar[type[BackendOptions]] = RunPodOptions
    STARTS_FOR_WAITING: ClassVar[bool] = True
    options: RunPodOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, RunPodOptions)
        rent = rent_by_second(options.price, options.cold_start, round_up_s=WORKERS_STEP_S)
        secrets = {"api_key": options.api_key, **control_secrets(options.control)}
        super().__init__(name, options, kit, rent=rent, secrets=secrets)
        self._control = RunPodControl(self, options.endpoint_id, options.control) if options.control else None
        url = f"{options.base_url.rstrip('/')}/{options.endpoint_id}"
        self._api = RunPodApi(self, url)
        # Below this a queue delay is not a boot. Workers that RunPod revives from a snapshot stay under it.
        self._cold_delay = options.cold_start.expect / 4
        self.workers: Mapping[str, int] = {}
        """Workers by RunPod's own states, as of the last probe; all `throttled` means that it has no GPU."""

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint whose API is served at `url`."""
        return {
            "type": "runpod",
            "endpoint_id": "abc123",
            "api_key": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "base_url": f"{url}/v2",
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.00019},
            "cold_start": {"expect": "8s", "idle_after": "5s"},
        }

    def cannot_carry(self, call: Call) -> str | None:
        """Too large for `runsync`, or, with `envelope: raw`, no JSON document in and out."""
        size = call.body.length or 0
        limit = RUN_LIMIT if self._streams(call) else RUNSYNC_LIMIT
        if self.options.envelope == "event":
            size = encoded_size(size) + overhead(call)
        else:
            if (why := unfit_for_raw(call)) is not None:
                return f"{self.name}: {why}"
            size += 1024
        if size > limit:
            return f"{self.name}: {size} bytes as a RunPod job, {limit} are allowed"
        return None

    @property
    def can_open(self) -> bool:
        """Where the worker kit, or something like it, answers, or where workers may be managed."""
        return super().can_open and (self.options.envelope == "event" or self._manages)

    @property
    def binds_late(self) -> bool:
        """Where nobody can ping a handler, its jobs wait in RunPod's queue for any of its workers."""
        asked = self.options.late_binding
        return asked == "provider" or (asked == "ping" and not self.can_open)

    @property
    def _manages(self) -> bool:
        return self._control is not None and self._control.manages

    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """One job. Nothing is gained by a short `runsync`: its answer is what is waited for."""
        if self._control is not None and self._control.manages and ticket.fresh:
            return await self._control.open_one(ticket, self.pings.patience)
        if self.options.envelope == "raw":
            raise BackendFull(f"{self.name}: a handler of its own cannot be asked to stay up")
        document = msgspec.json.encode(self._job(to_event(call, b"")))
        wait = max(self.options.wait, min(self.options.cold_start.expect, LONGEST_PING_S))
        job = await JobRun(self._api, self.table, ticket).result(document, wait)
        heard = hear(lambda: self._output(job), kit=True)
        boot, now = heard.boot, self.kit.clock.now()
        start, boot_s, instance = self._judge(job, boot, now, now - ticket.began)
        if (fault := heard.fault_of_ping(f"{self.name}: a worker")) is not None:
            fault.usage = Usage(None, boot_s, None, instance)
            raise fault
        return Pinged(instance, start, boot_s, boot.age if boot else None, job.execution_s)

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """One job. An answer in one piece is complete when it is there: leaving has nothing to release."""
        return self._stream(call) if self._streams(call) else self._send(call)

    def _streams(self, call: Call) -> bool:
        return call.stream and self.options.response == "streamed"

    @contextlib.asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[Reply]:
        body = await call.body.read(RUNSYNC_LIMIT)
        document = self._document(call, body)
        if document is None:
            yield Reply(400, [(b"content-type", b"application/json")], _NOT_JSON)
            return
        with self.attempt(call) as ticket:
            run = JobRun(self._api, self.table, ticket, ended=lambda job: self._unclaimed(job, ticket))
            job = await run.result(document, self.options.wait)
            reply = self._answer(job, ticket)
        yield reply

    @contextlib.asynccontextmanager
    async def _stream(self, call: Call) -> AsyncIterator[Reply]:
        event = to_event(call, await call.body.read(RUN_LIMIT))
        document = msgspec.json.encode(self._job({**event, STREAMED: True}))
        with self.attempt(call) as ticket:
            run = StreamRun(self._api, self.table, ticket)
            try:
                await run.begin(document)
                async with contextlib.aclosing(run.parts()) as parts:
                    first = await anext(parts, None)
                    if first is None:  # it has failed, or its worker does not stream
                        yield self._answer(await run.ended(), ticket)
                    else:
                        yield await self._flowing(run, first, parts, ticket)
            except asyncio.CancelledError:
                run.give_up()
                raise
            finally:
                run.leave()

    async def _flowing(
        self, run: StreamRun, first: Part, parts: AsyncIterator[Part], ticket: Ticket
    ) -> Reply:
        """The answer from its first part on. What it used is known with its end."""
        status, headers, body = self.unpack(first.content)
        headers, boot = take_boot(headers)
        if first.last:
            start, usage = self._ended(await run.ended(), boot, ticket)
            return Reply(status, headers, body, start=start, usage=usage)
        # A worker that came up meanwhile may have done so for another call: RunPod's word comes with the end.
        waited = self.kit.clock.now() - ticket.began
        up = boot is not None and boot.age is not None and start_by_boot(boot, waited, seen=False)
        reply = Reply(status, headers, start=Start.WARM if up is Start.WARM else Start.UNKNOWN)

        async def relayed() -> AsyncIterator[bytes]:
            try:
                yield body
                async for part in parts:
                    yield self.unpack({**part.content, "statusCode": status})[2]
                if not run.complete:
                    raise self._cut_short(await run.ended())
            except BackendBroke as error:
                run.leave()
                usage = self._ended(await run.ended(), boot, ticket)[1]
                raise AnswerTruncated(str(error), usage=usage) from error
            reply.start, reply.usage = self._ended(await run.ended(), boot, ticket)

        reply.stream = relayed()
        return reply

    def _document(self, call: Call, body: bytes) -> bytes | None:
        """The job to submit; None when the client's body is not the JSON object that `raw` needs."""
        left = time_left(call, self.kit.clock, least=10)
        if self.options.envelope == "event":
            return msgspec.json.encode(self._job(to_event(call, body), left))
        try:
            content = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            return msgspec.json.encode(self._job(content, left))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def _job(self, content: Mapping[str, Any], left: int | None = None) -> dict[str, Any]:
        job: dict[str, Any] = {"input": content}
        if policy := self.options.policy.document(left):
            job["policy"] = policy
        return job

    def _answer(self, job: Job, ticket: Ticket) -> Reply:
        """The client's answer from a job that is final. Raises BackendBroke unless it is COMPLETED."""
        heard = hear(lambda: self._output(job), kit=self.options.envelope == "event")
        return heard.reply(*self._ended(job, heard.boot, ticket))

    def _ended(self, job: Job, boot: Boot | None, ticket: Ticket) -> tuple[Start, Usage]:
        """Warm or cold, and what it used, of a job that is over."""
        now = self.kit.clock.now()
        start, boot_s, instance = self._judge(job, boot, now, now - ticket.began)
        span = self.table.end(ticket, now, instance_id=instance, boot_s=boot_s, busy_s=job.execution_s)
        # RunPod bills a worker from its start on; rounding to whole seconds is settled with its end.
        usage = self.usage(span, boot_s, instance, reported=job.execution_ms is not None)
        return start, usage._replace(queued_s=job.delay_s) if start is Start.WARM else usage

    def _unclaimed(self, job: Job, ticket: Ticket) -> None:
        """A job that ended when its call was gone: what it used is a charge."""
        try:
            usage = self._answer(job, ticket).usage
        except BackendBroke as error:
            usage = error.usage
        if usage is not None and usage.usd:
            self.table.owe(Charge(ticket.route, ticket.kind, usage.usd))

    def _output(self, job: Job) -> tuple[int, Headers, bytes]:
        if job.status != "COMPLETED":
            raise self._cut_short(job)
        if self.options.envelope == "raw":
            return 200, [(b"content-type", b"application/json")], bytes(job.output)
        try:
            result = msgspec.json.decode(job.output)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BackendBroke(f"{self.name}: the job's output is no result of a worker") from None
        parts = list(parts_of(result))
        if not parts:
            return self.unpack(result)
        # A worker that can stream yields every answer in parts.
        status, headers, body = self.unpack(parts[0].content)
        rest = [self.unpack({**part.content, "statusCode": status})[2] for part in parts[1:]]
        if [part.number for part in parts] != list(range(len(parts))) or not parts[-1].last:
            raise self._cut_short(job)
        return status, headers, b"".join((body, *rest))

    def _cut_short(self, job: Job) -> BackendBroke:
        """What to say of a job that ended before its answer did."""
        if job.status == "COMPLETED":
            return BackendBroke(f"{self.name}: parts of the worker's answer are missing")
        why = self.credentials.excerpt(job.why())
        return BackendBroke(f"{self.name}: the job ended as {job.status}" + (f": {why}" if why else ""))

    def _judge(
        self, job: Job, boot: Boot | None, now: float, elapsed: float
    ) -> tuple[Start, float | None, str]:
        """Warm or cold, seconds of start-up, and the instance's name, from all that came back.

        The worker's own word comes first. Without it, a delay far below a boot was none, and a long
        one was a boot if that worker has not served before; else it may have been the queue.
        """
        instance = job.worker or (boot.id if boot else "")
        seen = self.table.knows(instance, now)
        delay = job.delay_s
        if boot is not None:
            start = start_by_boot(boot, elapsed, seen=seen)
        elif seen or (delay is not None and delay <= self._cold_delay):
            start = Start.WARM
        else:
            start = Start.COLD if delay is not None and job.worker else Start.UNKNOWN
        if start is Start.COLD:
            boot_s = delay if delay is not None else max(0.0, elapsed - (job.execution_s or 0.0))
            return start, boot_s, instance
        return start, 0.0 if start is Start.WARM else None, instance

    async def probe(self, replica: int) -> bool | None:
        """GET /health, which is free: False when the API refuses us or cannot be reached."""
        try:
            async with timeout(CONTROL_S):
                answer = await self._api.ask("GET", "/health")
        except (BackendError, TimeoutError):
            return False
        if answer.status != 200:
            # Too many questions, or trouble with this one question, say nothing about jobs.
            return False if answer.status in (401, 403, 404) else None
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.workers = msgspec.json.decode(answer.body, type=_Health).workers
        # Where no worker may start, a job would be queued and wait for ever.
        return self._control is None or await self._control.usable() is not False


class _Health(msgspec.Struct):
    workers: dict[str, int] = {}
