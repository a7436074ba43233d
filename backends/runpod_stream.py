"""A streamed job of RunPod's queue API: made with `run`, its output asked for with `stream` while it runs.

Knows how parts are numbered, put in order and found again. It must never know prices, or what a part holds.

Wire facts (RunPod documentation, "Endpoint operations"; its Python SDK):
- a handler that is a generator streams: each thing that it yields is one `{"output": …}` of the batch with
  which the next `GET /stream/ID` is answered. A batch is told once. The stream is over when the status is
  final and the batch is empty; a part is at most 1 MB;
- the SDK logs a part that it could not hand over, and goes on with the next one;
- with `return_aggregate_stream` the job's output is the list of all that was yielded.

So parts may be missing: an answer that got lost on its way here takes a batch with it. The worker kit numbers
them and marks the last one. After a gap what is missing is read from the job's output, once there is one.
Not documented, so not relied on: whether `stream` waits for output, and which times and ids it tells.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any, NamedTuple

import msgspec

from backends.client import Answer
from backends.instances import Instances, Ticket
from backends.outlasting import outlasting
from backends.remote_job import CONTROL_S, JobGone, NotTold, Phase
from backends.runpod_job import FINAL, STATUSES, Job, RunPodApi
from gateway.errors import BackendBroke, BackendError
from gateway.vocab import Work

RUN_LIMIT = 10_000_000
"""Bytes of a `run` request (documented as 10 MB)."""

STREAMED = "streamed"
"""Member of an event that asks the worker for the answer in parts as it is made."""

_SUBMIT_S = 40.0
_FIRST_POLL_S, _LAST_POLL_S, _POLL_GROWTH = 0.1, 1.0, 1.5
_POLL_FAILURES = 5  # in a row, until the job is given up
_END_S = 2.0  # for which the end of an answer is held back, to learn what the job used


class Part(NamedTuple):
    """One thing that the worker has yielded: `content` is a result. The first has status and fields."""

    number: int
    last: bool
    content: dict[str, Any]


class _Chunk(msgspec.Struct):
    output: Any = None


class _Batch(msgspec.Struct):
    status: str
    stream: list[_Chunk] = []


def read_part(output: object) -> Part | None:
    """A part as the worker kit yields it; None for anything else."""
    if not isinstance(output, dict):
        return None
    number = output.get("part")
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    return Part(number, output.get("last") is True, output)


def parts_of(output: object) -> Iterator[Part]:
    """The parts in the output of a job that is over."""
    for each in output if isinstance(output, list) else ():
        part = read_part(each)
        if part is not None:
            yield part


class StreamRun:
    """One streamed job, driven by the task of its call; if the call goes away, cancelled behind it."""

    def __init__(self, api: RunPodApi, table: Instances, ticket: Ticket) -> None:
        self._api = api
        self._table = table
        self._ticket = ticket
        self._job = Job("")
        self._phase: Phase | None = None  # None: there is no job (yet), or none any more
        self._final: Job | None = None
        self.complete = False
        """The last part has been given out."""

    async def begin(self, document: bytes) -> None:
        """Have the job made. Raises BackendError."""
        try:
            answer = await outlasting(
                self._api.ask("POST", "/run", document), spawn=self._api.kit.spawn,
                name=f"{self._api.name}: run", limit_s=_SUBMIT_S, afterwards=self._unclaimed,
            )  # fmt: skip
        except asyncio.CancelledError:
            self._ticket.adopted = True
            raise
        self._accept(answer)

    def _accept(self, answer: Answer) -> None:
        self._job = self._api.accepted(answer)
        self._phase = self._api.phase(self._job)

    def _unclaimed(self, outcome: Answer | BackendError) -> None:
        """The submission has ended after its call had gone."""
        try:
            if isinstance(outcome, BackendError):
                raise outcome
            self._accept(outcome)
        except BackendError as error:
            if error.work is Work.NOT_STARTED:
                self._table.undo(self._ticket)
        else:
            self.give_up()
        self._table.lose(self._ticket, self._api.kit.clock.now())

    async def parts(self) -> AsyncGenerator[Part, None]:
        """What the worker yields, in order, to the last part; it ends without that one if the job does.

        Raises BackendBroke when the job cannot be asked about any more.
        """
        expected, missing = 0, False
        async for part in self._told():
            if part.number > expected:
                missing = True  # and what follows it is in the job's output, too
            if missing or part.number < expected:
                continue
            expected += 1
            self.complete = part.last
            yield part
            if part.last:
                return
        job = await self.ended()
        for part in parts_of(_decoded(job)):
            if part.number == expected:
                expected += 1
                self.complete = part.last
                yield part

    async def _told(self) -> AsyncGenerator[Part, None]:
        least, failures = _FIRST_POLL_S, 0
        interval = least
        while True:
            try:
                batch = self._read(await self._api.ask("GET", f"/stream/{self._job.id}"))
            except JobGone:
                self._phase = None
                raise
            except BackendError as error:
                failures += 1
                if failures > _POLL_FAILURES:
                    raise BackendBroke(
                        f"{self._api.name}: the job's stream cannot be read: {error}"
                    ) from None
                least = min(_LAST_POLL_S, 2 * least)  # it may be that we ask too often
                interval = max(least, min(error.retry_after or 0.0, 10 * _LAST_POLL_S))
            else:
                failures = 0
                self._note(batch.status)
                for chunk in batch.stream:
                    if (part := read_part(chunk.output)) is not None:
                        yield part
                if self._phase is Phase.FINAL:
                    if not batch.stream:
                        return
                    continue
                interval = least if batch.stream else min(_LAST_POLL_S, interval * _POLL_GROWTH)
            await asyncio.sleep(interval)

    def _read(self, answer: Answer) -> _Batch:
        if answer.status == 404:
            raise JobGone(f"{self._api.name}: RunPod no longer knows the job; its ttl is over")
        if answer.status != 200:
            refusal = self._api.refusal(answer)
            raise NotTold(str(refusal), retry_after=refusal.retry_after)
        try:
            batch = msgspec.json.decode(answer.body, type=_Batch)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise NotTold(f"{self._api.name}: RunPod's answer is no part of a stream") from None
        if batch.status not in STATUSES:
            raise NotTold(f"{self._api.name}: RunPod reports a job status that is not known")
        return batch

    def _note(self, status: str) -> None:
        if status in FINAL:
            self._phase = Phase.FINAL
        elif status != "IN_QUEUE":
            self._phase = Phase.RUNNING
            self._table.running(self._ticket)

    async def ended(self) -> Job:
        """The job when it is over, with its times. What is known of it, if that cannot be learned soon."""
        if self._phase is None:
            return self._job
        if self._final is None:
            self._final = await self._asked()
        return self._final

    async def _asked(self) -> Job:
        interval = 0.0
        try:
            async with asyncio.timeout(_END_S):
                while True:
                    await asyncio.sleep(interval)
                    interval = min(_LAST_POLL_S, _POLL_GROWTH * interval or _FIRST_POLL_S / 2)
                    try:
                        job = self._api.latest(self._job, await self._api.status(self._job))
                    except NotTold:
                        continue
                    if self._api.phase(job) is Phase.FINAL:
                        self._phase = Phase.FINAL
                        return job
        except (BackendError, TimeoutError):
            return self._job

    def give_up(self) -> None:
        """The call has gone. What was started for a job that still waits may come up all the same."""
        if self._phase is Phase.QUEUED:
            self._table.leave(self._ticket, self._api.kit.clock.now())
        self.leave()

    def leave(self) -> None:
        """Nobody reads on: the job is cancelled, unless it is over."""
        if self._phase in (Phase.QUEUED, Phase.RUNNING) and not self.complete:
            self._phase = None
            self._api.kit.spawn(self._cancel(), name=f"{self._api.name}: cancel")

    async def _cancel(self) -> None:
        """Best effort: RunPod's own limit ends one whose cancel got lost."""
        try:
            async with asyncio.timeout(CONTROL_S):
                await self._api.cancel(self._job)
        except (BackendError, TimeoutError):
            return


def _decoded(job: Job) -> object:
    try:
        return msgspec.json.decode(job.output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
