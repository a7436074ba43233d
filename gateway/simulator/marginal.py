"""Why the n-th warm replica is worth its price: how busy it would be, and how busy it would have to be.

The marginal rule of LIBRA (Raza et al., arXiv 2104.05491) with activations in it: of the requests in
service when nobody waits, level n is busy while there are at least n of them. Renting that level costs
its busy time, and for each run of busy time one start-up and one idle tail; owning it costs all the time.
An explanation and a first guess: it knows no queue, no policy and no budget, all of which a simulation has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import accumulate

from gateway.simulator.scenario import Endpoint, Fleet, Workload


@dataclass(frozen=True, slots=True)
class Marginal:
    """One replica. `busy`: share of the time its slots would be; `needs`: what owning it takes.

    `needs` may be above 1: then it never pays. 0 for a replica that costs nothing.
    """

    replica: int
    busy: float
    needs: float

    @property
    def pays(self) -> bool:
        """Owning it is cheaper than renting what it would do."""
        return self.busy > 0 and self.busy >= self.needs


def marginals(workload: Workload, fleet: Fleet, endpoints: Sequence[Endpoint], most: int) -> list[Marginal]:
    """Of the replicas 1 to `most`, against the cheapest endpoint; none without one."""
    if not endpoints:
        return []
    held, runs, span = _levels(workload)
    mean = sum(workload.services) / len(workload)
    found = []
    for replica in range(1, most + 1):
        slots = range((replica - 1) * fleet.slots, replica * fleet.slots)
        busy_s = sum(held[slot] for slot in slots if slot < len(held))
        starts = sum(runs[slot] for slot in slots if slot < len(runs))
        busy = busy_s / (span * fleet.slots) if span else 0.0
        rent = min(_rent(endpoint, mean, starts / busy_s if busy_s else 0.0) for endpoint in endpoints)
        needs = fleet.usd_per_second / fleet.slots / rent if rent else float(fleet.usd_per_second > 0) * 1e9
        found.append(Marginal(replica, busy, needs))
    return found


def _rent(endpoint: Endpoint, mean_s: float, starts_per_second: float) -> float:
    """Dollars for one second of service there: start-ups, idle tails, fees, half a unit of rounding."""
    half_s = endpoint.round_up_s / 2
    start_s = endpoint.cold.mean() * endpoint.bills_boot + (endpoint.idle_s + half_s) * endpoint.bills_idle
    call = endpoint.usd_per_call + endpoint.usd_per_second * half_s * (not endpoint.bills_idle)
    return endpoint.usd_per_second * (1 + starts_per_second * start_s) + (call / mean_s if mean_s else 0.0)


def _levels(workload: Workload) -> tuple[list[float], list[int], float]:
    """Busy seconds and runs of level 1, 2, …; and the seconds of it all."""
    at_count: list[float] = [0.0]  # seconds with exactly so many in service
    runs: list[int] = []
    ends: list[float] = []
    now = start = workload.arrivals[0]
    for arrived, seconds in zip(workload.arrivals, workload.services, strict=True):
        while ends and ends[0] <= arrived:
            at_count[len(ends)] += ends[0] - now
            now = heappop(ends)
        at_count[len(ends)] += arrived - now
        now = arrived
        heappush(ends, arrived + seconds)
        if len(ends) == len(at_count):
            at_count.append(0.0)
            runs.append(0)
        runs[len(ends) - 1] += 1
    while ends:
        at_count[len(ends)] += ends[0] - now
        now = heappop(ends)
    held = list(accumulate(reversed(at_count[1:])))[::-1]
    return held, runs, now - start
