"""The composition root: builds every object once from the settings, and runs them until told to stop.

The only importer of concrete backends and policies. Nobody imports it but the command line and tests.
"""

import asyncio
import gc
import logging
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import uvloop

import backends as backend_plugins
import policies as policy_plugins
from backends.base import Backend, Kit
from gateway import __version__, hedging, prewarming, recording
from gateway.access_log import AccessLog
from gateway.admin import Admin
from gateway.admission import Admission
from gateway.advice import Advice
from gateway.assembly import Assembly
from gateway.background import Background
from gateway.budgets import spending_of
from gateway.capacity import Capacity
from gateway.clock import Clock, SystemClock
from gateway.config.effective import effective
from gateway.config.schema import Address, Settings
from gateway.connection import ListenerLimits
from gateway.dispatch import Dispatch
from gateway.explain.live import Explaining
from gateway.explain.ring import Ring
from gateway.grpc_server import GrpcLimits, GrpcServer
from gateway.ledger import Ledger
from gateway.listener import Listener
from gateway.memory import Memory
from gateway.new_replica import size_of
from gateway.opening import Opening
from gateway.pipeline import Pipeline
from gateway.pool import Pool
from gateway.protocols.base import Protocols
from gateway.protocols.grpc import Grpc
from gateway.protocols.kserve import Kserve
from gateway.protocols.openai import OpenAI
from gateway.protocols.raw import Raw
from gateway.readiness import Readiness
from gateway.recorder import Recorder
from gateway.registry import Registry
from gateway.relay import Relay
from gateway.retry_budget import RetryBudgets
from gateway.routes import Route, RouteTable
from gateway.tallies import BackendFacts, RouteFacts
from gateway.workers.desk import Desk
from gateway.workers.inventory import part_of, shared_by
from gateway.workers.ports import Port, listening
from gateway.workers.run import Plan
from gateway.workers.run import run as run_workers
from gateway.workers.station import Station
from policies.base import Policy

log = logging.getLogger("overspill")

SETTLE_EVERY_S = 0.5
"""How often charges outside attempts (idle tails) are collected."""
PROBE_EVERY_S = 5.0
"""Time between readiness checks where a backend has no `probe_every` of its own."""


def registries() -> tuple[Registry[Backend], Registry[Policy]]:
    """Every backend and policy that ships."""
    return backend_plugins.backends, policy_plugins.policies


class Gateway:
    """A running gateway. Build it on the event loop that will run it.

    recorder:  notes every event and decision of its pools; None: nobody does
    station:   its place among the workers that share ports, slots and budgets; None: it is alone
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        chance: Random,
        recorder: Recorder | None = None,
        station: Station | None = None,
    ) -> None:
        self.settings = settings
        self.station = station
        self.clock = clock
        self.draining = False
        self.background = Background()
        kit = Kit(clock=clock, chance=chance, spawn=self.background.spawn)
        backends, policies = registries()
        self.backends = {
            name: backends.get(options.type)(name, options, kit)
            for name, options in settings.backends.items()
        }
        seams = {"clock": clock, "chance": chance, "timers": asyncio.get_running_loop()}
        new_capacity, new_pool = _makers(recorder, station, seams)
        self.capacities = {name: new_capacity(backend) for name, backend in self.backends.items()}
        self.spending = spending_of(settings, station)
        self.retries = _retries(settings, clock.now())
        self.readiness = {
            name: Readiness(capacity, clock=clock, chance=chance)
            for name, capacity in self.capacities.items()
        }
        self.opening = Opening(spawn=self.background.spawn, cold_tail=self._cold_tail)
        assembly = Assembly(
            backends=self.backends, capacities=self.capacities, spending=self.spending,
            opener=self.opening, clock=clock, new_pool=new_pool,
        )  # fmt: skip
        self.estimates = assembly.estimates
        self.pools = {
            name: assembly.pool(name, options, policies.get(options.policy.type)(options.policy.options))
            for name, options in settings.routes.items()
        }
        self.prewarming = prewarming.of_routes(settings, self.pools, clock)
        self.hedging = hedging.of_routes(
            settings, self.pools, clock=clock, chance=chance, spawn=self.background.spawn
        )
        known = self.estimates if recorder is None else recorder.remembering(self.estimates)
        self.memory = None if settings.state is None else Memory(known, settings.state, clock)
        self.routes = RouteTable(
            Route.of(name, options, self.pools[name]) for name, options in settings.routes.items()
        )
        self.access_log = _access_log(settings, clock, chance)
        self.ledger = self._ledger()
        new_pipeline = self._steps()
        self.pipeline = new_pipeline(protocols=self._protocols())
        self.listener = Listener(self.pipeline, limits=_listener_limits(settings), clock=clock, chance=chance)
        self.admin, self.desk = self._windows()
        self.grpc = self._grpc(new_pipeline)
        self.http_address: Address | None = None
        self.grpc_address: Address | None = None
        self.admin_address: Address | None = None

    def _ledger(self) -> Ledger:
        settings, share = self.settings, 1.0 if self.station is None else 1.0 / self.station.count
        return Ledger(
            routes=[_route_facts(name, settings) for name in settings.routes],
            backends=[BackendFacts.of(backend, share) for backend in self.backends.values()],
            now=self.clock.now(),
            access_log=self.access_log,
            # From a part of the calls no number of replicas can be worked out.
            advice=_advice(settings, self.backends) if self.station is None else None,
        )

    def _protocols(self) -> Protocols:
        raw = Raw()
        openai = OpenAI(lambda: self.routes.models("openai"))
        return Protocols([Kserve(self, version=__version__), openai, raw], fallback=raw)

    def _steps(self) -> Callable[..., Pipeline]:
        """A pipeline for each port, told its protocols; the state behind them is one."""
        return partial(
            Pipeline,
            routes=self.routes,
            admission=Admission(limit=self.settings.limits.calls),
            dispatch=Dispatch(clock=self.clock, retries=self.retries, hedgers=self.hedging),
            relay=Relay(clock=self.clock),
            ledger=self.ledger,
            clock=self.clock,
        )

    def _grpc(self, new_pipeline: Callable[..., Pipeline]) -> GrpcServer | None:
        """The gRPC port, with a protocol of its own."""
        if self.settings.listen.grpc is None:
            return None
        protocol, limits = Grpc(self, version=__version__), self.settings.limits
        return GrpcServer(
            new_pipeline(protocols=Protocols([protocol], fallback=protocol)),
            protocol,
            limits=GrpcLimits(body=limits.body, body_buffer=limits.body_buffer),
            clock=self.clock,
            name=self.listener.name,
        )

    def _windows(self) -> tuple[Admin, Desk]:
        """Where people look in: themselves, or through the admin process of several workers."""
        explaining = self._explaining()
        return Admin(self, explaining), Desk(self, explaining)

    def _cold_tail(self, route: str, backend: str) -> float:
        return self.estimates.of(route, backend).cold.tail

    def _explaining(self) -> Explaining:
        """From now on every decision is noted, so that it can be explained."""
        ring = Ring()
        for pool in self.pools.values():
            pool.witness = witness = ring.of(pool)
            if pool.route in self.hedging:
                self.hedging[pool.route].noting = witness
        return Explaining(self.routes, self.pools, ring=ring, clock=self.clock, spending=self.spending)

    # -- facts that protocols and the admin port ask for

    def live(self) -> bool:
        """The gateway runs."""
        return True

    def ready(self) -> bool:
        """Some route can take calls, and the gateway is not on its way out."""
        return not self.draining and any(map(self.route_ready, self.pools))

    def route_ready(self, name: str) -> bool:
        """Some tier of the route can take calls."""
        return any(tier.blocked is None for tier in self.pools[name].tiers)

    def model_ready(self, model: str, version: str) -> bool:
        """Some tier of the model's route can take calls. Versions are the backends' own affair."""
        route = self.routes.find("kserve", model)
        return route is not None and self.route_ready(route.name)

    def sole_route(self) -> str:
        """The one route that serves KServe calls, "" if there are none or several."""
        return self.routes.sole("kserve")

    def effective_config(self) -> str:
        """The running configuration, secrets by reference."""
        return effective(self.settings)

    # -- life

    async def open(self) -> None:
        """Open backends, then the admin port, then the data port: ready only when everything is."""
        for backend in self.backends.values():
            await backend.open()
        self._follow_sizes()
        # Whether a replica is up is known before the first request, not learned at its cost.
        await asyncio.gather(*(readiness.probe_all() for readiness in self.readiness.values()))
        for name, readiness in self.readiness.items():
            every = getattr(self.backends[name].options, "probe_every", PROBE_EVERY_S)
            self.background.spawn(readiness.run(every), name=f"probe {name}")
        self.background.spawn(self._settle_forever(), name="settle charges")
        for name, ahead in self.prewarming.items():
            self.background.spawn(ahead.run(), name=f"open ahead for {name}")
        if self.memory is not None:
            self.memory.load()
            if self._writes_state:
                self.background.spawn(self.memory.run(), name="save estimates")
        if self.ledger.advice is not None:
            self.background.spawn(self.ledger.advice.run(self.effective_config), name="advice on replicas")
        listen, shared = self.settings.listen, self.station is not None
        if self.station is None:
            self.admin_address = Address(*await self.admin.start(*listen.admin))
        else:
            await self.desk.start(self.station.desk)
        self.http_address = Address(*await self.listener.open(*listen.http, shared=shared))
        if self.grpc is not None and listen.grpc is not None:
            self.grpc_address = Address(*await self.grpc.open(*listen.grpc, shared=shared))

    async def close(self) -> None:
        """Stop taking calls, finish those in flight within `drain_timeout`, give everything back."""
        self.draining = True
        for ahead in self.prewarming.values():
            ahead.stop()
        drains = [self.listener.drain(self.settings.drain_timeout)]
        if self.grpc is not None:
            drains.append(self.grpc.drain(self.settings.drain_timeout))
        await asyncio.gather(*drains)
        await self.opening.close()
        self.settle(math.inf)  # what still idles will be billed to its end, though nobody counts then
        for capacity in self.capacities.values():
            capacity.close()
        if self.station is not None:
            self.station.close()
        await self.background.close(grace=0.0)
        for backend in self.backends.values():
            await backend.close()
        await self.admin.stop()
        await self.desk.stop()
        if self.memory is not None and self._writes_state:
            self.memory.save()
        if self.access_log is not None:
            self.access_log.close()

    @property
    def _writes_state(self) -> bool:
        return self.station is None or self.station.writes_state

    def settle(self, until: float) -> None:
        """Book the charges outside attempts that fell due by `until`."""
        now = self.clock.now()
        for name, backend in self.backends.items():
            for charge in backend.settle(until):
                self.ledger.charge(name, charge)
                self.spending.spend(charge.route, name, charge.usd, now)
                if charge.route in self.prewarming:
                    self.prewarming[charge.route].charged(charge, now)

    async def _settle_forever(self) -> None:
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            self.settle(self.clock.now())
            self._follow_sizes()

    def _follow_sizes(self) -> None:
        """What stands there costs by the replicas that there are, and a call by the slots that these have."""
        for name, capacity in self.capacities.items():
            size = size_of(capacity.backend, capacity.replicas)
            if size is not None:
                self.ledger.resized(name, *size, now=self.clock.now())


def serve(settings: Settings, *, record: Path | None = None, workers: int = 1) -> int:
    """Run until SIGTERM or SIGINT, then drain. Returns the exit status. `record`: where decisions go.

    workers:  processes that share the ports, the slots and the spill budgets; only one can record.
              ConfigError for a backend whose slots cannot be shared
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if workers > 1:
        return _serve_with(settings, workers)
    return _run(settings, record, None)


def _serve_with(settings: Settings, workers: int) -> int:
    clock, listen = SystemClock(), settings.listen
    shared = shared_by(settings, _looked_at(settings, clock))
    with ExitStack() as undo:
        try:
            ports = {"http": undo.enter_context(Port(*listen.http))}
            if listen.grpc is not None:
                ports["grpc"] = undo.enter_context(Port(*listen.grpc))
            admin = undo.enter_context(listening(*listen.admin))
        except OSError as error:
            log.error("cannot start: %s", error)
            return 1
        found = {name: Address(port.host, port.port) for name, port in ports.items()}
        bound = settings.model_copy(update={"listen": listen.model_copy(update=found)})
        plan = Plan(
            workers=workers, shared=shared, work=partial(_run, bound, None), admin=admin, ports=ports,
            drain_timeout=settings.drain_timeout, reopens=settings.access_log is not None,
            config=effective(settings),
        )  # fmt: skip
        return run_workers(plan, clock)


def _run(settings: Settings, record: Path | None, station: Station | None) -> int:
    """One gateway on a loop of its own, in this process."""
    if station is not None:
        settings = part_of(settings, station.index, station.count)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, record, station))


async def _serve(settings: Settings, record: Path | None, station: Station | None) -> int:
    chance = Random()  # noqa: S311 - it spreads load and names requests; it guards nothing
    stop = asyncio.Event()
    with ExitStack() as undo:
        try:
            recorder = None if record is None else recording.begun(record, chance)
            gateway = Gateway(
                settings, clock=SystemClock(), chance=chance, recorder=recorder, station=station
            )
            undo.enter_context(_signals(gateway, stop))
            await gateway.open()
        except OSError as error:
            log.error("cannot start: %s", error)
            return 1
        if station is None:
            log.info("serving on http://%s, admin on http://%s", gateway.http_address, gateway.admin_address)
            if gateway.grpc_address is not None:
                log.info("serving gRPC on %s", gateway.grpc_address)
        else:
            station.serving()
        # What was built at start lives as long as the process: it need not be looked at again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)  # requests leave no cycles behind: there is little to look for
        await stop.wait()
        log.info("draining for up to %g s", settings.drain_timeout)
        await gateway.close()
        if recorder is not None and record is not None:
            recording.end(recorder, record)
    return 0


@contextmanager
def _signals(gateway: Gateway, stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    with ExitStack() as undo:
        handlers = {signal.SIGTERM: stop.set, signal.SIGINT: stop.set}
        if gateway.access_log is not None:
            handlers[signal.SIGHUP] = gateway.access_log.reopen  # so that logs can be rotated
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
            undo.callback(loop.remove_signal_handler, number)
        if gateway.station is not None:  # nobody would stop or restart a worker without its supervisor
            loop.add_reader(gateway.station.leash, stop.set)
            undo.callback(loop.remove_reader, gateway.station.leash)
        yield


def _makers(
    recorder: Recorder | None, station: Station | None, seams: Mapping[str, Any]
) -> tuple[Callable[[Backend], Capacity], Callable[..., Pool]]:
    """What capacities and pools are made with."""
    if recorder is not None:
        return recorder.capacity, recorder.pool
    if station is not None:
        return partial(_shared_capacity, station, seams), partial(Pool, **seams)
    return partial(Capacity, **seams), partial(Pool, **seams)


def _shared_capacity(station: Station, seams: Mapping[str, Any], backend: Backend) -> Capacity:
    return Capacity(backend, slots=partial(station.slots, backend.name), **seams)


def _looked_at(settings: Settings, clock: Clock) -> Iterator[Backend]:
    """The backends of these settings, built and never opened."""
    kit = Kit(clock=clock, chance=Random(), spawn=_spawn_nothing)  # noqa: S311 - nothing is drawn of it
    registry = registries()[0]
    for name, options in settings.backends.items():
        yield registry.get(options.type)(name, options, kit)


def _spawn_nothing(work: Any, /, *, name: str) -> None:
    work.close()
    raise RuntimeError(f"{name}: a backend that is only looked at starts nothing")


def _retries(settings: Settings, now: float) -> RetryBudgets:
    options = settings.retry_budget
    return RetryBudgets(
        settings.routes,
        share=options.share,
        floor_per_second=options.floor_per_second,
        limits_outage=options.on_outage == "limit",
        now=now,
    )


def _access_log(settings: Settings, clock: Clock, chance: Random) -> AccessLog | None:
    options = settings.access_log
    if options is None:
        return None
    target = sys.stdout.fileno() if options.path == "-" else Path(options.path)
    return AccessLog(target, clock=clock, share=options.sample, chance=chance)


def _advice(settings: Settings, backends: Mapping[str, Backend]) -> Advice | None:
    """Where there is something to advise: an owned backend with a price, on a route with a budget."""
    if not settings.advice:
        return None
    priced = [name for name, each in backends.items() if each.owned and each.usd_per_replica_hour is not None]
    budgeted = {
        tier.backend for route in settings.routes.values() if route.latency_budget for tier in route.tiers
    }
    wanted = [name for name in priced if name in budgeted]
    if not wanted:
        return None
    routes = [
        name for name, route in settings.routes.items() if any(tier.backend in wanted for tier in route.tiers)
    ]
    return Advice(every_s=settings.advice.every, routes=routes, backends=wanted)


def _listener_limits(settings: Settings) -> ListenerLimits:
    return ListenerLimits(**{name: getattr(settings.limits, name) for name in ListenerLimits._fields})


def _route_facts(name: str, settings: Settings) -> RouteFacts:
    options = settings.routes[name]
    budget = options.latency_budget
    return RouteFacts(
        name,
        within=None if budget is None else budget.within,
        first_byte=None if budget is None else budget.first_byte,
        objective=0.99 if budget is None else budget.objective,
        backends=tuple(tier.backend for tier in options.tiers),
        match=", ".join(options.match.models) or f"/invoke/{name}",
        hedged=options.hedge is not None,
    )
