"""RunPod load-balancing endpoints: the call's own HTTP request, straight to a worker's server, no queue.

Knows which failures are the load balancer's and which are the application's. It waits for a worker
where RunPod says that none is up; it never sends again what a worker may have taken.

Wire facts (RunPod documentation, "Load balancing endpoints"):
- `https://ENDPOINT_ID.api.runpod.ai/ANY/PATH`, 30 MB each way, 330 s for one request; nothing is queued
  or tried again by RunPod, and what is too much is dropped;
- while no worker is up a request is held, or answered with "no workers available", which starts one;
  the health path answers 200 when a worker can serve and 204 while one is starting;
- answers of a worker carry `X-Runpod-Worker-Id`; the same field of a request binds it to a worker.
Not documented, so any of them is understood: the status of "no workers available" (400 and 503 have been
seen), and that RunPod's own errors carry no worker's id.
"""

import asyncio
import re
from asyncio import timeout
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Literal

from pydantic import Field

from backends.base import BackendOptions, Kit, backends
from backends.client import Answer, join_url
from backends.elastic import ColdStart, HttpUrl
from backends.instances import Ticket
from backends.pings import Pinged
from backends.runpod_web import RunPodWeb, RunPodWebOptions, runpod_example
from backends.web_endpoint import Told
from gateway.errors import BackendBroke, BackendError, BackendFull
from gateway.options import Duration
from gateway.vocab import Call, Headers, Reply, Start

PAYLOAD_LIMIT = 30_000_000
"""Bytes of a request, and of its answer (documented as 30 MB)."""

_WORKER_ID = b"x-runpod-worker-id"
_NO_WORKER = re.compile(rb"no\s+(available\s+|healthy\s+|ready\s+)?workers?\b", re.IGNORECASE)
_NO_ENDPOINT = re.compile(rb"endpoint", re.IGNORECASE)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _PAUSE_GROWTH = 0.1, 2.0, 1.5
_HEALTH_S = 10.0


class RunPodLbOptions(RunPodWebOptions):
    """A load-balancing endpoint of RunPod."""

    type: Literal["runpod_lb"]
    """Kind of backend."""
    url: HttpUrl = "https://{endpoint_id}.api.runpod.ai"
    """Address of the endpoint; the path of each request is appended to it."""
    health_path: str = Field(default="/ping", pattern=r"^/[!-~]*$")
    """Path on which the workers tell their health (HEALTH_CHECK_PATH): 200 up, 204 starting."""
    wait_for_worker: Duration = 60.0
    """How long a call waits while RunPod says that no worker is up. Nothing has run by then."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "10s", "idle_after": "5s"})
    """What is known ahead about its workers."""


class NoWorker(BackendFull):
    """No worker is up. RunPod starts one for a request that it has answered so."""


@backends.add("runpod_lb")
class RunPodLb(RunPodWeb):
    """One endpoint."""

    Options: ClassVar[type[BackendOptions]] = RunPodLbOptions
    PAYLOAD_LIMIT: ClassVar[int] = PAYLOAD_LIMIT
    options: RunPodLbOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, RunPodLbOptions)
        super().__init__(name, options, kit)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint that is served at `url`."""
        cold = {"expect": "8s", "idle_after": "5s"}
        return {**runpod_example("runpod_lb", url), "price": {"usd_per_second": 0.00019}, "cold_start": cold}

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the key. A client cannot choose its worker: which are busy is known here."""
        return await super().fields([field for field in headers if field[0] != _WORKER_ID], address)

    def judged(self, status: int) -> bool:
        """400 too: "no workers available" has come with it."""
        return status == 400 or super().judged(status)

    def refusal(self, answer: Answer) -> BackendError | None:
        """What is the load balancer's own word; None for whatever a worker said, but that it is full."""
        status, body = answer.status, answer.body
        by_worker = any(name == _WORKER_ID for name, _ in answer.headers)
        said = f"{self.name}: {'a worker' if by_worker else 'RunPod'} answered {status}"
        if not by_worker and _NO_WORKER.search(body):
            return NoWorker(f"{self.name}: no worker is up", retry_after=self.options.cold_start.expect)
        if status == 401 or (status == 403 and not by_worker):
            return self.denied(said, body)
        if status == 404 and not by_worker and _NO_ENDPOINT.search(body):
            return self.denied(said, body)
        if status in (429, 503):
            return self.full(said, answer, own=not by_worker)
        if status >= 500 and not by_worker:
            return BackendBroke(f"{said}: {self.credentials.excerpt(body)}")
        return None

    def told(self, headers: Headers, ticket: Ticket) -> tuple[Headers, Told]:
        """The worker kit's word if there is one. Else a worker that has served before is warm, and so is
        an answer that came far sooner than a worker boots; anything else is not known.
        """
        worker = next((value.decode("latin-1") for name, value in headers if name == _WORKER_ID), "")
        # One name for one worker: answers that the kit had no part in carry RunPod's alone.
        rest = [field for field in headers if field[0] != _WORKER_ID]
        headers, told = self.told_by_kit(rest, ticket, worker)
        if told.instance:
            return headers, told
        if self.table.knows(worker, self.kit.clock.now()) or self.soon(ticket):
            return headers, Told(Start.WARM, 0.0, worker)
        return headers, Told(instance=worker)

    async def answered(self, call: Call, ticket: Ticket, held: AsyncExitStack) -> Reply:
        """The answer, once there is a worker to give one."""
        give_up = self.kit.clock.now() + self.options.wait_for_worker
        while True:
            try:
                return await super().answered(call, ticket, held)
            except NoWorker as none:
                await held.aclose()
                if not call.body.repeatable:
                    raise
                await self._worker(none, give_up)

    async def ask_to_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """One request, once a worker is up."""
        give_up = self.kit.clock.now() + self.pings.patience
        while True:
            try:
                return await super().ask_to_ping(call, ticket)
            except NoWorker as none:
                await self._worker(none, give_up)

    async def _worker(self, none: NoWorker, give_up: float) -> None:
        """Return when the health path says that a worker is up; raise `none` when the time is over."""
        address = join_url(self.base, self.options.health_path.encode())
        pause = _FIRST_PAUSE_S
        while True:
            left = give_up - self.kit.clock.now()
            if left <= 0:
                raise none
            await asyncio.sleep(min(pause, left))
            pause = min(_LONGEST_PAUSE_S, pause * _PAUSE_GROWTH)
            try:
                async with timeout(_HEALTH_S):
                    headers = await self.fields([], address)
                    answer = await self.client.exchange("GET", address, headers=headers)
            except (BackendError, TimeoutError):
                continue
            if answer.status == 200:
                return
