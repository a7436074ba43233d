"""`overspill plan`: how many warm replicas under which policy meet the objective at least cost.

Every answer is a simulation's; nothing here is a formula but the explanation in `marginal.py`. It knows
no concrete policy beyond the two names that stand for an arrangement, and prints nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, inf, sqrt
from statistics import stdev
from typing import Any

from pydantic import ValidationError

from backends.base import Backend
from gateway.config.schema import Settings
from gateway.pricing import SECONDS_PER_HOUR, per_month
from gateway.registry import Registry
from gateway.simulator import from_file
from gateway.simulator.distributions import Distribution
from gateway.simulator.generators import open_trace
from gateway.simulator.loads import scaled
from gateway.simulator.main import Tell, Wanted, described, services, sizes, written
from gateway.simulator.marginal import marginals
from gateway.simulator.run import Outcome, simulate
from gateway.simulator.scenario import Scenario, Workload
from gateway.simulator.search import cheapest
from gateway.simulator.traces import Trace
from policies.base import Policy

LOADS = (0.1, 0.25, 0.5, 0.75, 1.5, 2.0)
"""Multiples of the trace's load that the break-even curve is drawn at, besides 1."""
NEARLY = 0.05
"""A second kind of backend that saves less than this share is not worth having."""

_FLEET_ONLY, _SERVERLESS_ONLY = "fleet_only", "serverless_only"
NOT_BY_LOAD = frozenset(("weighted", "canary", "pinned"))
"""They divide calls by a rule of their own: nothing to plan with unless a route says so."""

_FEWEST, _MOST = 20, 60_000
"""Requests: a load with fewer says nothing, and one with more takes too long beside the trace itself."""
_HALVINGS = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy with the number of replicas that is cheapest for it.

    tried:    replicas to the cost of the run, None where too many requests missed the budget
    attains:  the objective, or where services alone take too long for that, what they allow
    """

    policy: str
    outcome: Outcome
    tried: Mapping[int, float | None]
    attains: bool

    @property
    def cost(self) -> float:
        """Of the whole trace, in dollars."""
        return self.outcome.cost

    @property
    def replicas(self) -> int:
        """Of the fleet."""
        return self.outcome.replicas


def searched(
    workload: Workload, scenario: Scenario, name: str, policy: Policy, tell: Callable[[int], None]
) -> Candidate:
    """The cheapest number of replicas for `policy`, with all that was tried on the way."""
    objective = reachable(workload, scenario)
    tried: dict[int, float | None] = {}

    def run(replicas: int, *, may_miss: float = inf) -> Outcome:
        tell(replicas)
        tried[replicas] = None
        outcome = simulate(workload, scenario, policy, replicas, may_miss=may_miss)
        if _attains(outcome, objective):
            tried[replicas] = outcome.cost
        return outcome

    outcome = cheapest(workload, scenario, run)
    return Candidate(name, outcome, dict(sorted(tried.items())), _attains(outcome, objective))


def reachable(workload: Workload, scenario: Scenario) -> float:
    """The objective, or the share that no schedule can exceed if that is less."""
    return min(scenario.objective, workload.possible(scenario.budget_s))


def planning(
    wanted: Wanted,
    backends: Registry[Backend],
    policies: Registry[Policy],
    settings: Settings | None = None,
    *,
    loads: Sequence[float] = LOADS,
    repeats: int = 3,
    tell: Tell,
) -> Callable[[str], dict[str, Any]]:
    """Check what was asked for; the result plans for one trace. Both raise ValueError, with what is wrong.

    loads:    multiples of the trace's load for the break-even curve, besides 1
    repeats:  runs with other seeds, this one included, that tell a difference from noise
    """
    for factor in loads:
        if not 0 < factor <= 100:
            raise ValueError(f"a load of {factor:g} times the trace; it must be above 0 and at most 100")
    if repeats < 1:
        raise ValueError(f"{repeats} repeats; there must be at least 1")
    scenario = described(wanted) if settings is None else written(wanted, settings, backends)
    chosen = candidates(wanted, policies, settings, scenario)
    usual = None if settings is None else from_file.measured_service(settings, wanted.route)

    def plan(text: str) -> dict[str, Any]:
        found = _Plan(text, wanted=wanted, scenario=scenario, policies=chosen, usual=usual, tell=tell)
        return found.result(sorted({*loads, 1.0}), repeats)

    return plan


def candidates(
    wanted: Wanted, policies: Registry[Policy], settings: Settings | None, scenario: Scenario
) -> dict[str, Policy]:
    """Every registered policy that can be planned with, the route's own with its options; or those named.

    Left out: those with options that have no default, those that do not choose by load, and what needs a
    kind of backend that is not there. Raises ValueError for a name that is no policy.
    """
    own = from_file.route_of(settings, wanted.route)[1].policy if settings is not None else None
    impossible = {_FLEET_ONLY} if scenario.fleet is None else set[str]()
    impossible |= set() if scenario.endpoints else {_SERVERLESS_ONLY}
    chosen: dict[str, Policy] = {}
    for name in wanted.policies or policies:
        if name not in policies:
            raise ValueError(f"there is no policy {name!r}; there are {', '.join(policies)}")
        cls = policies.get(name)
        if own is not None and own.type == name:
            chosen[name] = cls(own.options)
        elif wanted.policies or name not in NOT_BY_LOAD | impossible:
            try:
                chosen[name] = cls(cls.Options())
            except ValidationError:
                if wanted.policies:
                    raise ValueError(f"{name} has options without a default; name it in a file") from None
    if not chosen:
        raise ValueError("no policy to plan with")
    return chosen


class _Plan:
    """The plan for one trace."""

    def __init__(
        self,
        text: str,
        *,
        wanted: Wanted,
        scenario: Scenario,
        policies: Mapping[str, Policy],
        usual: Distribution | None,
        tell: Tell,
    ) -> None:
        self._text = text
        self._wanted = wanted
        self._scenario = scenario
        self._policies = policies
        self._usual = usual
        self._tell = tell
        self._traces: dict[int, Trace] = {}
        self._bests: dict[float, Candidate | None] = {}

    def result(self, loads: Sequence[float], repeats: int) -> dict[str, Any]:
        """The JSON of the command, but for the answer in words."""
        scenario = self._scenario
        workload = self._workload()
        possible = workload.possible(scenario.budget_s)
        if not possible:
            raise ValueError(
                f"{workload.name}: every request takes longer than {scenario.budget_s:g} s to serve; "
                "none can be answered within the latency budget"
            )
        found = sorted(self._search(workload, self._policies), key=_order)
        choice, verdict = _verdict(found, possible, scenario.objective)
        runner_up = next((each for each in found if each.attains and not _same(each, choice)), None)
        hours = choice.outcome.duration / SECONDS_PER_HOUR or 1.0
        self._bests[1.0] = found[0] if found[0].attains else None
        # The two simple arrangements and the best of the others: at another load another one may be best.
        others = (each.policy for each in found if each.policy not in {_FLEET_ONLY, _SERVERLESS_ONLY})
        families = {_FLEET_ONLY, _SERVERLESS_ONLY, next(others, "")}
        curve = [point for load in loads if (point := self._point(load, families)) is not None]
        fleet = scenario.fleet
        levels = marginals(workload, fleet, scenario.endpoints, choice.replicas + 2) if fleet else []
        return {
            "trace": workload.name,
            "requests": len(workload),
            "requests_per_second": len(workload) / (hours * SECONDS_PER_HOUR),
            "hours": hours,
            "budget_s": scenario.budget_s,
            "objective": scenario.objective,
            "possible": possible,
            "fleet": fleet is not None,
            "serverless": bool(scenario.endpoints),
            "verdict": verdict,
            "choice": _brief(choice, hours),
            "runner_up": None if runner_up is None else _brief(runner_up, hours),
            "saving": None if runner_up is None else _saving(runner_up.cost, choice.cost, hours),
            "confidence": None if runner_up is None else self._confidence(choice, runner_up, repeats, hours),
            "policies": {each.policy: self._entry(each, hours) for each in found},
            "break_even": curve,
            "next_replica": self._next_replica(loads, families),
            "marginal": [
                {"replica": each.replica, "busy": each.busy, "needs": each.needs, "pays": each.pays}
                for each in levels
            ],
            "seed": self._wanted.seed,
        }

    def _workload(self, seed: int | None = None, load: float = 1.0) -> Workload:
        seed = self._wanted.seed if seed is None else seed
        if seed not in self._traces:
            self._traces[seed] = open_trace(self._text, seed=seed)
        trace = scaled(self._traces[seed], load, seed=seed)
        seconds = services(trace, replace(self._wanted, seed=seed), self._usual)
        return Workload(trace.name, trace.arrivals, seconds, sizes(trace, self._wanted))

    def _search(
        self, workload: Workload, policies: Mapping[str, Policy], what: str = ""
    ) -> Iterable[Candidate]:
        for name, policy in policies.items():

            def tell(replicas: int, name: str = name) -> None:
                self._tell(f"{workload.name}{what}: {name}, replicas: {replicas}")

            yield searched(workload, self._scenario, name, policy, tell)

    def _entry(self, candidate: Candidate, hours: float) -> dict[str, Any]:
        by_replicas = [
            {"replicas": replicas, "attains": cost is not None, "usd_per_hour": _over(cost, hours)}
            for replicas, cost in candidate.tried.items()
        ]
        brief = {key: value for key, value in _brief(candidate, hours).items() if key != "policy"}
        return {**candidate.outcome.as_json(), **brief, "by_replicas": by_replicas}

    def _best(self, load: float, families: Iterable[str]) -> Candidate | None:
        """The cheapest that attains the objective at that load, of the policies in `families`."""
        if load not in self._bests:
            workload = self._workload(load=load)
            tried = {name: self._policies[name] for name in self._policies if name in families}
            attaining = [each for each in self._search(workload, tried, f" x {load:.3g}") if each.attains]
            self._bests[load] = min(attaining, key=_order, default=None)
        return self._bests[load]

    def _tells(self, load: float) -> bool:
        """Does so many times the load have enough requests, and not too many?"""
        requests = load * len(self._traces[self._wanted.seed])
        return load == 1.0 or _FEWEST <= requests <= _MOST

    def _point(self, load: float, families: Iterable[str]) -> dict[str, Any] | None:
        if not self._tells(load):
            return None
        best = self._best(load, families)
        if best is None:
            return None
        outcome = best.outcome
        hours = outcome.duration / SECONDS_PER_HOUR or 1.0
        return {
            "load": load,
            "requests_per_second": outcome.requests / (hours * SECONDS_PER_HOUR),
            "policy": best.policy,
            "replicas": best.replicas,
            "usd_per_hour": best.cost / hours,
            "usd_per_1k": 1000.0 * best.cost / outcome.requests,
        }

    def _next_replica(self, loads: Sequence[float], families: Iterable[str]) -> dict[str, Any] | None:
        """Between which loads one more replica than today's begins to pay; None if not within `loads`."""
        today = self._best(1.0, families)
        if today is None or self._scenario.fleet is None:
            return None

        def pays(load: float) -> bool:
            best = self._best(load, families)
            return best is not None and best.replicas > today.replicas

        below, above = 1.0, next((load for load in loads if load > 1 and self._tells(load) and pays(load)), 0)
        if not above:
            return None
        below = max(load for load in loads if 1 <= load < above)
        for _ in range(_HALVINGS):
            middle = sqrt(below * above)
            below, above = (below, middle) if pays(middle) else (middle, above)
        return {"replicas": today.replicas + 1, "from_load": above, "not_at_load": below}

    def _confidence(
        self, choice: Candidate, runner_up: Candidate, repeats: int, hours: float
    ) -> dict[str, Any]:
        """Both again with other seeds: other start-ups, other drawn services, the same recorded arrivals."""
        differences = [(runner_up.cost - choice.cost) / hours]
        attained = [choice.outcome.attained]
        objective = reachable(self._workload(), self._scenario) if choice.attains else choice.outcome.attained
        for seed in range(self._wanted.seed + 1, self._wanted.seed + repeats):
            workload, scenario = self._workload(seed), replace(self._scenario, seed=seed)
            costs = []
            for each in (choice, runner_up):
                self._tell(f"{workload.name}: {each.policy} again, seed: {seed}")
                outcome = simulate(workload, scenario, self._policies[each.policy], each.replicas)
                costs.append(outcome.cost / outcome.duration * SECONDS_PER_HOUR if outcome.duration else 0.0)
                if each is choice:
                    attained.append(outcome.attained)
            differences.append(costs[1] - costs[0])
        mean = fsum(differences) / len(differences)
        error = stdev(differences) / sqrt(len(differences)) if len(differences) > 1 else None
        signs = {difference > 0 for difference in differences}
        return {
            "seeds": len(differences),
            "usd_per_hour": mean,
            "standard_error": error,
            "within_noise": None if error is None else len(signs) > 1 or abs(mean) <= 2 * error,
            "attained": attained,
            "attains_in": sum(share >= objective - 1e-9 for share in attained),
        }


def _verdict(found: Sequence[Candidate], possible: float, objective: float) -> tuple[Candidate, str]:
    """What to do, and its kind. `found` is in the order of preference."""
    best = found[0]
    if not best.attains or possible < objective:
        return best, "unattainable"
    if not best.replicas:
        return best, "no_fleet"
    for each in found:
        if each.attains and not each.outcome.spilled and each.cost <= best.cost * (1 + NEARLY):
            return each, "no_serverless"
    return best, "mix"


def _attains(outcome: Outcome, objective: float) -> bool:
    return outcome.attained >= objective - 1e-9


def _order(candidate: Candidate) -> tuple[bool, float, float, bool, str]:
    """Those that attain the objective by cost, then the others by what they attain.

    Of two names for the same thing, the one that says it.
    """
    plain = candidate.policy in {_FLEET_ONLY, _SERVERLESS_ONLY}
    first = 0.0 if candidate.attains else -candidate.outcome.attained
    return not candidate.attains, first, candidate.cost, not plain, candidate.policy


def _same(one: Candidate, other: Candidate) -> bool:
    """Two names for the same thing: every policy without a fleet is serverless only."""
    close = abs(one.cost - other.cost) <= 1e-9 * max(one.cost, other.cost)
    return one is other or (one.replicas == other.replicas and close)


def _over(cost: float | None, hours: float) -> float | None:
    return None if cost is None else cost / hours


def _brief(candidate: Candidate, hours: float) -> dict[str, Any]:
    """A candidate in dollars per hour, and per month of such hours."""
    return {
        "policy": candidate.policy,
        "replicas": candidate.replicas,
        "attained": candidate.outcome.attained,
        "attains": candidate.attains,
        "usd_per_hour": candidate.cost / hours,
        "usd_per_month": per_month(candidate.cost / hours),
    }


def _saving(dearer: float, cost: float, hours: float) -> dict[str, float]:
    """Of `cost` against the other; negative where simplicity costs something."""
    hourly = (dearer - cost) / hours
    share = (dearer - cost) / dearer if dearer else 0.0
    return {"usd_per_hour": hourly, "usd_per_month": per_month(hourly), "share": share}
