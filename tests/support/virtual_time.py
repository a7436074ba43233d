"""An asyncio loop whose clock jumps: sleeps take no time and a hang is an error, not a wait.

When nothing is ready, the selector moves the clock to the next timer instead of waiting for it. No
sockets, no threads: what needs those is tested on the real loop.
"""

import asyncio
import selectors
from typing import Any


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise RuntimeError("deadlock: every task waits and no timer is set")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time; `loop.time()` is its clock."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    # uvloop and asyncio round timers up to the clock's resolution; here there is none to round to.
    _clock_resolution: float = 1e-9


class LoopClock:
    """A gateway Clock that reads the running loop, virtual or not."""

    def __init__(self, loop: Any = None) -> None:
        self._loop = loop

    def now(self) -> float:
        return float((self._loop or asyncio.get_running_loop()).time())

    def wall(self) -> float:
        return 1_800_000_000.0 + self.now()
