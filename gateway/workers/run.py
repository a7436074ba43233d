"""`overspill serve --workers N`: makes what the workers share, then has them and the admin port kept running.

Who builds a gateway is an argument: nothing here knows one.
"""

import logging
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from gateway.auth.admin import AdminDoor
from gateway.clock import Clock
from gateway.config.scaling import Scaling
from gateway.config.status import ConfigStatus
from gateway.reload import Reloader
from gateway.scaling.service import ScalingService
from gateway.tls import Tls
from gateway.workers import office
from gateway.workers.crew import Crew, Succession
from gateway.workers.ports import DoorsBySpeech
from gateway.workers.shared_slots import LINGER_S
from gateway.workers.station import Common, Station
from gateway.workers.supervisor import Job, Supervisor

log = logging.getLogger("overspill.workers")

MOST_WORKERS = 64
_AFTER_DRAIN_S = 15.0
"""What a worker may take to end after its last call."""
_NO_PLACE = 1 << 30
"""Of a process that is no worker."""


def worker_count(text: str) -> int:
    """Of `--workers`: a number, or `auto` for one per core that this process may use. Raises ValueError."""
    if text == "auto":
        return min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    if text.isdecimal() and 1 <= int(text) <= MOST_WORKERS:
        return int(text)
    raise ValueError(f"{text!r} is not a number of workers: write auto, or a number from 1 to {MOST_WORKERS}")


class Plan(NamedTuple):
    """What is to be run.

    crew:           what the workers share, and those that run already
    work:           what a worker does until it is told to stop; returns its exit status
    doors:          the ports for calls
    listen:         the addresses of the file
    patience:       seconds that workers have when they are told to end
    config:         the configuration for people
    reloader:       makes who takes over a changed file, of the views of all workers and what these share
    scheme:         of the data port's address
    tls:            what the admin port shows its clients, if anything
    admin_door:     who may use the admin port
    scaling:        what an autoscaler is told
    """

    crew: Crew
    work: Callable[[Station], int | None]
    admin: socket.socket
    doors: DoorsBySpeech
    listen: list[str]
    patience: float
    config: ConfigStatus
    reloader: Callable[[office.MergedViews, Common], Reloader]
    scheme: str
    tls: Tls
    admin_door: AdminDoor
    scaling: Scaling = Scaling()


class _Watch:
    """Returns what ended workers held (`supervisor.Watch`)."""

    def __init__(self, crew: Crew, doors: DoorsBySpeech, clock: Clock) -> None:
        self._crew = crew
        self._doors = doors
        self._common: Common = crew.common
        self._count = crew.common.replicas.workers
        self._clock = clock

    def ended(self, job: int) -> None:
        if job < self._count:
            now = self._clock.now()
            held = self._common.replicas.reap(job, now)
            self._common.accounts.reap(job, now)
            if held:
                index = self._crew.placed[job]
                log.info("worker %d held %d slots; they are free again in %g s", index, held, LINGER_S)

    def restarted(self, job: int) -> None:
        if job < self._count:
            self._common.replicas.restarts += 1

    def started(self) -> bool:
        return all(map(self.serving, self._common.replicas.posted()))

    def begins(self, job: int) -> None:
        if job < self._count:
            self._common.replicas.post(job, there=True)

    def retires(self, job: int) -> None:
        if job < self._count:
            self._common.replicas.post(job, there=False)

    def serving(self, job: int) -> bool:
        return self._common.replicas.serving(job)

    def stopping(self) -> None:
        _close(self._doors)  # or connections would wait for nobody when the workers have closed theirs

    def tend(self) -> bool:
        return self._common.replicas.tend(self._clock.now())


def run(plan: Plan, clock: Clock) -> int:
    """Run until SIGTERM or SIGINT, then drain. Returns the exit status."""
    crew = plan.crew
    succession = Succession(
        crew, listen=plan.listen, doors=plan.doors, admin=plan.admin,
        text=plan.config.text, clock=clock,
    )  # fmt: skip
    try:
        jobs = _workers(plan)
        replace = [(job, _successor(plan, job)) for job in jobs if job.pid is not None]
        if crew.admin is not None:
            jobs.append(_former_admin(crew.admin))
        views = _views(plan, clock)
        jobs.append(_admin(plan, views))
        supervisor = Supervisor(
            jobs,
            _Watch(crew, plan.doors, clock),
            clock=clock,
            patience=plan.patience + _AFTER_DRAIN_S,
            hangup=True,
            leash=crew.leash,
            replace=replace,
            renewal=succession,
        )
        return supervisor.run(partial(_tell, plan, views))
    finally:
        succession.end()
        crew.close()


def _workers(plan: Plan) -> list[Job]:
    """Those that run, or one for each number."""
    crew = plan.crew
    running = {index: (place, pid) for index, place, pid in crew.before}
    taken = {place for place, _ in running.values()}
    jobs = []
    for index in range(crew.count):
        place, pid = running.get(index, (index if index not in taken else crew.successor(index), None))
        jobs.append(_worker(plan, index, place, pid))
    return jobs


def _worker(plan: Plan, index: int, place: int, pid: int | None = None) -> Job:
    station = plan.crew.station(index, place, plan.doors)
    return Job(f"worker {index}", partial(_worked, plan.work, station), number=place, pid=pid)


def _worked(work: Callable[[Station], int | None], station: Station) -> int:
    return work(station) or 0


def _successor(plan: Plan, job: Job) -> Job:
    crew = plan.crew
    return _worker(plan, crew.placed[job.number], crew.successor(job.number))


def _views(plan: Plan, clock: Clock) -> office.MergedViews:
    crew = plan.crew
    views = office.MergedViews(crew.common.directory, crew.common.replicas, plan.config)
    views.door = plan.admin_door
    views.scaler = ScalingService(plan.scaling, views.loads, clock)
    views.begun = bool(crew.before)
    return views


def _admin(plan: Plan, views: office.MergedViews) -> Job:
    crew = plan.crew
    reloader = partial(_reloader, plan, crew.common)
    attend = partial(office.attend, views, plan.admin, crew.leash[0], reloader, plan.tls)
    return Job("the admin process", partial(_outside, plan.doors, attend), number=_NO_PLACE, last=True)


def _outside(doors: DoorsBySpeech, attend: Callable[[], int]) -> int:
    """Without the ports for calls: they are to be closed when the workers close them."""
    _close(doors)
    return attend()


def _close(doors: DoorsBySpeech) -> None:
    for door in doors.values():
        door.close()


def _former_admin(pid: int) -> Job:
    """It ends while its successor starts; what comes to its port meanwhile waits there."""
    os.kill(pid, signal.SIGTERM)
    job = Job("the former admin process", _ends, number=_NO_PLACE, pid=pid)
    job.told = True
    return job


def _ends() -> int:
    return 0


def _reloader(plan: Plan, common: Common, views: office.MergedViews) -> Reloader:
    return plan.reloader(views, common)


def _tell(plan: Plan, views: office.MergedViews) -> None:
    views.begun = True  # for an admin process that is started from now on
    host, port = plan.admin.getsockname()[:2]
    log.info(
        "serving on %s://%s, admin on %s://%s, with %d workers",
        plan.scheme, plan.doors["http"], "http" if plan.tls.admin is None else "https",
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}", plan.crew.count,
    )  # fmt: skip
    if "grpc" in plan.doors:
        log.info("serving gRPC on %s", plan.doors["grpc"])
