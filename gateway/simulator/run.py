"""One run: every request of a workload through the live pool, on virtual time, under one policy.

The queue, the slots and the policy are the gateway's own objects; only time and the backends are
simulated. Knows no concrete policy, and neither searches nor prints.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from heapq import heappush
from math import fsum, inf, isnan, nan
from operator import add
from random import Random
from typing import cast

from backends.base import Kit
from gateway.capacity import Capacity
from gateway.errors import OverspillError
from gateway.estimates import BackendEstimates, Expectation, Prior
from gateway.lease import FIRST, Lease
from gateway.pool import Opened, Pool
from gateway.prewarm import KIND
from gateway.simulator.ahead import Ahead
from gateway.simulator.bills import bill
from gateway.simulator.engine import VirtualTime
from gateway.simulator.queued_endpoint import QueuedEndpoint
from gateway.simulator.scenario import Endpoint, Scenario, Workload
from gateway.simulator.world import Instance, Simulated, SimulatedEndpoint, SimulatedFleet, no_background
from gateway.slot import Slot
from gateway.tier import Tier
from gateway.vocab import Start, Verdict
from policies.base import Policy


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to. Costs are in the unit of the scenario's prices.

    replicas:     of the fleet
    answers:      seconds from arrival to the end of service of each request; nan for a lost one
    begun:        when the service of each request began, on the trace's clock; nan for a lost one
    places:       who served each request, as an index into `place_names`; -1 for nobody
    attained:     share of all requests that were answered within the budget
    spilled:      requests that a rented instance served
    activations:  instances that were booted
    endpoints:    the rented backends as they were at the end, for whoever wants to see every instance
    duration:     seconds from the first arrival to the end of the last service
    """

    replicas: int
    requests: int
    answers: Sequence[float]
    begun: Sequence[float]
    places: Sequence[int]
    place_names: tuple[str, ...]
    attained: float
    lost: int
    spilled: int
    activations: int
    duration: float
    cost_split: dict[str, float]
    endpoints: tuple[SimulatedEndpoint, ...]

    @property
    def cost(self) -> float:
        """All of it."""
        return fsum(self.cost_split.values())

    def as_json(self, unit: float = 1.0) -> dict[str, object]:
        """The figures of `simulate --json`; costs are divided by `unit`."""
        return {
            "replicas": self.replicas,
            "attained": self.attained,
            "cost": self.cost / unit,
            "cost_split": {kind: cost / unit for kind, cost in self.cost_split.items()},
            "spill_ratio": self.spilled / self.requests,
            "cold_ratio": self.activations / self.spilled if self.spilled else 0.0,
            "activations": self.activations,
            "requests": self.requests,
            "lost": self.lost,
        }


ROUNDING_S = 1e-9
"""Adding a service time to the time of day rounds: an answer that is later by less is in time."""


class TooManyMissed(Exception):
    """More requests than allowed were late or lost, so that the rest of the run says nothing more."""


class _Visit(Lease):
    """One request on its way through the pool and its service."""

    __slots__ = ("endpoint", "index", "run")

    # Set by the run, beside what a lease is made of: a constructor of its own would cost more than they do.
    endpoint: SimulatedEndpoint
    index: int
    run: "_Run"

    def settle(self, slot: Slot | None, error: Exception | None) -> None:
        """The waiting is over, with a slot or without. Virtual time does not pass before it is noticed."""
        self.waiting = False
        self.slot = slot
        if slot is not None:
            self.begin(slot)
        else:
            self.run.miss()

    def begin(self, slot: Slot) -> None:
        """Its service begins, on the slot it has."""
        run = self.run
        time, index = run.time, self.index
        seconds = run.services[index]
        backend: Simulated = slot.backend  # type: ignore[assignment]  # a run has no others
        run.places[index] = backend.place
        if self.tier.owned:
            end = time.instant + seconds
        else:
            assert isinstance(backend, SimulatedEndpoint)
            self.endpoint = backend
            if isinstance(backend, QueuedEndpoint):
                backend.send_call(self, index, seconds, time.instant)
                return
            end = backend.begin(index, seconds, time.instant)
            slot.boot_s = boot = backend.boot_s
            slot.start = Start.COLD if boot else Start.WARM
        heappush(time.events, (end, next(time.turn), self.served))

    def served_from(self, now: float, seconds: float, *, boot_s: float, waited_s: float) -> None:
        """An instance has taken it out of the provider's queue."""
        run, slot = self.run, self.slot
        assert slot is not None
        slot.start = Start.COLD if boot_s else Start.WARM
        slot.boot_s, slot.waited_s = boot_s, waited_s
        heappush(run.time.events, (now + seconds, next(run.time.turn), self.served))

    def served(self) -> None:
        """The service has ended: its instance idles before its slot is offered to the next."""
        run, index = self.run, self.index
        now = run.time.instant
        answers = run.answers
        if answers[index] == answers[index]:  # not nan
            raise RuntimeError(f"request {index} was served twice")
        answers[index] = answer = now - run.arrivals[index]
        if answer > run.limit:
            run.miss()
        if not self.tier.owned:
            self.endpoint.end(index, now)
        slot, self.slot = self.slot, None
        assert slot is not None
        run.pool.release(self, slot, Verdict.SUCCESS)


class _Run:
    """The world of one run."""

    def __init__(
        self, workload: Workload, scenario: Scenario, policy: Policy, replicas: int, may_miss: float
    ) -> None:
        self.workload = workload
        self.services = workload.services
        self.limit = scenario.budget_s + ROUNDING_S
        self._may_miss = may_miss
        self._calls = workload.calls
        self.arrivals = workload.arrivals
        self.answers = [nan] * len(workload)
        self.places = [-1] * len(workload)
        self.time = VirtualTime()
        chance = Random(scenario.seed)  # noqa: S311 - a simulation, to be repeated
        kit = Kit(clock=self.time, chance=chance, spawn=no_background)
        self.backends: dict[str, Simulated] = {}
        if scenario.fleet is not None and replicas:
            fleet = scenario.fleet
            self.backends[fleet.name] = SimulatedFleet(fleet.name, kit, slots=replicas * fleet.slots)
        self.endpoints = tuple(
            _endpoint(each, kit, scenario.colds[each.name], self.time) for each in scenario.endpoints
        )
        self.backends.update((endpoint.name, endpoint) for endpoint in self.endpoints)
        for place, backend in enumerate(self.backends.values()):
            backend.place = place
        tiers = [
            Tier(
                options,
                Capacity(
                    self.backends[options.backend],
                    clock=self.time,
                    chance=chance,
                    timers=self.time,
                    watched=False,
                ),
                _estimates(scenario, options.backend) if policy.learns or scenario.prewarm else None,
            )
            for options in scenario.tiers
            if options.backend in self.backends
        ]
        self.pool = Pool(
            "simulated", policy, tiers, clock=self.time, chance=chance, timers=self.time,
            opener=self, within=scenario.budget_s, objective=scenario.objective,
        )  # fmt: skip
        if scenario.prewarm is not None:
            Ahead(self.pool, scenario, self.time, workload.arrivals)

    def open(self, slot: Slot, *, route: str, kind: str, done: Opened) -> None:
        """The pool has an instance boot (`gateway.pool.Opener`)."""
        backend = cast("SimulatedEndpoint", slot.backend)
        now, ahead = self.time.instant, kind == KIND
        kept = None if slot.opening else backend.keep(now)
        instance = kept or backend.boot(now, ahead=ahead)
        boot_s = None if kept else instance.cold_s
        self.time.at(now + (boot_s or 0.0), partial(self._up, backend, instance, boot_s, done))

    def _up(self, backend: SimulatedEndpoint, instance: Instance, boot_s: float | None, done: Opened) -> None:
        backend.up(instance, self.time.instant)
        done(Verdict.SUCCESS, boot_s)

    def miss(self) -> None:
        """One more request will not have been answered in time."""
        self._may_miss -= 1
        if self._may_miss < 0:
            raise TooManyMissed

    def arrive(self, index: int) -> None:
        """Request number `index` comes. One that is shed is lost: it never gets an answer."""
        pool = self.pool
        visit = _Visit(pool, self._calls[index], FIRST)
        visit.run = self
        visit.index = index
        visit.since = now = self.time.instant
        try:
            slot = pool.arrive(visit, now)
        except OverspillError:
            self.miss()
            return
        if slot is not None:
            visit.begin(slot)


def _endpoint(
    endpoint: Endpoint, kit: Kit, colds: Callable[[int], float], time: VirtualTime
) -> SimulatedEndpoint:
    name, limit, rent = endpoint.name, endpoint.limit, endpoint.rent
    if endpoint.binds_late:
        return QueuedEndpoint(name, kit, limit=limit, rent=rent, colds=colds, time=time)
    return SimulatedEndpoint(name, kit, limit=limit, rent=rent, colds=colds, opens=endpoint.opens)


def _estimates(scenario: Scenario, backend: str) -> BackendEstimates:
    """Nothing learned yet. What is stated: the boot of an endpoint; of the service only that it fits."""
    budget = scenario.budget_s
    stated = Expectation(objective=scenario.objective, service=Prior(0.1 * budget, 0.3 * budget))
    for endpoint in scenario.endpoints:
        if endpoint.name == backend:
            boot_s = max(endpoint.rent.boot_s, 1e-3)
            return BackendEstimates(stated._replace(cold=Prior(boot_s, 2.0 * boot_s), idle_s=endpoint.idle_s))
    return BackendEstimates(stated)


@contextmanager
def _no_collector() -> Iterator[None]:
    """A run leaves no cycles behind, and looking for them would cost a third of it."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


def simulate(
    workload: Workload, scenario: Scenario, policy: Policy, replicas: int, *, may_miss: float = inf
) -> Outcome:
    """Put every request of `workload` through `policy` with a fleet of that many replicas.

    Deterministic: equal arguments give equal outcomes. A request that is shed is lost, and so is one that
    is never let out of the queue. Raises TooManyMissed as soon as more than `may_miss` requests are lost
    or late.
    """
    run = _Run(workload, scenario, policy, replicas, may_miss)
    with _no_collector():
        run.time.run(workload.arrivals, run.arrive)
    for endpoint in run.endpoints:
        endpoint.finish()
    return _outcome(run, scenario, replicas)


def _outcome(run: _Run, scenario: Scenario, replicas: int) -> Outcome:
    workload = run.workload
    whole = list(map(add, workload.arrivals, run.answers))
    ends = [end for end in whole if not isnan(end)]
    duration = max(ends, default=workload.arrivals[-1]) - workload.arrivals[0]
    split = dict.fromkeys(("fleet", "exec", "cold", "idle", "fee", "prewarm"), 0.0)
    if scenario.fleet is not None:
        split["fleet"] = replicas * duration * scenario.fleet.usd_per_second
    for endpoint in run.endpoints:
        for kind, usd in bill(endpoint)._asdict().items():
            split[kind] += usd
    spilled = sum(endpoint.served for endpoint in run.endpoints)
    return Outcome(
        replicas=replicas,
        requests=len(workload),
        answers=run.answers,
        begun=[end - seconds for end, seconds in zip(whole, workload.services, strict=True)],
        places=run.places,
        place_names=tuple(run.backends),
        attained=sum(answer <= run.limit for answer in run.answers) / len(workload),
        lost=run.places.count(-1),
        spilled=spilled,
        activations=sum(len(endpoint.lives) for endpoint in run.endpoints),
        duration=duration,
        cost_split=split,
        endpoints=run.endpoints,
    )
