"""Faults of the fleet's replicas: killed, stopped, silent, slow or cut off in the middle of an answer.

Must never know how they are judged.
"""

import signal

from loadtests.chaos.fault import Expected, Fault, Misled, apart
from loadtests.chaos.load import Load
from loadtests.chaos.stage import Metrics, Stage


class ReplicaKilled(Fault):
    name = "replica_killed"
    what = "one of two replicas: SIGKILL in the middle of a burst; started again"
    expected = Expected()
    quick = True
    rate = 120.0

    async def inject(self, stage: Stage, load: Load) -> None:
        stage.kill("one")

    async def heal(self, stage: Stage, load: Load) -> None:
        await apart(stage.again, "one")

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return 1.0  # whatever was there


class _Mode(Misled):
    """One of two replicas is told to behave badly."""

    who = "one"


class ReplicaHangs(_Mode):
    name = "replica_hangs"
    what = "one of two replicas accepts and never answers, health checks neither"
    expected = Expected(refused=0.15, healthy_s=3.0)
    bad = {"mode": "hang"}
    lasts_s = 4.0


class ReplicaStopped(Fault):
    name = "replica_stopped"
    what = "one of two replicas: SIGSTOP, later SIGCONT"
    expected = Expected(refused=0.15, healthy_s=3.0)
    lasts_s = 4.0

    async def inject(self, stage: Stage, load: Load) -> None:
        stage.kill("one", signal.SIGSTOP)

    async def heal(self, stage: Stage, load: Load) -> None:
        stage.kill("one", signal.SIGCONT)

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return sum(each.status == 504 for each in load.asked)


class SlowMiddle(_Mode):
    name = "slow_middle"
    what = "one of two replicas stops in the middle of its answers, but is healthy when asked"
    expected = Expected(cut=0.3, healthy_s=3.0)
    bad = {"mode": "stall"}


class ResetMiddle(_Mode):
    name = "reset_middle"
    what = "one of two replicas resets connections in the middle of its answers"
    expected = Expected(cut=0.5, healthy_s=3.0)
    bad = {"mode": "reset"}


class ReplicaFails(_Mode):
    name = "replica_500s"
    what = "one of two replicas answers 500 to every call, and is healthy when asked"
    expected = Expected(refused=0.3, healthy_s=3.0)
    bad = {"mode": "fail"}
    quick = True


REPLICA_FAULTS: tuple[type[Fault], ...] = (
    ReplicaKilled,
    ReplicaHangs,
    ReplicaStopped,
    SlowMiddle,
    ResetMiddle,
    ReplicaFails,
)
