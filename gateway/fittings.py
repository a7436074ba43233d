"""Small parts that a gateway is put together from, each made as its section of the file says.

Knows settings, and how capacities and pools are made in one process, in one of several, or under a recorder.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from backends.base import Backend
from gateway import __version__
from gateway.access_log import AccessLog
from gateway.advice import Advice
from gateway.capacity import Capacity
from gateway.clock import Clock
from gateway.config.idempotency import SqliteStore
from gateway.config.schema import Settings
from gateway.heir_slots import heir_slots
from gateway.idempotency.keys import Keys
from gateway.idempotency.store import Memory, Store
from gateway.member import NewCapacity
from gateway.pool import Pool
from gateway.recorder import Recorder
from gateway.tracing.service import TraceService
from gateway.workers.station import Station

log = logging.getLogger("overspill.fittings")


def makers(
    recorder: Recorder | None, station: Station | None, seams: Mapping[str, Any]
) -> tuple[NewCapacity, Callable[..., Pool]]:
    """What capacities and pools are made with."""
    if recorder is not None:
        return partial(_recorded_capacity, recorder), recorder.pool
    if station is not None:
        return partial(_shared_capacity, station, seams), partial(Pool, **seams)
    return partial(_capacity, seams), partial(Pool, **seams)


def _recorded_capacity(recorder: Recorder, backend: Backend, _: Capacity | None) -> Capacity:
    return recorder.capacity(backend)


def _shared_capacity(
    station: Station, seams: Mapping[str, Any], backend: Backend, _: Capacity | None
) -> Capacity:
    return Capacity(backend, slots=partial(station.slots, backend.name), **seams)


def _capacity(seams: Mapping[str, Any], backend: Backend, before: Capacity | None) -> Capacity:
    return Capacity(backend, slots=None if before is None else heir_slots(backend, before), **seams)


def access_log(settings: Settings, clock: Clock, chance: Random) -> AccessLog | None:
    options = settings.access_log
    if options is None:
        return None
    target = sys.stdout.fileno() if options.path == "-" else Path(options.path)
    return AccessLog(target, clock=clock, share=options.sample, chance=chance)


def tracing(settings: Settings, clock: Clock, chance: Random) -> TraceService | None:
    """Spans, where the file asks for them. Raises ConfigError where a package for them is missing."""
    if settings.tracing is None:
        return None
    return TraceService(settings.tracing, clock=clock, chance=chance, version=__version__)


def idempotency(settings: Settings, station: Station | None, clock: Clock, chance: Random) -> Keys | None:
    """Where keys are remembered, unless the file says that they are only passed on."""
    section = settings.idempotency
    if not section:
        return None
    store: Store
    if isinstance(section.store, SqliteStore):
        from gateway.idempotency.sqlite import Sqlite  # noqa: PLC0415 - a database only where one is asked for

        store = Sqlite(
            section.store.sqlite, clock=clock, owner=f"{os.getpid()}-{chance.getrandbits(64):016x}",
            keep=section.keep, max_bytes=section.max_bytes, max_keys=section.max_keys,
        )  # fmt: skip
    else:
        if station is not None and station.index == 0:  # said once, not by each
            log.warning(
                "idempotency keys hold in one worker each, and a repeated call may reach another; "
                "write idempotency: {store: {sqlite: PATH}} for keys that hold in all of them"
            )
        store = Memory(clock=clock, keep=section.keep, max_bytes=section.max_bytes, max_keys=section.max_keys)
    return Keys(store, clock=clock, max_answer=section.max_answer, max_request=section.max_request)


def advice(settings: Settings, backends: Mapping[str, Backend]) -> Advice | None:
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
