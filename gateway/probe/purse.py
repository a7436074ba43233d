"""Money set aside before it is spent: the cap of a probe, which no call may break.

Pure: the clock is the caller's. It knows seconds and prices; it must never know what is measured.

A reservation is the most that a call can cost: the price of every second that it may take, of the idle
tail of its instance, and of the provider's rounding up. When the call has ended, what it really cost takes
the reservation's place; where that cannot be known, the reservation stays.
"""

from collections.abc import Iterable
from typing import NamedTuple

from gateway.vocab import Charge, Rent, Usage


class Rates(NamedTuple):
    """What rented seconds cost. `tail_s`: the most that is billed after an instance's last answer."""

    usd_per_second: float
    usd_per_call: float
    tail_s: float

    @classmethod
    def of(cls, rent: Rent | None) -> "Rates | None":
        """The rates of a rent; None where the price is not known."""
        if rent is None or rent.usd_per_second is None:
            return None
        idle_s = rent.idle_s if rent.bills_idle else 0.0
        return cls(rent.usd_per_second, rent.usd_per_call, idle_s + rent.round_up_s)

    @property
    def tail_usd(self) -> float:
        """The most that one instance costs after its last answer."""
        return self.tail_s * self.usd_per_second

    def call_usd(self, seconds: float) -> float:
        """What a call of so many seconds costs, without its instance's idle time."""
        return seconds * self.usd_per_second + self.usd_per_call


class CapReached(Exception):
    """The next step could cost more than is left. The text says what it would take."""


class Purse:
    """What a probe has spent and may still have to pay. Without rates it counts nothing and stops nothing.

    cap:  US dollars that are never exceeded, all that has yet to fall due included
    """

    def __init__(self, rates: Rates | None, cap: float) -> None:
        self.rates = rates
        self.cap = cap
        self._spent = 0.0
        self._reserved = 0.0

    @property
    def spent(self) -> float | None:
        """US dollars that fell due so far; None where the price is not known."""
        return None if self.rates is None else self._spent

    def needed(self, calls: int, limit_s: float, idle: int) -> float:
        """The most that has been spent once `calls` more have run for `limit_s`, and all has idled out."""
        if self.rates is None:
            return 0.0
        return self._spent + self._reserved + idle * self.rates.tail_usd + calls * self._most(limit_s)

    def check(self, calls: int, limit_s: float, idle: int) -> None:
        """Raises CapReached if `calls` more could break the cap.

        idle:  instances that idle now: each may still cost its tail
        """
        needed = self.needed(calls, limit_s, idle)
        if needed > self.cap:
            what = "one more call" if calls == 1 else f"{calls} calls at once"
            raise CapReached(f"{what} could bring the cost to ${needed:.4f}; --max-usd is {self.cap:g}")

    def reserve(self, limit_s: float, idle: int) -> float:
        """Set aside the most that one call of at most `limit_s` costs. Raises CapReached.

        The tail of the idle instance that it may run on stays reserved with it: it falls due only when
        the call has ended.
        """
        self.check(1, limit_s, idle)
        if self.rates is None:
            return 0.0
        reserved = self._most(limit_s) + (self.rates.tail_usd if idle else 0.0)
        self._reserved += reserved
        return reserved

    def settle(self, reserved: float, usage: Usage | None, elapsed_s: float) -> float | None:
        """The call has ended. Returns what it cost without idle time; None where the price is not known."""
        if self.rates is None:
            return usage.usd if usage is not None else None
        usd = usage.usd if usage is not None and usage.usd is not None else self.rates.call_usd(elapsed_s)
        self._reserved -= reserved
        self._spent += usd
        return usd

    def keep(self, reserved: float) -> None:
        """The call was given up, and what it costs is not known: count all that was set aside."""
        self._reserved -= reserved
        self._spent += reserved

    def charge(self, charges: Iterable[Charge]) -> None:
        """Idle time that fell due."""
        self._spent += sum(charge.usd for charge in charges)

    def _most(self, limit_s: float) -> float:
        assert self.rates is not None
        return self.rates.call_usd(limit_s) + self.rates.tail_usd
