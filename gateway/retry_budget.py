"""How many extra attempts a gateway makes: a share of its calls and a small floor, whatever happens.

Fixed numbers of retries multiply the load in the very moment in which everything fails, and with rented
backends also the bill. So every first attempt deposits a fraction of a token, and what follows a failure
(a retry, a spill to a rented backend) costs one (the idea of Finagle's RetryBudget). Each deposit is spent
at most once and forgotten after `TTL_S`, so that over any time

    extra attempts <= share x first attempts + floor x seconds + one second's floor

Deposits are kept by route, so that a route whose fleet is down cannot use up what other routes have
saved; the floor is one for the whole gateway, so that the bound does not grow with the number of routes.

Pure: the time is an argument. It never knows what an attempt is.
"""

from collections.abc import Iterable
from copy import copy

from gateway.windows import Window

TTL_S = 10.0
"""How long a deposit can be spent."""
_SLOTS = 10
_TOKEN = 10**6


class Floor:
    """A few tokens every second for everybody, so that gateways with little traffic can try again too."""

    __slots__ = ("_most", "_rate", "_since", "_tokens")

    def __init__(self, per_second: float, now: float) -> None:
        self._rate = per_second
        self._most = max(1.0, per_second) if per_second > 0 else 0.0
        self._tokens = self._most
        self._since = now

    def tokens(self, now: float) -> float:
        """What is there."""
        if now > self._since:
            self._tokens = min(self._most, self._tokens + (now - self._since) * self._rate)
            self._since = now
        return self._tokens

    def take(self, now: float) -> bool:
        """Take one, if there is a whole one."""
        if self.tokens(now) < 1.0:
            return False
        self._tokens -= 1.0
        return True


class RetryBudget:
    """The extra attempts of one route. `refused` counts those that were not made."""

    __slots__ = ("_deposit", "_floor", "_window", "granted", "refused")

    def __init__(self, share: float, floor: Floor) -> None:
        self._deposit = int(share * _TOKEN)
        self._floor = floor
        self._window = Window(TTL_S, _SLOTS)
        self.granted = 0
        self.refused = 0

    def tokens(self, now: float) -> float:
        """Extra attempts that would be granted now, the common floor included."""
        return self._window.total(now) / _TOKEN + self._floor.tokens(now)

    def deposit(self, now: float) -> None:
        """A first attempt is made."""
        if self._deposit:
            self._window.add(self._deposit, now)

    def withdraw(self, now: float) -> bool:
        """May an extra attempt be made? Takes a token; False, and counted, when there is none."""
        if self._window.total(now) >= _TOKEN:
            self._window.take(_TOKEN, now)
        elif not self._floor.take(now):
            self.refused += 1
            return False
        self.granted += 1
        return True


class RetryBudgets:
    """The retry budgets of all routes.

    limits_outage:  also a first attempt costs a token when it goes to a rented backend only because
                    the fleet is down
    """

    def __init__(
        self,
        routes: Iterable[str],
        *,
        share: float,
        floor_per_second: float,
        limits_outage: bool = False,
        now: float,
    ) -> None:
        self._floor = Floor(floor_per_second, now)
        self._share = share
        self.limits_outage = limits_outage
        self.routes = {route: RetryBudget(share, self._floor) for route in routes}

    def of(self, routes: Iterable[str]) -> "RetryBudgets":
        """The budgets of other routes by the same rule: those that are here already go on as they are."""
        other = copy(self)
        other.routes = {
            route: self.routes.get(route) or RetryBudget(self._share, self._floor) for route in routes
        }
        return other
