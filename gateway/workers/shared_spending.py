"""Spill budgets that the workers of one machine share: windows in shared memory under a lock of the kernel.

The lock is a record lock (fcntl), which the kernel takes from a process that dies. What a dead worker had set
aside counts as spent, because what it had begun may be billed.

Knows amounts and times; no price, no route's policy and no call.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from mmap import mmap
from typing import NamedTuple

from gateway.spending import DAY_S, DAY_SLOTS, HOUR_S, HOUR_SLOTS, LocalSpend
from gateway.spill_share import LocalShare
from gateway.tenants.meter import Meter, meter_cells
from gateway.windows import Window

_WORD = 8
_HEAD = 2  # sum, first slot that counts


def window_cells(slots: int) -> int:
    """Cells of shared memory that a window takes."""
    return _HEAD + 2 * (slots + 2)


class SharedWindow(Window):
    """A window (`gateway.windows.Window`) in shared memory. Only to be touched under the lock."""

    __slots__ = ("_cells", "_ring")

    def __init__(self, cells: memoryview, seconds: float, slots: int) -> None:
        super().__init__(seconds, slots)
        self._cells = cells
        self._ring = slots + 2

    def total(self, now: float) -> int:
        """What counts at `now`."""
        self._forget(now)
        return int(self._cells[0])

    def add(self, amount: int, at: float) -> None:
        """Count `amount` as of `at`."""
        self._forget(at)
        cells, index = self._cells, int(at // self.granule)
        if index < cells[1]:
            return  # nobody would count it any more
        place = _HEAD + 2 * (index % self._ring)
        if cells[place] != index:
            cells[place] = index
            cells[place + 1] = 0
        cells[place + 1] += amount
        cells[0] += amount

    def take(self, amount: int, now: float) -> int:
        """Not needed of what is shared."""
        raise NotImplementedError

    def falls_to(self, level: int, now: float) -> float:
        """When the sum will be at most `level` if nothing is added; infinity for a level below zero."""
        left = self.total(now)
        if left <= level:
            return now
        cells = self._cells
        for index in range(cells[1], cells[1] + self._ring):
            place = _HEAD + 2 * (index % self._ring)
            if cells[place] == index and cells[place + 1]:
                left -= cells[place + 1]
                if left <= level:
                    return float((index + self._slots + 1) * self.granule)
        return inf

    def recount(self) -> None:
        """Add up again: who wrote last may have died in the middle of it."""
        cells = self._cells
        first, last = cells[1], cells[1] + self._ring
        cells[0] = sum(
            cells[place + 1]
            for place in range(_HEAD, _HEAD + 2 * self._ring, 2)
            if first <= cells[place] < last
        )

    def _forget(self, now: float) -> None:
        cells, oldest = self._cells, int(now // self.granule) - self._slots
        begin = max(cells[1], oldest - self._ring)
        for index in range(begin, oldest):
            place = _HEAD + 2 * (index % self._ring)
            if cells[place] < oldest:
                if cells[place] >= cells[1]:
                    cells[0] -= cells[place + 1]
                cells[place + 1] = 0
        if oldest > cells[1]:
            cells[1] = oldest


class Limits(NamedTuple):
    """What one budget limits: dollars per hour and day, and the share of calls; None: not limited."""

    usd_per_hour: float | None
    usd_per_day: float | None
    share: float | None


class Lock:
    """One byte of a file that only one process can have."""

    __slots__ = ("_cells", "_fd", "_place", "_windows")

    def __init__(self, fd: int, place: int, cells: memoryview, windows: list[SharedWindow]) -> None:
        self._fd = fd
        self._place = place
        self._cells = cells
        self._windows = windows

    @contextmanager
    def held(self) -> Iterator[None]:
        """Waits for whoever has it: microseconds."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._place)
        try:
            if self._cells[0]:
                for window in self._windows:
                    window.recount()
            self._cells[0] = 1
            yield
            self._cells[0] = 0
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._place)


class Account:
    """The shared state of one budget. Made before the first worker is forked."""

    SIZES = (*map(window_cells, (HOUR_SLOTS, DAY_SLOTS, HOUR_SLOTS, HOUR_SLOTS)),)

    @classmethod
    def cells(cls, workers: int) -> int:
        """Cells of shared memory that an account takes."""
        return 1 + workers + sum(cls.SIZES) + meter_cells(workers)

    def __init__(self, fd: int, place: int, limits: Limits, workers: int, cells: memoryview) -> None:
        sizes = self.SIZES
        self.limits = limits
        self.reserved = cells[1 : 1 + workers]
        start, parts = 1 + workers, []
        for size in sizes:
            parts.append(cells[start : start + size])
            start += size
        self._meter = cells[start : start + meter_cells(workers)]
        self._workers = workers
        self.hour = SharedWindow(parts[0], HOUR_S, HOUR_SLOTS)
        self.day = SharedWindow(parts[1], DAY_S, DAY_SLOTS)
        self.requests = SharedWindow(parts[2], HOUR_S, HOUR_SLOTS)
        self.rented = SharedWindow(parts[3], HOUR_S, HOUR_SLOTS)
        self.lock = Lock(fd, place, cells[:1], [self.hour, self.day, self.requests, self.rented])

    def spend(self, worker: int) -> "SharedSpend":
        """The dollars as one worker sees them."""
        return SharedSpend(self, worker)

    def meter(self, worker: int) -> Meter:
        """The rates of a tenant as one worker sees them."""
        return Meter(self._meter, worker=worker, workers=self._workers, lock=self.lock.held)

    def share(self) -> "SharedShare | None":
        """The share of calls, None without one."""
        return None if self.limits.share is None else SharedShare(self, self.limits.share)


class SharedSpend(LocalSpend):
    """The money of one budget, counted for all workers together (`gateway.spending.SpendSource`)."""

    __slots__ = ("_account", "_worker")

    def __init__(self, account: Account, worker: int) -> None:
        self._account = account
        self._worker = worker
        self._windows: dict[float, Window] = {HOUR_S: account.hour, DAY_S: account.day}
        self.limit(account.limits.usd_per_hour, account.limits.usd_per_day)

    @property
    def _reserved(self) -> int:
        return int(sum(self._account.reserved))

    @_reserved.setter
    def _reserved(self, amount: int) -> None:
        reserved = self._account.reserved
        reserved[self._worker] += amount - sum(reserved)

    def remaining(self, now: float) -> int | None:
        """The least that any limit leaves."""
        with self._account.lock.held():
            return super().remaining(now)

    def reserve(self, amount: int, now: float, *, force: bool = False) -> bool:
        """Set it aside if every limit has room for it."""
        with self._account.lock.held():
            left = super().remaining(now)
            if left is not None and amount > left and not force:
                return False
            self._account.reserved[self._worker] += amount
            return True

    def release(self, amount: int) -> None:
        """Give back what was set aside."""
        with self._account.lock.held():
            self._account.reserved[self._worker] -= amount

    def spend(self, amount: int, now: float) -> None:
        """Count it in every window, as of now."""
        with self._account.lock.held():
            super().spend(amount, now)

    def available_at(self, amount: int, now: float) -> float:
        """When enough is forgotten."""
        with self._account.lock.held():
            return super().available_at(amount, now)

    def forfeit(self, now: float) -> None:
        """The worker is dead: what it had set aside counts as spent."""
        with self._account.lock.held():
            amount = self._account.reserved[self._worker]
            super().spend(amount, now)
            self._account.reserved[self._worker] = 0


class SharedShare(LocalShare):
    """The share of calls, counted for all workers together (`gateway.spill_share.ShareSource`)."""

    __slots__ = ("_lock",)

    def __init__(self, account: Account, share: float) -> None:
        super().__init__(share, requests=account.requests, rented=account.rented)
        self._lock = account.lock

    def requested(self, now: float) -> None:
        """A call has come."""
        with self._lock.held():
            super().requested(now)

    def allows(self, now: float) -> bool:
        """Would one more call keep within the share?"""
        with self._lock.held():
            return super().allows(now)

    def take(self, now: float, *, force: bool = False) -> bool:
        """One more, if it keeps within the share."""
        with self._lock.held():
            if not force and not super().allows(now):
                return False
            self._rented.add(1, now)
            return True

    def give_back(self, at: float) -> None:
        """It never was."""
        with self._lock.held():
            super().give_back(at)


class Accounts:
    """All budgets, keyed as `route NAME`, `backend NAME` and `tenant NAME`."""

    def __init__(self, budgets: dict[str, Limits], workers: int, *, spare: int = 0) -> None:
        all_limits = [*budgets.values(), *[Limits(None, None, None)] * spare]
        self.memory = os.memfd_create("overspill-budgets")
        os.ftruncate(self.memory, max(1, len(all_limits)) * Account.cells(workers) * _WORD)
        self._map(all_limits, workers)
        self.places = {name: place for place, name in enumerate(budgets)}
        self._accounts = {name: self._all[place] for name, place in self.places.items()}

    def _map(self, limits: list[Limits], workers: int) -> None:
        size = Account.cells(workers)
        whole = memoryview(mmap(self.memory, max(1, len(limits)) * size * _WORD)).cast("q")
        self._all = [
            Account(self.memory, place, each, workers, whole[place * size : (place + 1) * size])
            for place, each in enumerate(limits)
        ]

    @classmethod
    def taken_over(cls, memory: int, places: dict[str, int], count: int, workers: int) -> "Accounts":
        """The same in another image of the process, which has the same descriptors. `assign` is to follow."""
        made = cls.__new__(cls)
        made.memory = memory
        made._map([Limits(None, None, None)] * count, workers)
        made.assign(places, {})
        return made

    def __len__(self) -> int:
        return len(self._all)

    def assign(self, places: dict[str, int], limits: dict[str, Limits]) -> None:
        """Which account each budget has from now on, and its limits. Every process is told."""
        self.places = places
        self._accounts = {name: self._all[place] for name, place in places.items()}
        for name, each in limits.items():
            self._accounts[name].limits = each

    def __getitem__(self, name: str) -> Account:
        return self._accounts[name]

    def reap(self, worker: int, now: float) -> None:
        """A worker's process has ended."""
        for account in self._all:
            account.spend(worker).forfeit(now)
            account.meter(worker).forfeit(now)
