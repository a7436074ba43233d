"""The rule as a whole: what it opens, what it keeps, what stops it."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.schema import Prewarm
from gateway.prewarm import HOUR_S, Cause, Controller, HourlyCap, lateness
from gateway.vocab import Rent
from gateway.warmth import Idle
from tests.prewarm.world import ALLOWED, RENT, START, World, poisson, state

PERIOD = 120
BURST = 15


def periodic(periods: int, height: int = 8) -> list[int]:
    """One call a second, and a burst of 15 s at the beginning of every period (8 calls a second: 4 slots)."""
    return [height if second % PERIOD < BURST else 1 for second in range(periods * PERIOD)]


def before_a_burst(moments: list[float]) -> list[float]:
    return [moment for moment in moments if moment % PERIOD > PERIOD - 25]


def test_a_periodic_burst_is_prewarmed_once_it_was_seen_a_few_times() -> None:
    world = World().run(periodic(10))
    ahead = before_a_burst(world.opened)
    assert min(ahead) > 2 * PERIOD  # not before it could know
    assert {int(moment // PERIOD) for moment in ahead} >= {5, 6, 7, 8}  # then before every burst
    reasons = {plan.reason for when, plan in world.plans if plan.open and when - START in ahead}
    assert reasons == {Cause.RHYTHM}
    for period in (6, 7, 8, 9):  # and they are up when it begins
        ready = [m + 6.0 for m in world.opened if (period - 1) * PERIOD + BURST < m < period * PERIOD]
        assert len(ready) >= 2
        assert max(ready) <= period * PERIOD + 2


def test_it_stops_when_it_does_not_pay() -> None:
    dear = RENT._replace(usd_per_second=0.03)
    assert World(rent=dear).run(periodic(10)).opened == []
    unimportant = Prewarm(max_instances=4, usd_per_hour=100.0, miss_usd=0.0)
    assert World(unimportant).run(periodic(10)).opened == []


def test_nothing_is_opened_where_a_cold_start_is_fast_enough_anyway() -> None:
    world = World(cold_mean_s=0.2, cold_tail_s=0.4).run(periodic(10))
    assert world.opened == []
    no_budget = World(budget_s=None).run(periodic(10))
    assert no_budget.opened == []


def test_steady_poisson_traffic_opens_nothing() -> None:
    chance = Random(5)
    world = World(fleet_slots=8).run(poisson(8.0, chance) for _ in range(3_600))  # 4 of 8 slots
    assert world.opened == []
    assert world.pinged == []
    assert {plan.usd for _, plan in world.plans} == {0.0}


def test_silence_costs_nothing() -> None:
    world = World().run([0] * 2_000)
    assert {(plan.open, plan.ping, plan.usd) for _, plan in world.plans} == {(0, 0, 0.0)}


def test_silence_after_a_busy_time_costs_nothing_for_long() -> None:
    world = World().run([*periodic(10), *([0] * 3_000)])
    assert all(moment < 10 * PERIOD + 2 * PERIOD for moment in [*world.opened, *world.pinged])


@pytest.mark.parametrize("seed", range(4))
def test_a_flash_crowd_bypasses_the_forecast_within_two_seconds(seed: int) -> None:
    chance = Random(seed)
    quiet, crowd = 300, 20
    world = World().run([poisson(1.0, chance) for _ in range(quiet)] + [poisson(12.0, chance)] * crowd)
    first = next((when - START, plan) for when, plan in world.plans if plan.open)
    assert quiet < first[0] <= quiet + 2
    assert first[1].reason is Cause.BURST
    by_burst = [plan.open for _, plan in world.plans if plan.reason is Cause.BURST]
    assert 1 <= sum(by_burst) <= 2  # the rest is for those who see the queue


def test_a_crowd_that_the_fleet_can_carry_opens_nothing() -> None:
    chance = Random(6)
    counts = [poisson(1.0, chance) for _ in range(300)] + [12] * 20
    assert World(fleet_slots=16).run(counts).opened == []


def test_nothing_is_spent_unless_the_file_says_so() -> None:
    world = World(None).run(periodic(10))
    assert {plan.reason for _, plan in world.plans} == {Cause.OFF}
    assert {(plan.open, plan.ping) for _, plan in world.plans} == {(0, 0)}


def test_an_unknown_price_opens_nothing() -> None:
    for rent in (None, Rent(usd_per_second=None, idle_s=5.0)):
        world = World(rent=rent).run(periodic(10))
        assert {(plan.open, plan.ping, plan.reason) for _, plan in world.plans} == {(0, 0, Cause.NO_PRICE)}


def test_a_plan_names_the_route_and_the_kind_of_money() -> None:
    world = World().run(periodic(8))
    plan = next(plan for _, plan in world.plans if plan.open)
    assert (plan.route, plan.backend, plan.kind) == ("embed", "burst", "prewarm")
    assert plan.usd >= plan.open * 0.0003 * (6.0 + 5.0)  # never less than what it is expected to cost


def test_the_spill_budget_is_a_limit_too() -> None:
    assert World(spill_usd=0.0).run(periodic(10)).opened == []
    starved = World(spill_usd=0.001).run(periodic(10))
    assert Cause.NO_MONEY in {plan.reason for _, plan in starved.plans}


def test_no_more_are_up_than_allowed() -> None:
    world = World(Prewarm(max_instances=1, usd_per_hour=100.0, miss_usd=0.01)).run(periodic(10, height=20))
    assert world.opened
    assert world.most == 1
    assert Cause.FULL in {plan.reason for _, plan in world.plans}
    assert World(room=0).run(periodic(10)).opened == []


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 6),
    st.floats(0.0005, 0.2),
    st.sampled_from([0.0, 0.0001, 0.003]),
    st.floats(1.0, 40.0),
    st.floats(1.0, 20.0),
)
def test_neither_the_cap_nor_the_count_is_ever_exceeded(
    seed: int, most: int, usd_per_hour: float, price: float, cold: float, idle: float
) -> None:
    chance = Random(seed)
    counts = [chance.choice((0, 1, 2, 30)) if chance.random() < 0.3 else 1 for _ in range(900)]
    world = World(
        Prewarm(max_instances=most, usd_per_hour=usd_per_hour, miss_usd=1.0),
        rent=Rent(price, usd_per_call=0.0001, idle_s=idle, round_up_s=1.0),
        cold_mean_s=cold,
        cold_tail_s=cold * 2,
    ).run(counts)
    assert world.most <= most
    spent = [(when, plan.usd) for when, plan in world.plans]
    assert all(plan.usd >= 0 for _, plan in world.plans)
    for begin, _ in spent[::50]:
        assert sum(usd for when, usd in spent if begin <= when < begin + HOUR_S) <= usd_per_hour * (1 + 1e-9)


def test_money_comes_back_after_an_hour_and_bills_beyond_the_reserve_count() -> None:
    cap = HourlyCap(1.0)
    cap.reserve(0.75, 0.0)
    assert cap.remaining(10.0) == 0.25
    with pytest.raises(ValueError, match="left of this hour"):
        cap.reserve(0.5, 10.0)
    cap.charged(0.9, 20.0)
    assert cap.remaining(30.0) == pytest.approx(0.1)
    cap.charged(0.9, 30.0)
    assert cap.remaining(40.0) == 0.0
    assert cap.remaining(HOUR_S + 1.0) == 0.0  # the bills are younger
    assert cap.remaining(HOUR_S + 31.0) == 1.0


def test_a_bill_above_the_cap_stops_everything_for_the_hour() -> None:
    world = World()
    world.controller.charged(1_000.0, START)
    assert world.run(periodic(10)).opened == []


def kept(gap: int, rent: Rent = RENT) -> World:
    """One instance is up and used every `gap` seconds by more calls than the fleet holds."""
    world = World(Prewarm(max_instances=4, usd_per_hour=100.0, miss_usd=0.0005), rent=rent)
    for place in range(30):
        world.controller.gap(float(gap), START - 1.0 - 2 * gap * place / 30)
    return world


def idle_ticks(world: World, seconds: int) -> list[int]:
    """Pings, tick by tick, while one instance idles that answers pings as a provider would."""
    age, pings = 0.0, []
    for second in range(seconds):
        now = START + 1.0 + second
        unused = float(second)
        plan = world.controller.tick(now, state(idle=(Idle(age, unused),)))
        pings.append(plan.ping)
        age = 0.0 if plan.ping else age + 1.0
        if age >= 5.0:
            return pings
    return pings


def test_regular_gaps_just_above_the_time_out_are_kept_warm() -> None:
    pings = idle_ticks(kept(7), 20)
    assert 1 <= sum(pings) <= 2
    assert len(pings) > 7  # it was still there when the next use was due, and gone soon after
    assert len(pings) < 14
    world = kept(7)
    assert world.controller.tick(START + 1, state(idle=(Idle(4.0, 4.0),))).reason is Cause.KEEP_WARM


def test_long_gaps_are_not_kept_warm() -> None:
    assert idle_ticks(kept(600), 20) == [0, 0, 0, 0, 0]


def test_a_young_instance_needs_no_ping_yet() -> None:
    assert kept(7).controller.tick(START + 1, state(idle=(Idle(1.0, 1.0),))).ping == 0


def test_pings_stay_below_the_allowed_count_and_the_cap() -> None:
    many = tuple(Idle(4.0, 4.0) for _ in range(9))
    assert kept(7).controller.tick(START + 1, state(idle=many)).ping == ALLOWED.max_instances
    poor = World(Prewarm(max_instances=9, usd_per_hour=0.004, miss_usd=0.0005))
    for _ in range(30):
        poor.controller.gap(7.0, START)
    plan = poor.controller.tick(START + 1, state(idle=many))
    assert plan.ping == 2  # $0.0015 each
    assert plan.usd <= 0.004


def test_it_says_when_the_time_out_is_far_from_the_best() -> None:
    assert "too long" in (kept(600).controller.advice(START, state(rent=RENT._replace(idle_s=300.0))) or "")
    assert Controller("embed", None, now=START).advice(START, state()) is None


def test_equal_inputs_give_equal_plans() -> None:
    chance = Random(7)
    counts = [poisson(3.0, chance) + (20 if second % 90 < 5 else 0) for second in range(1_500)]
    first, second = World().run(counts), World().run(counts)
    assert first.plans == second.plans
    assert first.opened


def test_lateness_is_that_of_a_log_normal_start() -> None:
    chance = Random(8)
    sigma, mu = 0.4, 1.8
    draws = [chance.lognormvariate(mu, sigma) for _ in range(40_000)]
    mean = sum(draws) / len(draws)
    tail = sorted(draws)[int(0.99 * len(draws))]
    for slack in (0.5, 4.0, 8.0, 15.0):
        share, seconds = lateness(mean, tail, slack)
        assert share == pytest.approx(sum(draw > slack for draw in draws) / len(draws), abs=0.02)
        assert seconds == pytest.approx(sum(max(0, draw - slack) for draw in draws) / len(draws), abs=0.1)


def test_lateness_at_its_edges() -> None:
    assert lateness(0.0, 0.0, 1.0) == (0.0, 0.0)
    assert lateness(6.0, 12.0, 0.0) == (1.0, 6.0)
    assert lateness(6.0, 6.0, 2.0) == (1.0, 4.0)
    assert lateness(6.0, 6.0, 8.0) == (0.0, 0.0)
    assert lateness(1.0, 1e6, 5.0)[0] < 0.2  # no log-normal has so far a tail: the widest there is
