"""What a call is going to cost, before anybody knows where it will run: an amount to set aside.

Knows tiers, what standing replicas cost, and what calls of a route have cost. It never knows a tenant.
"""

from collections.abc import Iterable, Mapping

from gateway.spending import reservation_usd
from gateway.tallies import Standing
from gateway.tier import Tier

LEAST_USD = 1e-9
"""Nothing is free: with less than this left no call is let in."""
_NEWEST = 0.1
"""Weight of the newest cost among those before it."""


class Prices:
    """Expected costs, by route.

    standing:  what owned backends of known price cost, by name; read only
    """

    def __init__(self, standing: Mapping[str, Standing]) -> None:
        self._standing = standing
        self._costs: dict[str, float] = {}

    def expected(self, route: str, tiers: Iterable[Tier]) -> float | None:
        """Dollars to set aside for a call; None where no backend of its route has a price.

        As much as the dearest backend takes where calls hold its slot as long as a high quantile of them
        does, or what calls of the route cost on the average if that is more. What an instance costs that
        boots for it is not in it and may turn out to be more: whatever that is, it is counted at the end.
        """
        most, known = 0.0, False
        for tier in tiers:
            usd: float | None = None
            if tier.owned:
                standing = self._standing.get(tier.name)
                usd = None if standing is None else standing.slot_usd * tier.overall.tail
            elif tier.rent is not None:
                usd = reservation_usd(tier.rent, service_s=tier.overall.tail)
            if usd is not None or (not tier.owned and tier.supply.backend.price_known):
                known = True
                most = max(most, usd or 0.0)
        return max(most, self._costs.get(route, 0.0), LEAST_USD) if known else None

    def learn(self, route: str, usd: float) -> None:
        """A call of the route has cost that."""
        before = self._costs.get(route)
        self._costs[route] = usd if before is None else before + _NEWEST * (usd - before)
