"""What the demo does, as figures: the load, the budget, the fleet and what is rented.

Pure. Must never know processes or sockets.
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

    name: str  # also the backend's type in the policy file, and the emulator's kind
    max_in_flight: int
    idle_after: float
    usd_per_second: float  # of one instance
    billed_in: float  # seconds that an instance's life is rounded up to


# Public list prices, as of 2026-11. The fleet's is an on-demand L4 by the hour; its one replica is a
# machine with one L4 per slot, so that a slot here and a rented instance are the same thing. RunPod:
# flex workers of the 24 GB class (L4, A5000, 3090). Modal: an L4, without the CPU and memory that come
# on top. AWS Lambda: x86 in us-east-1, per GB-second and per request ($0.20 per million), with 2 GB.
USD_PER_GPU_HOUR = 0.79
LAMBDA_GB = 2
LAMBDA_USD_PER_GB_SECOND = 0.0000166667
LAMBDA_USD_PER_REQUEST = 0.0000002
RENTED = (
    Rented("runpod", 3, 1.5, 0.00019, 1.0),
    Rented("modal", 3, 1.5, 0.000222, 0.0),
    Rented("aws_lambda", 150, 1.5, LAMBDA_USD_PER_GB_SECOND * LAMBDA_GB, 0.001),
)

BACKENDS = (FLEET, *(rented.name for rented in RENTED))
"""Every backend by name, in the order of the tiers."""

FAST_BOOT = 0.4
SLOW_BOOT = 1.6
FAST_SHARE = 0.75
"""A boot is fast when the image is near and slow when it has to be fetched: two modes, never a mean."""


class Plan(NamedTuple):
    """One run of the demo. Times in seconds, rates per second."""

    seconds: float
    seed: int = 2026
    slots: int = 4
    pace: float = 0.040
    calm_rps: float = 40.0
    burst_rps: float = 170.0
    within: float = 0.6
    objective: float = 0.95

    @property
    def usd_per_replica_hour(self) -> float:
        """What the fleet's one machine costs."""
        return round(self.slots * USD_PER_GPU_HOUR, 6)

    def boot(self, chance: Random) -> float:
        """One boot time, as the emulators draw it."""
        return FAST_BOOT if chance.random() < FAST_SHARE else SLOW_BOOT
