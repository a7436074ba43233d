"""Keeps processes running: forks them, restarts those that end, passes signals on, waits for them at the end.

It has no event loop and no thread, so that a fork copies nothing that runs. It serves nothing itself: what
could fail at that cannot take it along. Knows nothing of what its children do.
"""

import gc
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.clock import Clock
from gateway.signals import LATER

log = logging.getLogger("overspill.workers")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
"""Time before a process is started again: doubled for each time in a row, up to this."""
STEADY_S = 10.0
"""A process that ran for so long did not fail at its start."""
_TICK_S = 0.05
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
RETIRE = signal.SIGUSR1
"""Tells a process whose successor serves that it is to drain and end."""


class Watch(Protocol):
    """Who is told what becomes of the children."""

    def ended(self, job: int) -> None:
        """The process of that job is gone."""
        ...

    def restarted(self, job: int) -> None:
        """Another one was started in its place."""
        ...

    def begins(self, job: int) -> None:
        """A process of that job is about to be started."""
        ...

    def retires(self, job: int) -> None:
        """Its process drains and ends, and no other one is started."""
        ...

    def serving(self, job: int) -> bool:
        """Does its process serve?"""
        ...

    def stopping(self) -> None:
        """Everything is told to end."""
        ...

    def started(self) -> bool:
        """Has every job once begun to serve? From then on what ends is started again."""
        ...

    def tend(self) -> bool:
        """Do what is to be done now and then. True: soon again."""
        ...


class Renewal(Protocol):
    """Who puts a new version in the place of this one."""

    def begin(self, jobs: "Sequence[Job]") -> None:
        """Try it: `ready` says what came of it."""
        ...

    def ready(self) -> bool | None:
        """Is it good? None while nothing is known or nothing was begun. True and False are said once."""
        ...

    def become(self, jobs: "Sequence[Job]") -> None:
        """Go on as the new version. Returns only when that could not be done."""
        ...


class Job:
    """One process to be kept running.

    run:     what it does, in the child; returns its exit status
    number:  what the watch knows it by
    last:    it is stopped when all others have ended
    pid:     the process that runs already, if there is one
    """

    def __init__(
        self,
        name: str,
        run: Callable[[], int],
        *,
        number: int = 0,
        last: bool = False,
        pid: int | None = None,
    ) -> None:
        self.name = name
        self.run = run
        self.number = number
        self.last = last
        self.pid = pid
        self.since = 0.0
        self.due: float | None = None
        self.pause = FIRST_PAUSE_S
        self.told = False


class Supervisor:
    """Runs jobs until SIGTERM or SIGINT.

    patience:  seconds that they have to end in, before they are killed
    hangup:    whether SIGHUP is passed on to them; otherwise it does nothing
    leash:     (read, write) ends of a pipe whose write end only the supervisor keeps open
    replace:   (job that runs, its successor): each ends when its successor serves, one after the other
    renewal:   who is told of SIGUSR2; None: nobody
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        watch: Watch,
        *,
        clock: Clock,
        patience: float,
        hangup: bool,
        leash: tuple[int, int],
        replace: Sequence[tuple[Job, Job]] = (),
        renewal: Renewal | None = None,
    ) -> None:
        self._jobs = list(jobs)
        self._replace = deque(replace)
        self._replaced = len(replace)
        self._renewal = renewal
        self._renew = False
        self._watch = watch
        self._clock = clock
        self._patience = patience
        self._hangup = hangup
        self._leash = leash
        self._mask: set[int] = set()
        self._up = bool(replace)
        self._stopping: float | None = None
        self._status = 0

    def run(self, up: Callable[[], None]) -> int:
        """Start everything, call `up` when all serve, and stay until all have ended. Returns the status."""
        blocked = set(signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS))
        self._mask = blocked - set(_SIGNALS) if self._replace else blocked  # they were blocked for `execve`
        gc.freeze()  # what was built so far is never freed: the children share its pages
        try:
            for job in self._jobs:
                if job.pid is None:
                    self._start(job)
            while any(job.pid is not None for job in self._jobs) or self._stopping is None:
                if not self._up and self._stopping is None and self._watch.started():
                    self._up = True
                    up()
                self._wait()
                self._reap()
                self._go_on()
        finally:
            for job in self._jobs:
                self._signal(job, signal.SIGKILL)
            while signal.sigtimedwait(_SIGNALS, 0) is not None:
                pass  # who asks twice for the end is not to end what cleans up now
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        return self._status

    def _wait(self) -> None:
        """Until a signal comes, or something is due."""
        now = self._clock.now()
        dues = [job.due for job in self._jobs if job.due is not None]
        timeout = max(0.0, min(dues) - now) if dues else 3600.0
        busy = self._replace or self._renew or self._stopping is not None
        if self._watch.tend() or not self._up or busy:
            timeout = min(timeout, _TICK_S)
        told = signal.sigtimedwait(_SIGNALS, timeout)
        if told is None:
            return
        if told.si_signo in (signal.SIGTERM, signal.SIGINT):
            self._stop(0)
        elif told.si_signo == signal.SIGHUP and self._hangup:
            for job in self._jobs:
                self._signal(job, signal.SIGHUP)
        elif told.si_signo == signal.SIGUSR2 and self._renewal is not None and self._stopping is None:
            self._renew = True

    def _stop(self, status: int) -> None:
        if self._stopping is None:
            self._stopping = self._clock.now() + self._patience
            self._status = status
            self._watch.stopping()
            for job in self._jobs:
                job.due = None
                if not job.last:
                    self._end(job)

    def _reap(self) -> None:
        for job in list(self._jobs):
            if job.pid is None:
                continue
            pid, how = os.waitpid(job.pid, os.WNOHANG)
            if pid == 0:
                continue
            status = os.waitstatus_to_exitcode(how)
            job.pid = None
            self._watch.ended(job.number)
            if job.told and self._stopping is None:
                self._jobs.remove(job)
            if job.told or self._stopping is not None:
                if status:
                    log.warning("%s ended with %s", job.name, _words(status))
            elif not self._up and not job.last:
                log.error("%s ended before it served, with %s", job.name, _words(status))
                self._stop(max(1, status))
            else:
                self._postpone(job, status)

    def _postpone(self, job: Job, status: int) -> None:
        now = self._clock.now()
        if now - job.since >= STEADY_S:
            job.pause = FIRST_PAUSE_S
        log.error("%s ended with %s; started again in %g s", job.name, _words(status), job.pause)
        job.due = now + job.pause
        job.pause = min(2 * job.pause, LONGEST_PAUSE_S)

    def _go_on(self) -> None:
        now = self._clock.now()
        if self._stopping is None:
            for job in self._jobs:
                if job.due is not None and now >= job.due:
                    job.due = None
                    self._start(job)
                    self._watch.restarted(job.number)
            self._roll()
            self._renewing()
            return
        if now >= self._stopping:
            for job in self._jobs:
                self._signal(job, signal.SIGKILL)
        if not any(job.pid is not None for job in self._jobs if not job.last):
            for job in self._jobs:
                self._end(job)

    def _roll(self) -> None:
        """Put successors in place, one after the other."""
        while self._replace:
            old, new = self._replace[0]
            if new not in self._jobs:
                self._jobs.append(new)
                self._start(new)
            if not self._watch.serving(new.number):
                return
            self._replace.popleft()
            self._retire(old)
            if not self._replace:
                log.info("restarted: %d of %d processes were replaced", self._replaced, self._replaced)

    def _retire(self, job: Job) -> None:
        job.told, job.due = True, None
        self._watch.retires(job.number)
        if job.pid is None:
            self._jobs.remove(job)
        self._signal(job, RETIRE)

    def _renewing(self) -> None:
        """A new version, when the old ones of the last time are gone: they have the places of the next."""
        if not self._renew or self._renewal is None:
            return
        if not self._up or self._replace or any(job.told for job in self._jobs):
            return
        good = self._renewal.ready()
        if good is None:
            self._renewal.begin(self._jobs)
            return
        self._renew = False
        if good:
            self._renewal.become(self._jobs)

    def _start(self, job: Job) -> None:
        self._watch.begins(job.number)
        job.since = self._clock.now()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            job.pid = pid
            log.info("%s is process %d", job.name, pid)
            return
        status = 1
        try:
            os.close(self._leash[1])
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            # Those wait until it has handlers of its own: a log may have been renamed since it was opened.
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask | LATER)
            status = job.run()
        except BaseException:
            log.exception("%s failed", job.name)
        finally:
            logging.shutdown()
            os._exit(status)  # nothing of the supervisor's is to be cleaned up twice

    def _end(self, job: Job) -> None:
        """Once: what ends already has no handler any more, and would be killed by a second one."""
        if not job.told:
            job.told = True
            self._signal(job, signal.SIGTERM)

    @staticmethod
    def _signal(job: Job, number: int) -> None:
        if job.pid is not None:
            os.kill(job.pid, number)


def _words(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
