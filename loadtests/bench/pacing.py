"""Moments kept to the microsecond, for load that must be even.

The timers of uvloop and of `epoll` know whole milliseconds only: what falls due within one would all come at
once, and what is measured then is the length of that burst and not what is in between. This asks the kernel
(`timerfd_create(2)`, by the clock that `time.perf_counter_ns` reads) instead. Linux only. Knows nothing of
what is timed.
"""

import asyncio
import ctypes
import heapq
import itertools
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_SECOND_NS = 1_000_000_000


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Due:
    """One call that is to come."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """It will not come."""
        self.call = None


class Pacer:
    """Calls at moments of `time.perf_counter_ns`, on the running loop, from `with` until its end."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._due: list[tuple[int, int, Due]] = []
        self._numbers = itertools.count()
        self._armed_ns = 0

    def __enter__(self) -> Self:
        self._descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._rang)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def call_at(self, moment_ns: int, call: Callable[[], None]) -> Due:
        """Call it then, or at once where the moment has passed."""
        due = Due(call)
        heapq.heappush(self._due, (moment_ns, next(self._numbers), due))
        if not self._armed_ns or moment_ns < self._armed_ns:
            self._arm(moment_ns)
        return due

    async def until(self, moment_ns: int) -> None:
        """Wait for a moment."""
        came = asyncio.Event()
        due = self.call_at(moment_ns, came.set)
        try:
            await came.wait()
        finally:
            due.cancel()

    def _arm(self, moment_ns: int) -> None:
        self._armed_ns = moment_ns
        seconds, nanoseconds = divmod(max(moment_ns, 1), _SECOND_NS)
        spec = _TimerSpec(value=_TimeSpec(seconds, nanoseconds))
        if self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _rang(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:  # it was set anew meanwhile
            return
        # What is called may want more called: the timer is set once, after all of it.
        try:
            while self._due and self._due[0][0] <= time.perf_counter_ns():
                call = heapq.heappop(self._due)[2].call
                if call is not None:
                    call()
        finally:
            self._armed_ns = 0
            if self._due:
                self._arm(self._due[0][0])
