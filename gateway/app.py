"""The composition root: builds every object from the settings, and puts others in place when these change.

The only importer of concrete backends and policies. Nobody imports it but what runs it as a process, the
command line and tests.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random

import backends as backend_plugins
import policies as policy_plugins
from backends.base import Backend
from gateway import __version__, descriptors
from gateway.admin import Admin
from gateway.auth.entrance import Entrance
from gateway.auth.gatekeeper import Gatekeeper
from gateway.background import Background
from gateway.budgets import Budgets
from gateway.busy_poll import BusyPoll
from gateway.capacity import Capacity
from gateway.clock import Clock, SystemClock, cpu_seconds
from gateway.config.effective import effective
from gateway.config.load import Loaded, load
from gateway.config.schema import Address, Settings
from gateway.config.source import Source
from gateway.config.status import ConfigStatus, DrainingCalls
from gateway.connection import ListenerLimits
from gateway.cork import Cork
from gateway.doorkeeper import Doorkeeper
from gateway.explain.live import Explaining
from gateway.explain.ring import Ring
from gateway.explain.suppose import Supposing
from gateway.fittings import access_log, advice, idempotency, makers, tracing
from gateway.grpc_connection import GrpcLimits
from gateway.grpc_server import GrpcServer
from gateway.hedging import Hedging
from gateway.ledger import Ledger
from gateway.listener import Listener
from gateway.member import Member
from gateway.memory import Memory
from gateway.new_replica import size_of
from gateway.opening import Opening
from gateway.pipeline import Pipeline
from gateway.pool import Pool
from gateway.pressure import Pressure
from gateway.prewarming import Prewarming
from gateway.protocols.base import Protocols
from gateway.protocols.grpc import Grpc
from gateway.protocols.kserve import Kserve
from gateway.protocols.openai import OpenAI
from gateway.protocols.raw import Raw
from gateway.protocols.webhooks import Webhooks
from gateway.recorder import Recorder
from gateway.registry import Registry
from gateway.relay import Relay
from gateway.reload import CannotNow, Reloader
from gateway.retry_budget import RetryBudgets
from gateway.routes import RouteTable
from gateway.scaling.service import ScalingService
from gateway.spending import Spending
from gateway.succession import Draft, Succession
from gateway.table import Builder, route_facts
from gateway.tallies import BackendFacts
from gateway.tenants.tenants import Tenants
from gateway.tls import Tls
from gateway.workers.desk import Desk
from gateway.workers.ports import Held
from gateway.workers.station import Station
from policies.base import Policy

log = logging.getLogger("overspill")

SETTLE_EVERY_S = 0.5
"""How often charges outside attempts (idle tails) are collected."""


def registries() -> tuple[Registry[Backend], Registry[Policy]]:
    """Every backend and policy that ships."""
    return backend_plugins.backends, policy_plugins.policies


def load_file(path: Path, *, running: bool = False) -> Loaded:
    """A configuration file, checked, with its secrets there. Raises ConfigProblems. `running`: of `load`."""
    return load(path, *registries(), wall=SystemClock().wall(), running=running)


class Gateway:
    """A running gateway. Build it on the event loop that will run it.

    recorder:  notes every event and decision of its pools; None: nobody does
    station:   its place among the workers that share ports, slots and budgets; None: it is alone
    source:    the file that the settings were read from, to be read again; None: they stay as they are
    tls:       certificates that were read already; None: they are read as the settings say
    held:      ports that were opened for it; None: it opens its own, or its station has them
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        chance: Random,
        recorder: Recorder | None = None,
        station: Station | None = None,
        source: Source | None = None,
        tls: Tls | None = None,
        held: Held | None = None,
    ) -> None:
        self.station, self._held = station, held
        self.tls = tls or Tls(settings.tls, settings.admin_tls, clock)
        self.clock = clock
        self.draining = False
        self.background = Background()
        self._cork = _cork(settings.busy_poll, clock)
        self._listen = settings.listen
        self.entrance = Entrance(settings.auth, clock=clock, spawn=self.background.spawn)
        self._next_gatekeeper: Gatekeeper | None = None
        self._recorder = recorder
        self.tracing = tracing(settings, clock, chance)
        self._ring = Ring(told=None if self.tracing is None else self.tracing.tracer.decided)
        self.opening = Opening(spawn=self.background.spawn, cold_tail=self._cold_tail)
        self.tables = self._succession(settings, chance)
        known = self.estimates if recorder is None else recorder.remembering(self.estimates)
        self.memory = None if settings.state is None else Memory(known, settings.state, clock)
        self.access_log = access_log(settings, clock, chance)
        self.ledger = self._ledger()
        if self.tracing is not None:
            self.tracing.follow(self.ledger)
        self.keys = idempotency(settings, station, clock, chance)
        self.tenants = Tenants(settings.tenants, clock=clock, standing=self.ledger.standing, sources=station)
        new_pipeline = self._steps()
        self.pipeline = new_pipeline(protocols=self._protocols())
        self._pipelines = [self.pipeline]
        doorkeeper = self._doorkeeper()
        self.listener = Listener(
            self.pipeline, limits=_listener_limits(settings), clock=clock, chance=chance,
            names_traces=self.tracing is None, tls=self.tls.data, doorkeeper=doorkeeper,
            cork=self._cork,
        )  # fmt: skip
        self.config = ConfigStatus(effective(settings), clock.wall())
        self.reloader = None if source is None else self._reloader(source, settings)
        self.explaining = Explaining(
            self.routes, self.pools, ring=self._ring, clock=clock, spending=self.spending,
            ended=lambda: self.ledger.ended, suppose=Supposing(lambda: self.settings, registries()),
        )  # fmt: skip
        self.admin, self.desk = Admin(self, self.explaining, self.entrance.door), Desk(self, self.explaining)
        for window in (self.admin, self.desk):
            window.registry.register(DrainingCalls(lambda: self.tables.draining))
            window.registry.register(self.tls)
            window.registry.register(doorkeeper)
            window.registry.register(self.tenants)
        self.admin.views.scaler = self.scaling = ScalingService.of(self, settings.scaling)
        self.grpc = self._grpc(new_pipeline)
        self.http_address: Address | None = None
        self.grpc_address: Address | None = None
        self.admin_address: Address | None = None

    def _succession(self, settings: Settings, chance: Random) -> Succession:
        clock, (backends, policies) = self.clock, registries()
        seams = {"clock": clock, "chance": chance, "timers": asyncio.get_running_loop()}
        new_capacity, new_pool = makers(self._recorder, self.station, seams)
        builder = Builder(
            policies=policies, opener=self.opening, budgets=Budgets(self.station), ring=self._ring,
            new_pool=new_pool, clock=clock, chance=chance, spawn=self.background.spawn,
        )  # fmt: skip
        self.estimates = builder.estimates
        tables = Succession(
            builder, backends=backends, policies=policies, new_capacity=new_capacity,
            background=self.background, clock=clock, chance=chance, cork=self._cork,
        )  # fmt: skip
        tables.parted = self._parted
        tables.found(settings)
        return tables

    def _ledger(self) -> Ledger:
        settings = self.settings
        return Ledger(
            routes=[route_facts(name, settings) for name in settings.routes],
            backends=self._backend_facts(),
            now=self.clock.now(),
            access_log=self.access_log,
            # From a part of the calls no number of replicas can be worked out.
            advice=advice(settings, self.backends) if self.station is None else None,
        )

    def _backend_facts(self) -> list[BackendFacts]:
        """Of those in the file, and of those that still have calls though they are not there any more."""
        share = 1.0 if self.station is None else 1.0 / self.station.count
        named: dict[str, Member] = {}
        for member in self.tables.members:
            named.setdefault(member.name, member)
        return [BackendFacts.of(member.backend, share) for member in named.values()]

    def _reloader(self, source: Source, settings: Settings) -> Reloader:
        reloader = Reloader(
            source, settings, adopt=self.reload, counted=self.ledger.reloaded,
            status=self.config, clock=self.clock,
        )  # fmt: skip
        reloader.renew = self.tls.renew
        return reloader

    def _doorkeeper(self) -> Doorkeeper:
        pressure = Pressure(clock=self.clock, timers=asyncio.get_running_loop(), cpu=cpu_seconds)
        return Doorkeeper(pressure)

    def _protocols(self) -> Protocols:
        def depth() -> int:
            return self.settings.limits.json_depth

        raw, kserve = Raw(), Kserve(self, version=__version__, depth=depth)
        openai = OpenAI(
            lambda: self.routes.models("openai"), route_of=partial(self.route_of, "openai"), depth=depth
        )
        return Protocols([kserve, openai, raw, Webhooks(lambda: self.backends)], fallback=raw)

    def _steps(self) -> Callable[..., Pipeline]:
        """A pipeline for each port, told its protocols; the state behind them is one."""
        table = self.tables.table
        return partial(
            Pipeline,
            routes=table.routes,
            admission=table.admission,
            dispatch=table.dispatch,
            relay=Relay(clock=self.clock),
            ledger=self.ledger,
            clock=self.clock,
            tracer=None if self.tracing is None else self.tracing.tracer,
            gatekeeper=self.entrance.gatekeeper,
            keys=self.keys,
            tenants=self.tenants.asked,
        )

    def _grpc(self, new_pipeline: Callable[..., Pipeline]) -> GrpcServer | None:
        """The gRPC port, with a protocol of its own."""
        if self.settings.listen.grpc is None:
            return None
        protocol = Grpc(self, version=__version__)
        pipeline = new_pipeline(protocols=Protocols([protocol], fallback=protocol))
        self._pipelines.append(pipeline)
        return GrpcServer(
            pipeline,
            protocol,
            limits=_grpc_limits(self.settings),
            clock=self.clock,
            name=self.listener.name,
            tls=self.tls.data,
            cork=self._cork,
        )

    def _cold_tail(self, route: str, backend: str) -> float:
        return self.estimates.of(route, backend).cold.tail

    # -- what the configuration of the moment has made

    @property
    def settings(self) -> Settings:
        """What the gateway runs by."""
        return self.tables.table.settings

    @property
    def backends(self) -> Mapping[str, Backend]:
        """By name."""
        return self.tables.table.backends

    @property
    def capacities(self) -> Mapping[str, Capacity]:
        """The slots of each backend."""
        return self.tables.table.capacities

    @property
    def pools(self) -> Mapping[str, Pool]:
        """By route."""
        return self.tables.table.pools

    @property
    def prewarming(self) -> Mapping[str, Prewarming]:
        """Of each route that opens instances ahead."""
        return self.tables.table.prewarming

    @property
    def hedging(self) -> Mapping[str, Hedging]:
        """Of each route that hedges."""
        return self.tables.table.hedging

    @property
    def routes(self) -> RouteTable:
        """All routes."""
        return self.tables.table.routes

    @property
    def spending(self) -> Spending:
        """The spill budgets."""
        return self.tables.table.spending

    @property
    def retries(self) -> RetryBudgets:
        """The retry budgets."""
        return self.tables.table.retries

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

    def route_of(self, protocol: str, model: str) -> str | None:
        """Name of the model's route in a protocol; None for unknown models."""
        return self.routes.route_of(protocol, model)

    def sole_route(self) -> str:
        """The one route that serves KServe calls, "" if there are none or several."""
        return self.routes.sole("kserve")

    def effective_config(self) -> str:
        """The running configuration, secrets by reference."""
        return effective(self.settings)

    # -- another configuration

    async def reload(self, settings: Settings) -> None:
        """Run by these settings from now on. ConfigError when it cannot be, and then nothing has changed."""
        self.adopt(await self.prepare(settings))

    async def prepare(self, settings: Settings) -> Draft:
        """The first half of it: open what is new. Either half is all that can fail."""
        if self._recorder is not None:
            raise CannotNow("decisions are being recorded, and a recording is of one configuration")
        if self.draining:
            raise CannotNow("the gateway is about to end")
        self._next_gatekeeper = await self.entrance.prepare(settings.auth)
        return await self.tables.prepare(settings.model_copy(update={"listen": self._listen}))

    def adopt(self, draft: Draft) -> None:
        """The second half of it, in one step."""
        self.tables.adopt(draft)
        table = self.tables.table
        self.entrance.adopt(table.settings.auth, self._next_gatekeeper)
        self.tenants.follow(table.settings.tenants)
        for pipeline in self._pipelines:
            pipeline.follow(
                routes=table.routes, admission=table.admission, dispatch=table.dispatch,
                gatekeeper=self.entrance.gatekeeper, tenants=self.tenants.asked,
            )  # fmt: skip
        self.explaining.follow(table.routes, table.pools, table.spending)
        self.listener.limits = _listener_limits(table.settings)
        self.listener.heads.clear()  # with them goes what backends and keys of the old file have left there
        if self.grpc is not None:
            self.grpc.limits = _grpc_limits(table.settings)
        self._rebook()

    def _rebook(self) -> None:
        settings = self.settings
        facts = [route_facts(name, settings) for name in settings.routes]
        self.ledger.reload(routes=facts, backends=self._backend_facts(), now=self.clock.now())
        self._follow_sizes()

    def _parted(self, member: Member) -> None:
        self._settle_member(member, math.inf)
        self._rebook()

    # -- life

    async def open(self) -> None:
        """Open backends, then the admin port, then the data port: ready only when everything is."""
        await self.tables.open()
        self._follow_sizes()
        self.tables.begin()
        self.background.spawn(self._settle_forever(), name="settle charges")
        self.background.spawn(self.entrance.watch(), name="keep up with keys")
        if self.memory is not None:
            self.memory.load()
            if self._writes_state:
                self.background.spawn(self.memory.run(), name="save estimates")
        if self.ledger.advice is not None:
            self.background.spawn(self.ledger.advice.run(self.effective_config), name="advice on replicas")
        if self.keys is not None:
            await self.keys.store.open()
            self.background.spawn(self.keys.store.run(), name="hold idempotency keys")
        await self.tls.renew()
        self.tls.watch(self.background)
        if self.reloader is not None:
            self.background.spawn(self.reloader.watch(), name="watch the configuration file")
        listen, held = self.settings.listen, self.station or self._held
        if self.station is None:
            admin = None if self._held is None or self._held.admin is None else self._held.admin.dup()
            started = await self.admin.start(*listen.admin, listening=admin, tls=self.tls.admin)
            self.admin_address = Address(*started)
            await self.scaling.open(self.background)
        else:
            await self.desk.start(self.station.desk)
        doors = {} if held is None else held.doors
        self.http_address = Address(*await self.listener.open(*listen.http, doors=doors.get("http")))
        if self.grpc is not None and listen.grpc is not None:
            self.grpc_address = Address(*await self.grpc.open(*listen.grpc, doors=doors.get("grpc")))

    async def close(self) -> None:
        """Stop taking calls, finish those in flight within `drain_timeout`, give everything back."""
        self.draining = True
        for ahead in self.tables.table.prewarming.values():
            ahead.stop()
        if self.station is not None:
            self.station.leaving()
        drains = [self.listener.drain(self.settings.drain_timeout)]
        if self.grpc is not None:
            drains.append(self.grpc.drain(self.settings.drain_timeout))
        await asyncio.gather(*drains)
        await self.opening.close()
        self.settle(math.inf)  # what still idles will be billed to its end, though nobody counts then
        if self.station is not None:
            self.station.close()
        await self.tables.close()
        await self.background.close(grace=0.0)
        if self.keys is not None:
            await self.keys.store.close()
        await self.admin.stop()
        await self.scaling.close()
        await self.desk.stop()
        if self.memory is not None and self._writes_state:
            self.memory.save()
        if self.access_log is not None:
            self.access_log.close()
        if self.tracing is not None:
            await self.tracing.close()

    @property
    def _writes_state(self) -> bool:
        return self.station is None or self.station.writes_state

    def settle(self, until: float) -> None:
        """Book the charges outside attempts that fell due by `until`."""
        for member in self.tables.members:
            self._settle_member(member, until)

    def _settle_member(self, member: Member, until: float) -> None:
        now, name, table = self.clock.now(), member.name, self.tables.table
        for charge in member.backend.settle(until):
            self.ledger.charge(name, charge)
            table.spending.spend(charge.route, name, charge.usd, now)
            if charge.route in table.prewarming:
                table.prewarming[charge.route].charged(charge, now)

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


def _cork(busy_poll: float, clock: Clock) -> Cork:
    if not busy_poll:
        return Cork()
    poll = BusyPoll(busy_poll, now=clock.now, soon=asyncio.get_running_loop().call_soon)
    return Cork(sent=poll.sent)


def _grpc_limits(settings: Settings) -> GrpcLimits:
    limits = GrpcLimits(**{name: getattr(settings.limits, name) for name in GrpcLimits._fields})
    most = descriptors.most_clients(limits.connections, files=descriptors.limit())
    return limits._replace(connections=most)


def _listener_limits(settings: Settings) -> ListenerLimits:
    limits = ListenerLimits(**{name: getattr(settings.limits, name) for name in ListenerLimits._fields})
    most = descriptors.most_clients(limits.connections, files=descriptors.limit())
    return limits._replace(connections=most)
