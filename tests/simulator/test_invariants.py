"""What must hold in every run: each request served once, each second billed once, no cost below the bound."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import fsum, isnan
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gateway.config.schema import Prewarm
from gateway.simulator.bills import best_terms
from gateway.simulator.bound import lower_bound
from gateway.simulator.distributions import parse
from gateway.simulator.run import Outcome, simulate
from gateway.simulator.scenario import Endpoint, Fleet, Scenario, Workload
from gateway.simulator.world import UNLIMITED
from policies import policies
from policies.base import Policy, TierOptions

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "canary": {"backend": "burst", "share": "20%"},
    "pinned": {"backend": "burst"},
}
"""Of those that do nothing without any."""
EVERY = list(policies)
SHED = {"spill_when_full", "weighted"}
"""Give up a call that finds every slot taken."""
PARTS = ("fleet", "exec", "cold", "idle", "fee", "prewarm")
EXACTLY = 1e-9
"""Sums of seconds in another order."""


def policy(name: str) -> Policy:
    cls = policies.get(name)
    return cls(cls.Options.model_validate(OPTIONS.get(name, {})))


# -- whatever comes ----------------------------------------------------------------------------------

crowds = st.tuples(
    st.sampled_from([0.0, 0.0, 0.01, 0.2, 1.0, 1.0, 7.0, 90.0]),  # seconds since the last one
    st.sampled_from([0.0, 0.05, 0.4, 1.0, 1.0, 2.5, 9.0, 40.0]),  # seconds it takes
    st.integers(1, 12),  # so many of them
)
heavy = st.builds(
    lambda seed, count, pace: [
        (chance.expovariate(pace), round(0.3 * chance.paretovariate(1.1), 3), 1)
        for chance in [Random(seed)]
        for _ in range(count)
    ],
    st.integers(0, 10_000), st.integers(1, 80), st.sampled_from([0.1, 1.0, 8.0]),
)  # fmt: skip


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Bursts, gaps, crowds at one moment, services of no length and of more than the budget."""
    rows = draw(st.one_of(st.lists(crowds, min_size=1, max_size=14), heavy))
    now, arrivals, services = 0.0, list[float](), list[float]()
    for gap, seconds, count in rows:
        for _ in range(count):
            now += gap
            arrivals.append(now)
            services.append(seconds)
    return Workload("made up", arrivals, services, services if draw(st.booleans()) else None)


COLDS = ("constant:0s", "constant:0.5s", "constant:3s", "constant:25s")
VARYING = (*COLDS, "lognormal:2s:0.5", "lognormal:15s:0.4", "exponential:1s")


@st.composite
def endpoints(draw: st.DrawFn, name: str, colds: tuple[str, ...]) -> Endpoint:
    return Endpoint(
        name,
        draw(st.sampled_from([1.0, 1.5, 3.0])),
        draw(st.sampled_from([0.0, 0.5, 5.0, 60.0])),
        parse(draw(st.sampled_from(colds))),
        draw(st.sampled_from([0.0, 0.0, 0.1])),
        draw(st.sampled_from([1, 3, UNLIMITED, UNLIMITED])),
        draw(st.sampled_from([None, None, 1.0])),  # what it is said to boot is wrong sometimes
        *draw(st.sampled_from([(True, True), (True, True), (True, False), (False, True), (False, False)])),
        draw(st.sampled_from([0.0, 0.0, 0.001, 1.0])),
        *draw(st.sampled_from([(True, False), (True, False), (False, False), (False, True)])),
    )


@st.composite
def scenarios(draw: st.DrawFn, colds: tuple[str, ...] = VARYING) -> Scenario:
    """One slot-second of the fleet costs 1."""
    slots = draw(st.sampled_from([1, 1, 3]))
    names = ("burst", "spare")[: draw(st.integers(1, 2))]
    tiers = [TierOptions(backend=name) for name in ("fleet", *names)]
    return Scenario(
        fleet=Fleet("fleet", slots, float(slots)),
        endpoints=tuple(draw(endpoints(name, colds)) for name in names),
        tiers=tuple(draw(st.permutations(tiers))),
        budget_s=draw(st.sampled_from([0.5, 2.0, 10.0])),
        objective=draw(st.sampled_from([0.9, 0.99, 0.999])),
        seed=draw(st.integers(0, 3)),
        prewarm=draw(
            st.sampled_from([None, None, Prewarm(max_instances=3, usd_per_hour=500.0, miss_usd=5.0)])
        ),
    )


names = st.one_of(st.just("cheapest_in_budget"), st.sampled_from(EVERY))
fleets = st.sampled_from([0, 0, 1, 2, 3, 6])
tried = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def figures(outcome: Outcome) -> object:
    return (
        outcome.as_json(),
        list(map(str, outcome.answers)),
        list(map(str, outcome.begun)),
        list(outcome.places),
    )


def check_served(workload: Workload, scenario: Scenario, outcome: Outcome) -> None:
    """Each request by one place, once, or by none and lost; nowhere more at once than there are slots."""
    assert len(outcome.answers) == len(outcome.begun) == len(outcome.places) == len(workload)
    served = Counter[str]()
    running: dict[str, list[tuple[float, int]]] = {name: [] for name in outcome.place_names}
    rows = zip(
        workload.arrivals, workload.services, outcome.answers, outcome.begun, outcome.places, strict=True
    )
    for arrival, seconds, answer, begun, place in rows:
        assert isnan(answer) is isnan(begun) is (place < 0)
        if place >= 0:
            name = outcome.place_names[place]
            assert arrival - EXACTLY <= begun
            assert begun + seconds == pytest.approx(arrival + answer, abs=1e-6)
            served[name] += 1
            running[name] += [(begun + 1e-6, 1), (begun + seconds - 1e-6, -1)] if seconds > 2e-6 else []
    assert outcome.lost == len(workload) - served.total()
    assert outcome.spilled == served.total() - served["fleet"]
    limits = {endpoint.name: endpoint.limit for endpoint in scenario.endpoints}
    assert scenario.fleet is not None
    limits["fleet"] = outcome.replicas * scenario.fleet.slots
    for name, changes in running.items():
        at_once = 0
        for _, change in sorted(changes):
            at_once += change
            assert at_once <= limits[name], f"more calls than slots on {name}"
    for endpoint in outcome.endpoints:
        assert endpoint.served == served[endpoint.name] == sum(life.served for life in endpoint.lives)
        lived = sorted(
            change
            for life in endpoint.lives
            if life.gone is not None and life.gone - life.opened > 2e-6
            for change in ((life.opened + 1e-6, 1), (life.gone - 1e-6, -1))
        )
        at_once = 0
        for _, change in lived:
            at_once += change
            assert at_once <= limits[endpoint.name], f"more instances than {endpoint.name} may have"


def check_billed(workload: Workload, scenario: Scenario, outcome: Outcome) -> None:
    """Every second of every instance that the provider bills, once, and nothing else."""
    split = outcome.cost_split
    assert tuple(split) == PARTS
    assert all(cost >= 0.0 for cost in split.values())
    assert outcome.cost == pytest.approx(fsum(split.values()))
    assert scenario.fleet is not None
    assert split["fleet"] == pytest.approx(
        outcome.replicas * outcome.duration * scenario.fleet.usd_per_second
    )
    rented = fees = pings = work = rounded = 0.0
    for plan, endpoint in zip(scenario.endpoints, outcome.endpoints, strict=True):
        for life in endpoint.lives:
            assert life.gone is not None, "an instance that nobody closed"
            assert life.gone - life.opened == pytest.approx(
                life.cold_s + life.exec_s + life.idle_s, rel=1e-12, abs=EXACTLY
            )
            assert min(life.cold_s, life.exec_s, life.idle_s) >= 0.0
            billed = life.exec_s + life.cold_s * plan.bills_boot + life.idle_s * plan.bills_idle
            rented += billed * plan.usd_per_second
            rounded += (plan.round_up_s if plan.bills_idle else 0.0) * plan.usd_per_second
        bills = endpoint.served + sum(life.pinged for life in endpoint.lives)
        rounded += (0.0 if plan.bills_idle else bills * plan.round_up_s) * plan.usd_per_second
        fees += plan.usd_per_call * (
            endpoint.served + sum(life.pinged and not life.cold_ahead for life in endpoint.lives)
        )
        pings += endpoint.pings * plan.usd_per_call
        place = outcome.place_names.index(endpoint.name)
        work += plan.usd_per_second * fsum(
            seconds for seconds, at in zip(workload.services, outcome.places, strict=True) if at == place
        )
        if scenario.prewarm is None:
            assert endpoint.pings == 0
    assert work - EXACTLY <= split["exec"] <= work + rounded + EXACTLY
    paid = fsum(split[part] for part in ("exec", "cold", "idle", "prewarm"))
    assert rented + pings - EXACTLY <= paid <= rented + pings + rounded + EXACTLY
    assert split["fee"] == pytest.approx(fees, abs=EXACTLY)
    if scenario.prewarm is None:
        assert split["prewarm"] == 0.0


# -- in every run ------------------------------------------------------------------------------------


@tried
@given(workload=workloads(), scenario=scenarios(), name=names, replicas=fleets)
def test_each_request_is_served_once_and_each_second_billed_once(
    workload: Workload, scenario: Scenario, name: str, replicas: int
) -> None:
    outcome = simulate(workload, scenario, policy(name), replicas)
    check_served(workload, scenario, outcome)
    check_billed(workload, scenario, outcome)
    in_time = [answer <= scenario.budget_s + EXACTLY for answer in outcome.answers]
    assert outcome.attained == sum(in_time) / len(workload)
    if name == "fleet_only":
        assert outcome.spilled == outcome.cost_split["exec"] == 0
        assert outcome.lost == (0 if replicas else len(workload))
    elif name not in SHED or any(endpoint.limit == UNLIMITED for endpoint in scenario.endpoints):
        assert outcome.lost == 0, "there is somebody who could serve it"


@tried
@given(workload=workloads(), scenario=scenarios(), name=names, replicas=fleets)
def test_equal_seeds_give_equal_runs(
    workload: Workload, scenario: Scenario, name: str, replicas: int
) -> None:
    first, again = (simulate(workload, replace(scenario), policy(name), replicas) for _ in range(2))
    assert figures(first) == figures(again)


@tried
@given(workload=workloads(), scenario=scenarios(COLDS), name=names, replicas=fleets)
def test_nobody_pays_less_than_the_bound_at_the_share_that_is_attained(
    workload: Workload, scenario: Scenario, name: str, replicas: int
) -> None:
    """Boots are constant: with others the bound holds on average only. It is paid for the trace's span, which
    no run is shorter than; of several endpoints it is given the best of each.
    """
    pytest.importorskip("scipy", reason="the bound is an optional part that needs scipy")
    outcome = simulate(workload, scenario, policy(name), replicas)
    assert scenario.fleet is not None
    for slots in (None, replicas * scenario.fleet.slots):
        bound = lower_bound(
            workload.arrivals,
            workload.services,
            budget=scenario.budget_s,
            attained=outcome.attained,
            duration=workload.span,
            replicas=slots,
            **best_terms(scenario.endpoints, workload.services, 1.0)._asdict(),
        )
        assert bound.cost <= outcome.cost * (1.0 + 1e-9) + 1e-6


# -- of some policies --------------------------------------------------------------------------------


@tried
@given(workload=workloads(), scenario=scenarios())
def test_the_more_replicas_the_fewer_miss_without_serverless(workload: Workload, scenario: Scenario) -> None:
    rule = policy("fleet_only")
    attained = [simulate(workload, scenario, rule, replicas).attained for replicas in range(7)]
    assert attained == sorted(attained)
    enough = simulate(workload, scenario, rule, workload.peak)
    assert enough.attained == workload.possible(scenario.budget_s)


@tried
@given(workload=workloads(), scenario=scenarios())
def test_with_a_fleet_that_is_large_enough_nothing_is_rented(workload: Workload, scenario: Scenario) -> None:
    scenario = replace(scenario, prewarm=None)
    outcome = simulate(workload, scenario, policy("cheapest_in_budget"), workload.peak)
    assert outcome.cost == outcome.cost_split["fleet"]
    assert (outcome.spilled, outcome.activations) == (0, 0)
    assert outcome.attained == workload.possible(scenario.budget_s)


def free_of_friction(scenario: Scenario) -> Scenario:
    """An instance is there at once, gone at once, and costs what a slot of the fleet costs."""
    endpoint = Endpoint("burst", 1.0, 0.0, parse("constant:0s"))
    tiers = (TierOptions(backend="fleet"), TierOptions(backend="burst"))
    return replace(scenario, fleet=Fleet(), endpoints=(endpoint,), tiers=tiers, prewarm=None)


@tried
@given(workload=workloads(), scenario=scenarios(), replicas=fleets)
def test_without_friction_it_costs_what_serverless_costs_and_the_idle_fleet(
    workload: Workload, scenario: Scenario, replicas: int
) -> None:
    plain = free_of_friction(scenario)
    assume(scenario.seed == 0)
    serverless = simulate(workload, plain, policy("serverless_only"), 0)
    assert serverless.cost == pytest.approx(fsum(workload.services))
    assert serverless.attained == workload.possible(plain.budget_s)
    outcome = simulate(workload, plain, policy("cheapest_in_budget"), replicas)
    fleet = [at == "fleet" for at in (outcome.place_names[place] for place in outcome.places)]
    busy = fsum(seconds for seconds, owned in zip(workload.services, fleet, strict=True) if owned)
    idle = outcome.cost_split["fleet"] - busy
    assert idle >= -EXACTLY
    assert outcome.cost == pytest.approx(serverless.cost + idle)
    assert outcome.cost_split["cold"] + outcome.cost_split["idle"] <= EXACTLY
