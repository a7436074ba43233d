"""What a supervisor's workers share, made anew or taken over from the version before, and handed on.

Knows what is shared and who works at which place; builds no gateway.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from socket import socket

from gateway.clock import Clock
from gateway.workers.handover import LAYOUT, TRYING_S, HandedCrew, Handover, Try, become
from gateway.workers.inventory import Shared
from gateway.workers.ports import DoorsBySpeech, descriptors
from gateway.workers.shared_slots import Replicas
from gateway.workers.shared_spending import Accounts
from gateway.workers.station import Common, Station
from gateway.workers.supervisor import Job

SPARE_REPLICAS = 64
SPARE_BUDGETS = 32
"""What reloads may bring while the workers run, beside what the first configuration has."""
PLACES = 2
"""For each worker: one for itself, and one for its successor, which serves before it has ended."""


class Crew:
    """What the workers share.

    count:   of workers
    before:  (index, place, process) of those that run already
    """

    def __init__(
        self,
        count: int,
        common: Common,
        leash: tuple[int, int],
        *,
        before: Sequence[tuple[int, int, int]] = (),
        admin: int | None = None,
    ) -> None:
        self.count = count
        self.common = common
        self.leash = leash
        self.before = before
        self.admin = admin
        self.placed: dict[int, int] = {}

    @classmethod
    def new(cls, count: int, shared: Shared) -> "Crew":
        """For workers that are yet to be started."""
        replicas = Replicas(shared.slots, PLACES * count, spare=SPARE_REPLICAS)
        accounts = Accounts(shared.budgets, PLACES * count, spare=SPARE_BUDGETS)
        directory = Path(tempfile.mkdtemp(prefix="overspill-"))
        return cls(count, Common(replicas, accounts, directory), os.pipe())

    @classmethod
    def taken_over(cls, handed: HandedCrew) -> "Crew":
        """With the workers of the version before."""
        memory, places, count = handed.accounts
        replicas = Replicas.taken_over(handed.replicas)
        accounts = Accounts.taken_over(memory, places, count, replicas.workers)
        common = Common(replicas, accounts, Path(handed.directory))
        return cls(handed.count, common, handed.leash, before=handed.workers, admin=handed.admin)

    def station(self, index: int, place: int, doors: DoorsBySpeech) -> Station:
        """For the worker of that number, at that place."""
        self.placed[place] = index
        return Station(index, self.common, self.leash[0], place=place, count=self.count, doors=doors)

    def successor(self, place: int) -> int:
        """The place of who takes over from the worker there."""
        return (place + self.count) % (PLACES * self.count)

    def handed(self, jobs: Sequence[Job], text: str) -> HandedCrew:
        """For the next version. `text`: the configuration that the workers were started with."""
        accounts = self.common.accounts
        admin = next((job.pid for job in jobs if job.last), None)
        workers = [
            (self.placed[job.number], job.number, job.pid)
            for job in jobs
            if not job.last and job.pid is not None
        ]
        return HandedCrew(
            count=self.count, text=text, directory=str(self.common.directory), leash=self.leash,
            workers=workers, admin=admin, replicas=self.common.replicas.handed(),
            accounts=(accounts.memory, accounts.places, len(accounts)),
        )  # fmt: skip

    def close(self) -> None:
        """Nobody uses it any more."""
        shutil.rmtree(self.common.directory, ignore_errors=True)


class Succession:
    """Puts a new version in the place of this process (`supervisor.Renewal`).

    listen:  the addresses of the file
    text:    the configuration that the workers were started with
    """

    def __init__(
        self,
        crew: Crew,
        *,
        listen: list[str],
        doors: DoorsBySpeech,
        admin: socket,
        text: str,
        clock: Clock,
    ) -> None:
        self._crew = crew
        self._listen = listen
        self._doors = doors
        self._admin = admin
        self._text = text
        self._clock = clock
        self._try: Try | None = None

    def begin(self, jobs: Sequence[Job]) -> None:
        """Try it, and have what was learned written for it."""
        if self._try is not None:
            return
        for job in jobs:
            if not job.last and job.pid is not None:
                os.kill(job.pid, signal.SIGUSR2)
        self._try = Try(self._handover(jobs), self._clock.now() + TRYING_S)

    def ready(self) -> bool | None:
        """What came of it."""
        good = None if self._try is None else self._try.result(self._clock.now())
        if good is not None:
            self._try = None
        return good

    def become(self, jobs: Sequence[Job]) -> None:
        """Go on as the new version."""
        become(self._handover(jobs))

    def end(self) -> None:
        """Nothing is to be tried any more."""
        if self._try is not None:
            self._try.end()

    def _handover(self, jobs: Sequence[Job]) -> Handover:
        return Handover(
            layout=LAYOUT,
            listen=self._listen,
            doors=descriptors(self._doors),
            admin=self._admin.fileno(),
            crew=self._crew.handed(jobs, self._text),
        )
