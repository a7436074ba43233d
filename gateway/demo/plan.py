"""What the demo does, as figures: the load, the budget, the fleet, what is rented, and the policy file.

Pure. Must never know processes or sockets: addresses are arguments.
"""

from random import Random
from typing import NamedTuple

ROUTE = "digits"
FLEET = "fleet"


class Rented(NamedTuple):
    """One serverless backend of the demo: how its emulator behaves, and what it costs.

    Boot and idle times are about a tenth of what the providers show with a small GPU image, so that a
    one-minute run contains several boots and several ends. Prices are not scaled.
    """

    name: str  # also the backend's type in the policy file
    max_in_flight: int
    idle_after: float
    price: str  # as the policy file spells it
    usd_per_second: float  # the same, per instance-second
    note: str


# Public list prices, as of 2026-11: RunPod serverless "flex" for the 24 GB class (L4, A5000, 3090);
# Modal's L4; AWS Lambda on x86 in us-east-1, here with 2 GB of memory. The fleet's is what an
# on-demand L4 costs by the hour at the usual clouds.
FLEET_USD_PER_HOUR = 0.79
LAMBDA_GB = 2.0
RENTED = (
    Rented("runpod", 3, 1.5, "{usd_per_second: 0.00019}", 0.00019, "24 GB class, flex worker"),
    Rented("modal", 3, 1.5, "{usd_per_second: 0.000222}", 0.000222, "L4, without its CPU and memory"),
    Rented(
        "aws_lambda",
        96,
        1.5,
        "{usd_per_gb_second: 0.0000166667, usd_per_million_requests: 0.20}",
        0.0000166667 * LAMBDA_GB,
        "2 GB, x86, us-east-1",
    ),
)

FAST_BOOT = 0.4
SLOW_BOOT = 1.6
SLOW_SHARE = 0.25
"""A boot is fast when the image is near and slow when it has to be fetched: two modes, never a mean."""


class Plan(NamedTuple):
    """One run of the demo."""

    seconds: float
    seed: int = 2026
    slots: int = 4
    pace: float = 0.040
    calm_rps: float = 20.0
    burst_rps: float = 170.0
    within: float = 0.6
    objective: float = 0.95

    def boot(self, chance: Random) -> float:
        """One boot time, as the emulators draw it."""
        return SLOW_BOOT if chance.random() < SLOW_SHARE else FAST_BOOT
