"""A load-balancing endpoint of RunPod on a local port.

Must never know a gateway or its client: it is written from RunPod's documentation. Requests go straight to
a worker's HTTP server, through ASGI; nothing is queued longer than `worker_wait_s`, nothing is tried again.
Unverified and chosen here: every error's body, the status of "no workers available", and that the health
path starts a worker where there is none.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aiohttp import web

from backends.emulators.hosted import Asgi, FunctionCall, HostedEmulator
from backends.emulators.instance import FleetFull, FleetOptions, Phase, RanOut
from backends.emulators.runpod_control import EmulatedControl
from backends.emulators.tariff import PerLife

_MEGABYTE = 1_000_000


class RunPodLbOptions(NamedTuple):
    """The endpoint and its limits; the defaults are RunPod's own.

    worker_wait_s:      longest that a request is held while no worker is free
    processing_s:       longest that a worker may take
    refuses_cold:       a request that finds no worker up is refused at once, and one is started
    no_worker_status:   of "no workers available"
    """

    api_key: str = "rp-emulated"
    usd_per_second: float = 0.00019
    worker_wait_s: float = 120.0
    processing_s: float = 330.0
    most_bytes: int = 30 * _MEGABYTE
    refuses_cold: bool = False
    no_worker_status: int = 400
    health_path: str = "/ping"


class RunPodLbEmulator(HostedEmulator):
    """One endpoint at `{url}`. `make_app` is called per worker and returns its ASGI application."""

    PROVIDER_CUES = ("no_worker",)
    """no_worker: "no workers available", as where the provider has no GPU left"""

    KEPT_BACK = frozenset({b"authorization"})

    def __init__(
        self,
        make_app: Callable[[str], Asgi],
        *,
        options: FleetOptions,
        endpoint: RunPodLbOptions | None = None,
        **server: Any,
    ) -> None:
        self.endpoint = endpoint or RunPodLbOptions()
        tariff = PerLife(usd_per_second=self.endpoint.usd_per_second, whole_seconds=True)
        super().__init__(make_app, tariff, options=options, **server)
        self.control = EmulatedControl(self)

    def routes(self) -> Iterable[web.RouteDef]:
        """Any method on any path, and the health path."""
        return [
            *self.control.routes(),
            web.get(self.endpoint.health_path, self._health),
            web.route("*", "/{path:.*}", self._handle),
        ]

    def failed(self, error: Exception) -> tuple[int, str]:
        """The load balancer's words."""
        match error:
            case FleetFull():
                return 429, "too many requests"
            case RanOut():
                return 504, "request timed out"
            case _:
                return 502, "bad gateway"

    async def _health(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        up = self.fleet.count(Phase.IDLE) + self.fleet.count(Phase.BUSY)
        if not up:
            self._start_one()
        return web.Response(status=200 if up else 204)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if (refusal := self.front_failure(request) or self._refusal(request)) is not None:
            return refusal
        body = await request.read()
        if len(body) > self.endpoint.most_bytes:
            return _error(413, "request body is too large")
        limit = self.fleet.options.queue_limit
        if self.cues.take("throttle") or (limit is not None and self.fleet.waiting >= limit):
            return _error(429, "too many requests")
        if self.cues.take("no_worker"):
            return self._no_worker()
        up = self.fleet.count(Phase.IDLE) + self.fleet.count(Phase.BUSY)
        if self.endpoint.refuses_cold and not up:
            self._start_one()
            return self._no_worker()
        call = self.begin(request, body, timeout_s=self.endpoint.processing_s)
        try:
            return await self._answer(request, call)
        finally:
            if call.task is not None and not call.complete:
                call.task.cancel()  # its client has left, or its time is over

    async def _answer(self, request: web.Request, call: FunctionCall) -> web.StreamResponse:
        began = self.clock.now()
        begun = self.spawn(call.begun.wait())
        while not call.begun.is_set():
            timer = self.spawn(self._pause(self.endpoint.worker_wait_s))
            await asyncio.wait((begun, timer), return_when=asyncio.FIRST_COMPLETED)
            timer.cancel()
            if not call.instance and self.clock.now() - began >= self.endpoint.worker_wait_s:
                return self._no_worker()
        if call.failure is not None and not call.pieces:
            status, text = call.failure
            return _error(status, text) if text else self._by_worker(call)
        return await self.copy(request, call, [("X-Runpod-Worker-Id", call.instance)])

    def _by_worker(self, call: FunctionCall) -> web.Response:
        """What an ASGI server answers for an application that raised."""
        fields = {"X-Runpod-Worker-Id": call.instance}
        return web.Response(status=500, text="Internal Server Error", headers=fields)

    def _start_one(self) -> None:
        if not self.fleet.count(Phase.BOOTING):
            self.spawn(self.fleet.start_one())

    async def _pause(self, seconds: float) -> None:
        await self.sleep(seconds)

    def _refusal(self, request: web.Request) -> web.Response | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        return None if given == self.endpoint.api_key else _error(401, "unauthorized")

    def _no_worker(self) -> web.Response:
        return _error(self.endpoint.no_worker_status, "no workers available")


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
