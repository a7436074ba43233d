"""One job of the emulated RunPod queue, and how a worker's handler works on it.

Must never know HTTP or when a job begins.
"""

import asyncio
import inspect
import json
from typing import Any, Protocol

from backends.emulators.instance import Handler

FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})


class StreamSettings(Protocol):
    """What bounds a stream (`RunPodOptions`)."""

    @property
    def part_bytes(self) -> int: ...
    @property
    def return_aggregate_stream(self) -> bool: ...


class Job:
    """One job, from its arrival until it is forgotten."""

    def __init__(self, name: str, document: Any, arrived: float, *, kept_s: float) -> None:
        self.id = name
        self.input = document["input"]
        self.arrived = arrived
        self.kept_s = kept_s
        policy = document.get("policy") or {}
        self.execution_timeout_s = float(policy.get("executionTimeout", 600_000)) / 1000
        self.ttl_s = float(policy.get("ttl", 86_400_000)) / 1000
        self.status = "IN_QUEUE"
        self.started: float | None = None
        self.ended: float | None = None
        self.execution_s = 0.0
        self.worker = ""
        self.output: Any = None
        self.yielded: list[Any] = []
        """What a generator has yielded and nobody has been told yet."""
        self.error: str | None = None
        self.done = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None

    def finish(self, status: str, now: float) -> None:
        """Final; a second call changes nothing."""
        if self.status not in FINAL:
            self.status = status
            self.ended = now
            self.done.set()

    def forgotten(self, now: float) -> bool:
        """True when RunPod would answer 404 for it."""
        if now >= self.arrived + self.ttl_s:
            return True
        return self.ended is not None and now >= self.ended + self.kept_s

    def report(self) -> dict[str, Any]:
        """The status document; fields that have no value yet are absent, as in reality."""
        document: dict[str, Any] = {"id": self.id, "status": self.status}
        if self.started is not None:
            document["delayTime"] = round((self.started - self.arrived) * 1000)
            document["workerId"] = self.worker
        if self.ended is not None and self.started is not None:
            document["executionTime"] = round(self.execution_s * 1000)
        if self.status == "COMPLETED":
            document["output"] = self.output
        if self.error is not None:
            document["error"] = self.error
            if self.output is not None:
                document["output"] = self.output
        return document


class YieldedError(Exception):
    """A generator yielded an object with a word in `error`, which fails its job."""


def streaming(handler: Handler, settings: StreamSettings) -> Handler:
    """The handler as a fleet calls it: with a job, or with another event, which is handed on as it is."""
    if inspect.iscoroutinefunction(handler):

        async def waiting(work: Any) -> Any:
            return await handler(_event(work))

        return waiting
    generates = inspect.isgeneratorfunction(handler)

    def serve(work: Any) -> Any:
        if generates and isinstance(work, Job):
            return _yielding(handler, work, settings)
        return handler(_event(work))

    return serve


def _yielding(handler: Handler, job: Job, settings: StreamSettings) -> list[Any]:
    """Run a generator as RunPod's SDK does; from a thread."""
    whole: list[Any] = []
    for piece in handler(_event(job)):
        if isinstance(piece, dict) and piece.get("error"):
            raise YieldedError(piece["error"])
        if len(json.dumps(piece)) > settings.part_bytes:
            raise ValueError(f"a part of more than {settings.part_bytes} bytes")
        if job.status in FINAL:
            break
        if settings.return_aggregate_stream:
            whole.append(piece)
        job.yielded.append(piece)
    return whole


def _event(work: Any) -> Any:
    return {"id": work.id, "input": work.input} if isinstance(work, Job) else work
