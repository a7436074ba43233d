"""Keeping processes running: the children here are forks of this test that do next to nothing."""

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from mmap import mmap

import pytest

from gateway.clock import SystemClock
from gateway.workers.supervisor import Job, Supervisor


@pytest.fixture(autouse=True)
def _unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


class Watched:
    """Counts; everything serves at once."""

    def __init__(self, *, serves: bool = True) -> None:
        self.serves = serves
        self.ended_jobs: list[int] = []
        self.restarts: list[float] = []

    def ended(self, job: int) -> None:
        self.ended_jobs.append(job)

    def restarted(self, job: int) -> None:
        self.restarts.append(time.monotonic())

    def started(self) -> bool:
        return self.serves

    def tend(self) -> bool:
        return False


def supervised(
    watch: Watched, *work: Callable[[], int], last: Callable[[], int] | None = None, patience: float = 20.0
) -> int:
    jobs = [Job(f"job {number}", each) for number, each in enumerate(work)]
    if last is not None:
        jobs.append(Job("the last", last, last=True))
    leash = os.pipe()
    try:
        supervisor = Supervisor(jobs, watch, clock=SystemClock(), patience=patience, hangup=True, leash=leash)
        return supervisor.run(lambda: None)
    finally:
        os.close(leash[0])
        os.close(leash[1])


def waits() -> int:
    """Until SIGTERM, which ends it."""
    time.sleep(60)
    return 0


def test_what_ends_is_started_again_later_each_time_and_the_others_stay() -> None:
    lives = memoryview(mmap(-1, 8))

    def ends() -> int:
        lives[0] += 1
        if lives[0] == 4:
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(60)
        return 3

    watch = Watched()
    assert supervised(watch, ends, waits) == 0
    assert lives[0] == 4
    assert len(watch.restarts) == 3
    assert watch.restarts[2] - watch.restarts[1] > 0.35
    assert sorted(watch.ended_jobs) == [0, 0, 0, 0, 1]


def test_what_ends_before_it_served_ends_everything_with_its_status() -> None:
    watch = Watched(serves=False)
    assert supervised(watch, lambda: 2, waits, last=waits) == 2
    assert sorted(watch.ended_jobs) == [0, 1, 2]
    assert not watch.restarts


def test_what_does_not_end_is_killed() -> None:
    def ignores() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
        return 0

    began = time.monotonic()
    assert supervised(Watched(), ignores, patience=0.3) == 0
    assert 0.3 <= time.monotonic() - began < 20
