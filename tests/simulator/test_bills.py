"""What of an instance's life is paid for: the parts of a cost, from options and from a file, and the bound."""

import json
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from gateway.cli import command
from gateway.simulator.bills import best_terms
from gateway.simulator.bound import lower_bound
from gateway.simulator.distributions import parse
from gateway.simulator.run import Outcome, simulate
from gateway.simulator.scenario import Endpoint, Fleet, Scenario, Workload
from gateway.simulator.words import billed
from gateway.simulator.world import rounding
from policies import policies
from policies.base import Policy, TierOptions

ROWS = "t_s\n0\n8\n30\n"
"""With 2 s of service, 3 s of boot and 10 s of idling: cold, warm, cold."""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, ["simulate", *arguments])


def parts(tmp_path: Path, *arguments: str) -> dict[str, float]:
    """The cost of renting everything, in slot-seconds unless a file says otherwise."""
    trace = tmp_path / "trace.csv"
    trace.write_text(ROWS)
    done = invoke(
        "--trace", str(trace), "--service", "constant:2s", "--budget", "20s", "--cold", "constant:3s",
        "--idle", "10s", "--policy", "serverless_only", "--replicas", "0", "--json", *arguments,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    entry = result["policies"]["serverless_only"]
    assert (entry["activations"], entry["attained"]) == (2, 1.0)
    assert entry["cost"] == pytest.approx(sum(entry["cost_split"].values()))
    if result["bound"] is not None:
        assert result["ratio_to_bound"]["serverless_only"] >= 1.0
    split: dict[str, float] = entry["cost_split"]
    return split


SECONDS = ("--unit", "slot_seconds", "--fleet-price", "3600", "--premium", "1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # The first instance boots, serves, waits for the second request, which it serves, and idles to its end.
        ([], {"cold": 6, "exec": 6, "idle": 3 + 10 + 10}),
        (["--bills", "cold,idle"], {"cold": 6, "exec": 6, "idle": 23}),
        (["--bills", "cold"], {"cold": 6, "exec": 6, "idle": 0}),
        (["--bills", "idle"], {"cold": 0, "exec": 6, "idle": 23}),
        (["--bills", "none"], {"cold": 0, "exec": 6, "idle": 0}),
        (["--fee", "0.5"], {"cold": 6, "exec": 6, "idle": 23, "fee": 1.5}),
        # Lives of 20 s and 15 s.
        (["--round-up", "10s"], {"cold": 6, "exec": 6, "idle": 23 + 5}),
        # Without their boots of 17 s and 12 s.
        (["--round-up", "10s", "--bills", "idle"], {"cold": 0, "exec": 6, "idle": 23 + 3 + 8}),
        # Requests of 3 + 2, 2, and 3 + 2 s, in units of 4 s: 8, 4 and 8.
        (["--round-up", "4s", "--bills", "cold"], {"cold": 6, "exec": 20 - 6, "idle": 0}),
        (["--round-up", "4s", "--bills", "none"], {"cold": 0, "exec": 12, "idle": 0}),
    ],
)
def test_options_say_what_is_paid_for(
    tmp_path: Path, arguments: list[str], expected: dict[str, float]
) -> None:
    found = parts(tmp_path, *SECONDS, *arguments)
    assert found == pytest.approx({"fleet": 0, "fee": 0, "prewarm": 0} | expected)


FILE = """
version: 1
backends:
  gpus: {type: triton, max_in_flight: 1, replicas: ["http://127.0.0.1:9"], price: {usd_per_replica_hour: 3.6}}
  burst: {%s, max_in_flight: 9, cold_start: {expect: 3s, idle_after: 10s}}
routes:
  chat:
    tiers: [{backend: gpus}, {backend: burst}]
    latency_budget: {within: 20s, objective: 95%%}
"""
LAMBDA = (
    "type: aws_lambda, function: f, region: eu-west-1, memory: 2GiB, "
    "price: {usd_per_gb_second: 0.002, usd_per_request: 0.01}"
)
RUNPOD = "type: runpod, endpoint_id: abc123, api_key: {env: NOT_HERE}, price: {usd_per_second: 0.004}"


def of_file(tmp_path: Path, backend: str, *arguments: str) -> dict[str, float]:
    config = tmp_path / "overspill.yaml"
    config.write_text(FILE % backend)
    return parts(tmp_path, "-c", str(config), *arguments)


def test_a_function_is_not_paid_for_idling_and_its_requests_have_a_fee(tmp_path: Path) -> None:
    found = of_file(tmp_path, LAMBDA)
    expected = {"cold": 6 * 0.004, "exec": 6 * 0.004, "idle": 0.0, "fee": 0.03, "fleet": 0.0, "prewarm": 0.0}
    assert found == pytest.approx(expected)
    rounded = of_file(tmp_path, LAMBDA, "--service", "constant:2.0004s")
    assert rounded["exec"] == pytest.approx((3 * 2.001) * 0.004, rel=1e-9)


def test_a_worker_is_paid_for_all_of_its_life_in_whole_seconds(tmp_path: Path) -> None:
    found = of_file(tmp_path, RUNPOD, "--service", "constant:1.75s")
    assert found["cold"] == pytest.approx(6 * 0.004)
    assert sum(found.values()) == pytest.approx((20 + 15) * 0.004), "of 19.75 s and 14.75 s"


def test_what_is_said_goes_before_what_the_file_says(tmp_path: Path) -> None:
    found = of_file(tmp_path, LAMBDA, "--bills", "idle", "--fee", "0", "--round-up", "10s")
    assert found == pytest.approx(
        {"cold": 0.0, "exec": 6 * 0.004, "idle": 34 * 0.004, "fee": 0.0, "fleet": 0.0, "prewarm": 0.0}
    )


def bound_late(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """Two requests come while nothing is up; the second could wait for the instance of the first."""
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s\n0\n0.1\n0.2\n0.3\n")
    done = invoke(
        "--trace", str(trace), "--service", "constant:500ms", "--budget", "9s", "--cold", "constant:3s",
        "--idle", "60s", "--policy", "cheapest_in_budget", "--replicas", "0", "--json", *arguments,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    entry: dict[str, Any] = json.loads(done.stdout)["policies"]["cheapest_in_budget"]
    return entry


def test_where_only_a_call_boots_an_instance_none_is_opened_without_one(tmp_path: Path) -> None:
    by_ping = bound_late(tmp_path, "--late-binding", "ping", "--fee", "0.25")
    bound = bound_late(tmp_path, "--late-binding", "none", "--fee", "0.25")
    assert bound_late(tmp_path, "--fee", "0.25") == by_ping
    assert bound["cost_split"]["fee"] == 4 * 0.25, "four calls and no ping"
    assert by_ping["cost_split"]["fee"] == (4 + by_ping["activations"]) * 0.25


def test_where_the_provider_queues_calls_fewer_boot_than_wait(tmp_path: Path) -> None:
    by_provider = bound_late(tmp_path, "--late-binding", "provider", "--fee", "0.25")
    bound = bound_late(tmp_path, "--late-binding", "none")
    assert by_provider["cost_split"]["fee"] == 4 * 0.25, "four calls and no ping"
    assert by_provider["activations"] <= bound["activations"]
    assert by_provider["attained"] == 1.0


def test_a_file_says_how_instances_are_opened(tmp_path: Path) -> None:
    config = tmp_path / "overspill.yaml"
    fees = []
    for more, option in (("ping", ()), ("none", ()), ("none", ("--late-binding", "ping"))):
        config.write_text(FILE % f"{LAMBDA}, late_binding: {more}")
        split = bound_late(tmp_path, "-c", str(config), *option)["cost_split"]
        fees.append(round(split["fee"] / 0.01))
    assert fees[1] == 4 < fees[0] == fees[2]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--bills", "boots"], "--bills is 'boots'; it must be cold,idle or cold or idle or none"),
        (["--bills", ""], "--bills is ''"),
        (["--round-up", "1"], "--round-up: "),
    ],
)
def test_what_is_wrong_is_told_in_one_line(arguments: list[str], what: str) -> None:
    done = invoke("--trace", "poisson:1:20", "--service", "constant:1s", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.strip().splitlines()
    assert what in line


def test_a_price_that_is_missing_is_named(tmp_path: Path) -> None:
    config = tmp_path / "overspill.yaml"
    config.write_text(FILE % LAMBDA.replace("memory: 2GiB, ", ""))
    done = invoke("--trace", "poisson:1:20", "--service", "constant:1s", "-c", str(config))
    assert done.exit_code == 2
    assert "backends.burst has no memory; add it, or give --premium" in done.stderr


def endpoint(**options: Any) -> Endpoint:
    return Endpoint("burst", 1.5, 5.0, parse("constant:3s"), **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "cold starts, serving and idling"),
        ({"bills_idle": False}, "cold starts and serving"),
        ({"bills_boot": False, "bills_idle": False}, "serving"),
        ({"round_up_s": 1.0}, "each life rounded up to multiples of 1 s"),
        ({"round_up_s": 1.0, "bills_idle": False}, "each request rounded up to multiples of 1 s"),
    ],
)
def test_the_page_says_it_in_words(options: dict[str, Any], text: str) -> None:
    assert text in billed(endpoint(**options))


# -- the bound ---------------------------------------------------------------------------------------


def alone(plan: Endpoint, *seconds: float) -> tuple[float, Outcome]:
    """The bound of requests an hour apart from each other, and what renting everything costs."""
    arrivals = [3600.0 * number for number in range(len(seconds))]
    workload = Workload("made up", arrivals, seconds)
    scenario = Scenario(
        fleet=Fleet(),
        endpoints=(plan,),
        tiers=(TierOptions(backend="fleet"), TierOptions(backend="burst")),
        budget_s=100.0,
        objective=0.99,
        seed=0,
    )
    outcome = simulate(workload, scenario, policy("serverless_only"), 0)
    return bound_of(workload.arrivals, workload.services, (plan,), 100.0, 1.0), outcome


def policy(name: str) -> Policy:
    cls = policies.get(name)
    return cls(cls.Options())


def bound_of(
    arrivals: Sequence[float],
    services: Sequence[float],
    plans: Sequence[Endpoint],
    budget: float,
    attained: float,
) -> float:
    pytest.importorskip("scipy", reason="the bound is an optional part that needs scipy")
    terms = best_terms(plans, services, 1.0)._asdict()
    span = arrivals[-1] - arrivals[0]
    return lower_bound(
        arrivals, services, budget=budget, attained=attained, duration=span, replicas=0, **terms
    ).cost


@pytest.mark.parametrize(
    ("options", "cost"),
    [
        ({}, 1.5 * (2 + 3 + 5)),
        ({"bills_idle": False}, 1.5 * (2 + 3)),
        ({"bills_boot": False}, 1.5 * (2 + 5)),
        ({"bills_idle": False, "bills_boot": False}, 1.5 * 2),
        ({"bills_idle": False, "bills_boot": False, "usd_per_call": 7.0}, 1.5 * 2 + 7),
        ({"usd_per_call": 7.0}, 1.5 * (2 + 3 + 5) + 7),
        ({"bills_idle": False, "bills_boot": False, "round_up_s": 5.0}, 1.5 * 5),
    ],
)
def test_of_one_request_the_bound_is_all_that_is_paid(options: dict[str, Any], cost: float) -> None:
    """But for how the rest of its budget spreads its work, which takes little off where instances are dear."""
    plan = endpoint(**options)
    workload = Workload("one", [0.0], [2.0])
    bound = bound_of(workload.arrivals, workload.services, (plan,), 2.0, 1.0)
    assert bound == pytest.approx(cost, rel=1e-4)


def test_fees_of_short_requests_are_in_the_bound() -> None:
    """Those of long ones are not taken for those of short ones: fifty of each, ten fees to a second."""
    plan = endpoint(usd_per_call=1.0, bills_boot=False, bills_idle=False)
    bound, outcome = alone(plan, *[0.1] * 50, *[5.0] * 50)
    assert bound <= outcome.cost
    assert bound >= 0.95 * outcome.cost


SMALL = st.lists(
    st.tuples(st.sampled_from([0.0, 0.3, 2.0, 15.0]), st.sampled_from([0.03, 0.4, 1.0, 2.7])),
    min_size=1,
    max_size=25,
)
PLANS = st.builds(
    Endpoint,
    st.just("burst"),
    st.sampled_from([0.7, 1.5, 3.0]),
    st.sampled_from([0.0, 1.0, 8.0]),
    st.sampled_from([parse("constant:0s"), parse("constant:0.4s"), parse("constant:3s")]),
    usd_per_call=st.sampled_from([0.0, 0.2, 3.0]),
    bills_boot=st.booleans(),
    bills_idle=st.booleans(),
    round_up_s=st.sampled_from([0.0, 0.001, 0.5, 1.0, 4.0]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=SMALL, plan=PLANS, budget=st.sampled_from([0.5, 4.0, 20.0]), name=st.sampled_from(list(policies)))
@example(
    rows=[(0.0, 0.4), (2.0, 0.4), (2.0, 0.4), (2.0, 0.4)],
    plan=Endpoint("burst", 1.0, 8.0, parse("constant:3s"), bills_idle=False),
    budget=4.0,
    name="serverless_only",
)
@example(
    rows=[(0.0, 0.4)],
    plan=Endpoint("burst", 1.0, 8.0, parse("constant:0.4s"), bills_idle=False, round_up_s=1.0),
    budget=4.0,
    name="serverless_only",
)
def test_nobody_pays_less_than_the_bound_however_it_is_billed(
    rows: list[tuple[float, float]], plan: Endpoint, budget: float, name: str
) -> None:
    if name in {"canary", "pinned"}:  # they do nothing without options
        name = "serverless_only"
    arrivals = [sum(gap for gap, _ in rows[: place + 1]) for place in range(len(rows))]
    workload = Workload("made up", arrivals, [seconds for _, seconds in rows])
    scenario = Scenario(
        fleet=Fleet(),
        endpoints=(plan,),
        tiers=(TierOptions(backend="fleet"), TierOptions(backend="burst")),
        budget_s=budget,
        objective=0.9,
        seed=0,
    )
    outcome = simulate(workload, scenario, policy(name), 0)
    if not outcome.lost:
        bound = bound_of(workload.arrivals, workload.services, (plan,), budget, outcome.attained)
        assert bound <= outcome.cost * (1.0 + 1e-9) + 1e-6


@given(st.floats(0, 1e6), st.sampled_from([0.001, 0.1, 1.0, 60.0]))
def test_rounding_up_goes_to_the_next_multiple_and_no_further(seconds: float, unit: float) -> None:
    added = rounding(seconds, unit)
    assert 0.0 <= added < unit
    assert (seconds + added) / unit == pytest.approx(ceil(seconds / unit - 1e-9), rel=1e-9, abs=1e-8)
    assert rounding(seconds, 0.0) == 0.0
