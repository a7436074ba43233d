"""RunPod's serverless queue API on a local port.

Must never know a gateway or the gateway's client of this API: it is written from RunPod's documentation
and SDKs (runpod 1.12.0) so that the two check each other. Left out: webhooks. The OpenAI route is in
runpod_openai.py, load balancing endpoints are in runpod_lb.py. Unverified and chosen here: the bodies of
401, 404, 413 and 429; that `stream` answers at once with what there is, and that a part which is too large
fails the job.
"""

import asyncio
import json
import socket
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from aiohttp import web

from backends.emulators.instance import FleetOptions, InstanceDied, MakeHandler, Phase, RanOut
from backends.emulators.runpod_control import EmulatedControl
from backends.emulators.runpod_job import FINAL, Job, YieldedError, streaming
from backends.emulators.server import IN_BODY, EmulatorServer, RateLimit
from backends.emulators.tariff import PerLife

_MEGABYTE = 1_000_000


class RunPodOptions(NamedTuple):
    """The endpoint and its limits; the defaults are RunPod's own.

    wait_ms:       bounds of `runsync?wait=`; out of them it is clamped
    run_kept_s:    how long a finished `run` job can be asked for; `sync_kept_s` for runsync
    part_bytes:    most that a handler may yield at once, as JSON
    rates:         requests per 10 s and operation
    return_aggregate_stream:  the worker's setting: what a generator yields is the job's output, too
    """

    endpoint_id: str = "emulated"
    api_key: str = "rp-emulated"
    usd_per_second: float = 0.00019
    wait_ms: tuple[int, int] = (1_000, 300_000)
    default_wait_ms: int = 90_000
    run_kept_s: float = 1_800.0
    sync_kept_s: float = 60.0
    run_bytes: int = 10 * _MEGABYTE
    sync_bytes: int = 20 * _MEGABYTE
    part_bytes: int = _MEGABYTE
    return_aggregate_stream: bool = False
    rates: Mapping[str, int] = {
        "run": 1000, "runsync": 2000, "status": 2000, "stream": 2000, "cancel": 100, "purge-queue": 2,
    }  # fmt: skip


class RunPodEmulator(EmulatorServer):
    """One endpoint under `{url}/v2/{endpoint_id}`. The handler gets `{"id", "input"}`, as RunPod's does.

    One that is a generator function streams.
    """

    def __init__(
        self,
        make_handler: MakeHandler,
        *,
        options: FleetOptions,
        endpoint: RunPodOptions | None = None,
        **server: Any,
    ) -> None:
        self.endpoint = endpoint or RunPodOptions()
        tariff = PerLife(usd_per_second=self.endpoint.usd_per_second, whole_seconds=True)
        super().__init__(
            lambda name: streaming(make_handler(name), self.endpoint), tariff, options=options, **server
        )
        self.control = EmulatedControl(self)
        self.jobs: dict[str, Job] = {}
        self._rates = {name: RateLimit(most, 10.0, self.clock) for name, most in self.endpoint.rates.items()}
        self._forget_next = 0.0
        self._counts = {"completed": 0, "failed": 0, "retried": 0}

    @property
    def base_url(self) -> str:
        """What a client puts in place of `https://api.runpod.ai/v2`."""
        return f"{self.url}/v2"

    def routes(self) -> Iterable[web.RouteDef]:
        """The queue API, and the control plane."""
        base = "/v2/{endpoint}"
        table: list[tuple[str, str, str, Callable[[web.Request], Any]]] = [
            ("POST", "/run", "run", self._run),
            ("POST", "/runsync", "runsync", self._runsync),
            ("GET", "/status/{job}", "status", self._status),
            ("POST", "/status/{job}", "status", self._status),
            ("GET", "/status-sync/{job}", "status", self._status_sync),
            ("GET", "/stream/{job}", "stream", self._stream),
            ("POST", "/cancel/{job}", "cancel", self._cancel),
            ("POST", "/retry/{job}", "retry", self._retry),
            ("POST", "/purge-queue", "purge-queue", self._purge),
            ("GET", "/health", "health", self._health),
        ]
        own = [web.route(verb, base + path, self._guard(name, work)) for verb, path, name, work in table]
        return [*self.control.routes(), *own]

    def _guard(self, operation: str, work: Callable[[web.Request], Any]) -> Any:
        """What every call meets first: failures on cue, the key, the endpoint's name, the rate."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if (failure := self.front_failure(request)) is not None:
                return failure
            given = request.headers.get("authorization", "")
            # A bare key, without the scheme, is accepted too.
            if given.removeprefix("Bearer ").strip() != self.endpoint.api_key:
                return _error(401, "unauthorized")
            if request.match_info["endpoint"] != self.endpoint.endpoint_id:
                return _error(404, "endpoint not found")
            throttled = operation in ("run", "runsync") and self.cues.take("throttle") is not None
            rate = self._rates.get(operation)
            if throttled or (rate is not None and not rate.allows()):
                return _error(429, "too many requests")
            self._forget()
            response: web.StreamResponse = await work(request)
            return response

        return handle

    async def _run(self, request: web.Request) -> web.StreamResponse:
        job = await self._accept(request, sync=False)
        if isinstance(job, web.Response):
            return job
        return web.json_response({"id": job.id, "status": job.status})

    async def _runsync(self, request: web.Request) -> web.StreamResponse:
        job = await self._accept(request, sync=True)
        if isinstance(job, web.Response):
            return job
        return await self._when_done(job, request)

    async def _accept(self, request: web.Request, *, sync: bool) -> Job | web.Response:
        body = await request.read()
        if len(body) > (self.endpoint.sync_bytes if sync else self.endpoint.run_bytes):
            return _error(413, "request body is too large")
        try:
            document = json.loads(body)
        except ValueError:
            return _error(400, "request body is not valid JSON")
        if not isinstance(document, dict) or not isinstance(document.get("input"), dict):
            return _error(400, "request body must be an object with an object called input")
        limit = self.fleet.options.queue_limit
        if limit is not None and self.fleet.waiting >= limit:
            return _error(429, "too many requests")
        name = ("sync-" if sync else "") + self.new_uuid() + "-e1"
        kept_s = self.endpoint.sync_kept_s if sync else self.endpoint.run_kept_s
        job = Job(name, document, self.clock.now(), kept_s=kept_s)
        self.jobs[name] = job
        self._begin(job)
        return job

    def _begin(self, job: Job) -> None:
        job.task = self.spawn(self._work(job))

    async def _when_done(self, job: Job, request: web.Request) -> web.Response:
        """The job's document once it is final, or as it stands when the wait is over."""
        low, high = self.endpoint.wait_ms
        try:
            wait_ms = int(request.query.get("wait", self.endpoint.default_wait_ms))
        except ValueError:
            return _error(400, "wait must be a number of milliseconds")
        if not job.done.is_set():
            waiter = self.spawn(job.done.wait())
            timer = self.spawn(self._pause(min(max(wait_ms, low), high) / 1000))
            await asyncio.wait((waiter, timer), return_when=asyncio.FIRST_COMPLETED)
            waiter.cancel()
            timer.cancel()
        return self._told(job)

    def _told(self, job: Job) -> web.Response:
        """The job's document, which names its worker once it has one."""
        response = web.json_response(job.report())
        if job.status in FINAL and job.worker:
            response[IN_BODY] = job.worker
        return response

    async def _pause(self, seconds: float) -> None:
        await self.sleep(seconds)

    async def _work(self, job: Job) -> None:
        """Queue, run, and note the end, whatever it is."""
        try:
            async with self.fleet.slot() as slot:
                job.started = self.clock.now()
                job.worker = slot.instance.id
                job.status = "IN_PROGRESS"
                try:
                    output = await slot.run(job, timeout_s=job.execution_timeout_s)
                finally:
                    job.execution_s = slot.run_s
                if isinstance(output, dict) and output.pop("refresh_worker", False):
                    slot.retire()
            self._conclude(job, output)
        except RanOut:
            job.error = "job timed out"
            self._finish(job, "TIMED_OUT")
        except InstanceDied:
            job.error = "job failed: the worker exited unexpectedly"
            self._finish(job, "FAILED")
        except asyncio.CancelledError:
            self._finish(job, "CANCELLED")
            raise
        except YieldedError as error:
            job.error = str(error)
            self._finish(job, "FAILED")
        except Exception as error:
            job.error = self._handler_error(job, error)
            self._finish(job, "FAILED")

    def _conclude(self, job: Job, output: Any) -> None:
        """An `error` key in a handler's dict fails the job, as RunPod's SDK has it."""
        if isinstance(output, dict) and "error" in output:
            rest = {name: value for name, value in output.items() if name != "error"}
            job.error = str(output["error"])
            job.output = rest or None
            self._finish(job, "FAILED")
            return
        job.output = output
        self._finish(job, "COMPLETED")

    def _finish(self, job: Job, status: str) -> None:
        job.finish(status, self.clock.now())
        if status == "COMPLETED":
            self._counts["completed"] += 1
        elif status in ("FAILED", "TIMED_OUT"):
            self._counts["failed"] += 1

    @staticmethod
    def _handler_error(job: Job, error: Exception) -> str:
        """The JSON in a string that the SDK's job runner makes of an exception."""
        return json.dumps(
            {
                "error_type": str(type(error)),
                "error_message": str(error),
                "error_traceback": "".join(traceback.format_exception(error)),
                "hostname": socket.gethostname(),
                "worker_id": job.worker,
                "runpod_version": "1.12.0",
            }
        )

    def _forget(self) -> None:
        """Now and then, because it looks at every job."""
        now = self.clock.now()
        if now < self._forget_next:
            return
        self._forget_next = now + 1.0
        for name, job in list(self.jobs.items()):
            if job.forgotten(now):
                del self.jobs[name]
                if job.task is not None:
                    job.task.cancel()

    def _find(self, request: web.Request) -> Job | None:
        job = self.jobs.get(request.match_info["job"])
        return None if job is None or job.forgotten(self.clock.now()) else job

    async def _status(self, request: web.Request) -> web.StreamResponse:
        job = self._find(request)
        return self._told(job) if job else _error(404, "job not found")

    async def _status_sync(self, request: web.Request) -> web.StreamResponse:
        job = self._find(request)
        return await self._when_done(job, request) if job else _error(404, "job not found")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        job = self._find(request)
        if job is None:
            return _error(404, "job not found")
        status = job.status  # before the parts: of a job that is final there are no more
        told, job.yielded = job.yielded, []
        return web.json_response({"status": status, "stream": [{"output": piece} for piece in told]})

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        job = self._find(request)
        if job is None:
            return _error(404, "job not found")
        self._stop_job(job)
        return web.json_response({"id": job.id, "status": job.status})

    def _stop_job(self, job: Job) -> None:
        job.finish("CANCELLED", self.clock.now())
        if job.task is not None:
            job.task.cancel()

    async def _retry(self, request: web.Request) -> web.StreamResponse:
        job = self._find(request)
        if job is None:
            return _error(404, "job not found")
        if job.status not in ("FAILED", "TIMED_OUT"):
            return _error(400, "only failed and timed out jobs can be retried")
        job.status, job.error, job.output = "IN_QUEUE", None, None
        job.started = job.ended = None
        job.arrived = self.clock.now()
        job.done.clear()
        self._counts["retried"] += 1
        self._begin(job)
        return web.json_response({"id": job.id, "status": job.status})

    async def _purge(self, request: web.Request) -> web.StreamResponse:
        queued = [job for job in self.jobs.values() if job.status == "IN_QUEUE"]
        for job in queued:
            self._stop_job(job)
        return web.json_response({"removed": len(queued), "status": "completed"})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        by_status = [job.status for job in self.jobs.values()]
        idle = self.fleet.count(Phase.IDLE)
        jobs = {
            "completed": self._counts["completed"],
            "failed": self._counts["failed"],
            "inProgress": by_status.count("IN_PROGRESS"),
            "inQueue": by_status.count("IN_QUEUE"),
            "retried": self._counts["retried"],
        }
        workers = {
            "idle": idle,
            "initializing": self.fleet.count(Phase.BOOTING),
            "ready": idle,
            "running": self.fleet.count(Phase.BUSY),
            "throttled": 0,
            "unhealthy": 0,
        }
        return web.json_response({"jobs": jobs, "workers": workers})


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
