"""Opening ahead in simulated runs: what it brings, what it costs, and that it is never there unasked."""

import json
from math import fsum
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from backends.base import Kit
from gateway.app import registries
from gateway.cli import command
from gateway.config.load import load
from gateway.config.schema import Prewarm
from gateway.simulator import from_file
from gateway.simulator.distributions import parse
from gateway.simulator.engine import VirtualTime
from gateway.simulator.run import Outcome, simulate
from gateway.simulator.scenario import Endpoint, Fleet, Scenario, Workload
from gateway.simulator.world import SimulatedEndpoint, no_background
from gateway.vocab import Rent
from policies import policies
from policies.base import Policy, TierOptions

PERIOD, BURST, PERIODS = 120, 15, 12
USD = 0.0003
ALLOWED = Prewarm(max_instances=4, usd_per_hour=2.0, miss_usd=0.001)
NO_MONEY = Prewarm(max_instances=4, usd_per_hour=1e-9, miss_usd=0.001)


def periodic() -> Workload:
    """One call a second, and for 15 s of every two minutes eight: two slots more than the fleet has."""
    arrivals = [
        second + (place + 0.5) / count
        for second in range(PERIOD * PERIODS)
        for count in [8 if second % PERIOD < BURST else 1]
        for place in range(count)
    ]
    return Workload("periodic", arrivals, [0.5] * len(arrivals))


def scenario(prewarm: Prewarm | None = None, *, cold: str = "constant:6s", idle_s: float = 5.0,
             usd_per_call: float = 0.0, seed: int = 0) -> Scenario:  # fmt: skip
    """Answers within 2 s, while an instance boots for 6."""
    return Scenario(
        fleet=Fleet("fleet", 2, 0.0004),
        endpoints=(Endpoint("burst", USD, idle_s, parse(cold), usd_per_call),),
        tiers=(TierOptions(backend="fleet"), TierOptions(backend="burst")),
        budget_s=2.0,
        objective=0.99,
        seed=seed,
        prewarm=prewarm,
    )


def policy(name: str) -> Policy:
    cls = policies.get(name)
    return cls(cls.Options())


def figures(outcome: Outcome) -> object:
    return outcome.as_json(), [str(answer) for answer in outcome.answers], list(outcome.places)


def billed_s(outcome: Outcome) -> float:
    return fsum((life.gone or 0.0) - life.opened for each in outcome.endpoints for life in each.lives)


@pytest.mark.parametrize("name", ["cheapest_in_budget", "spill_when_full", "queue_threshold"])
def test_misses_of_a_periodic_burst_fall_at_a_cost_that_is_stated(name: str) -> None:
    workload = periodic()
    without = simulate(workload, scenario(), policy(name), 1)
    ahead = simulate(workload, scenario(ALLOWED), policy(name), 1)
    assert (1.0 - ahead.attained) < 0.6 * (1.0 - without.attained)
    assert without.cost_split["prewarm"] == 0.0
    paid = ahead.cost_split["prewarm"]
    hours = PERIOD * PERIODS / 3600.0
    assert 0.0 < paid <= ALLOWED.usd_per_hour * (hours + 1.0)
    # What was opened ahead need not be opened late: of that there is less, and nothing is paid for twice.
    assert ahead.cost_split["cold"] < without.cost_split["cold"]
    assert ahead.cost_split["exec"] == pytest.approx(0.5 * USD * ahead.spilled)
    assert paid + sum(ahead.cost_split[part] for part in ("cold", "exec", "idle")) == pytest.approx(
        billed_s(ahead) * USD
    )


def test_the_money_of_an_hour_is_a_limit() -> None:
    workload = periodic()
    tight = Prewarm(max_instances=4, usd_per_hour=0.05, miss_usd=0.001)
    outcome = simulate(workload, scenario(tight), policy("spill_when_full"), 1)
    assert 0.0 < outcome.cost_split["prewarm"] <= 0.05  # the trace is shorter than an hour


def test_nothing_is_opened_ahead_beyond_the_most_instances() -> None:
    two = Prewarm(max_instances=2, usd_per_hour=2.0, miss_usd=0.001)
    outcome = simulate(periodic(), scenario(two), policy("spill_when_full"), 1)
    lives = outcome.endpoints[0].lives
    ahead = [life.opened for life in lives if life.cold_ahead]
    assert ahead
    for moment in ahead:
        assert sum(life.opened <= moment < (life.gone or 0.0) for life in lives) <= 2


@pytest.mark.parametrize("name", ["cheapest_in_budget", "spill_when_full", "queue_threshold", "fleet_only"])
def test_without_money_for_it_a_run_is_the_same_as_without_the_key(name: str) -> None:
    workload = periodic()
    unasked = simulate(workload, scenario(), policy(name), 1)
    assert figures(simulate(workload, scenario(NO_MONEY), policy(name), 1)) == figures(unasked)
    assert unasked.endpoints[0].pings == 0
    assert not any(life.cold_ahead or life.idle_ahead_s for life in unasked.endpoints[0].lives)


def test_nothing_is_opened_for_a_policy_that_never_uses_it() -> None:
    outcome = simulate(periodic(), scenario(ALLOWED), policy("fleet_only"), 1)
    assert outcome.endpoints[0].lives == []


def test_fees_of_pings_are_part_of_it() -> None:
    outcome = simulate(periodic(), scenario(ALLOWED, usd_per_call=1e-4), policy("spill_when_full"), 1)
    endpoint = outcome.endpoints[0]
    assert endpoint.pings > sum(life.cold_ahead for life in endpoint.lives) > 0, "some opened, some kept"
    assert outcome.cost_split["prewarm"] == pytest.approx(endpoint.ahead_s * USD + endpoint.pings * 1e-4)
    assert outcome.cost_split["fee"] == pytest.approx(outcome.spilled * 1e-4)


bursts = st.lists(st.tuples(st.integers(1, 9), st.integers(5, 60)), min_size=3, max_size=8)


@settings(max_examples=15, deadline=None)
@given(bursts, st.sampled_from(["cheapest_in_budget", "spill_when_full"]), st.integers(0, 3),
       st.sampled_from(["constant:6s", "lognormal:4s:0.5"]), st.sampled_from([0.5, 5.0]))  # fmt: skip
def test_all_that_is_billed_is_one_of_four_and_equal_seeds_give_equal_runs(
    shape: list[tuple[int, int]], name: str, seed: int, cold: str, idle_s: float
) -> None:
    arrivals, start = [], 0.0
    for _ in range(4):  # so that there is something to learn from
        for height, calm in shape:
            arrivals += [start + place / height for place in range(4 * height)]
            start += 4.0 + calm
    workload = Workload("made up", arrivals, [0.5] * len(arrivals))
    dear = Prewarm(max_instances=5, usd_per_hour=10.0, miss_usd=0.01)
    first, second = (
        simulate(workload, scenario(dear, cold=cold, idle_s=idle_s, seed=seed), policy(name), 1)
        for _ in range(2)
    )
    assert figures(first) == figures(second)
    split = first.cost_split
    assert all(usd >= 0.0 for usd in split.values())
    assert split["cold"] + split["exec"] + split["idle"] + split["prewarm"] == pytest.approx(
        billed_s(first) * USD
    )
    for life in first.endpoints[0].lives:
        assert life.gone is not None
        assert life.gone - life.opened == pytest.approx(life.cold_s + life.exec_s + life.idle_s)
        assert 0.0 <= life.idle_ahead_s <= life.idle_s + 1e-9
        if life.cold_ahead and not life.served:
            assert life.idle_ahead_s == life.idle_s, "all of what nobody used"


def test_what_an_instance_costs_before_a_call_uses_it_is_not_the_calls() -> None:
    kit = Kit(clock=VirtualTime(), chance=Random(0), spawn=no_background)
    rented = SimulatedEndpoint("burst", kit, limit=9, rent=Rent(1.0, idle_s=5.0), colds=lambda _: 6.0)
    rented.up(rented.boot(0.0, ahead=True), 6.0)
    assert rented.begin(0, 1.0, 8.0) == 9.0, "warm"
    rented.end(0, 9.0)
    kept = rented.keep(12.0)
    assert kept is not None
    rented.up(kept, 12.0)
    assert rented.keep(17.0) is None, "gone at its time-out, like any"
    rented.finish()
    assert rented.ahead_s == 6.0 + 2.0 + 5.0, "booting, idling until the call, and idling for the ping"
    assert (rented.cold_s, rented.exec_s, rented.idle_s, rented.pings) == (0.0, 1.0, 3.0, 2)


FILE = """
version: 1
backends:
  fleet: {type: triton, replicas: ["http://127.0.0.1:1"], max_in_flight: 2, price: {usd_per_replica_hour: 1.44}}
  burst: {type: loopback_rented, max_in_flight: 9, boot: 6s, idle_after: 5s, price: {usd_per_second: 0.0003}}
routes:
  embed:
    match: {model: embed}
    latency_budget: {within: 2s}
    policy: spill_when_full
    tiers: [{backend: fleet, when_full: spill}, {backend: burst}]
    prewarm: {max_instances: 4, usd_per_hour: 2, miss_usd: 0.001}
"""


def test_a_route_of_the_file_says_what_may_be_opened_ahead() -> None:
    loaded = load(FILE, *registries()).settings
    asked = {"budget_s": None, "objective": None, "cold": None, "idle_s": None, "premium": None, "seed": 0}
    of_file = from_file.scenario(loaded, None, registries()[0], **asked)  # type: ignore[arg-type]
    assert of_file.prewarm == ALLOWED
    said = Prewarm(max_instances=1, usd_per_hour=1.0)
    instead = from_file.scenario(loaded, None, registries()[0], **asked, prewarm=said)  # type: ignore[arg-type]
    assert instead.prewarm == said


def run(*options: str) -> dict[str, dict[str, float]]:
    done = CliRunner().invoke(command, ["simulate", *options, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["policies"]
    return {name: entry["cost_split"] for name, entry in found.items()}


def test_the_command_opens_ahead_only_when_asked(tmp_path: Path) -> None:
    trace = tmp_path / "periodic.csv"
    trace.write_text("t_s\n" + "\n".join(str(arrival) for arrival in periodic().arrivals) + "\n")
    usual = ["--trace", str(trace), "--service", "constant:500ms", "--budget", "2s", "--replicas", "2",
             "--fleet-price", "0.72", "--cold", "constant:6s", "--policy", "spill_when_full"]  # fmt: skip
    assert run(*usual)["spill_when_full"]["prewarm"] == 0.0
    assert run(*usual, "--prewarm", "4:5")["spill_when_full"]["prewarm"] > 0.0


@pytest.mark.parametrize("text", ["4", "four:1", "0:1", "4:0", "4:-1", "4:nan", "4:1:2"])
def test_a_bad_option_is_named_with_what_would_be_right(text: str) -> None:
    done = CliRunner().invoke(
        command, ["simulate", "--trace", "poisson:1:10", "--service", "constant:1s", "--prewarm", text]
    )
    assert done.exit_code == 2
    assert f"--prewarm is '{text}'" in done.stderr
    assert "4:0.50" in done.stderr
