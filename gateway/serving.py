"""A gateway as a process, or as several: from settings to an exit status.

Puts the signals in, tells what is served, drains at the end. What a gateway is made of is `app.py`'s affair.
"""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import uvloop

from backends.base import Backend, Kit
from gateway import descriptors, recording
from gateway.app import Gateway, registries
from gateway.auth.admin import AdminDoor
from gateway.clock import Clock, SystemClock
from gateway.config.effective import effective
from gateway.config.load import load
from gateway.config.schema import Address, Settings
from gateway.config.source import Source
from gateway.config.status import ConfigStatus
from gateway.reload import Reloader
from gateway.signals import Signals
from gateway.succession import Draft
from gateway.tls import Tls
from gateway.workers.assignment import Assignment
from gateway.workers.inventory import part_of, shared_by
from gateway.workers.office import MergedViews
from gateway.workers.ports import Port, listening
from gateway.workers.run import Plan
from gateway.workers.run import run as run_workers
from gateway.workers.station import Common, Station
from gateway.workers.takeover import Takeover, names_of

log = logging.getLogger("overspill")


def serve(source: Source, settings: Settings, *, record: Path | None = None, workers: int = 1) -> int:
    """Run until SIGTERM or SIGINT, then drain. Returns the exit status. `record`: where decisions go.

    source:   the file that the settings were read from
    workers:  processes that share the ports, the slots and the spill budgets; only one can record.
              ConfigError for a backend whose slots cannot be shared
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    descriptors.raise_limit(settings.limits.connections)
    if workers > 1:
        return _serve_with(source, settings, workers)
    return _run(settings, record, None, source)


def _serve_with(source: Source, settings: Settings, workers: int) -> int:
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
        tls = Tls(settings.tls, settings.admin_tls, clock)
        found = {name: Address(port.host, port.port) for name, port in ports.items()}
        bound = settings.model_copy(update={"listen": listen.model_copy(update=found)})
        plan = Plan(
            workers=workers, shared=shared, work=partial(_run, bound, None, tls=tls.only_data()),
            admin=admin, ports=ports, scheme=_scheme(settings.tls), tls=tls.only_admin(),
            drain_timeout=settings.drain_timeout, config=ConfigStatus(effective(settings), clock.wall()),
            reloader=partial(_reloader_of_all, source, settings, clock), door=AdminDoor(settings.auth),
            scaling=settings.scaling,
        )  # fmt: skip
        return run_workers(plan, clock)


def _scheme(tls: object | None) -> str:
    return "http" if tls is None else "https"


def _run(
    settings: Settings,
    record: Path | None,
    station: Station | None,
    source: Source | None = None,
    tls: Tls | None = None,
) -> int:
    """One gateway on a loop of its own, in this process."""
    if station is not None:
        if (current := station.current()) is not None:  # all others have taken it over
            station.assign(current)
            settings = _told(current.text, settings)
        settings = part_of(settings, station.index, station.count)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, record, station, source, tls))


async def _serve(
    settings: Settings,
    record: Path | None,
    station: Station | None,
    source: Source | None,
    tls: Tls | None,
) -> int:
    chance = Random()  # noqa: S311 - it spreads load and names requests; it guards nothing
    stop = asyncio.Event()
    with ExitStack() as undo:
        try:
            recorder = None if record is None else recording.begun(record, chance)
            gateway = Gateway(
                settings,
                clock=SystemClock(),
                chance=chance,
                recorder=recorder,
                station=station,
                source=source,
                tls=tls,
            )
            if station is not None:
                gateway.desk.apprentice = _Apprentice(gateway, station)
            undo.enter_context(_signals(gateway, stop))
            await gateway.open()
        except OSError as error:
            log.error("cannot start: %s", error)
            return 1
        if station is None:
            log.info(
                "serving on %s://%s, admin on %s://%s",
                _scheme(settings.tls), gateway.http_address,
                _scheme(settings.admin_tls), gateway.admin_address,
            )  # fmt: skip
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
    signals = Signals()
    signals.on(signal.SIGTERM, signal.SIGINT, call=stop.set)
    # One signal for both: who rotates logs changes nothing by a file that says what it said before.
    signals.on(signal.SIGHUP, call=partial(_hung_up, gateway))
    loop = asyncio.get_running_loop()
    with ExitStack() as undo:
        undo.enter_context(signals.installed())
        if gateway.station is not None:  # nobody would stop or restart a worker without its supervisor
            loop.add_reader(gateway.station.leash, stop.set)
            undo.callback(loop.remove_reader, gateway.station.leash)
        yield


def _hung_up(gateway: Gateway) -> None:
    if gateway.access_log is not None:
        gateway.access_log.reopen()  # so that logs can be rotated
    if gateway.reloader is not None:
        gateway.background.spawn(_reload(gateway.reloader), name="reload at SIGHUP")
    else:
        gateway.background.spawn(gateway.tls.renew(), name="renew certificates at SIGHUP")


async def _reload(reloader: Reloader) -> None:
    await reloader.reload()


class _Apprentice:
    """Takes over configurations in one worker, in the two steps that all workers take together."""

    def __init__(self, gateway: Gateway, station: Station) -> None:
        self._gateway = gateway
        self._station = station
        self._draft: Draft | None = None

    async def prepare(self, assignment: Assignment) -> None:
        """Open what is new."""
        await self.abort()
        station, gateway = self._station, self._gateway
        station.assign(assignment)
        settings = _told(assignment.text, gateway.settings)
        self._draft = await gateway.prepare(part_of(settings, station.index, station.count))

    def commit(self) -> None:
        """Put it in place. What cannot be is put right by a fresh start."""
        draft, self._draft = self._draft, None
        try:
            if draft is None:
                raise RuntimeError("nothing was prepared")
            self._gateway.adopt(draft)
        except Exception:
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    async def abort(self) -> None:
        """Forget it."""
        draft, self._draft = self._draft, None
        if draft is not None:
            await self._gateway.tables.discard(draft)

    def rows(self) -> list[int]:
        """Rows of slots that are in use here."""
        return self._station.rows()


def _told(text: str, running: Settings) -> Settings:
    settings = load(text, *registries()).settings
    return settings.model_copy(update={"listen": running.listen})


def _reloader_of_all(
    source: Source, settings: Settings, clock: Clock, views: MergedViews, common: Common
) -> Reloader:
    """Who takes over a changed file in all workers, in the admin process."""
    takeover = Takeover(common)
    if (current := takeover.recover()) is not None:
        settings = _told(current.text, settings)
        views.config.accept(current.text, clock.wall())
        _follow(views, settings)
    takeover.remember(_names(_looked_at(settings, clock)))

    async def adopt(wanted: Settings) -> None:
        backends = list(_looked_at(wanted, clock))
        await takeover.adopt(wanted, shared_by(wanted, backends), _names(backends))
        _follow(views, wanted)

    return Reloader(source, settings, adopt=adopt, counted=views.counted, status=views.config, clock=clock)


def _follow(views: MergedViews, settings: Settings) -> None:
    if views.door is not None:
        views.door.follow(settings.auth)


def _names(backends: Iterable[Backend]) -> dict[tuple[str, int], str]:
    return names_of((each.name, each.replicas) for each in backends)


def _looked_at(settings: Settings, clock: Clock) -> Iterator[Backend]:
    """The backends of these settings, built and never opened."""
    kit = Kit(clock=clock, chance=Random(), spawn=_spawn_nothing)  # noqa: S311 - nothing is drawn of it
    registry = registries()[0]
    for name, options in settings.backends.items():
        yield registry.get(options.type)(name, options, kit)


def _spawn_nothing(work: Any, /, *, name: str) -> None:
    work.close()
    raise RuntimeError(f"{name}: a backend that is only looked at starts nothing")
