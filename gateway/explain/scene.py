"""A pool of the gateway's own, put into a given state on a clock that stands still.

The capacities, the tiers, the queue and the policy are those that serve; only nothing is ever sent. Knows the
configuration and the contracts; never a concrete backend or policy.
"""

from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, NamedTuple

from backends.base import Backend, Kit
from gateway.capacity import Capacity
from gateway.clock import FakeClock, Timer
from gateway.config.schema import RouteOptions, Settings
from gateway.estimates import BackendEstimates, Expectation, Prior
from gateway.expectations import expectation
from gateway.explain.asked import Wanted, make_call
from gateway.explain.state_file import BackendState, Expected, State, Waiting
from gateway.lease import Lease
from gateway.pool import Pool
from gateway.registry import Registry
from gateway.tier import Tier
from gateway.vocab import Reason, Verdict
from policies.base import Action, Hold, Policy, PolicyOptions, PoolView, RequestView, Take

ANSWERS = 1000
"""Answers that an attained share is the share of."""


class Scene(NamedTuple):
    """A route at one moment: its pool, the time, and its objective."""

    pool: Pool
    now: float
    objective: float | None


class _First(NamedTuple):
    number: int = 0
    tried: frozenset[tuple[str, int]] = frozenset()


class _Never:
    """Timers that do not ring: the clock stands still."""

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        return self

    def cancel(self) -> None:
        """Nothing was set."""


class _Holding(Policy):
    """Holds every call, so that a queue comes about; the route's own policy takes its place."""

    def __init__(self, due_by: float) -> None:
        super().__init__(PolicyOptions())
        self._due_by = due_by

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        return Hold(request.deadline, (), request.due <= self._due_by)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        return None


def build_backends(
    settings: Settings, route: RouteOptions, kinds: Registry[Backend], clock: FakeClock
) -> dict[str, Backend]:
    """The backends of a route, as the gateway builds them. No secret is looked at."""
    kit = Kit(clock=clock, chance=Random(0), spawn=_spawn)  # noqa: S311
    found = {}
    for tier in route.tiers:
        options = settings.backends[tier.backend]
        bare = options.model_copy(update={"headers": {}})
        found[tier.backend] = kinds.get(options.type)(tier.backend, bare, kit)
    return found


def _spawn(work: Coroutine[Any, Any, None], /, *, name: str) -> None:
    work.close()
    raise RuntimeError(f"{name}: nothing runs while a decision is explained")


def build_scene(
    name: str,
    route: RouteOptions,
    policy: Policy,
    *,
    backends: Mapping[str, Backend],
    clock: FakeClock,
    state: State,
) -> Scene:
    """The route in that state. The state has been checked (`state_file.read_state`)."""
    chance, timers = Random(0), _Never()  # noqa: S311 - only which of equal replicas takes a call
    budget = route.latency_budget
    within = None if budget is None else budget.within
    objective = None if budget is None else budget.objective
    tiers = []
    for tier in route.tiers:
        backend = backends[tier.backend]
        capacity = Capacity(backend, clock=clock, chance=chance, timers=timers)
        stated = expectation(backend, within=within, objective=objective)
        entry = state.backends.get(tier.backend)
        estimates = BackendEstimates(stated if entry is None else _stated(stated, entry))
        tiers.append(Tier(tier, capacity, estimates, estimates))
    oldest = max((each.age for each in state.queue), default=0.0)
    end = clock.now() + oldest
    pool = Pool(
        name, _Holding(end), tiers, clock=clock, chance=chance, timers=timers, within=within,
        objective=0.99 if objective is None else objective,
    )  # fmt: skip
    best_effort = [each for each in state.queue if each.priority == "best_effort"]
    asking = [each for each in state.queue if each.priority != "best_effort"]
    for each in sorted(asking, key=lambda each: -each.age):
        clock.advance(max(0.0, end - each.age - clock.now()))
        _queue(pool, each, end, within, route.timeout)
    clock.advance(end - clock.now())
    for made in tiers:
        _put(made.supply, state.backends.get(made.name) or BackendState(), clock.now())
    for each in best_effort:  # they would have run, while nothing was in flight
        _queue(pool, each, end, within, route.timeout)
    if state.attained is not None:
        in_time = round(state.attained * ANSWERS)
        for number in range(ANSWERS):
            pool.attainment.note(clock.now(), in_time=number < in_time)
    pool.policy = policy
    return Scene(pool, clock.now(), objective)


def _stated(stated: Expectation, state: BackendState) -> Expectation:
    service, cold = stated.service, stated.cold
    return stated._replace(
        service=_prior(state.service) or service,
        cold=_prior(state.cold) or cold,
    )


def _prior(expected: Expected | None) -> Prior | None:
    if expected is None:
        return None
    return Prior(expected.mean, 2.0 * expected.mean if expected.tail is None else expected.tail)


def _queue(pool: Pool, waiting: Waiting, end: float, within: float | None, timeout: float) -> None:
    """Calls ask, are held, and so stand in the queue."""
    for _ in range(waiting.calls):
        call = make_call(Wanted(priority=waiting.priority), end - waiting.age)
        call.deadline = max(call.arrived + timeout, end + 1.0)
        if waiting.budget_left is not None:
            if within is None:
                call.deadline = end + max(waiting.budget_left, 1e-6)
            else:
                call.arrived = end + waiting.budget_left - within
        lease = Lease(pool, call, _First())
        if waiting.priority == "best_effort":
            pool.put_aside(lease)
        else:
            lease.ask()


def _put(supply: Capacity, state: BackendState, now: float) -> None:
    """Replicas down first, so that calls run on the others; instances last, so that no call takes them."""
    names = [(supply.name, replica.index) for replica in supply.replicas]
    down = names[len(names) - state.replicas_down :]
    for _, index in down:
        for _ in range(2):
            supply.note_ready(index, answer=False, now=now)
    cut = names[len(names) - state.replicas_down - state.breaker_open : len(names) - state.replicas_down]
    for place in cut:
        _trip(supply, place, [each for each in names if each != place], now)
    for _ in range(state.in_flight):
        supply.take((), now, Reason.WARM, 0.0)
    for up_in in state.opening:
        supply.open(now, now + up_in, Reason.SPILL_SLOW)
    if supply.warmth is not None:
        for age in state.idle_for:
            supply.warmth.untouched(now - age)


def _trip(supply: Capacity, place: tuple[str, int], others: list[tuple[str, int]], now: float) -> None:
    """Failures until the breaker opens."""
    while supply.replicas[place[1]].breaker.closed:
        slot = supply.take(others, now, Reason.WARM, 0.0)
        assert slot is not None, "a replica that is up and idle has a slot"
        slot.give_back(Verdict.FAILURE, now)
