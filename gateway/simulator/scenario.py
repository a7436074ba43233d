"""What is simulated: the requests, and what serves them at which price. Values only.

Knows durations and prices. It never knows a policy, nor where the values came from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappush, heapreplace

from gateway.config.schema import Prewarm
from gateway.simulator.distributions import Distribution, stream
from gateway.simulator.world import UNLIMITED
from gateway.vocab import Call, Rent, WholeBody
from policies.base import TierOptions


@dataclass(frozen=True, slots=True)
class Fleet:
    """Owned replicas.

    slots:           calls that one replica serves at once
    usd_per_second:  standing price of one replica
    """

    name: str = "fleet"
    slots: int = 1
    usd_per_second: float = 1.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Rented instances, one slot each.

    usd_per_second:  price of one instance: what of its life is billed say `bills_boot` and `bills_idle`
    usd_per_call:    fee on top, for a ping too
    limit:           most calls there at once
    expect_s:        how long a boot is said to take, before anything was measured; None: its mean
    bills_boot:      whether the seconds of booting are billed
    bills_idle:      whether the seconds of idling are billed
    round_up_s:      the provider rounds up to multiples of this (`gateway.simulator.bills`); 0 for none
    opens:           an instance may boot while calls wait; else only a call makes one boot
    binds_late:      a call waits there for whichever instance is up or free first; else for its own
    """

    name: str
    usd_per_second: float
    idle_s: float
    cold: Distribution
    usd_per_call: float = 0.0
    limit: int = UNLIMITED
    expect_s: float | None = None
    bills_boot: bool = True
    bills_idle: bool = True
    round_up_s: float = 0.0
    opens: bool = True
    binds_late: bool = False

    @property
    def rent(self) -> Rent:
        """What the pool is told."""
        boot_s = self.cold.mean() if self.expect_s is None else self.expect_s
        return Rent(
            self.usd_per_second, self.usd_per_call, self.idle_s, boot_s, self.bills_boot, self.bills_idle,
            self.round_up_s,
        )  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """The requests: when each comes and how long a slot serves it, in seconds; in the order of time.

    sizes:  what can be told of each when it comes; None: nothing
    """

    name: str
    arrivals: Sequence[float]
    services: Sequence[float]
    sizes: Sequence[float] | None = None

    def __len__(self) -> int:
        return len(self.arrivals)

    @property
    def span(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.arrivals[-1] - self.arrivals[0]

    def possible(self, budget_s: float) -> float:
        """Share of the requests whose service alone is within the budget: no schedule attains more."""
        return sum(seconds <= budget_s for seconds in self.services) / len(self)

    @cached_property
    def calls(self) -> Sequence[Call]:
        """What the pool is shown; made once for every run over this workload.

        Their deadline is infinite: a late answer is counted as missed, and no request is ever lost by
        waiting, so every policy is charged for the same work.
        """
        body = WholeBody(b"")
        calls = []
        for index, arrived in enumerate(self.arrivals):
            call = Call(
                protocol="raw",
                operation="simulate",
                method=b"POST",
                target=b"/",
                headers=[],
                body=body,
                arrived=arrived,
            )
            if self.sizes is not None:
                call.size = self.sizes[index]
            calls.append(call)
        return calls

    @cached_property
    def peak(self) -> int:
        """Most requests in service at once if none ever waited."""
        running: list[float] = []
        for arrived, seconds in zip(self.arrivals, self.services, strict=True):
            if running and running[0] <= arrived:
                heapreplace(running, arrived + seconds)
            else:
                heappush(running, arrived + seconds)
        return len(running)


@dataclass(frozen=True)
class Scenario:
    """One route to be simulated.

    tiers:      as a file has them, in their order; each names the fleet or one of the endpoints
    budget_s:   from arrival to the end of service
    objective:  share of the requests that should stay within it
    prewarm:    what may be opened ahead of demand; None: nothing
    """

    fleet: Fleet | None
    endpoints: tuple[Endpoint, ...]
    tiers: tuple[TierOptions, ...]
    budget_s: float
    objective: float
    seed: int
    prewarm: Prewarm | None = None

    @cached_property
    def colds(self) -> dict[str, Callable[[int], float]]:
        """Boot durations of each endpoint by the number of the activation: common to all runs."""
        return {
            endpoint.name: _Colds(endpoint.cold, stream(self.seed, f"cold:{endpoint.name}")).draw
            for endpoint in self.endpoints
        }


class _Colds:
    """Draws of one stream, each made once."""

    def __init__(self, distribution: Distribution, seed: int) -> None:
        self._distribution = distribution
        self._seed = seed
        self._drawn: list[float] = []

    def draw(self, index: int) -> float:
        """Seconds that activation number `index` takes to boot."""
        drawn = self._drawn
        while index >= len(drawn):
            drawn.append(self._distribution.draw(self._seed, len(drawn)))
        return drawn[index]
