"""Spill budgets: what a route or a rented backend may spend, reserved first, settled when it is billed.

    purse.reserve(usd, now) ──► Reservation ──► settle(what it cost)   the bill is known
                           │                ├─► settle(None)           it is not: the reserved amount counts
                           │                ├─► cut_off()              the bill comes later, as a charge
                           │                └─► cancel()               nothing was started
                           └──► None                                  the money is not there

Reserving and checking are one step, so calls that start together cannot spend the same dollar twice. What
is spent within any hour or day stays within the limit as far as attempts cost no more than was reserved for
them; what falls due outside attempts (idle tails, prewarming) is debited too and may drive a budget below
zero, after which nothing is granted until enough of it is forgotten.

Pure: the time is an argument. Money is counted in whole trillionths of a dollar, so sums are exact. A price
that is not known is never zero: under a limit in dollars nothing is granted for it. It never knows a policy,
a slot or how an amount was estimated.
"""

import logging
from collections.abc import Iterable, Mapping
from math import ceil, inf
from typing import Protocol

from backends.base import SpillBudget
from gateway.errors import Contended, NoCapacity, Shed
from gateway.spill_share import LocalShare, ShareSource
from gateway.vocab import Reason, Rent
from gateway.windows import Window

log = logging.getLogger("overspill.spending")

HOUR_S = 3600.0
HOUR_SLOTS = 120
"""An hour's money comes back at most 30 s late."""
DAY_S = 86400.0
DAY_SLOTS = 288
"""A day's money comes back at most 5 min late."""
CUT_OFF_S = 600.0
"""How long a charge for an attempt that was cut off may take to arrive and still be recognised."""
CALM_S = 60.0
"""An exhaustion is over when every attempt has been granted for so long."""
SOON_S = 1.0
"""When to ask again where it is not known when: once running attempts end, or further calls come."""

_UNITS = 10**12


def reservation_usd(rent: Rent, *, service_s: float, boot_s: float = 0.0) -> float | None:
    """Dollars to set aside for one attempt; None when the price is not known.

    service_s:  how long it may run: a high quantile, because an attempt that outlives it overspends
    boot_s:     how long its instance may take to start; 0 on one that is up. A start also brings an idle
                tail, which is billed to nobody's call: it is part of what starting will cost
    """
    if rent.usd_per_second is None:
        return None
    seconds = service_s
    if boot_s > 0:
        seconds += (rent.idle_s if rent.bills_idle else 0.0) + (boot_s if rent.bills_boot else 0.0)
    if rent.round_up_s > 0:
        seconds = ceil(seconds / rent.round_up_s) * rent.round_up_s
    return seconds * rent.usd_per_second + rent.usd_per_call


class SpendSource(Protocol):
    """The money of one budget, perhaps shared with spenders that this process cannot see.

    Amounts are whole trillionths of a dollar. Nothing here waits.
    """

    def remaining(self, now: float) -> int | None:
        """What `reserve` would grant at most; below zero when overspent. None without a limit in dollars."""
        ...

    def reserve(self, amount: int, now: float, *, force: bool = False) -> bool:
        """Set `amount` aside; False when it is not there. With `force` it is set aside in any case."""
        ...

    def release(self, amount: int) -> None:
        """What was set aside is not any more."""
        ...

    def spend(self, amount: int, now: float) -> None:
        """It is gone, whether it was there or not."""
        ...

    def available_at(self, amount: int, now: float) -> float:
        """When `amount` will be there at the latest if nothing more is spent; infinity for never."""
        ...

    def limit(self, usd_per_hour: float | None, usd_per_day: float | None) -> None:
        """Other limits from now on, in dollars; None for no such limit."""
        ...


class LocalSpend:
    """The money of one budget, counted in this process alone. Limits in dollars; None for no such limit."""

    __slots__ = ("_limits", "_reserved", "_windows")

    def __init__(self, *, usd_per_hour: float | None = None, usd_per_day: float | None = None) -> None:
        self._windows: dict[float, Window] = {}
        self._limits: list[tuple[int, Window]] = []
        self._reserved = 0
        self.limit(usd_per_hour, usd_per_day)

    def limit(self, usd_per_hour: float | None, usd_per_day: float | None) -> None:
        """Other limits from now on. What was spent under the same kind of limit counts."""
        limits = ((usd_per_hour, HOUR_S, HOUR_SLOTS), (usd_per_day, DAY_S, DAY_SLOTS))
        self._limits = [
            (whole_units(usd), self._windows.setdefault(seconds, Window(seconds, slots)))
            for usd, seconds, slots in limits
            if usd is not None
        ]

    def remaining(self, now: float) -> int | None:
        """The least that any limit leaves."""
        left = [limit - window.total(now) for limit, window in self._limits]
        return min(left) - self._reserved if left else None

    def reserve(self, amount: int, now: float, *, force: bool = False) -> bool:
        """Set it aside if every limit has room for it."""
        left = self.remaining(now)
        if left is not None and amount > left and not force:
            return False
        self._reserved += amount
        return True

    def release(self, amount: int) -> None:
        """Give back what was set aside."""
        self._reserved -= amount

    def spend(self, amount: int, now: float) -> None:
        """Count it in every window, as of now: also in those that limit nothing any more, but may again."""
        for window in self._windows.values():
            window.add(amount, now)

    def available_at(self, amount: int, now: float) -> float:
        """When enough is forgotten. Running attempts are taken to cost what was set aside for them."""
        at = now
        for limit, window in self._limits:
            if amount > limit:
                return inf
            when = window.falls_to(limit - self._reserved - amount, now)
            # If what is set aside stands in the way, the end of any attempt may make room.
            at = max(at, when if when < inf else max(now + SOON_S, window.falls_to(limit - amount, now)))
        return at


class Budget:
    """One `spill_budget` of the file: its money, its share of calls, and what happens when it is used up.

    name:        as people know it, `route embed` or `backend burst`
    limit_usd:   the lower of its limits in dollars; None where it has none
    refused:     attempts that were not granted
    overrun:     attempts that were granted in spite of it, because the file says `warn`
    exhaustions: how often it was used up, each told in the log; it is one as long as it is never enough for
                 all attempts of a minute
    """

    __slots__ = (
        "_credit", "_share", "_short_at", "_source", "exhaustions", "limit_usd", "name",
        "on_exhausted", "overrun", "refused",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        options: SpillBudget,
        *,
        share_of_requests: float | None = None,
        source: SpendSource | None = None,
        share: ShareSource | None = None,
    ) -> None:
        self.name = name
        self.limit_usd = _lower_limit(options)
        self.on_exhausted = options.on_exhausted
        self._source: SpendSource = source or LocalSpend(
            usd_per_hour=options.usd_per_hour, usd_per_day=options.usd_per_day
        )
        if share is None and share_of_requests is not None:
            share = LocalShare(share_of_requests)
        self._share = share
        self._credit = Window(CUT_OFF_S, 10)
        self._short_at = -inf
        self.refused = self.overrun = self.exhaustions = 0

    def change(
        self, options: SpillBudget, share_of_requests: float | None, share: ShareSource | None
    ) -> None:
        """Hold it to other limits from now on. What was spent and set aside stays so.

        share:  who counts the share of calls, if there is one and not this process alone
        """
        self.on_exhausted = options.on_exhausted
        self.limit_usd = _lower_limit(options)
        self._source.limit(options.usd_per_hour, options.usd_per_day)
        if share_of_requests is None or share is not None:
            self._share = share
        elif isinstance(self._share, LocalShare):
            self._share.share = share_of_requests
        else:
            self._share = LocalShare(share_of_requests)

    # -- asking --------------------------------------------------------------------------------

    def remaining_usd(self, now: float) -> float | None:
        """Dollars that may still be spent, below zero when overspent; None without a limit in dollars."""
        left = self._source.remaining(now)
        return None if left is None else left / _UNITS

    def would_allow(self, usd: float | None, now: float) -> bool:
        """Would `reserve` grant it? An unknown amount never fits a limit in dollars."""
        if not self._share_allows(now):
            return False
        left = self._source.remaining(now)
        return left is None or (usd is not None and _units(usd) <= left)

    def available_at(self, usd: float | None, now: float) -> float:
        """When it should be granted at the latest, on the clock; infinity for never."""
        at = now
        if self._source.remaining(now) is not None:
            at = inf if usd is None else self._source.available_at(_units(usd), now)
        return at if self._share_allows(now) else max(at, now + SOON_S)

    def _share_allows(self, now: float) -> bool:
        """One more call on a rented backend keeps them within the share, rounded up to whole calls."""
        return self._share is None or self._share.allows(now)

    # -- taking --------------------------------------------------------------------------------

    def requested(self, now: float) -> None:
        """A call has come. Only the share needs to be told."""
        if self._share is not None:
            self._share.requested(now)

    def reserve(self, usd: float | None, now: float, *, force: bool = False) -> bool:
        """Set aside `usd` and one call. False, and counted as refused, when that is too much."""
        allowed = self.would_allow(usd, now)
        if not allowed:
            self.note_short(now)
        if not allowed and not force:
            self.refused += 1
            return False
        if not allowed:
            self.overrun += 1
        if not self._source.reserve(_units(usd or 0.0), now, force=force):
            self.refused += 1  # a shared source knew better
            return False
        if self._share is not None and not self._share.take(now, force=force):
            self._source.release(_units(usd or 0.0))
            self.refused += 1  # likewise
            return False
        return True

    def close(self, reserved: float | None, at: float, spent: float | None, now: float) -> None:
        """The reservation that was made `at` ends. `spent` None: nothing was started, so it never was."""
        if spent is not None:  # before it is released, so that nobody sees a moment without either
            self._source.spend(_units(spent), now)
        elif self._share is not None:
            self._share.give_back(at)
        self._source.release(_units(reserved or 0.0))

    def owe(self, usd: float, now: float) -> None:
        """`usd` were booked for an attempt whose charge is still to come."""
        self._credit.add(_units(usd), now)

    def spend(self, usd: float, now: float) -> None:
        """Debit a charge outside attempts, less what was booked ahead for attempts that were cut off."""
        amount = _units(usd)
        self._source.spend(amount - self._credit.take(amount, now), now)

    def note_short(self, now: float) -> None:
        """There was not enough for an attempt: the first time in a while, say so."""
        if now - self._short_at > CALM_S:
            self.exhaustions += 1
            left = self.remaining_usd(now)
            what = "its share of calls" if left is None else f"{left:.4g} USD left"
            log.warning("the spill budget of %s is used up (%s): %s", self.name, what, self.on_exhausted)
        self._short_at = now


class Reservation:
    """Money set aside for one attempt, until exactly one of `settle`, `cut_off` or `cancel`.

    RuntimeError on the second end. `open`: still set aside.
    """

    __slots__ = ("_at", "_budgets", "open", "usd")

    def __init__(self, budgets: tuple[Budget, ...], usd: float | None, at: float) -> None:
        self._budgets = budgets
        self.usd = usd
        self._at = at
        self.open = True

    def settle(self, usd: float | None, now: float) -> None:
        """The attempt cost `usd`; None: it ran but the bill is not known, so what was reserved counts."""
        self._close((self.usd or 0.0) if usd is None else usd, now)

    def cut_off(self, now: float) -> None:
        """It was given up while it ran. What was reserved counts; the charge that follows counts only
        for what it exceeds that.
        """
        spent = self.usd or 0.0
        self._close(spent, now)
        for budget in self._budgets:
            budget.owe(spent, now)

    def cancel(self) -> None:
        """Nothing was started and nothing is owed."""
        self._close(None, self._at)

    def _close(self, spent: float | None, now: float) -> None:
        if not self.open:
            raise RuntimeError("this reservation was settled or cancelled before")
        self.open = False
        for budget in self._budgets:
            budget.close(self.usd, self._at, spent, now)


class Purse:
    """All budgets that bind one route on one backend: each must grant what an attempt may cost.

    The route's comes first: where both are used up, its `on_exhausted` holds.
    """

    __slots__ = ("budgets",)

    def __init__(self, budgets: Iterable[Budget]) -> None:
        self.budgets = tuple(budgets)

    def refusing(self, usd: float | None, now: float) -> Budget | None:
        """The first budget that would not grant it and does not merely warn; None when it is granted."""
        for budget in self.budgets:
            if budget.on_exhausted != "warn" and not budget.would_allow(usd, now):
                return budget
        return None

    def would_allow(self, usd: float | None, now: float) -> bool:
        """Would `reserve` grant it?"""
        return self.refusing(usd, now) is None

    def looks_full(self, usd: float | None, now: float) -> bool:
        """Must the backend look full, because its calls are to wait for the fleet (`queue`)?"""
        budget = self.refusing(usd, now)
        if budget is None or budget.on_exhausted != "queue":
            return False
        budget.note_short(now)  # nothing will be asked of it that it could refuse
        return True

    def available_at(self, usd: float | None, now: float) -> float:
        """When it should be granted at the latest; infinity for never."""
        strict = [budget for budget in self.budgets if budget.on_exhausted != "warn"]
        return max((budget.available_at(usd, now) for budget in strict), default=now)

    def reserve(self, usd: float | None, now: float) -> Reservation | None:
        """Set aside `usd` in every budget, or in none and return None."""
        granted: list[Budget] = []
        for budget in self.budgets:
            if not budget.reserve(usd, now, force=budget.on_exhausted == "warn"):
                for earlier in granted:
                    earlier.close(usd, now, None, now)
                return None
            granted.append(budget)
        return Reservation(self.budgets, usd, now)


def _lower_limit(options: SpillBudget) -> float | None:
    return min((usd for usd in (options.usd_per_hour, options.usd_per_day) if usd is not None), default=None)


def refusal(route: str, purse: Purse, usd: float | None, now: float, *, fleet_usable: bool) -> Shed:
    """The error for a call that would need money that is not there (`on_exhausted: shed`).

    429 while the fleet can take calls, only not now; 503 when nothing is left that could. To be tried again
    when the money comes back, at the latest in an hour: by then the fleet may have room.
    """
    wait = min(purse.available_at(usd, now) - now, HOUR_S)
    kind = Contended if fleet_usable else NoCapacity
    error = kind(
        f"the fleet of route {route} has no room, and its spill budget is used up",
        retry_after=float(max(1, ceil(wait))),
    )
    error.reason = Reason.SHED_BUDGET
    return error


class Spending:
    """Every spill budget of the gateway. Names that have none cost nothing to ask about."""

    def __init__(self, *, routes: Mapping[str, Budget], backends: Mapping[str, Budget]) -> None:
        self.routes = routes
        self.backends = backends

    def purse(self, route: str, backend: str) -> Purse | None:
        """What binds this route on this rented backend; None when nothing does."""
        bound = (self.routes.get(route), self.backends.get(backend))
        budgets = [budget for budget in bound if budget is not None]
        return Purse(budgets) if budgets else None

    def requested(self, route: str, now: float) -> None:
        """A call that wants work done has come on this route."""
        if budget := self.routes.get(route):
            budget.requested(now)

    def spend(self, route: str, backend: str, usd: float, now: float) -> None:
        """Debit money that fell due outside attempts: an idle tail, a prewarm, an attempt cut off."""
        for budget in (self.routes.get(route), self.backends.get(backend)):
            if budget is not None:
                budget.spend(usd, now)


def whole_units(usd: float) -> int:
    """Trillionths of a dollar, rounded down: a limit."""
    return int(usd * _UNITS)


def _units(usd: float) -> int:
    """Rounded up, so that no fraction is ever free."""
    if not 0 <= usd < inf:
        raise ValueError(f"{usd!r} dollars make no sense")
    return ceil(round(usd * _UNITS, 3))
