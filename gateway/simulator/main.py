"""`overspill simulate`: from what was asked on the command line to the figures, in its JSON form.

The registries and the reader of the configuration file are handed in: it knows no plugin. It prints
nothing; what goes on is told to whoever listens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, Literal

from pydantic import ValidationError

from backends.base import Backend
from gateway.config.schema import Prewarm, Settings
from gateway.options import parse_duration, parse_share
from gateway.pricing import per_second
from gateway.registry import Registry
from gateway.simulator import from_file
from gateway.simulator.bills import Terms, best_terms
from gateway.simulator.bound import Bound, SolverMissing, lower_bound
from gateway.simulator.distributions import Distribution, draws, is_distribution, parse, stream
from gateway.simulator.expression import compile_expression
from gateway.simulator.generators import open_trace
from gateway.simulator.run import Outcome, simulate
from gateway.simulator.scenario import Endpoint, Fleet, Scenario, Workload
from gateway.simulator.search import cheapest
from gateway.simulator.traces import Trace
from policies.base import Policy, PolicyOptions, TierOptions

BASELINES = ("fleet_only", "serverless_only", "queue_threshold", "spill_when_full")
"""What the decision is compared with when no policy is named."""
DECISION = "cheapest_in_budget"
MEASURED = ("upstream", "duration")
"""Columns of a trace that are service times in seconds, for when no service is described."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for, as it was written; None: not said."""

    service: str | None = None
    size: str | None = None
    budget: str | None = None
    objective: str | None = None
    cold: str | None = None
    idle: str | None = None
    premium: float | None = None
    fleet_price: float = 1.0
    replicas: str = "auto"
    policies: tuple[str, ...] = ()
    route: str | None = None
    seed: int = 0
    unit: Literal["usd", "slot_seconds"] = "usd"
    prewarm: str | None = None
    bills: str | None = None
    fee: float | None = None
    round_up: str | None = None
    late_binding: str | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """All there is to know about one trace that was simulated; `result` is the JSON of the command."""

    workload: Workload
    scenario: Scenario
    outcomes: Mapping[str, Outcome]
    result: Mapping[str, Any]


def simulation(
    wanted: Wanted,
    backends: Registry[Backend],
    policies: Registry[Policy],
    settings: Settings | None = None,
    *,
    tell: Tell,
    warn: Tell,
) -> Callable[[str], Study]:
    """Check what was asked for; the result simulates one trace. Both raise ValueError, with what is wrong."""
    scenario = described(wanted) if settings is None else written(wanted, settings, backends)
    if wanted.unit == "slot_seconds" and (scenario.fleet is None or not scenario.fleet.usd_per_second):
        raise ValueError("slot-seconds of a fleet need a fleet that has a price; use --unit usd")
    replicas = _replicas(wanted.replicas)
    usual = None if settings is None else from_file.measured_service(settings, wanted.route)
    chosen = _policies(wanted, policies, settings, scenario)

    def run(text: str) -> Study:
        trace = open_trace(text, seed=wanted.seed)
        workload = Workload(trace.name, trace.arrivals, services(trace, wanted, usual), sizes(trace, wanted))
        outcomes = {}
        for name, policy in chosen.items():
            tell_of = partial(_tell_of, tell, f"{trace.name}: {name}")
            outcomes[name] = _outcome(workload, scenario, policy, replicas, tell_of)
        tell(f"{trace.name}: lower bound")
        return Study(workload, scenario, outcomes, _result(workload, scenario, outcomes, wanted, warn))

    return run


def _outcome(
    workload: Workload, scenario: Scenario, policy: Policy, replicas: int | None, tell: Callable[[int], None]
) -> Outcome:
    def run(replicas: int, *, may_miss: float = inf) -> Outcome:
        tell(replicas)
        return simulate(workload, scenario, policy, replicas, may_miss=may_miss)

    return cheapest(workload, scenario, run) if replicas is None else run(replicas)


def _tell_of(tell: Tell, what: str, replicas: int) -> None:
    tell(f"{what}, replicas: {replicas}")


def _result(
    workload: Workload, scenario: Scenario, outcomes: Mapping[str, Outcome], wanted: Wanted, warn: Tell
) -> dict[str, Any]:
    """The JSON of the command."""
    fleet = scenario.fleet
    slot_usd = fleet.usd_per_second / fleet.slots if fleet is not None else 1.0
    unit = slot_usd if wanted.unit == "slot_seconds" else 1.0
    bound: dict[str, float] | None = None
    ratios: dict[str, float] = {}
    if fleet is not None and slot_usd and scenario.endpoints:
        try:
            terms = best_terms(scenario.endpoints, workload.services, slot_usd)
            objective = min(scenario.objective, workload.possible(scenario.budget_s))
            at_objective = _bound(workload, scenario, terms, objective)
            bound = {
                "cost": at_objective.cost * slot_usd / unit,
                "replicas": at_objective.replicas / fleet.slots,
                "dt": at_objective.dt,
            }
            for name, outcome in outcomes.items():
                cost = _bound(workload, scenario, terms, outcome.attained).cost * slot_usd
                if cost > 0:
                    ratios[name] = outcome.cost / cost
        except (SolverMissing, ArithmeticError) as error:
            warn(f"no lower bound: {error}")
            bound, ratios = None, {}
    else:
        warn("no lower bound: it needs a fleet with a price and a rented backend")
    return {
        "trace": workload.name,
        "policies": {name: outcome.as_json(unit) for name, outcome in outcomes.items()},
        "bound": bound,
        "ratio_to_bound": ratios,
        "seed": wanted.seed,
    }


def _bound(workload: Workload, scenario: Scenario, terms: Terms, attained: float) -> Bound:
    return lower_bound(
        workload.arrivals,
        workload.services,
        budget=scenario.budget_s,
        attained=attained,
        duration=workload.span,
        **terms._asdict(),
    )


def described(wanted: Wanted) -> Scenario:
    """One route, one fleet and one endpoint, from the options alone."""
    slot_usd = per_second(wanted.fleet_price)
    premium = 1.5 if wanted.premium is None else wanted.premium
    cold = parse(wanted.cold or "lognormal:6s:0.4")
    bills_boot, bills_idle = _bills(wanted.bills) or (True, True)
    endpoint = Endpoint(
        "endpoint",
        premium * slot_usd,
        _seconds("--idle", wanted.idle or "5s"),
        cold,
        usd_per_call=wanted.fee or 0.0,
        bills_boot=bills_boot,
        bills_idle=bills_idle,
        round_up_s=0.0 if wanted.round_up is None else _seconds("--round-up", wanted.round_up),
        opens=(wanted.late_binding or "ping") == "ping",
        binds_late=wanted.late_binding == "provider",
    )
    return Scenario(
        fleet=Fleet(usd_per_second=slot_usd),
        endpoints=(endpoint,),
        tiers=(TierOptions(backend="fleet"), TierOptions(backend="endpoint")),
        budget_s=_seconds("--budget", wanted.budget or "15s"),
        objective=_share("--objective", wanted.objective or "0.99"),
        seed=wanted.seed,
        prewarm=_prewarm(wanted.prewarm),
    )


def written(wanted: Wanted, settings: Settings, backends: Registry[Backend]) -> Scenario:
    """A route of the file, with what was said on the command line in place of what it says."""
    return from_file.scenario(
        settings,
        wanted.route,
        backends,
        budget_s=None if wanted.budget is None else _seconds("--budget", wanted.budget),
        objective=None if wanted.objective is None else _share("--objective", wanted.objective),
        cold=None if wanted.cold is None else parse(wanted.cold),
        idle_s=None if wanted.idle is None else _seconds("--idle", wanted.idle),
        premium=wanted.premium,
        seed=wanted.seed,
        prewarm=_prewarm(wanted.prewarm),
        fee=wanted.fee,
        bills=_bills(wanted.bills),
        round_up_s=None if wanted.round_up is None else _seconds("--round-up", wanted.round_up),
        late_binding=wanted.late_binding,
    )


def _policies(
    wanted: Wanted, policies: Registry[Policy], settings: Settings | None, scenario: Scenario
) -> dict[str, Policy]:
    """By name; the route's own policy has the options of the file, every other one its defaults."""
    own = from_file.route_of(settings, wanted.route)[1].policy if settings is not None else None
    names = wanted.policies
    if not names:
        impossible = {"fleet_only"} if scenario.fleet is None else set()
        impossible |= set() if scenario.endpoints else {"serverless_only"}
        names = (DECISION, *(name for name in BASELINES if name not in impossible))
        names += (own.type,) if own is not None and own.type not in names else ()
    chosen = {}
    for name in names:
        if name not in policies:
            raise ValueError(f"there is no policy {name!r}; there are {', '.join(policies)}")
        cls = policies.get(name)
        chosen[name] = cls(own.options if own is not None and own.type == name else _defaults(name, cls))
    return chosen


def _defaults(name: str, cls: type[Policy]) -> PolicyOptions:
    """Of a policy that the file does not use. ValueError for one that cannot do without options."""
    try:
        return cls.Options()
    except ValidationError:
        raise ValueError(
            f"policy {name!r} does nothing without options; give them in a route of a file, as "
            f"policy: {{type: {name}, …}}, and simulate that with -c FILE"
        ) from None


def services(trace: Trace, wanted: Wanted, usual: Distribution | None = None) -> Any:
    """As asked for, else as the trace has them, else as the file's own `calibration` says."""
    service = wanted.service or next((name for name in MEASURED if name in trace.sizes), None)
    if service is None:
        if usual is not None:
            return draws(usual, stream(wanted.seed, "service"), len(trace))
        raise ValueError(
            f"{trace.name} does not say how long its requests take; give --service, "
            "like lognormal:600ms:0.4 or 0.15+0.012*output_tokens"
        )
    if is_distribution(service):
        return draws(parse(service), stream(wanted.seed, "service"), len(trace))
    return compile_expression(service)(trace)


def sizes(trace: Trace, wanted: Wanted) -> Any:
    """What can be told of each request when it comes, where that was said."""
    return None if wanted.size is None else compile_expression(wanted.size)(trace)


def _replicas(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or len(text) > 6:
        raise ValueError(f"--replicas is {text!r}; it must be auto or a whole number")
    return int(text)


def _seconds(option: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
    assert isinstance(seconds, float)
    return seconds


def _bills(text: str | None) -> tuple[bool, bool] | None:
    """Whether booting and whether idling is billed."""
    if text is None:
        return None
    parts = set() if text == "none" else set(text.split(","))
    if not parts <= {"cold", "idle"}:
        raise ValueError(f"--bills is {text!r}; it must be cold,idle or cold or idle or none")
    return "cold" in parts, "idle" in parts


def _prewarm(text: str | None) -> Prewarm | None:
    if text is None:
        return None
    instances, _, usd = text.partition(":")
    try:
        return Prewarm.model_validate({"max_instances": int(instances), "usd_per_hour": float(usd)})
    except ValueError:
        raise ValueError(
            f"--prewarm is {text!r}; it must be the most instances and the dollars that an hour of them may "
            "cost, like 4:0.50"
        ) from None


def _share(option: str, text: str) -> float:
    try:
        share = parse_share(text if text.endswith("%") else float(text))
    except ValueError:
        share = 0.0
    if not isinstance(share, float) or not share:
        raise ValueError(f"{option} is {text!r}; it must be a share above 0, like 0.99 or 99%")
    return share
