"""Supervisors with children that do next to nothing: `python -m tests.workers_serving.supervised SCENARIO`.

Each is a process of its own, with one thread: a signal goes to whichever thread of a process takes it. What
was seen is printed as one JSON object. Children say what happens to them in shared memory, and wait for
signals that they have blocked, so that none is missed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from mmap import mmap
from typing import Any

from gateway.clock import SystemClock
from gateway.workers.supervisor import Job, Supervisor

Work = Callable[[], int]
SEEN = memoryview(mmap(-1, 64))
"""A place for each child, and [-1] for the number of lives."""
SUPERVISOR = os.getpid()
_WAITED_FOR = (signal.SIGHUP, signal.SIGTERM)


class Watched:
    """Counts. Everything serves when `serves` says so."""

    def __init__(self, serves: Callable[[], bool] = lambda: True) -> None:
        self.serves = serves
        self.ended_jobs: list[int] = []
        self.restarts: list[float] = []
        self.then: Callable[[], bool] = lambda: False

    def ended(self, job: int) -> None:
        self.ended_jobs.append(job)

    def begins(self, job: int) -> None:
        pass

    def retires(self, job: int) -> None:
        pass

    def serving(self, job: int) -> bool:
        return True

    def stopping(self) -> None:
        pass

    def restarted(self, job: int) -> None:
        self.restarts.append(time.monotonic())

    def started(self) -> bool:
        return self.serves()

    def tend(self) -> bool:
        return self.then()


def supervised(
    watch: Watched, *work: Work, last: Work | None = None, patience: float = 20.0, hangup: bool = True,
    up: Callable[[], None] = lambda: None,
) -> dict[str, Any]:  # fmt: skip
    jobs = [Job(f"job {number}", each, number=number) for number, each in enumerate(work)]
    if last is not None:
        jobs.append(Job("the last", last, number=len(work), last=True))
    began = time.monotonic()
    supervisor = Supervisor(
        jobs, watch, clock=SystemClock(), patience=patience, hangup=hangup, leash=os.pipe()
    )
    status = supervisor.run(up)
    return {
        "status": status,
        "ended": watch.ended_jobs,
        "restarts": watch.restarts,
        "took": time.monotonic() - began,
    }


def tell(*numbers: signal.Signals) -> None:
    """The supervisor is sent these, by itself or by a child."""
    for number in numbers:
        os.kill(SUPERVISOR, number)


def waits() -> int:
    """Until SIGTERM, which ends it."""
    time.sleep(60)
    return 0


def listening(place: int, then: Callable[[], int]) -> Work:
    """A child that has its signals blocked, says so, and goes on."""

    def work() -> int:
        signal.signal(signal.SIGHUP, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        SEEN[place] = 1
        return then()

    return work


def restarted() -> dict[str, Any]:
    def ends() -> int:
        SEEN[-1] += 1
        if SEEN[-1] == 4:
            tell(signal.SIGTERM)
            waits()
        return 3

    return {**supervised(Watched(), ends, waits), "lives": SEEN[-1]}


def not_served() -> dict[str, Any]:
    return supervised(Watched(lambda: False), lambda: 2, waits, last=waits)


def killed() -> dict[str, Any]:
    def ignores() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell(signal.SIGTERM)
        return waits()

    return supervised(Watched(), ignores, patience=0.3)


def ends_last() -> dict[str, Any]:
    """The others take their time to end; so does the last, and notes whether it is told a second time."""
    read, write = os.pipe()

    def worker() -> int:
        signal.sigwait(_WAITED_FOR)
        time.sleep(0.2)
        os.write(write, b"worker ")
        return 0

    def office() -> int:
        signal.sigwait(_WAITED_FOR)
        os.write(write, b"office ")
        if signal.sigtimedwait(_WAITED_FOR, 0.3) is not None:
            os.write(write, b"told-again ")
        return 0

    seen = supervised(
        Watched(lambda: all(SEEN[:3])),
        listening(0, worker), listening(1, worker), last=listening(2, office),
        up=lambda: tell(signal.SIGTERM),
    )  # fmt: skip
    return {**seen, "order": os.read(read, 1000).decode().split()}


def hung_up(*, hangup: bool = True) -> dict[str, Any]:
    """Each child notes the signals that it is sent, until SIGTERM, which comes when the others were seen."""
    read, write = os.pipe()

    def noting(name: str, place: int) -> Work:
        def work() -> int:
            while True:
                number = signal.sigwait(_WAITED_FOR)
                os.write(write, f"{name}:{signal.Signals(number).name} ".encode())
                SEEN[place] = 2
                if number == signal.SIGTERM:
                    return 0

        return listening(place, work)

    watch = Watched(lambda: all(SEEN[:3]))

    def until_noted() -> bool:
        if SEEN[0] == SEEN[1] == SEEN[2] == 2:
            tell(signal.SIGTERM)
            watch.then = lambda: False
        return True

    def up() -> None:
        tell(signal.SIGHUP)
        if hangup:
            watch.then = until_noted
        else:
            tell(signal.SIGTERM)  # which has the higher number, and so is taken after it

    seen = supervised(watch, noting("a", 0), noting("b", 1), last=noting("last", 2), hangup=hangup, up=up)
    return {**seen, "noted": sorted(os.read(read, 1000).decode().split())}


def not_hung_up() -> dict[str, Any]:
    return hung_up(hangup=False)


def told_twice() -> dict[str, Any]:
    """A second SIGTERM and a SIGHUP come when the supervisor has seen the end of its last child."""

    class Late(Watched):
        def ended(self, job: int) -> None:
            super().ended(job)
            tell(signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

    return supervised(Late(), waits, up=lambda: tell(signal.SIGTERM))


SCENARIOS: Mapping[str, Callable[[], dict[str, Any]]] = {
    each.__name__: each
    for each in (restarted, not_served, killed, ends_last, hung_up, not_hung_up, told_twice)
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(SCENARIOS[sys.argv[1]]()))
