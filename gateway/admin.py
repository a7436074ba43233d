"""The admin port: metrics, health, the state of routes and backends, and why it was decided so.

    /metrics          Prometheus text, or OpenMetrics where `accept` asks for it
    /livez            200 while the process can answer
    /readyz           200 while some route can be served; 503 with the reasons, also while draining
    /admin/config     the running configuration, secrets by reference, and a file that was rejected
    /admin/reload     POST: read the file again and take it over; 422 or 409 with every problem if not
    /admin/routes     what each route was asked, where it went, how fast, at what cost
    /admin/backends   slots, readiness, breakers and instances of each backend
    /scaler/metrics.json  how many replicas of each owned backend are wanted, and why
    /admin/explain    POST: what would be decided about a call, or was, and why every other way lost
    /console          all of it as one live page

It stands beside the data plane on the same event loop: what it does takes milliseconds at most between
two turns of the loop. But for a reload it changes nothing, and it never shows a secret, a header or a body.
Where `auth.admin` has a token it is asked for, but for /livez and /readyz; otherwise nobody is asked who
they are, and it belongs on a private address.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from socket import socket
from typing import Any, NamedTuple, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from gateway import __version__
from gateway.auth.admin import CHALLENGES, AdminDoor
from gateway.clock import SystemClock
from gateway.config.status import ConfigStatus
from gateway.console.web import Console
from gateway.explain.live import USAGE, Answer, Explaining
from gateway.glance import Glance
from gateway.metrics import GatewayCollector, Observed, build_registry
from gateway.reload import NO_FILE, Outcome, Reloader
from gateway.reports import not_served, report_backends, report_routes, route_sums
from gateway.scaling.service import ScalingService
from gateway.tls import PortTls, TlsServer

log = logging.getLogger("overspill.admin")

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPENMETRICS_END = b"# EOF\n"
_HANDSHAKE_S = 10.0


class AdminState(Observed, Protocol):
    """What the admin port looks at."""

    @property
    def draining(self) -> bool: ...

    @property
    def config(self) -> ConfigStatus:
        """The running configuration, and the last file that was not taken over."""
        ...

    @property
    def reloader(self) -> Reloader | None:
        """Who takes over a changed file; None where there is none."""
        ...


class Views(Protocol):
    """What the admin port shows: of this process, or of several."""

    @property
    def explains(self) -> bool:
        """Is there anybody to explain decisions?"""
        ...

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics as text and their content type, as `accept` asks for."""
        ...

    async def health(self) -> "Health":
        """Can the gateway be sent traffic?"""
        ...

    @property
    def config(self) -> ConfigStatus:
        """The running configuration, and the last file that was not taken over."""
        ...

    async def reload(self) -> Outcome:
        """Read the file again, and take it over."""
        ...

    async def routes(self) -> list[dict[str, Any]]:
        """One entry per route."""
        ...

    async def backends(self) -> list[dict[str, Any]]:
        """One entry per backend."""
        ...

    async def explain(self, body: bytes) -> Answer:
        """What would be decided, or was, and why."""
        ...

    async def glance(self, decisions: int) -> Glance:
        """All of it in one look, with so many of the last decisions."""
        ...

    async def scaling(self) -> dict[str, Any] | None:
        """What an autoscaler is told; None where nobody looks."""
        ...


class LocalViews:
    """The views of one gateway in this process."""

    def __init__(self, state: AdminState, explaining: Explaining | None, registry: CollectorRegistry) -> None:
        self._state = state
        self._explaining = explaining
        self._registry = registry
        self.scaler: ScalingService | None = None

    @property
    def explains(self) -> bool:
        """Whether decisions are noted."""
        return self._explaining is not None

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Counted when asked."""
        return await expose(self._registry, accept)

    async def health(self) -> "Health":
        """As of now."""
        return judge(self._state)

    @property
    def config(self) -> ConfigStatus:
        """As of now."""
        return self._state.config

    async def reload(self) -> Outcome:
        """In this process."""
        reloader = self._state.reloader
        return NO_FILE if reloader is None else await reloader.reload()

    async def routes(self) -> list[dict[str, Any]]:
        """As of now."""
        state = self._state
        return report_routes(state.ledger, state.capacities, state.pools, state.clock.now())

    async def backends(self) -> list[dict[str, Any]]:
        """As of now."""
        return report_backends(self._state.ledger, self._state.capacities, self._state.clock.now())

    async def explain(self, body: bytes) -> Answer:
        """Asked of the running pools."""
        assert self._explaining is not None
        return self._explaining.answer(body)

    async def glance(self, decisions: int) -> Glance:
        """As of now."""
        state, (status, reasons) = self._state, judge(self._state)
        return Glance(
            list(self._registry.collect()),
            await self.routes(),
            route_sums(state.ledger, state.clock.now()),
            await self.backends(),
            status,
            reasons,
            [] if self._explaining is None else self._explaining.recent(decisions),
        )

    async def scaling(self) -> dict[str, Any] | None:
        """As of the last look."""
        return None if self.scaler is None else self.scaler.document()


class AdminPort:
    """The admin server."""

    def __init__(self, views: Views, door: AdminDoor | None = None) -> None:
        self._views = views
        self._door = door or AdminDoor(None)
        self._runner: web.AppRunner | None = None
        self._tls_server: TlsServer | None = None

    async def start(
        self, host: str, port: int, *, listening: socket | None = None, tls: PortTls | None = None
    ) -> tuple[str, int]:
        """Listen; returns the address, whose port the system chose if `port` is 0. Raises OSError.

        listening:  a socket that is open already, in place of the address
        tls:        what it shows its clients; None: it speaks in the clear
        """
        app = web.Application(middlewares=[_errors_as_json, self._let_in])
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/admin/config", self._config)
        app.router.add_post("/admin/reload", self._reload)
        app.router.add_get("/admin/routes", self._routes)
        app.router.add_get("/admin/backends", self._backends)
        app.router.add_get("/scaler/metrics.json", self._scaling)
        if self._views.explains:
            app.router.add_get("/admin/explain", self._explain_usage)
            app.router.add_post("/admin/explain", self._explain)
        Console(self._views, SystemClock()).add_to(app)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            if tls is not None:
                address = await self._encrypted(runner, tls, host, port, listening)
            else:
                site = (
                    web.TCPSite(runner, host, port) if listening is None else web.SockSite(runner, listening)
                )
                await site.start()
                address = runner.addresses[0]
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        return address[0], address[1]

    async def _encrypted(
        self, runner: web.AppRunner, tls: PortTls, host: str, port: int, listening: socket | None
    ) -> Any:
        assert runner.server is not None
        self._tls_server = server = TlsServer(tls, runner.server, handshake_timeout=lambda: _HANDSHAKE_S)
        if listening is None:
            await server.open(host, port)
        else:
            server.serve(listening)
        return server.sockets[0].getsockname()

    async def stop(self) -> None:
        """Close the port and every connection to it. Stopping twice does nothing."""
        if self._tls_server is not None:
            self._tls_server.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @web.middleware
    async def _let_in(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Before anything else, so that not even the paths that there are are told to others."""
        shown = request.headers.getall("authorization", [])
        if not self._door.admits(request.path, shown[0] if len(shown) == 1 else None):
            body = {"error": "Unauthorized", "path": request.path}
            response = _json(body, status=401)
            for challenge in CHALLENGES:
                response.headers.add("www-authenticate", challenge)
            return response
        if self._door.foreign(request.method, request.headers.get("sec-fetch-site")):
            return _json({"error": "not from a page of another site", "path": request.path}, status=403)
        return await handler(request)

    async def _metrics(self, request: web.Request) -> web.Response:
        body, content_type = await self._views.metrics(request.headers.get("accept", ""))
        return web.Response(body=body, headers={"content-type": content_type})

    async def _livez(self, _: web.Request) -> web.Response:
        return _json({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        health = await self._views.health()
        return _json(health._asdict(), status=200 if health.status == "ready" else 503)

    async def _config(self, request: web.Request) -> web.Response:
        config = self._views.config
        if "application/json" in request.headers.get("accept", ""):
            return _json(config.as_dict())
        return web.Response(text=config.as_yaml(), content_type="text/plain", charset="utf-8")

    async def _reload(self, _: web.Request) -> web.Response:
        outcome = await self._views.reload()
        return _json(outcome.body, status=outcome.status)

    async def _routes(self, _: web.Request) -> web.Response:
        return _json({"routes": await self._views.routes()})

    async def _backends(self, _: web.Request) -> web.Response:
        return _json({"backends": await self._views.backends()})

    async def _scaling(self, _: web.Request) -> web.Response:
        document = await self._views.scaling()
        if document is None:
            raise web.HTTPNotFound
        return _json(document)

    async def _explain_usage(self, _: web.Request) -> web.Response:
        return _json(USAGE)

    async def _explain(self, request: web.Request) -> web.Response:
        answer = await self._views.explain(await request.read())
        return _json(answer.body, status=answer.status)


class Admin(AdminPort):
    """The admin server of one gateway in this process."""

    def __init__(
        self, state: AdminState, explaining: Explaining | None = None, door: AdminDoor | None = None
    ) -> None:
        self.registry = build_registry(GatewayCollector(state, version=__version__))
        self.registry.register(state.config)
        self.views = LocalViews(state, explaining, self.registry)
        super().__init__(self.views, door)


class Health(NamedTuple):
    """Can the gateway be sent traffic? `reasons` names the routes that nothing can serve, and why."""

    status: str  # ready, not_ready or draining
    reasons: Mapping[str, Mapping[str, str]]


def judge(state: AdminState) -> Health:
    """Ready as long as one route can be served: the others answer 503 for themselves."""
    reasons = not_served(state.ledger, state.capacities)
    if state.draining:
        return Health("draining", reasons)
    return Health("ready" if any(name not in reasons for name in state.pools) else "not_ready", reasons)


class _Single:
    """One metric where a whole registry is expected."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> list[Metric]:
        return [self._metric]


async def expose(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The metrics as text, and its content type, as `accept` asks for.

    Counted in one go, written family by family: requests are served in between.
    """
    encode, content_type = choose_encoder(accept)
    parts = []
    for metric in list(registry.collect()):
        parts.append(encode(_Single(metric)).removesuffix(_OPENMETRICS_END))
        await asyncio.sleep(0)
    if content_type.startswith("application/openmetrics-text"):
        parts.append(_OPENMETRICS_END)
    return b"".join(parts), content_type


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        headers = {"allow": error.headers["Allow"]} if "Allow" in error.headers else None
        response = _json({"error": error.reason, "path": request.path}, status=error.status, headers=headers)
    except Exception:
        log.exception("admin request %s failed", request.path)
        response = _json({"error": "Internal Server Error", "path": request.path}, status=500)
    response.headers["cache-control"] = "no-store"
    return response


_dumps = partial(json.dumps, separators=(",", ":"), allow_nan=False)


def _json(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(value, status=status, headers=headers, dumps=_dumps)
