"""What a provider bills: two ways to turn seconds into money, exact to the provider's rounding.

Pure. Must never know how instances run; it is told when one began and ended, or how long an invocation
took.
"""

import math
from typing import NamedTuple, Protocol

_NOISE = 1e-9  # of float seconds: 5.0000000001 s are five seconds, not six


class Bill(NamedTuple):
    """What the provider would ask for up to now.

    billed_seconds:  instance seconds (RunPod, Modal) or invocation seconds (Lambda)
    gb_seconds:      the same times memory, where memory is what is priced
    """

    billed_seconds: float
    gb_seconds: float
    requests: int
    cold_starts: int
    usd: float


class Tariff(Protocol):
    """How one provider bills."""

    def life_s(self, life_s: float) -> float:
        """Billed seconds of an instance that lived so long, start-up and idle tail included."""
        ...

    def invocation_s(self, init_s: float, run_s: float) -> float:
        """Billed seconds of one invocation with the start-up it had to wait for (0 when warm)."""
        ...

    def usd(self, billed_s: float, requests: int) -> float:
        """Price of that many billed seconds and requests."""
        ...

    def gb_seconds(self, billed_s: float) -> float:
        """Billed seconds times memory; 0 where memory is not priced."""
        ...


class PerLife:
    """Paid from an instance's start to its end: RunPod (whole seconds, rounded up), Modal (exactly)."""

    def __init__(self, *, usd_per_second: float, whole_seconds: bool) -> None:
        self.usd_per_second = usd_per_second
        self.whole_seconds = whole_seconds

    def life_s(self, life_s: float) -> float:
        """The life, rounded up where the provider does."""
        return float(math.ceil(life_s - _NOISE)) if self.whole_seconds else life_s

    def invocation_s(self, init_s: float, run_s: float) -> float:
        """Nothing: it is within the instance's life."""
        return 0.0

    def usd(self, billed_s: float, requests: int) -> float:
        """Seconds times price; requests are free."""
        return billed_s * self.usd_per_second

    def gb_seconds(self, billed_s: float) -> float:
        """Not priced by memory."""
        return 0.0


class PerInvocation:
    """AWS Lambda: each invocation in whole milliseconds, INIT included, times memory, plus a fee.

    INIT is billed for every kind of function since 2025-08-01. Between invocations nothing is.
    """

    def __init__(
        self,
        *,
        memory_mb: int,
        usd_per_gb_second: float = 0.0000166667,
        usd_per_request: float = 0.0000002,
    ) -> None:
        self.memory_mb = memory_mb
        self.usd_per_gb_second = usd_per_gb_second
        self.usd_per_request = usd_per_request

    def life_s(self, life_s: float) -> float:
        """Nothing: an idle environment is not billed."""
        return 0.0

    def invocation_s(self, init_s: float, run_s: float) -> float:
        """Whole milliseconds, rounded up."""
        return math.ceil((init_s + run_s) * 1000 - 1e-6) / 1000

    def usd(self, billed_s: float, requests: int) -> float:
        """GB-seconds times price plus the fee per request."""
        return self.gb_seconds(billed_s) * self.usd_per_gb_second + requests * self.usd_per_request

    def gb_seconds(self, billed_s: float) -> float:
        """1 GB for 200 ms is 0.2 GB-s."""
        return billed_s * self.memory_mb / 1024
