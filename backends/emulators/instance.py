"""One emulated instance, the figures of a fleet of them, and the ways in which one can fail.

Values only. Must never know when anything happens to them: that is the fleet's.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from random import Random
from typing import Any, NamedTuple

Handler = Callable[[Any], Any]
"""What an instance runs: takes the request, returns the answer; sync or async."""

MakeHandler = Callable[[str], Handler]
"""Called once per instance with its id, at the end of its start-up: what a process start is in reality."""


class FleetFull(Exception):
    """No instance is free, none may be started, and the queue takes no more."""


class BootFailed(Exception):
    """The instance that was to serve the request died after `boot_s` seconds of starting."""

    def __init__(self, instance: str, boot_s: float) -> None:
        super().__init__(instance, boot_s)
        self.instance = instance
        self.boot_s = boot_s


class InstanceDied(Exception):
    """The instance died in the middle of the request."""


class RanOut(Exception):
    """The handler took longer than it may."""


class OnCue(Exception):
    """A handler's exception, on demand."""


class BootTimes(NamedTuple):
    """Start-up in seconds: a share of starts finds everything cached and is fast, the rest is slow.

    Each time is drawn evenly from `spread` (a share) below to `spread` above its mode.
    """

    fast_s: float = 2.0
    slow_s: float = 8.0
    fast_share: float = 1 / 3
    spread: float = 0.1

    def draw(self, chance: Random) -> float:
        """One boot time."""
        mode = self.fast_s if chance.random() < self.fast_share else self.slow_s
        return mode * (1 + self.spread * (2 * chance.random() - 1))


class FleetOptions(NamedTuple):
    """Size and pace.

    cap:          instances that may exist at once
    idle_after_s: an idle instance is gone after so long
    queue_limit:  requests that may wait for an instance; None for no bound
    pace_s:       least time that a handler takes
    """

    cap: int = 5
    idle_after_s: float = 5.0
    boot: BootTimes = BootTimes()
    queue_limit: int | None = None
    pace_s: float = 0.0


class Phase(StrEnum):
    """Where an instance is in its life."""

    BOOTING = "booting"
    IDLE = "idle"
    BUSY = "busy"
    GONE = "gone"


class Instance:
    """One container, worker or execution environment."""

    def __init__(self, name: str, began: float, boot_s: float) -> None:
        self.id = name
        self.began = began
        self.boot_s = boot_s
        self.phase = Phase.BOOTING
        self.idle_since = 0.0
        self.ended: float | None = None
        self.served = 0
        self.handler: Handler | None = None
        self.reserved: asyncio.Future[Instance] | None = None
        """The request that this start is for, where the provider binds them together."""
        self.lingering: asyncio.Future[Any] | None = None
        """A thread that still computes for a request that was given up."""
