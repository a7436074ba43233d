"""`overspill serve --workers N`: makes what the workers share, then has them and the admin port kept running.

Who builds a gateway is an argument: nothing here knows one.
"""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from gateway.auth.admin import AdminDoor
from gateway.clock import Clock
from gateway.config.scaling import Scaling
from gateway.config.status import ConfigStatus
from gateway.reload import Reloader
from gateway.scaling.service import ScalingService
from gateway.tls import Tls
from gateway.workers import office
from gateway.workers.inventory import Shared
from gateway.workers.ports import Port
from gateway.workers.shared_slots import LINGER_S, Replicas
from gateway.workers.shared_spending import Accounts
from gateway.workers.station import Common, Station
from gateway.workers.supervisor import Job, Supervisor

log = logging.getLogger("overspill.workers")

MOST_WORKERS = 64
SPARE_REPLICAS = 64
SPARE_BUDGETS = 32
"""What reloads may bring while the workers run, beside what the first configuration has."""
_AFTER_DRAIN_S = 15.0
"""What a worker may take to end after its last call."""


def worker_count(text: str) -> int:
    """Of `--workers`: a number, or `auto` for one per core that this process may use. Raises ValueError."""
    if text == "auto":
        return min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    if text.isdecimal() and 1 <= int(text) <= MOST_WORKERS:
        return int(text)
    raise ValueError(f"{text!r} is not a number of workers: write auto, or a number from 1 to {MOST_WORKERS}")


class Plan(NamedTuple):
    """What is to be run.

    work:           what a worker does until it is told to stop; returns its exit status
    ports:          those that all workers share, by what they speak
    drain_timeout:  seconds that running calls have when it ends
    config:         the configuration for people
    reloader:       makes who takes over a changed file, of the views of all workers and what these share
    scheme:         of the data port's address
    tls:            what the admin port shows its clients, if anything
    door:           who may use the admin port
    scaling:        what an autoscaler is told
    """

    workers: int
    shared: Shared
    work: Callable[[Station], int]
    admin: socket.socket
    ports: Mapping[str, Port]
    drain_timeout: float
    config: ConfigStatus
    reloader: Callable[[office.MergedViews, Common], Reloader]
    scheme: str
    tls: Tls
    door: AdminDoor
    scaling: Scaling = Scaling()


class _Watch:
    """Returns what ended workers held (`supervisor.Watch`)."""

    def __init__(self, common: Common, count: int, clock: Clock) -> None:
        self._common = common
        self._count = count
        self._clock = clock
        self._begun: set[int] = set()

    def ended(self, job: int) -> None:
        if job < self._count:
            now = self._clock.now()
            held = self._common.replicas.reap(job, now)
            self._common.accounts.reap(job, now)
            if held:
                log.info("worker %d held %d slots; they are free again in %g s", job, held, LINGER_S)

    def restarted(self, job: int) -> None:
        if job < self._count:
            self._common.replicas.restarts += 1

    def started(self) -> bool:
        return all(self._common.replicas.serving(worker) for worker in range(self._count))

    def tend(self) -> bool:
        return self._common.replicas.tend(self._clock.now())


def run(plan: Plan, clock: Clock) -> int:
    """Run until SIGTERM or SIGINT, then drain. Returns the exit status."""
    directory = Path(tempfile.mkdtemp(prefix="overspill-"))
    leash = os.pipe()
    try:
        replicas = Replicas(plan.shared.slots, plan.workers, spare=SPARE_REPLICAS)
        accounts = Accounts(plan.shared.budgets, plan.workers, spare=SPARE_BUDGETS)
        common = Common(replicas, accounts, directory)
        stations = [Station(index, common, leash[0]) for index in range(plan.workers)]
        jobs = [Job(f"worker {each.index}", partial(plan.work, each)) for each in stations]
        views = office.MergedViews(directory, replicas, plan.config)
        views.door = plan.door
        views.scaler = ScalingService(plan.scaling, views.loads, clock)
        reloader = partial(_reloader, plan, common)
        attend = partial(office.attend, views, plan.admin, leash[0], reloader, plan.tls)
        supervisor = Supervisor(
            [*jobs, Job("the admin process", attend, last=True)],
            _Watch(common, plan.workers, clock),
            clock=clock,
            patience=plan.drain_timeout + _AFTER_DRAIN_S,
            hangup=True,
            leash=leash,
        )
        return supervisor.run(partial(_tell, plan))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _reloader(plan: Plan, common: Common, views: office.MergedViews) -> Reloader:
    return plan.reloader(views, common)


def _tell(plan: Plan) -> None:
    host, port = plan.admin.getsockname()[:2]
    log.info(
        "serving on %s://%s, admin on %s://%s, with %d workers",
        plan.scheme, plan.ports["http"], "http" if plan.tls.admin is None else "https",
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}", plan.workers,
    )  # fmt: skip
    if "grpc" in plan.ports:
        log.info("serving gRPC on %s", plan.ports["grpc"])
