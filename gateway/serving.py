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
from gateway.errors import ConfigError
from gateway.reload import Reloader
from gateway.restarting import Ending, Restarting
from gateway.signals import Signals, held_back
from gateway.succession import Draft
from gateway.tls import Tls
from gateway.workers import activation
from gateway.workers.assignment import Assignment
from gateway.workers.crew import Crew
from gateway.workers.handover import Received, received
from gateway.workers.inventory import Shared, part_of, shared_by
from gateway.workers.office import MergedViews
from gateway.workers.ports import Attended, Door, Held, listening, one_address, taken
from gateway.workers.run import Plan
from gateway.workers.run import run as run_workers
from gateway.workers.station import Common, Station
from gateway.workers.supervisor import RETIRE
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
    with held_back():
        before = received(_addresses(settings))
        if workers > 1:
            return _serve_with(source, settings, workers, before)
        return _serve_alone(source, settings, record, before)


def _serve_with(source: Source, settings: Settings, workers: int, before: Received | None) -> int:
    clock = SystemClock()
    backends = list(_looked_at(settings, clock))
    shared = shared_by(settings, backends)
    tls = Tls(settings.tls, settings.admin_tls, clock)
    crew = None if before is None else _crew_before(before, settings, shared, backends)
    if before is not None and before.trying:
        return 0
    with ExitStack() as undo:
        try:
            count = workers if crew is None else crew.count
            held = _held(settings, count, before, undo, admin=True)
        except OSError as error:
            log.error("cannot start: %s", error)
            return 1
        assert held.admin is not None
        bound = _bound(settings, held)
        plan = Plan(
            crew=crew or Crew.new(workers, shared), work=partial(_run, bound, None, tls=tls.only_data()),
            admin=held.admin, doors=held.claims, listen=_addresses(settings),
            scheme=_scheme(settings.tls), tls=tls.only_admin(),
            patience=settings.drain_delay + settings.drain_timeout,
            config=ConfigStatus(effective(settings), clock.wall()),
            reloader=partial(_reloader_of_all, source, settings, clock), admin_door=AdminDoor(settings.auth),
            scaling=settings.scaling,
        )  # fmt: skip
        return run_workers(plan, clock)


def _serve_alone(source: Source, settings: Settings, record: Path | None, before: Received | None) -> int:
    clock, listen = SystemClock(), settings.listen
    if before is not None and before.handover.crew is not None:
        raise ConfigError("several workers run, which one cannot take over from: keep --workers as it was")
    tls = Tls(settings.tls, settings.admin_tls, clock)
    if before is not None and before.trying:
        list(_looked_at(settings, clock))
        return 0
    with ExitStack() as undo:
        try:
            held = _held(settings, 1, before, undo, admin=one_address(*listen.admin))
        except OSError as error:
            log.error("cannot start: %s", error)
            return 1
        restarting = Restarting(held, _addresses(settings), clock)
        status = _run(_bound(settings, held), record, None, source=source, tls=tls, restarting=restarting)
        if status is None:
            restarting.become()
        return 1 if status is None else status


def _addresses(settings: Settings) -> list[str]:
    """As the file has them, for who takes over."""
    listen = settings.listen
    return [f"{name} {getattr(listen, name)}" for name in ("http", "grpc", "admin")]


def _bound(settings: Settings, held: Held) -> Settings:
    """With the ports that the system has chosen."""
    found = {name: Address(door.host, door.port) for name, door in held.claims.items()}
    return settings.model_copy(update={"listen": settings.listen.model_copy(update=found)})


def _held(settings: Settings, count: int, before: Received | None, undo: ExitStack, *, admin: bool) -> Held:
    """The ports, opened or taken over. Raises OSError, ConfigError. `admin`: that one too."""
    listen = settings.listen
    there = None if before is None else before.handover
    passed = activation.passed(listen.http, listen.grpc, listen.admin)
    claims = {}
    for name, address in (("http", listen.http), ("grpc", listen.grpc)):
        if address is not None:
            left = [] if there is None else [taken(queue) for queue in there.doors[name]]
            claims[name] = undo.enter_context(Door(*address, count, kept=left or passed.queues(name, count)))
    window = None
    if there is not None and there.admin is not None:
        window = taken([there.admin])[0]
    elif passed.admin is not None:
        window = passed.admin
    elif admin:
        window = listening(*listen.admin)
    if window is not None:
        undo.enter_context(window)
    return Held(claims, {name: Attended(door, 0) for name, door in claims.items()}, window)


def _crew_before(before: Received, settings: Settings, shared: Shared, backends: list[Backend]) -> Crew:
    """The workers that run, whose successors are to run by these settings. ConfigError when they cannot."""
    handed = before.handover.crew
    if handed is None:
        raise ConfigError("one worker runs, which several cannot take over from: keep --workers as it was")
    crew = Crew.taken_over(handed)
    takeover = Takeover(crew.common)
    current = takeover.recover()
    running = _told(handed.text if current is None else current.text, settings)
    takeover.remember(_names(_looked_at(running, SystemClock())))
    takeover.succeed(settings, shared, _names(backends), trying=before.trying)
    return crew


def _scheme(tls: object | None) -> str:
    return "http" if tls is None else "https"


def _run(
    settings: Settings,
    record: Path | None,
    station: Station | None,
    *,
    source: Source | None = None,
    tls: Tls | None = None,
    restarting: Restarting | None = None,
) -> int | None:
    """One gateway on a loop of its own, in this process. None: a new version is to follow."""
    if station is not None:
        if (current := station.current()) is not None:  # all others have taken it over
            station.assign(current)
            settings = _told(current.text, settings)
        settings = part_of(settings, station.index, station.count)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings, record, station, source=source, tls=tls, restarting=restarting))


async def _serve(
    settings: Settings,
    record: Path | None,
    station: Station | None,
    *,
    source: Source | None,
    tls: Tls | None,
    restarting: Restarting | None,
) -> int | None:
    chance = Random()  # noqa: S311 - it spreads load and names requests; it guards nothing
    ending = Ending()
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
                held=None if restarting is None else restarting.held,
            )
            if station is not None:
                gateway.desk.apprentice = _Apprentice(gateway, station)
            undo.enter_context(_signals(gateway, ending, None if record else restarting))
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
        await ending.told()
        if ending.waits and gateway.settings.drain_delay:
            gateway.draining = True
            log.info("not ready any more; calls are taken for another %g s", gateway.settings.drain_delay)
            await asyncio.sleep(gateway.settings.drain_delay)
        log.info("draining for up to %g s", gateway.settings.drain_timeout)
        await gateway.close()
        if recorder is not None and record is not None:
            recording.end(recorder, record)
    return None if ending.restarts else 0


@contextmanager
def _signals(gateway: Gateway, ending: Ending, restarting: Restarting | None) -> Iterator[None]:
    signals, station = Signals(), gateway.station
    signals.on(signal.SIGTERM, signal.SIGINT, call=ending.stop)
    # One signal for both: who rotates logs changes nothing by a file that says what it said before.
    signals.on(signal.SIGHUP, call=partial(_hung_up, gateway))
    signals.on(signal.SIGUSR2, call=partial(_renewed, gateway, ending, restarting))
    if station is not None:
        signals.on(RETIRE, call=partial(_retired, station, ending))
    loop = asyncio.get_running_loop()
    with ExitStack() as undo:
        undo.enter_context(signals.installed())
        if station is not None:  # nobody would stop or restart a worker without its supervisor
            loop.add_reader(station.leash, ending.part)
            undo.callback(loop.remove_reader, station.leash)
        yield


def _retired(station: Station, ending: Ending) -> None:
    """The successor serves, and keeps the file with what was learned."""
    station.retired = True
    ending.part()


def _renewed(gateway: Gateway, ending: Ending, restarting: Restarting | None) -> None:
    """A worker's supervisor is about to start new ones, which read what this one has learned."""
    if restarting is not None:
        gateway.background.spawn(restarting.begin(ending), name="try the new version")
    elif gateway.station is None:
        log.error("cannot restart while decisions are recorded: a recording is of one process")
    elif gateway.memory is not None and gateway.station.writes_state:
        gateway.memory.save()


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
