"""What `gateway/advice.py` starts a process for: recent calls in, recommended replicas out, both as JSON.

Plans with the code of `overspill plan`, each owned backend with the route's own policy. Several routes on
one backend are taken as one: all their calls, with the tightest of their budgets and the highest of their
objectives. Reads nothing but what it is handed and prints nothing.
"""

import resource
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import isfinite
from random import Random
from typing import BinaryIO, NamedTuple

import msgspec

from backends.base import Backend
from gateway.advice import OneMore
from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from gateway.config.schema import Settings
from gateway.registry import Registry
from gateway.simulator import from_file
from gateway.simulator.plan import searched
from gateway.simulator.run import simulate
from gateway.simulator.scenario import Scenario, Workload
from policies.base import Policy

OLDEST_S = 86_400.0
"""Calls that came longer than this before the last one are no longer this traffic."""
FEWEST_CALLS = 100
CPU_S = 300
"""Should whoever started it be gone, the system ends it after so many seconds of work."""

Row = tuple[float, float | None, bool]
"""When a call came; how long it held a slot if that is known; whether the slot was an owned one."""


class Question(msgspec.Struct):
    """What comes in: the configuration as text, by route the calls, by backend its replicas of today."""

    config: str
    calls: dict[str, list[Row]]
    replicas: dict[str, int] = {}


class Study(NamedTuple):
    """What is simulated for one owned backend."""

    workload: Workload
    scenario: Scenario
    kind: str
    policy: Policy


def advise(
    stream: BinaryIO, backends: Registry[Backend], policies: Registry[Policy], *, cpu_s: int = CPU_S
) -> str:
    """The answer to the question on `stream`. Raises ValueError for what is no question."""
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    try:
        question = msgspec.json.decode(stream.read(), type=Question)
    except msgspec.MsgspecError as error:
        raise ValueError(f"standard input is no question: {error}") from None
    try:
        settings = load(question.config, backends, policies, resolve_secrets=False).settings
    except ConfigProblems as error:
        raise ValueError(f"the configuration cannot be used: {error}") from None
    recommended: dict[str, int] = {}
    unknown: dict[str, str] = {}
    more: dict[str, OneMore] = {}
    for name, options in settings.backends.items():
        if not backends.get(options.type).owned:
            continue
        try:
            study = studied(name, settings, question.calls, backends, policies)
            if name in question.replicas:
                more[name] = one_more(study, question.replicas[name])
            recommended[name] = _recommended(study)
        except ValueError as error:
            unknown[name] = str(error)
    return msgspec.json.encode({"recommended": recommended, "unknown": unknown, "one_more": more}).decode()


def recommend(
    backend: str,
    settings: Settings,
    calls: Mapping[str, list[Row]],
    backends: Registry[Backend],
    policies: Registry[Policy],
) -> int:
    """The replicas of `backend` that meet the objective for those calls at least cost.

    Raises ValueError, with the reason, where that cannot be known.
    """
    return _recommended(studied(backend, settings, calls, backends, policies))


def studied(
    backend: str,
    settings: Settings,
    calls: Mapping[str, list[Row]],
    backends: Registry[Backend],
    policies: Registry[Policy],
) -> Study:
    """What to simulate for `backend` with those calls. Raises ValueError where nothing can be, with why."""
    routes = [
        name for name, route in settings.routes.items() if backend in {tier.backend for tier in route.tiers}
    ]
    budgets = [budget for name in routes if (budget := settings.routes[name].latency_budget) is not None]
    if not budgets:
        raise ValueError("no route that uses it has a latency_budget")
    budgeted = [name for name in routes if settings.routes[name].latency_budget is not None]
    lead = max(budgeted, key=lambda name: len(calls.get(name, ())))
    scenario = _scenario(settings, lead, backends)
    scenario = replace(
        scenario,
        budget_s=min(budget.within for budget in budgets),
        objective=max(budget.objective for budget in budgets),
    )
    workload = workload_of(backend, (row for name in routes for row in calls.get(name, ())))
    use = settings.routes[lead].policy
    return Study(workload, scenario, use.type, policies.get(use.type)(use.options))


def one_more(study: Study, replicas: int) -> OneMore:
    """The same calls with so many replicas, and with one more."""
    today, then = (
        simulate(study.workload, study.scenario, study.policy, count) for count in (replicas, replicas + 1)
    )
    return OneMore(
        replicas=replicas,
        calls=today.requests,
        seconds=today.duration,
        usd=today.cost,
        usd_with=then.cost,
        attained=today.attained,
        attained_with=then.attained,
    )


def _recommended(study: Study) -> int:
    found = searched(study.workload, study.scenario, study.kind, study.policy, lambda _: None)
    if not found.attains:
        best = found.outcome.attained
        raise ValueError(f"with {study.kind} no number of replicas meets the objective; best is {best:.4f}")
    return found.replicas


def workload_of(name: str, rows: Iterable[Row]) -> Workload:
    """The calls in the order of time.

    How long a slot serves is what owned slots were seen to take, where enough were; a call of which that is
    not known (it was shed, it broke off, it ran elsewhere) takes as long as one of those at random.
    """
    calls = sorted(rows)
    calls = [call for call in calls if call[0] >= calls[-1][0] - OLDEST_S]
    known = [held for _, held, owned in calls if owned and held is not None and _possible(held)]
    owned_only = len(known) * 10 >= len(calls)
    if not owned_only:
        known = [held for _, held, _ in calls if held is not None and _possible(held)]
    if len(known) < FEWEST_CALLS:
        raise ValueError(f"{len(known)} calls so far; it takes {FEWEST_CALLS}")
    chance = Random(0)  # noqa: S311 - the same calls give the same advice
    services = [
        held if held is not None and _possible(held) and (owned or not owned_only) else chance.choice(known)
        for _, held, owned in calls
    ]
    first = calls[0][0]
    return Workload(name, [arrived - first for arrived, _, _ in calls], services)


def _possible(seconds: float) -> bool:
    return isfinite(seconds) and seconds >= 0


def _scenario(settings: Settings, route: str, backends: Registry[Backend]) -> Scenario:
    return from_file.scenario(
        settings,
        route,
        backends,
        budget_s=None,
        objective=None,
        cold=None,
        idle_s=None,
        premium=None,
        seed=0,
    )
