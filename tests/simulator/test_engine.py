"""A simulated run: what happens when, what it costs, and what may never happen."""

import json
from collections.abc import Callable
from math import fsum, inf, isnan
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from backends.base import Kit
from gateway.cli import command
from gateway.simulator.bound import SolverMissing, lower_bound
from gateway.simulator.distributions import parse
from gateway.simulator.engine import VirtualTime
from gateway.simulator.run import Outcome, TooManyMissed, simulate
from gateway.simulator.scenario import Endpoint, Fleet, Scenario, Workload
from gateway.simulator.search import cheapest
from gateway.simulator.world import UNLIMITED, SimulatedEndpoint, no_background
from gateway.vocab import Rent
from policies import policies
from policies.base import Policy, TierOptions

TRACE = Path(__file__).parents[2].parent / "shared" / "traces" / "ci_azure_code_600s.csv.gz"
SERVICE = "0.15+0.0002*input_tokens+0.012*output_tokens"
BASELINES = ["fleet_only", "serverless_only", "queue_threshold", "spill_when_full"]


def policy(name: str, **options: Any) -> Policy:
    cls = policies.get(name)
    return cls(cls.Options.model_validate(options))


def scenario(
    *,
    cold: str = "constant:2s",
    idle_s: float = 3.0,
    premium: float = 1.5,
    budget_s: float = 5.0,
    objective: float = 0.9,
    limit: int = UNLIMITED,
    seed: int = 0,
    slots: int = 1,
) -> Scenario:
    return Scenario(
        fleet=Fleet("fleet", slots, 1.0 * slots),
        endpoints=(Endpoint("endpoint", premium, idle_s, parse(cold), limit=limit),),
        tiers=(TierOptions(backend="fleet"), TierOptions(backend="endpoint")),
        budget_s=budget_s,
        objective=objective,
        seed=seed,
    )


def workload(*requests: tuple[float, float]) -> Workload:
    return Workload("made up", [arrival for arrival, _ in requests], [seconds for _, seconds in requests])


tiny_traces = st.lists(st.tuples(st.floats(0, 4), st.floats(0.01, 6)), min_size=1, max_size=25).map(
    lambda rows: workload(
        *[(fsum(gap for gap, _ in rows[: place + 1]), seconds) for place, (_, seconds) in enumerate(rows)]
    )
)
scenes = st.builds(
    scenario,
    cold=st.sampled_from(["constant:0.5s", "constant:4s", "lognormal:2s:0.8"]),
    idle_s=st.sampled_from([0.0, 0.5, 5.0]),
    premium=st.sampled_from([0.5, 1.5, 4.0]),
    limit=st.sampled_from([1, 2, UNLIMITED]),
    seed=st.integers(0, 3),
)
few = settings(max_examples=60, deadline=None)


# -- virtual time ------------------------------------------------------------------------------


def test_events_come_in_the_order_of_time_and_then_of_asking() -> None:
    time, seen = VirtualTime(), list[tuple[str, float]]()

    def note(word: str) -> Callable[[], None]:
        return lambda: seen.append((word, time.now()))

    time.at(2.0, note("b"))
    time.call_at(1.0, note("a"))
    time.call_at(2.0, note("c"))
    time.call_at(1.5, note("cancelled")).cancel()
    time.run([2.0, 3.0], lambda index: seen.append((f"arrival {index}", time.now())))
    assert seen == [("a", 1.0), ("b", 2.0), ("c", 2.0), ("arrival 0", 2.0), ("arrival 1", 3.0)]


def test_a_moment_that_is_over_is_the_next_thing_to_happen() -> None:
    time, seen = VirtualTime(), list[float]()
    time.run([5.0], lambda _: time.call_at(1.0, lambda: seen.append(time.now())))
    assert seen == [5.0], "time does not run backwards"


# -- the world ---------------------------------------------------------------------------------


def endpoint(idle_s: float) -> SimulatedEndpoint:
    kit = Kit(clock=VirtualTime(), chance=Random(0), spawn=no_background)
    return SimulatedEndpoint(
        "endpoint", kit, limit=9, rent=Rent(1.0, idle_s=idle_s), colds=lambda index: 10.0 + index
    )


def test_the_most_recently_idle_instance_serves_and_the_others_go() -> None:
    rented = endpoint(idle_s=5.0)
    assert rented.begin(0, 1.0, 0.0) == 11.0, "boots for 10 s"
    assert rented.begin(1, 1.0, 0.0) == 12.0, "the second boots for 11 s"
    rented.end(0, 11.0)
    rented.end(1, 12.0)
    assert rented.begin(2, 1.0, 16.5) == 17.5, "the second has been idle for 4.5 s"
    rented.end(2, 17.5)
    assert rented.begin(3, 1.0, 22.4) == 23.4, "just before its time-out it is still there"
    rented.end(3, 23.4)
    assert rented.begin(4, 1.0, 30.0) == 43.0, "everybody is gone: the third boots for 12 s"
    rented.end(4, 43.0)
    rented.finish()
    assert [(life.served, life.opened, life.gone) for life in rented.lives] == [
        (1, 0.0, 16.0),
        (3, 0.0, 28.4),
        (1, 30.0, 48.0),
    ]
    assert [rented.cold_s, rented.exec_s, rented.idle_s] == pytest.approx([33.0, 5.0, 5.0 + 14.4 + 5.0])


# -- one run -----------------------------------------------------------------------------------


def test_a_fleet_serves_in_turn_and_is_paid_until_the_last_answer() -> None:
    outcome = simulate(workload((0, 2), (0, 2), (1, 2)), scenario(), policy("fleet_only"), 1)
    assert outcome.answers == [2.0, 4.0, 5.0]
    assert (outcome.attained, outcome.lost, outcome.spilled) == (1.0, 0, 0)
    assert outcome.cost_split == {"fleet": 6.0, "exec": 0, "cold": 0, "idle": 0, "fee": 0, "prewarm": 0}


def test_a_spilled_call_waits_for_the_boot_and_every_second_is_billed() -> None:
    outcome = simulate(workload((0, 2), (0, 2), (4.5, 1), (4.5, 1)), scenario(), policy("spill_when_full"), 1)
    assert outcome.answers == [2.0, 4.0, 1.0, 1.0], "boots for 2 s; the second time it is warm"
    assert outcome.cost_split == {
        "fleet": 5.5,
        "exec": 1.5 * 3.0,
        "cold": 1.5 * 2.0,
        "idle": 1.5 * (0.5 + 3.0),
        "fee": 0.0,
        "prewarm": 0.0,
    }
    assert outcome.as_json()["spill_ratio"] == 0.5
    assert outcome.as_json()["cold_ratio"] == 0.5


def test_queue_threshold_spills_once_the_queue_is_as_long_as_it_says() -> None:
    requests = workload(*[(0.0, 1.0)] * 5)
    served = [simulate(requests, scenario(), policy("queue_threshold", threshold=t), 1) for t in (0, 1, 2, 9)]
    assert [outcome.spilled for outcome in served] == [4, 3, 2, 0]


def test_calls_wait_for_a_rented_slot_where_the_provider_has_a_limit() -> None:
    outcome = simulate(workload(*[(0.0, 1.0)] * 3), scenario(limit=1), policy("serverless_only"), 0)
    assert outcome.answers == [3.0, 4.0, 5.0], "one instance, which boots once"
    assert outcome.activations == 1


def test_what_is_shed_is_lost_and_missed() -> None:
    outcome = simulate(workload((0, 1), (0, 1), (0, 1)), scenario(limit=1), policy("spill_when_full"), 1)
    assert (outcome.lost, outcome.attained) == (1, 2 / 3)
    assert isnan(outcome.answers[2])


def test_an_answer_exactly_at_the_budget_is_in_time_whatever_the_time_of_day() -> None:
    outcome = simulate(workload((0, 1), (1e6 + 0.1, 5.0)), scenario(), policy("fleet_only"), 1)
    assert outcome.attained == 1.0


def test_a_run_ends_when_more_is_missed_than_may_be() -> None:
    late = workload(*[(0.0, 3.0)] * 4)
    assert simulate(late, scenario(), policy("fleet_only"), 1, may_miss=3).attained == 0.25
    with pytest.raises(TooManyMissed):
        simulate(late, scenario(), policy("fleet_only"), 1, may_miss=2)


# -- what holds always -------------------------------------------------------------------------


@few
@given(tiny_traces, scenes, st.sampled_from(BASELINES), st.integers(0, 4))
def test_no_request_is_lost_or_served_twice(
    trace: Workload, scene: Scenario, name: str, replicas: int
) -> None:
    outcome = simulate(trace, scene, policy(name), replicas)
    answered = [answer for answer in outcome.answers if not isnan(answer)]
    assert len(answered) + outcome.lost == len(trace)
    if name != "spill_when_full" and not (name == "fleet_only" and not replicas):
        assert outcome.lost == 0, "only spill_when_full gives a call up because slots are taken"
    for answer, seconds in zip(outcome.answers, trace.services, strict=True):
        assert isnan(answer) or answer >= seconds - 1e-9


@few
@given(tiny_traces, scenes, st.sampled_from(BASELINES[1:]), st.integers(0, 4))
def test_billed_is_cold_and_exec_and_idle_exactly(
    trace: Workload, scene: Scenario, name: str, replicas: int
) -> None:
    outcome = simulate(trace, scene, policy(name), replicas)
    (rented,) = outcome.endpoints
    for life in rented.lives:
        assert life.gone is not None
        assert life.gone - life.opened == pytest.approx(life.cold_s + life.exec_s + life.idle_s, abs=1e-9)
        assert life.idle_s >= scene.endpoints[0].idle_s
    billed = fsum((life.gone or inf) - life.opened for life in rented.lives)
    split = outcome.cost_split
    assert split["cold"] + split["exec"] + split["idle"] == pytest.approx(
        billed * scene.endpoints[0].usd_per_second
    )
    assert sum(life.served for life in rented.lives) == outcome.spilled


@few
@given(tiny_traces, scenes)
def test_misses_of_the_fleet_alone_fall_with_its_size(trace: Workload, scene: Scenario) -> None:
    shares = [simulate(trace, scene, policy("fleet_only"), k).attained for k in range(1, 8)]
    assert shares == sorted(shares)


@few
@given(tiny_traces, scenes, st.sampled_from(BASELINES), st.integers(0, 4))
def test_equal_seeds_give_equal_runs(trace: Workload, scene: Scenario, name: str, replicas: int) -> None:
    def figures() -> object:
        again = Scenario(
            scene.fleet, scene.endpoints, scene.tiers, scene.budget_s, scene.objective, scene.seed
        )
        outcome = simulate(trace, again, policy(name), replicas)
        return outcome.as_json(), [str(answer) for answer in outcome.answers]

    assert figures() == figures()


@settings(max_examples=40, deadline=None)
@given(tiny_traces, scenes.filter(lambda scene: "constant" in repr(scene.endpoints[0].cold).lower()),
       st.sampled_from(BASELINES), st.integers(0, 4))  # fmt: skip
def test_the_bound_is_below_every_policy_at_what_it_attained(
    trace: Workload, scene: Scenario, name: str, replicas: int
) -> None:
    assume(replicas or name != "fleet_only")
    outcome = simulate(trace, scene, policy(name), replicas)
    try:
        bound = lower_bound(
            trace.arrivals,
            trace.services,
            budget=scene.budget_s,
            attained=outcome.attained,
            premium=scene.endpoints[0].usd_per_second,
            cold_mean=scene.endpoints[0].cold.mean(),
            idle=scene.endpoints[0].idle_s,
            duration=trace.span,
        )
    except SolverMissing as error:
        pytest.skip(str(error))
    assert bound.cost <= outcome.cost + 1e-6


# -- how many replicas -------------------------------------------------------------------------


@few
@given(tiny_traces, scenes, st.sampled_from(BASELINES))
def test_the_search_finds_the_cheapest_number_that_attains(
    trace: Workload, scene: Scenario, name: str
) -> None:
    def run(replicas: int, *, may_miss: float = inf) -> Outcome:
        return simulate(trace, scene, policy(name), replicas, may_miss=may_miss)

    found = cheapest(trace, scene, run)
    objective = min(scene.objective, trace.possible(scene.budget_s))
    others = [run(replicas) for replicas in range(trace.peak + 2)]
    attaining = [other.cost for other in others if other.attained >= objective]
    if attaining:
        assert found.attained >= objective
        assert found.cost == min(attaining)
    else:
        assert found.attained == max(run(0).attained, run(trace.peak).attained)


def test_many_replicas_are_searched_on_a_grid_and_then_beside_its_best() -> None:
    requests = workload(*[(0.0, 1.0)] * 3000, (100.0, 1.0))
    tried = []

    def run(replicas: int, *, may_miss: float = inf) -> Outcome:
        tried.append(replicas)
        return simulate(requests, scene, policy("fleet_only"), replicas, may_miss=may_miss)

    scene = scenario(budget_s=7.0, objective=1.0)
    assert cheapest(requests, scene, run).replicas == 429, "7 in turn on each: 3000 / 7"
    assert len(tried) < 45


# -- the command -------------------------------------------------------------------------------


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(command, ["simulate", *arguments])


def test_the_command_prints_json_and_nothing_else_on_standard_output() -> None:
    result = invoke(
        "--trace", "poisson:2:30", "--service", "constant:1s", "--policy", "fleet_only",
        "--replicas", "3", "--unit", "slot_seconds", "--seed", "7", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert set(shown) == {"trace", "policies", "bound", "ratio_to_bound", "seed"}
    figures = shown["policies"]["fleet_only"]
    assert set(figures) == {
        "replicas", "attained", "cost", "cost_split", "spill_ratio", "cold_ratio", "activations",
        "requests", "lost",
    }  # fmt: skip
    assert set(figures["cost_split"]) == {"fleet", "exec", "cold", "idle", "fee", "prewarm"}
    assert (figures["replicas"], shown["seed"]) == (3, 7)
    assert figures["cost"] == pytest.approx(figures["cost_split"]["fleet"])
    assert figures["cost"] / 3 == pytest.approx(30, abs=4), "three slots for about 30 s"


def test_several_traces_give_a_list_and_a_table_shows_each() -> None:
    traces = ["--trace", "poisson:1:20", "--trace", "poisson:3:20", "--service", "constant:1s"]
    assert len(json.loads(invoke(*traces, "--json").stdout)) == 2
    shown = invoke(*traces)
    assert shown.exit_code == 0
    assert shown.stdout.count("queue_threshold") == 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--trace", "no/such/file.csv", "--service", "constant:1s"], "no/such/file.csv"),
        (["--trace", "poisson:1:20"], "--service"),
        (["--trace", "poisson:1:20", "--service", "constant:1s", "--policy", "best"], "best"),
        (["--trace", "poisson:1:20", "--service", "constant:1s", "--budget", "15"], "--budget"),
        (["--trace", "poisson:1:20", "--service", "constant:1s", "--objective", "0"], "--objective"),
        (["--trace", "poisson:1:20", "--service", "constant:1s", "--replicas", "-1"], "--replicas"),
        (["--trace", "poisson:1:20", "--service", "input_tokens"], "input_tokens"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(arguments: list[str], what: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert what in line


FILE = """
version: 1
backends:
  gpus: {type: triton, max_in_flight: 2, replicas: ["http://127.0.0.1:9"], price: {usd_per_replica_hour: 7.2}}
  burst: {type: modal, max_in_flight: 1, url: "https://example.com", price: {usd_per_second: 0.004},
          cold_start: {expect: 3s, idle_after: 10s}}
routes:
  chat:
    tiers: [{backend: gpus}, {backend: burst, when_full: shed}]
    latency_budget: {within: 4s, objective: 95%}
    policy: {type: queue_threshold, threshold: 0}
"""


def test_a_file_gives_slots_prices_and_times(tmp_path: Path) -> None:
    config = tmp_path / "overspill.yaml"
    config.write_text(FILE)
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s\n0\n0\n0\n20\n")
    result = invoke(
        "--trace", str(trace), "-c", str(config), "--service", "constant:1s", "--replicas", "1",
        "--policy", "queue_threshold", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["policies"]["queue_threshold"]
    assert figures["attained"] == 1.0, "two at once on the fleet, the third after 3 s of boot, in 4 s"
    assert figures["activations"] == 1
    assert figures["cost_split"] == pytest.approx(
        {"fleet": 21 * 0.002, "exec": 0.004, "cold": 0.012, "idle": 0.04, "fee": 0, "prewarm": 0}
    )


@pytest.mark.skipif(not TRACE.exists(), reason="the recorded traces are not beside this repository")
def test_ten_minutes_of_a_recorded_burst() -> None:
    result = invoke(
        "--trace", str(TRACE), "--service", SERVICE, "--budget", "15s", "--objective", "0.99",
        "--unit", "slot_seconds", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    fleet = shown["policies"]["fleet_only"]
    assert 10 <= fleet["replicas"] <= 20
    for name, figures in shown["policies"].items():
        assert (figures["requests"], figures["lost"]) == (1817, 0)
        assert figures["attained"] >= 0.99, name
        assert figures["cost"] == pytest.approx(sum(figures["cost_split"].values()))
    rented = shown["policies"]["serverless_only"]
    assert (rented["replicas"], rented["spill_ratio"]) == (0, 1.0)
    assert rented["cost_split"]["exec"] == pytest.approx(1.5 * 1614.3, rel=0.001)
    if shown["bound"] is not None:
        assert shown["bound"]["cost"] < min(figures["cost"] for figures in shown["policies"].values())
        assert all(ratio > 1 for ratio in shown["ratio_to_bound"].values())
