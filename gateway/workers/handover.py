"""A new version in the place of the old one, in the same process: what it is told, and a try of it before.

A process that has no threads and no event loop becomes another program by `execve` and stays the same
process: it keeps its number, its children, its open descriptors and the signals that wait for it. So neither
a port nor a queue of connections is closed for a moment, and whoever started the process sees nothing of it.

    SIGUSR2 ──► a try: the same command in a child, which reads the file and looks at what is handed over,
                and serves nothing ──► it says no: everything stays as it is
                                   └─► it says yes: `execve`

Knows neither gateways nor workers; what is handed over is described here.
"""

import logging
import os
import subprocess
import sys
from typing import NoReturn

from msgspec import Struct, json

from gateway.errors import ConfigError
from gateway.workers.shared_slots import HandedReplicas

log = logging.getLogger("overspill.workers")

LAYOUT = 2
"""Of what is handed over, shared memory included: a version with another one refuses it."""
TAKE_OVER = "OVERSPILL_TAKE_OVER"
TRY = "OVERSPILL_TRY"
"""Environment: the descriptor that says what is handed over, to take it over or only to look at it."""
TRYING_S = 60.0


class HandedCrew(Struct):
    """The workers, and what they share.

    count:     of workers
    places:    two for each, so that the old one and the new one each have their own
    text:      the configuration that they were started with
    workers:   (index, place, process) of each
    admin:     the admin process
    accounts:  (memory, places of the budgets, count)
    """

    count: int
    text: str
    directory: str
    leash: tuple[int, int]
    workers: list[tuple[int, int, int]]
    admin: int | None
    replicas: HandedReplicas
    accounts: tuple[int, dict[str, int], int]


class Handover(Struct):
    """What one image of the process leaves to the next.

    listen:  the addresses of the file, for people; what was bound does not change
    doors:   sockets of the ports for calls, by what is spoken there and by queue
    admin:   the socket of the admin port
    """

    layout: int
    listen: list[str]
    doors: dict[str, list[list[int]]]
    admin: int | None
    crew: HandedCrew | None = None


class Received(Struct):
    """A hand-over as it was found. trying: only to look at it."""

    handover: Handover
    trying: bool


def received(listen: list[str]) -> Received | None:
    """What the image before has left, if there was one. ConfigError when it cannot be taken over.

    listen:  the addresses of the file as it is now
    """
    number, trying = os.environ.pop(TAKE_OVER, None), False
    if number is None:
        number, trying = os.environ.pop(TRY, None), True
    if number is None:
        return None
    with open(int(number), "rb") as file:
        file.seek(0)
        said = file.read()
    layout = json.decode(said).get("layout")
    if layout != LAYOUT:
        raise ConfigError(
            f"this version cannot take over from the one that runs (layout {layout}, here {LAYOUT}): "
            "stop the gateway and start it again"
        )
    handover = json.decode(said, type=Handover)
    if handover.listen != listen:
        raise ConfigError(
            f"listen was {', '.join(handover.listen)} and is {', '.join(listen)}: a restart keeps the ports; "
            "stop the gateway and start it again"
        )
    if not trying:
        for each in _descriptors(handover):
            os.set_inheritable(each, False)  # noqa: FBT003 - it takes no keywords
    return Received(handover, trying)


def _command() -> list[str]:
    return [sys.executable, *sys.orig_argv[1:]]


def _written(handover: Handover) -> int:
    fd = os.memfd_create("overspill-handover")
    os.write(fd, json.encode(handover))
    return fd


def become(handover: Handover) -> NoReturn:
    """Go on as a new image of the same command. OSError when there is none any more."""
    fd = _written(handover)
    for each in (fd, *_descriptors(handover)):
        os.set_inheritable(each, True)  # noqa: FBT003 - it takes no keywords
    sys.stdout.flush()
    sys.stderr.flush()
    command = _command()
    os.execve(command[0], command, {**os.environ, TAKE_OVER: str(fd)})  # noqa: S606 - its own command


def _descriptors(handover: Handover) -> list[int]:
    found = [each for queues in handover.doors.values() for queue in queues for each in queue]
    found += [] if handover.admin is None else [handover.admin]
    if handover.crew is not None:
        crew = handover.crew
        found += [*crew.leash, crew.replicas.memory, *crew.replicas.tokens, crew.accounts[0]]
    return found


class Try:
    """A try of the command as it is installed now: would it take over?"""

    def __init__(self, handover: Handover, until: float) -> None:
        fd = _written(handover)
        passed = (fd, *_descriptors(handover))
        environment = {**os.environ, TRY: str(fd)}
        self._until = until
        self._process = subprocess.Popen(  # noqa: S603 - its own command
            _command(), env=environment, pass_fds=passed, stdin=subprocess.DEVNULL
        )
        os.close(fd)

    def result(self, now: float) -> bool | None:
        """What it said; None: nothing yet."""
        status = self._process.poll()
        if status is None:
            if now < self._until:
                return None
            self._process.kill()
            status = self._process.wait()
        if status:
            log.error("the new version would not start (status %s): the one that runs goes on", status)
        return not status

    def end(self) -> None:
        """It is not needed any more."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
