"""What the same arrivals would have cost elsewhere: an all-warm fleet, or serverless alone.

Pure: recorded arrivals and measured service times in, figures out; chance is an argument. These are
models, and are presented as such; what the run itself cost comes from the gateway's own metrics.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile: the smallest value that at least `share` of `values` do not exceed.

    0.0 for no values. `share` is a fraction from 0 to 1.
    """
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def attained(latencies: Sequence[float], within: float) -> float:
    """Share of `latencies` that are at most `within`; 1.0 for none."""
    return sum(latency <= within for latency in latencies) / len(latencies) if latencies else 1.0


def fifo_latencies(arrivals: Sequence[float], services: Sequence[float], servers: int) -> list[float]:
    """Waiting plus service of every call in one first-come-first-served queue with `servers` servers.

    `arrivals` ascend; call i needs `services[i % len(services)]` seconds.
    """
    free_at = [0.0] * servers
    latencies: list[float] = []
    for place, arrival in enumerate(arrivals):
        # The server that is free first takes the call: in FIFO order no other choice starts it sooner.
        end = max(arrival, free_at[0]) + services[place % len(services)]
        heapq.heapreplace(free_at, end)
        latencies.append(end - arrival)
    return latencies


class AllWarm(NamedTuple):
    """The smallest fleet that meets the objective on its own."""

    replicas: int
    attained: float
    usd: float


def all_warm(
    arrivals: Sequence[float],
    services: Sequence[float],
    *,
    slots: int,
    within: float,
    objective: float,
    seconds: float,
    usd_per_replica_hour: float,
    most: int = 256,
) -> AllWarm | None:
    """Size a fleet for these arrivals and price it for the whole run, used or not.

    None when no fleet of up to `most` replicas meets the objective (the service time itself is too long).
    """
    if not services:
        return None
    for replicas in range(1, most + 1):
        share = attained(fifo_latencies(arrivals, services, replicas * slots), within)
        if share >= objective:
            return AllWarm(replicas, share, replicas * usd_per_replica_hour * seconds / 3600)
    return None


class AllServerless(NamedTuple):
    """The same arrivals on rented instances alone."""

    cap: int  # instances allowed at once
    attained: float
    cold: int  # instances that were started
    billed_s: float
    usd: float


_BOOTED, _FREED, _GONE = range(3)


class _Instances:
    """Instances that run one call at a time, open on demand, and end after an idle time."""

    def __init__(self, cap: int, boot: Callable[[], float], idle_after: float, billed_in: float) -> None:
        self._cap = cap
        self._alive = 0
        self._booting = 0
        self._boot = boot
        self._idle_after = idle_after
        self._billed_in = billed_in
        self._events: list[tuple[float, int, int, float]] = []  # (time, what, instance, idle since)
        self._opened: list[float] = []
        self._idle: dict[int, float] = {}  # instance -> since; the latest comes last and is reused first
        self._waiting: deque[tuple[float, float]] = deque()  # (arrival, service), oldest first
        self.latencies: list[float] = []
        self.billed_s = 0.0

    @property
    def cold(self) -> int:
        return len(self._opened)

    def arrive(self, at: float, service: float) -> None:
        self.advance(at)
        if self._idle:
            instance, _ = self._idle.popitem()
            self._run(at, service, at, instance)
            return
        # One more instance for one more call that finds none: the call runs on whichever is free first.
        self._waiting.append((at, service))
        self._scale(at)

    def advance(self, until: float) -> None:
        """Everything that happens up to and including `until`."""
        while self._events and self._events[0][0] <= until:
            now, what, instance, since = heapq.heappop(self._events)
            if what == _GONE:
                # An end that was due before the instance was used again is not its end.
                if self._idle.get(instance) == since:
                    del self._idle[instance]
                    self._alive -= 1
                    self._bill(now - self._opened[instance])
                continue
            self._booting -= what == _BOOTED
            if self._waiting:
                arrival, service = self._waiting.popleft()
                self._run(now, service, arrival, instance)
            else:
                self._idle[instance] = now
                heapq.heappush(self._events, (now + self._idle_after, _GONE, instance, now))

    def _scale(self, now: float) -> None:
        while self._alive < self._cap and self._booting < len(self._waiting):
            heapq.heappush(self._events, (now + self._boot(), _BOOTED, len(self._opened), 0.0))
            self._opened.append(now)
            self._alive += 1
            self._booting += 1

    def _bill(self, lived: float) -> None:
        # Rounding up must not turn 2.0000000001 s, which is 2 s and a rounding error, into 3 s.
        self.billed_s += (
            math.ceil(round(lived / self._billed_in, 9)) * self._billed_in if self._billed_in else lived
        )

    def _run(self, now: float, service: float, arrival: float, instance: int) -> None:
        self.latencies.append(now + service - arrival)
        heapq.heappush(self._events, (now + service, _FREED, instance, 0.0))


def all_serverless(
    arrivals: Sequence[float],
    services: Sequence[float],
    *,
    boot: Callable[[], float],
    idle_after: float,
    usd_per_second: float,
    within: float,
    cap: int,
    billed_in: float = 0.0,
) -> AllServerless | None:
    """Replay these arrivals on at most `cap` instances that boot on demand. None without service times.

    Billed from the start of the boot to the end of the idle time, as RunPod and Modal do: the last
    idle tail is owed even where it outlives the run. With `billed_in` every instance's life is
    rounded up to a multiple of so many seconds (RunPod: 1).
    """
    if not services:
        return None
    instances = _Instances(cap, boot, idle_after, billed_in)
    for place, arrival in enumerate(arrivals):
        instances.arrive(arrival, services[place % len(services)])
    instances.advance(math.inf)
    share = attained(instances.latencies, within)
    billed = instances.billed_s
    return AllServerless(cap, share, instances.cold, billed, billed * usd_per_second)


def cheapest_serverless(
    replay: Callable[[int], AllServerless | None], objective: float, caps: Sequence[int] = range(1, 65)
) -> AllServerless | None:
    """The cheapest limit of instances that meets the objective; the one that comes nearest if none does."""
    tried = [rented for cap in caps if (rented := replay(cap)) is not None]
    good = [rented for rented in tried if rented.attained >= objective]
    if good:
        return min(good, key=lambda rented: rented.usd)
    return max(tried, key=lambda rented: rented.attained, default=None)
