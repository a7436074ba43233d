"""The plan on traffic whose best arrangement is known, and where it changes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console
from typer.testing import CliRunner

from gateway.app import registries
from gateway.cli import command
from gateway.config.load import load
from gateway.pricing import per_month
from gateway.registry import Registry
from gateway.simulator.main import BASELINES, described
from gateway.simulator.plan import NOT_BY_LOAD, Candidate, _verdict, candidates, planning
from gateway.simulator.plan_show import tables
from gateway.simulator.plan_words import _saving
from gateway.simulator.run import simulate
from gateway.simulator.scenario import Workload
from policies.base import Policy, PolicyOptions
from policies.fleet_only import FleetOnly
from tests.plan.support import every, plan, trace, wanted

BURSTS = sorted(
    [*every(1.0, 600), *(100.0 + 300.0 * burst + 0.01 * each for burst in (0, 1) for each in range(30))]
)


def test_steady_load_that_keeps_replicas_busy_needs_no_serverless(tmp_path: Path) -> None:
    result = plan(trace(tmp_path, every(0.5, 300)), service="constant:0.95s", repeats=2)
    assert result["verdict"] == "no_serverless"
    assert (result["choice"]["policy"], result["choice"]["replicas"]) == ("fleet_only", 2)
    assert result["choice"]["usd_per_hour"] == pytest.approx(7.2)
    assert result["answer"][0].startswith("No serverless: own everything. 2 warm replicas under fleet_only")
    assert result["runner_up"] is None or result["saving"]["usd_per_hour"] > 0


def test_rare_calls_need_no_fleet(tmp_path: Path) -> None:
    result = plan(trace(tmp_path, every(60.0, 40)), repeats=2)
    assert result["verdict"] == "no_fleet"
    assert (result["choice"]["policy"], result["choice"]["replicas"]) == ("serverless_only", 0)
    # Each call boots for 2 s, serves for 1 s and idles for 3 s, at 1.5 times $0.001 a second.
    assert result["choice"]["usd_per_hour"] == pytest.approx(40 * 6 * 0.0015 / result["hours"])
    assert result["runner_up"]["policy"] == "fleet_only"
    assert result["saving"]["usd_per_month"] == pytest.approx(per_month(result["saving"]["usd_per_hour"]))
    assert result["answer"][0].startswith("No fleet: rent everything. No warm replica")


def test_bursts_on_steady_load_need_both(tmp_path: Path) -> None:
    result = plan(
        trace(tmp_path, BURSTS), service="constant:0.9s", budget="8s", cold="constant:1s", idle="1s",
        objective="1.0",
    )  # fmt: skip
    assert result["verdict"] == "mix"
    assert 1 <= result["choice"]["replicas"] < result["policies"]["fleet_only"]["replicas"]
    assert 0 < result["policies"][result["choice"]["policy"]]["spill_ratio"] < 0.2
    assert "and spill the rest" in result["answer"][0]


def test_what_no_arrangement_attains_is_said_with_the_best_possible(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("t_s,need\n" + "".join(f"{at},{9 if at % 10 == 0 else 1}\n" for at in range(200)))
    result = plan(str(file), service="need", budget="4s")
    assert result["verdict"] == "unattainable"
    assert result["choice"]["attained"] == pytest.approx(0.9)
    assert result["answer"][0].startswith(
        "The objective cannot be attained: 99.00% within 4 s. Best possible is 90.00%"
    )
    assert "Only 90.00% of the requests take no longer than that to serve" in result["answer"][1]
    with pytest.raises(ValueError, match=r"every request takes longer than 0\.5 s"):
        plan(str(file), service="need", budget="500ms")


def test_policies_that_never_attain_the_objective_make_it_unattainable(tmp_path: Path) -> None:
    result = plan(trace(tmp_path, every(60.0, 40)), policies=("serverless_only",), budget="2s")
    assert result["verdict"] == "unattainable", "every start is cold, and takes as long as the budget"
    assert result["possible"] == 1.0
    assert result["choice"]["attained"] == 0.0


def test_a_hair_decides_between_renting_and_owning(tmp_path: Path) -> None:
    """Calls every 9.3 s of which each is 6 paid seconds: renting costs 0.97 or 1.03 of a replica."""
    text = trace(tmp_path, every(9.3, 80))
    assert plan(text, premium=1.5)["verdict"] == "no_fleet"
    assert plan(text, premium=1.6)["verdict"] == "no_serverless"


def candidate(policy: str, cost: float, replicas: int, spilled: int, *, attains: bool = True) -> Candidate:
    scenario = described(wanted())
    outcome = simulate(Workload("w", [0.0], [1.0]), scenario, FleetOnly(FleetOnly.Options()), 1)
    split = {"fleet": cost}
    return Candidate(
        policy, replace(outcome, replicas=replicas, spilled=spilled, cost_split=split), {}, attains
    )


@pytest.mark.parametrize(
    ("fleet_cost", "possible", "verdict", "policy"),
    [
        (104.9, 1.0, "no_serverless", "fleet_only"),
        (105.1, 1.0, "mix", "spill"),
        (104.9, 0.98, "unattainable", "spill"),
    ],
)
def test_a_few_per_cent_are_not_worth_a_second_kind_of_backend(
    fleet_cost: float, possible: float, verdict: str, policy: str
) -> None:
    found = [candidate("spill", 100.0, 3, 5), candidate("fleet_only", fleet_cost, 4, 0)]
    choice, said = _verdict(found, possible, 0.99)
    assert (said, choice.policy) == (verdict, policy)


def test_a_fleet_that_misses_the_objective_is_no_choice() -> None:
    found = [candidate("spill", 100.0, 3, 5), candidate("fleet_only", 10.0, 4, 0, attains=False)]
    assert _verdict(found, 1.0, 0.99)[1] == "mix"
    assert _verdict(found[1:], 1.0, 0.99)[1] == "unattainable"
    assert _verdict([candidate("spill", 90.0, 0, 5), *found], 1.0, 0.99)[1] == "no_fleet"


def test_what_simplicity_costs_is_told() -> None:
    saving = {"usd_per_hour": -0.5, "usd_per_month": -365.0, "share": -0.03}
    other = {"policy": "spill", "replicas": 3}
    assert _saving({"saving": saving, "runner_up": other}) == (
        "It costs $0.5 an hour ($365.00 a month, 3.00%) more than the cheapest, spill with 3 replicas."
    )


@pytest.mark.parametrize("premium", [2.0, 3.0])
def test_a_replica_pays_from_the_load_at_which_renting_costs_as_much(tmp_path: Path, premium: float) -> None:
    """Calls every 20 s, 6 paid seconds each: the break-even is where 6 premium equals the gap between calls."""
    result = plan(trace(tmp_path, every(20.0, 100)), premium=premium, loads=(0.5, 1.5, 2, 4))
    assert result["choice"]["replicas"] == 0
    following = result["next_replica"]
    assert following["replicas"] == 1
    assert following["not_at_load"] < following["from_load"]
    # Copies laid over each other sometimes find an instance still warm, which makes renting cheaper.
    assert 20.0 / (6 * premium) <= following["from_load"] <= 2 * 20.0 / (6 * premium)
    replicas = [point["replicas"] for point in result["break_even"]]
    assert replicas == sorted(replicas)
    assert [point["load"] for point in result["break_even"]] == [0.5, 1, 1.5, 2, 4]


def test_the_break_even_comes_earlier_where_renting_is_dearer(tmp_path: Path) -> None:
    text = trace(tmp_path, every(20.0, 60))
    found = [plan(text, premium=premium, loads=(2, 3, 4))["next_replica"] for premium in (1.0, 1.5, 2.5)]
    loads = [each["from_load"] for each in found]
    assert loads == sorted(loads, reverse=True)
    assert len(set(loads)) == 3


def test_the_cost_of_every_number_that_was_tried_is_in_the_plan(tmp_path: Path) -> None:
    result = plan(trace(tmp_path, every(0.5, 300)), service="constant:0.95s")
    rows = {row["replicas"]: row for row in result["policies"]["fleet_only"]["by_replicas"]}
    assert rows[0] == {"replicas": 0, "attains": False, "usd_per_hour": None}
    assert rows[1]["attains"] is False
    assert rows[2]["usd_per_hour"] == pytest.approx(7.2)


def test_a_difference_is_held_against_the_noise_of_other_seeds(tmp_path: Path) -> None:
    text = trace(tmp_path, every(9.0, 40))
    sure = plan(text, premium=0.5, cold="lognormal:2s:0.1", repeats=4)["confidence"]
    assert sure["seeds"] == 4
    assert sure["within_noise"] is False
    assert sure["attains_in"] == 4
    close = plan(
        text, idle="2.955s", cold="lognormal:2s:0.6", repeats=4, policies=("fleet_only", "serverless_only")
    )["confidence"]  # fmt: skip
    assert abs(close["usd_per_hour"]) < abs(sure["usd_per_hour"])
    assert plan(text)["confidence"]["within_noise"] is None, "one run says nothing"


def test_it_tells_what_it_is_doing(tmp_path: Path) -> None:
    told: list[str] = []
    plan(trace(tmp_path, every(60.0, 20)), told=told, repeats=2, loads=(2,))
    assert "made_up: fleet_only, replicas: 1" in told
    assert any(" x 2: " in line for line in told)
    assert any("again, seed: 1" in line for line in told)


# -- which policies ------------------------------------------------------------------------------


class _Needy(PolicyOptions):
    target: float


class _NeedsAnOption(FleetOnly):
    Options = _Needy


FILE = """
version: 1
backends:
  fleet: {type: triton, replicas: ["http://127.0.0.1:9"], max_in_flight: 2, price: {usd_per_replica_hour: 3.6}}
routes:
  r: {match: {model: m}, latency_budget: {within: 15s}, policy: weighted, tiers: [{backend: fleet}]}
"""


def test_every_registered_policy_that_makes_sense_is_planned_with() -> None:
    policies: Registry[Policy] = Registry("policy")
    for name in ("fleet_only", "weighted", "one_more"):
        policies.add(name)(type(name, (FleetOnly,), {}))
    policies.add("needy")(_NeedsAnOption)
    with pytest.raises(ValidationError):
        _Needy.model_validate({})
    backends, _ = registries()
    plain = planning(wanted(policies=()), backends, policies, tell=lambda _: None)
    assert callable(plain)
    assert set(candidates(wanted(policies=()), policies, None, described(wanted()))) == {
        "fleet_only",
        "one_more",
    }
    with pytest.raises(ValueError, match="needy has options without a default"):
        candidates(wanted(policies=("needy",)), policies, None, described(wanted()))
    with pytest.raises(ValueError, match="there is no policy 'nope'; there are fleet_only"):
        candidates(wanted(policies=("nope",)), policies, None, described(wanted()))


def test_a_routes_own_policy_is_planned_with_whatever_it_is(tmp_path: Path) -> None:
    settings = load(FILE, *registries()).settings
    run = planning(
        wanted(premium=None, budget=None, cold=None, idle=None, policies=()), *registries(), settings, loads=(), repeats=1,
        tell=lambda _: None,
    )  # fmt: skip
    result = run(trace(tmp_path, every(0.6, 100)))
    assert {"weighted", "fleet_only"} <= set(result["policies"])
    assert "serverless_only" not in result["policies"]
    assert result["verdict"] == "no_serverless"
    assert (result["fleet"], result["serverless"]) == (True, False)
    assert result["choice"]["replicas"] == 1, "two slots serve two calls at once"


@pytest.mark.parametrize(
    ("loads", "repeats", "wrong"),
    [((0.0,), 1, "a load of 0"), ((1e9,), 1, "at most 100"), ((), 0, "0 repeats")],
)
def test_nonsense_is_refused(loads: tuple[float, ...], repeats: int, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        planning(wanted(), *registries(), loads=loads, repeats=repeats, tell=lambda _: None)


# -- the command ---------------------------------------------------------------------------------


def test_json_on_standard_output_and_nothing_else(tmp_path: Path) -> None:
    arguments = [
        "plan",
        "--trace",
        trace(tmp_path, every(60.0, 30)),
        "--service",
        "constant:1s",
        "--load",
        "2",
    ]
    done = CliRunner().invoke(command, [*arguments, "--json", "--repeats", "2"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert set(result) == {
        "trace", "requests", "requests_per_second", "hours", "budget_s", "objective", "possible", "fleet",
        "serverless", "verdict", "choice", "runner_up", "saving", "confidence", "policies", "break_even",
        "next_replica", "marginal", "seed", "answer",
    }  # fmt: skip
    assert set(result["choice"]) == {
        "policy", "replicas", "attained", "attains", "usd_per_hour", "usd_per_month",
    }  # fmt: skip
    assert set(result["policies"]) >= {*BASELINES, *registries()[1]} - NOT_BY_LOAD
    again = CliRunner().invoke(command, [*arguments, "--json", "--repeats", "2"])
    assert again.stdout == done.stdout, "equal seeds give equal plans"


def test_the_tables_say_what_the_plan_says(tmp_path: Path) -> None:
    result = plan(trace(tmp_path, every(20.0, 60)), loads=(2, 3), repeats=2)
    console = Console(width=160, no_color=True)
    with console.capture() as capture:
        console.print(tables(result))
    text = capture.get()
    for words in (
        "No fleet: rent everything",
        "would be busy",
        "must be busy",
        "missed",
        "x 2",
        "pays for itself from",
    ):
        assert words in text


def test_a_wrong_option_ends_with_status_2_and_a_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(command, ["plan", "--trace", str(tmp_path / "none.csv")])
    assert done.exit_code == 2
    assert "overspill plan: " in done.stderr
    assert "Traceback" not in done.output


@settings(max_examples=25, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 20), min_size=1, max_size=15),
    premium=st.sampled_from([0.5, 1.5, 4.0]),
    budget=st.sampled_from(["2s", "15s"]),
)
def test_the_choice_is_never_much_dearer_than_any_policy_that_attains(
    gaps: list[float], premium: float, budget: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arrivals = [sum(gaps[: place + 1]) for place in range(len(gaps))]
    result = plan(trace(tmp_path_factory.mktemp("t"), arrivals), premium=premium, budget=budget)
    attaining = [entry["usd_per_hour"] for entry in result["policies"].values() if entry["attains"]]
    assert result["choice"]["attains"], "enough replicas always attain what is possible"
    assert result["choice"]["usd_per_hour"] <= min(attaining) * 1.05 + 1e-9
