"""What the decision is worth: on a recorded burst far below a fleet alone, on mild traffic never dearer than a
simple rule.
"""

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator.distributions import draws, parse, stream
from gateway.simulator.expression import compile_expression
from gateway.simulator.generators import poisson
from gateway.simulator.run import Outcome, TooManyMissed, simulate
from gateway.simulator.scenario import Endpoint, Fleet, Scenario, Workload
from gateway.simulator.search import cheapest
from gateway.simulator.traces import load
from policies import policies
from policies.base import TierOptions

RECORDED = Path(__file__).parents[2].parent / "shared" / "traces"
SERVICE = "0.15+0.0002*input_tokens+0.012*output_tokens"
SIMPLE = ("fleet_only", "serverless_only", "queue_threshold")


def scenario(cold: str = "lognormal:6s:0.4", *, idle_s: float = 5.0, budget_s: float = 15.0) -> Scenario:
    """A second of a fleet slot costs 1, one of an instance 1.5."""
    return Scenario(
        fleet=Fleet(),
        endpoints=(Endpoint("burst", 1.5, idle_s, parse(cold)),),
        tiers=(TierOptions(backend="fleet"), TierOptions(backend="burst")),
        budget_s=budget_s,
        objective=0.99,
        seed=0,
    )


def run(workload: Workload, setting: Scenario, name: str, replicas: int, may_miss: float = inf) -> Outcome:
    cls = policies.get(name)
    return simulate(workload, setting, cls(cls.Options()), replicas, may_miss=may_miss)


@pytest.fixture(scope="module")
def burst() -> Workload:
    path = RECORDED / "ci_azure_code_600s.csv.gz"
    if not path.exists():
        pytest.skip("the recorded traces are not part of the project and not here")
    trace = load(path)
    return Workload(trace.name, trace.arrivals, compile_expression(SERVICE)(trace))


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_a_recorded_burst_costs_far_less_than_with_a_fleet_alone(burst: Workload, replicas: int) -> None:
    setting = scenario()
    may_miss = 0.01 * len(burst)
    # 15 replicas are enough for the fleet alone, and 14 are not.
    with pytest.raises(TooManyMissed):
        run(burst, setting, "fleet_only", 14, may_miss)
    alone = run(burst, setting, "fleet_only", 15, may_miss)
    both = run(burst, setting, "cheapest_in_budget", replicas)
    assert both.attained >= 0.99
    assert both.lost == 0
    assert both.cost < 0.62 * alone.cost


def test_the_quicker_an_instance_boots_the_less_the_burst_costs(burst: Workload) -> None:
    costs = []
    for cold in ("constant:0s", "lognormal:1.5s:0.3", "lognormal:6s:0.4"):
        outcome = run(burst, scenario(cold), "cheapest_in_budget", 2)
        assert outcome.attained >= 0.99
        costs.append(outcome.cost)
    assert costs == sorted(costs)


def test_what_was_not_seen_yet_does_not_matter(burst: Workload) -> None:
    """The first half is served the same whether the second follows or not: nobody looks ahead."""
    half = len(burst) // 2
    start = Workload("half", burst.arrivals[:half], burst.services[:half])
    setting = scenario()
    whole, cut = (run(each, setting, "cheapest_in_budget", 2) for each in (burst, start))
    end = burst.arrivals[half]
    begun = [row for row in range(half) if whole.begun[row] < end]
    assert len(begun) > 0.7 * half
    for row in begun:
        assert whole.begun[row] == cut.begun[row]
        assert whole.places[row] == cut.places[row]


def steady() -> Workload:
    """Two slots' worth of work without a burst: a fleet is all that it takes."""
    arrivals = poisson(3.0, 400.0, seed=3).arrivals
    return Workload(
        "steady", arrivals, draws(parse("lognormal:0.6s:0.4"), stream(3, "service"), len(arrivals))
    )


def sparse() -> Workload:
    """Two calls a minute: to own anything is too much."""
    arrivals = poisson(1 / 30, 9000.0, seed=4).arrivals
    return Workload("sparse", arrivals, draws(parse("lognormal:2s:0.5"), stream(4, "service"), len(arrivals)))


MILD = [steady, sparse]


@pytest.mark.parametrize("idle_s", [5.0, 60.0])
@pytest.mark.parametrize("trace", MILD)
def test_on_mild_traffic_no_simple_rule_is_more_than_three_per_cent_cheaper(
    trace: Callable[[], Workload], idle_s: float
) -> None:
    """Each with the number of replicas that is best for it."""
    workload, setting = trace(), scenario("lognormal:2s:0.4", idle_s=idle_s, budget_s=10.0)

    def best(name: str) -> Outcome:
        def attempt(replicas: int, *, may_miss: float = inf) -> Outcome:
            return run(workload, setting, name, replicas, may_miss)

        return cheapest(workload, setting, attempt)

    decided = best("cheapest_in_budget")
    assert decided.attained >= 0.99
    simple = {name: best(name) for name in SIMPLE}
    enough = {name: outcome.cost for name, outcome in simple.items() if outcome.attained >= 0.99}
    assert "fleet_only" in enough
    assert decided.cost <= 1.03 * min(enough.values())


# -- where there is no fleet ---------------------------------------------------------------------------


def alone(arrivals: list[float], services: list[float], **changed: Any) -> Outcome:
    """Without a fleet; the budget is half a second."""
    workload = Workload("made up", arrivals, services)
    return run(workload, scenario(budget_s=0.5, **changed), "cheapest_in_budget", 0)


def test_a_call_that_will_be_late_takes_an_instance_that_idles_rather_than_wait_for_nobody() -> None:
    """Services take longer than the budget; the second finds the instance of the first."""
    outcome = alone([0.0, 8.0], [2.0, 2.0], cold="constant:3s", idle_s=5.0)
    assert outcome.lost == 0
    assert outcome.activations == 1
    assert outcome.begun[1] == 8.0


@pytest.mark.parametrize("cold", ["constant:0s", "constant:3s"])
def test_without_an_idle_time_out_whoever_waits_has_the_instance_the_moment_it_is_free(cold: str) -> None:
    outcome = alone([0.0, 0.5, 1.0, 60.0], [1.0, 0.4, 0.5, 1.0], cold=cold, idle_s=0.0)
    assert outcome.lost == 0
    assert outcome.cost_split["idle"] <= 1e-9
    assert outcome.activations < 4, "those that came together share"
