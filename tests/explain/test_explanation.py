"""The chosen line is what the policy answers, and the others say truly why they lost."""

from math import isfinite
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Shed as ShedError
from gateway.estimates import BackendEstimates
from gateway.explain.asked import Asked, Wanted, beside, learned, make_call
from gateway.explain.scene import Scene
from gateway.explain.words import expected
from gateway.lease import Lease
from policies import policies
from policies.base import Candidate, Hold, Run, Shed
from policies.explanation import WAITING, Beside, Explanation, explain
from policies.spread import Either, Spread
from tests.explain.support import any_state, scene, settings
from tests.pool.parts import FIRST

CASES = 150
PATIENCE = ["spill", "shed", "{queue: 40ms, then: spill}", "{queue: 1s, then: shed}"]

every_policy = pytest.mark.parametrize("name", list(policies))


def ask(made: Scene, *, lot: float = 0.4, **wanted: object) -> Explanation:
    call = make_call(Wanted(timeout=60.0, **wanted), made.now)  # type: ignore[arg-type]
    asked = Asked(made.pool, call, lot=lot)
    more = beside(made.pool, asked, made.now, objective=made.objective)
    return explain(made.pool.policy, asked, made.pool, made.now, chance=Random(1), beside=more)


def any_scene(name: str, case: int) -> Scene:
    chance = Random(case)
    made = settings(
        name, when_full=chance.choice(PATIENCE), cold=chance.choice(["500ms", "8s"]),
        within=chance.choice(["100ms", "2s", "30s"]),
    )  # fmt: skip
    return scene(made, any_state(chance))


def chosen(explanation: Explanation) -> list[Candidate]:
    return [line for line in explanation.candidates if line.chosen]


def line(explanation: Explanation, backend: str, way: str) -> Candidate:
    (found,) = [each for each in explanation.candidates if (each.backend, each.way) == (backend, way)]
    return found


@every_policy
def test_the_chosen_line_is_what_the_policy_answers(name: str) -> None:
    for case in range(CASES):
        made = any_scene(name, case)
        asked = Asked(made.pool, make_call(Wanted(timeout=60.0), made.now), lot=0.4)
        answer = made.pool.policy.arrive(asked, made.pool, made.now, Random(1))
        explanation = ask(any_scene(name, case))
        assert explanation.action == answer, case
        lines = chosen(explanation)
        if isinstance(answer, Run):
            assert [each.backend for each in lines] == [answer.backend], case
            assert lines[0].way in {"free slot", "warm instance", "new instance"}, case
        elif isinstance(answer, Shed):
            assert not lines, case
        elif answer.opens:
            assert [each.backend for each in lines] == [each.backend for each in answer.opens], case
            assert {each.way for each in lines} == {"new instance"}, case
        else:
            waits = [each for each in explanation.candidates if each.way in WAITING]
            assert len(lines) == min(1, len(waits)), case
            assert all(each in waits for each in lines), case


@every_policy
def test_the_pool_does_what_was_explained(name: str) -> None:
    if name in {"weighted", "canary"}:
        return  # they draw, and two draws are two draws
    for case in range(CASES):
        made = any_scene(name, case)
        explanation = ask(made)
        lease = Lease(made.pool, make_call(Wanted(timeout=60.0), made.now), FIRST)
        waiting = made.pool.queue_depth
        try:
            slot = lease.ask()
        except ShedError:
            assert isinstance(explanation.action, Shed), case
            continue
        if slot is None:
            assert isinstance(explanation.action, Hold), case
            assert made.pool.queue_depth == waiting + 1, case
        else:
            assert [each.backend for each in chosen(explanation)] == [slot.backend.name], case
            if not slot.backend.owned:
                assert (slot.age is not None) is (chosen(explanation)[0].way == "warm instance"), case


@every_policy
def test_every_tier_has_a_line_and_every_line_its_reason_and_sane_numbers(name: str) -> None:
    for case in range(CASES):
        explanation = ask(any_scene(name, case))
        assert {each.backend for each in explanation.candidates} == {"fleet", "burst", "unpriced"}
        assert explanation.rule
        for each in explanation.candidates:
            assert each.why, (case, each)
            for number in (each.waits_s, each.finish_s, each.tail_s, each.usd):
                assert number is None or (isfinite(number) and number >= 0.0), (case, each)
            assert each.chance is None or 0.0 <= each.chance <= 1.0, (case, each)
            if each.finish_s is not None and each.tail_s is not None:
                assert each.finish_s <= each.tail_s * 1.000001, (case, each)
            if each.way != "closed":
                assert (each.usd is None) is (each.backend == "unpriced"), "an unknown price has no number"
                assert (each.usd == 0.0) is (each.backend == "fleet"), (case, each)


def test_asking_changes_nothing_in_the_pool() -> None:
    for case in range(CASES):
        made = any_scene("weighted", case)
        pool = made.pool
        before = pool.view(made.now), [lease.order for lease in pool.waiting]
        state = pool._chance.getstate()
        ask(made, size=17.0)
        assert (pool.view(made.now), [lease.order for lease in pool.waiting]) == before
        assert pool._chance.getstate() == state
        assert all(tier.estimates.to_dict(made.now)["anchor"] is None for tier in pool.tiers)  # type: ignore[union-attr]


def test_a_full_fleet_says_how_full_and_how_late() -> None:
    state = {
        "backends": {"fleet": {"in_flight": 4, "service": {"mean": "1s", "tail": "2s"}}, "burst": {"warm": 1}},
        "queue": [{"calls": 9}],
    }  # fmt: skip
    found = ask(scene(settings("cheapest_in_budget"), state))
    assert found.action == Run("burst", found.action.reason)  # type: ignore[union-attr]
    fleet = line(found, "fleet", "after queueing")
    assert fleet.why.startswith("full: 4 of 4 slots taken; would finish ")
    assert fleet.why.endswith(" after the budget")
    assert fleet.finish_s == pytest.approx(fleet.waits_s + 1.0)  # type: ignore[operator]
    assert line(found, "burst", "new instance").why.startswith("would finish ")


def test_what_is_closed_says_why() -> None:
    state = {"backends": {"fleet": {"replicas_down": 2}, "burst": {"breaker_open": 1}}}
    found = ask(scene(settings(), state))
    assert line(found, "fleet", "closed").why == "unhealthy: no replica passes its probes"
    assert line(found, "burst", "closed").why == "breaker open: its last calls failed"
    assert [each.backend for each in chosen(found)] == ["unpriced"]


def test_the_cost_of_a_rented_call_is_its_seconds_and_what_it_makes_live_longer() -> None:
    state = {"backends": {"burst": {"warm": ["4s"], "in_flight": 1, "service": {"mean": "1500ms"}}}}
    found = ask(scene(settings(within="30s"), state))
    busy, warm, new = (
        line(found, "burst", way) for way in ("busy instance", "warm instance", "new instance")
    )
    assert busy.usd == pytest.approx(2.0 * 0.001), "the provider rounds up to whole seconds"
    assert new.usd == pytest.approx((2.0 + 8.0 + 30.0) * 0.001), "it bears the boot and the idle time-out"
    assert new.finish_s == pytest.approx(9.5)
    assert busy.usd < warm.usd < new.usd  # type: ignore[operator]
    assert warm.usd == pytest.approx((2.0 + 4.0) * 0.001), "its idling begins anew"
    assert busy.chance == pytest.approx(1.0)
    assert warm.chance == pytest.approx(1.0)
    assert (warm.start, new.start) == ("warm", "cold")


def test_an_instance_that_may_have_gone_is_slower_and_dearer() -> None:
    made = scene(settings(within="4s"), {"backends": {"burst": {"warm": ["4s"], "service": {"mean": "1s"}}}})
    call = Asked(made.pool, make_call(Wanted(timeout=60.0), made.now), lot=0.4)
    sure, unsure = (
        line(
            explain(
                made.pool.policy, call, made.pool, made.now, chance=Random(1),
                beside=Beside(idle_s={"burst": 4.0}, survival={"burst": survival}),
            ),
            "burst",
            "warm instance",
        )
        for survival in (1.0, 0.75)
    )  # fmt: skip
    assert unsure.chance == pytest.approx(0.75 * sure.chance, abs=0.01)  # type: ignore[operator]
    assert unsure.finish_s == pytest.approx(sure.finish_s + 0.25 * 8.0)  # type: ignore[operator]
    assert unsure.usd == pytest.approx((1.0 + 0.75 * 4.0 + 0.25 * 38.0) * 0.001)


def test_calls_that_wait_share_what_an_instance_costs_to_open() -> None:
    state = {
        "backends": {
            "fleet": {"in_flight": 4, "service": {"mean": "1s"}},
            "burst": {"cold": {"mean": "500ms"}},
        }
    }
    made = settings("cheapest_in_budget", cold="500ms")
    alone = line(ask(scene(made, state)), "burst", "new instance")
    crowd = line(ask(scene(made, state | {"queue": [{"calls": 30}]})), "burst", "new instance")
    assert crowd.usd < alone.usd + 1e-12  # type: ignore[operator]


@given(st.floats(0.001, 100.0), st.floats(0.0, 20.0), st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.999]))
def test_a_spread_has_the_mean_and_quantile_that_it_was_made_of(
    mean: float, ratio: float, share: float
) -> None:
    spread = Spread(mean, ratio * mean, share)
    assert spread.mean == mean
    assert spread.chance(0.0) == 0.0
    assert spread.chance(spread.quantile(share) * 1.000001) >= share - 1e-6
    if 1.0 + ratio < 2.0 and share >= 0.9:
        assert spread.quantile(share) == pytest.approx(mean * (1.0 + ratio))


def test_either_lies_between_its_two() -> None:
    warm, cold = Spread(0.1, 0.1, 0.99), Spread(8.0, 8.0, 0.99)
    either = Either(warm, cold, 0.05)
    assert either.mean == pytest.approx(0.1 + 0.05 * 7.9)
    assert either.chance(1.0) == pytest.approx(0.95, abs=1e-3)
    assert warm.quantile(0.99) < either.quantile(0.99) < cold.quantile(0.99)
    assert either.chance(either.quantile(0.99)) == pytest.approx(0.99)


def test_two_kinds_of_boot_are_told_apart_and_asking_changes_nothing() -> None:
    made = scene(settings("cheapest_in_budget"), {})
    asked = Asked(made.pool, make_call(Wanted(), made.now), lot=0.4)
    estimates = next(tier.estimates for tier in made.pool.tiers if tier.name == "burst")
    assert isinstance(estimates, BackendEstimates)
    assert "of two kinds" not in expected(learned(made.pool, asked)["burst"])
    for start in range(40):
        estimates.learn_cold(0.0 if start % 2 else 700.0, 1.0 if start % 2 else 50.0, start * 60.0)
    estimates.refresh()
    estimates.learn_cold(0.0, 1.0, 2_340.5)  # waits for the next tick
    before = estimates.cold.samples
    found = learned(made.pool, asked)["burst"]
    assert estimates.cold.samples == before
    assert "of two kinds: 51% take 996 ms, the others 49.4 s" in expected(found)
    estimates.refresh()
    assert estimates.cold.samples > before
    assert (found["cold_mean_within_1m_s"] or 0.0) < 3.0 < 30.0 < (found["cold_mean_later_s"] or 0.0)
