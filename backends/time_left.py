"""How long a provider may go on with a call, so that it ends by itself if the gateway is not there to end it.

A gateway whose call's deadline passes cancels what it began. One that is killed cannot, and work that nobody
waits for any more would go on, and be billed. Knows a call's deadline; never a provider.
"""

import math

from gateway.clock import Clock
from gateway.vocab import Call

AFTERWARDS_S = 5.0
"""A provider is told a little more: as long as the gateway lives, its own deadline comes first."""

LONGEST_S = 86_400.0
"""More is no deadline."""


def time_left(call: Call, clock: Clock, *, least: int) -> int | None:
    """Whole seconds from now on, at least `least`, which is the provider's own limit; None for days.

    Only for work whose answer comes with its end: a deadline is for the beginning of the answer.
    """
    left = call.deadline - clock.now()
    return max(least, math.ceil(left + AFTERWARDS_S)) if left < LONGEST_S else None
