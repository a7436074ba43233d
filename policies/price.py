"""What one more call adds to the bill of a tier, in dollars.

An owned tier costs the same whatever it serves. A rented one is paid for the seconds it serves, and for
those that an instance boots and idles because of the call. Pure; knows no policy.
"""

from math import ceil
from typing import NamedTuple

from policies.base import RequestView, TierView


class Costs(NamedTuple):
    """What a call brings about on a rented tier.

    boots:      the chance that an instance boots for it, 0 to 1
    shared_by:  calls that such an instance is expected to serve: each bears its share
    idled_s:    seconds for which the instance had idled, 0 for a busy one. They are paid for in any case;
                but its idle time-out begins anew, so that it is there for so much longer. None: not known,
                taken as half the time-out
    """

    boots: float = 0.0
    shared_by: float = 1.0
    idled_s: float | None = 0.0


def cost(tier: TierView, request: RequestView, costs: Costs) -> float | None:
    """Expected dollars; None when the price, or how long the call takes, is not known."""
    if tier.owned:
        return 0.0
    rent = tier.rent
    seconds = tier.service(request).mean
    if rent is None or rent.usd_per_second is None or seconds <= 0.0:
        return None
    if costs.boots > 0.0 and rent.bills_boot and tier.cold.mean <= 0.0:
        return None
    if rent.round_up_s > 0.0:
        seconds = ceil(seconds / rent.round_up_s - 1e-9) * rent.round_up_s
    kept_s = 0.5 * rent.idle_s if costs.idled_s is None else costs.idled_s
    seconds += (1.0 - costs.boots) * kept_s * rent.bills_idle
    activation_s = tier.cold.mean * rent.bills_boot + rent.idle_s * rent.bills_idle
    seconds += costs.boots * activation_s / costs.shared_by
    return seconds * rent.usd_per_second + rent.usd_per_call
