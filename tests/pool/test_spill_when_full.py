from random import Random

import pytest

from gateway.vocab import Reason
from policies.base import Action, Hold, PolicyOptions, Run, Shed
from policies.spill_when_full import SpillWhenFull
from tests.support.views import NOW, Pool, Request, any_pool, any_request, queue, tier

rule = SpillWhenFull(PolicyOptions())
CHANCE = Random(0)
UNHEALTHY, BREAKER = Reason.SPILL_UNHEALTHY, Reason.SPILL_BREAKER


def arrive(pool: Pool, request: Request | None = None) -> Action:
    return rule.arrive(request or Request(), pool, NOW, CHANCE)


def waiting(pool: Pool, seconds: float, **facts: float) -> Action:
    return rule.recheck(Request(since=NOW - seconds, **facts), pool, NOW, CHANCE)  # type: ignore[arg-type]


def test_the_order_of_the_file_is_the_order_of_preference() -> None:
    pool = Pool([tier("fleet", free=1), tier("burst", owned=False, free=9)])
    assert arrive(pool) == Run("fleet", Reason.WARM)


def test_the_next_tier_takes_what_the_first_has_no_slot_for() -> None:
    pool = Pool([tier("fleet"), tier("burst", owned=False, free=9)])
    assert arrive(pool) == Run("burst", Reason.SPILL_FULL)


def test_shed_stops_at_a_full_tier_but_not_at_one_that_is_lost() -> None:
    pool = Pool([tier("fleet", "shed"), tier("burst", owned=False, free=9)])
    assert arrive(pool) == Shed(Reason.SHED_FULL, contended=True)
    pool.tiers[0].blocked = UNHEALTHY
    assert arrive(pool) == Run("burst", UNHEALTHY)


def test_patience_adds_up_over_the_tiers() -> None:
    pool = Pool(
        [tier("fleet", queue(0.04)), tier("standby", queue(1.0)), tier("burst", queue(2.0), owned=False)]
    )
    assert arrive(pool) == Hold(NOW + 0.04)
    assert waiting(pool, 0.0625) == Hold(NOW - 0.0625 + 1.04)
    assert waiting(pool, 1.125) == Hold(NOW - 1.125 + 3.04)
    assert waiting(pool, 4.0) == Shed(Reason.SHED_FULL, contended=True)


def test_a_tier_is_not_used_before_the_patience_for_the_ones_before_it_is_over() -> None:
    pool = Pool([tier("fleet", queue(0.5)), tier("burst", owned=False, free=1)])
    assert waiting(pool, 0.25) == Hold(NOW + 0.25)
    assert waiting(pool, 0.5) == Run("burst", Reason.SPILL_FULL)


def test_a_tier_that_is_lost_costs_no_patience() -> None:
    pool = Pool(
        [tier("fleet", queue(9.0), blocked=BREAKER), tier("standby", queue(1.0)), tier("burst", free=1)]
    )
    assert arrive(pool) == Hold(NOW + 1.0)


def test_waiting_for_a_tier_that_sheds_ends_in_shedding() -> None:
    pool = Pool([tier("fleet", queue(0.5, "shed")), tier("burst", free=9)])
    assert arrive(pool) == Hold(NOW + 0.5)
    assert waiting(pool, 0.5) == Shed(Reason.SHED_FULL, contended=True)


def test_nobody_is_held_beyond_the_deadline() -> None:
    pool = Pool([tier("fleet", queue(9.0)), tier("burst", free=9)])
    assert arrive(pool, Request(deadline=NOW + 0.25)) == Hold(NOW + 0.25)


def test_with_nothing_usable_there_is_no_capacity() -> None:
    pool = Pool([tier("fleet", blocked=UNHEALTHY), tier("burst", free=9)])
    assert arrive(pool, Request(refused=frozenset({"burst"}))) == Shed(Reason.SHED_FULL, contended=False)


def test_a_moment_promised_is_a_moment_kept_in_spite_of_rounding() -> None:
    chance = Random(5)
    for _ in range(2000):
        request = Request(since=NOW + chance.random())
        pool = Pool([tier("fleet", queue(0.003)), tier("other", queue(0.007)), tier("burst", free=1)])
        now, held = request.since, []
        while isinstance(answer := rule.recheck(request, pool, now, chance), Hold):
            assert answer.until > now
            held.append(now := answer.until)
        assert len(held) == 2
        assert answer == Run("burst", Reason.WARM_QUEUED)


@pytest.mark.parametrize(
    ("before", "refused", "word"),
    [
        ([], (), Reason.PINNED),
        ([tier("a")], (), Reason.SPILL_FULL),
        ([tier("a", blocked=UNHEALTHY)], (), UNHEALTHY),
        ([tier("a", blocked=BREAKER)], (), BREAKER),
        ([tier("a", blocked=BREAKER), tier("b")], (), Reason.SPILL_FULL),
        ([tier("a"), tier("b", blocked=BREAKER)], (), Reason.SPILL_FULL),
        ([tier("a", blocked=BREAKER), tier("b", blocked=UNHEALTHY)], (), UNHEALTHY),
        ([tier("a", blocked=BREAKER), tier("b", blocked=UNHEALTHY, owned=False)], (), BREAKER),
        ([tier("a", blocked=BREAKER, owned=False)], (), BREAKER),
        ([tier("a")], ("a",), Reason.PINNED),
        ([tier("a"), tier("b", blocked=BREAKER)], ("a",), BREAKER),
    ],
)
def test_a_rented_tier_says_what_was_wrong_with_the_ones_before_it(
    before: list[object], refused: tuple[str, ...], word: Reason
) -> None:
    pool = Pool([*before, tier("burst", owned=False, free=1)])  # type: ignore[list-item]
    assert arrive(pool, Request(refused=frozenset(refused))) == Run("burst", word)
    again = Request(refused=frozenset(refused), attempt=1)
    assert arrive(pool, again) == Run("burst", Reason.FALLBACK)


def test_an_owned_tier_is_warm_and_says_whether_the_call_waited() -> None:
    pool = Pool([tier("fleet", queue(1.0)), tier("standby", free=1)])
    assert waiting(pool, 2.0) == Run("standby", Reason.WARM_QUEUED)
    pool.tiers[0].options = pool.tiers[0].options.model_copy(update={"when_full": "spill"})
    assert arrive(pool) == Run("standby", Reason.WARM)


def test_a_freed_slot_goes_to_the_earliest_deadline_that_has_waited_long_enough_for_it() -> None:
    young = Request(since=NOW - 0.25, deadline=NOW + 1)
    old = Request(since=NOW - 0.75, deadline=NOW + 2)
    barred = Request(since=NOW - 9, deadline=NOW + 0.5, refused=frozenset({"fleet", "burst"}))
    pool = Pool([tier("fleet", queue(0.5)), tier("burst", owned=False)], [barred, young, old])
    pool.tiers[1].free = 1
    taken = rule.slot_freed("burst", pool, NOW, CHANCE)
    assert taken is not None
    assert (taken.request, taken.reason) == (old, Reason.SPILL_FULL)
    pool.tiers[0].free = 1
    taken = rule.slot_freed("fleet", pool, NOW, CHANCE)
    assert taken is not None
    assert (taken.request, taken.reason) == (young, Reason.WARM_QUEUED)


def test_a_freed_slot_never_goes_past_a_tier_that_sheds() -> None:
    pool = Pool([tier("fleet", queue(0.5, "shed")), tier("burst", free=1)], [Request(since=NOW - 9)])
    assert rule.slot_freed("burst", pool, NOW, CHANCE) is None


def test_the_rule_agrees_with_its_plain_statement() -> None:
    """Stated the long way: list who is allowed after how long, then take the first with a slot."""
    for case in range(3000):
        chance = Random(case)
        pool = any_pool(chance)
        request = any_request(chance, [t.options.backend for t in pool.tiers], waited=True)
        stages, needed, closed = [], 0.0, False
        for candidate in pool.tiers:
            name, options = candidate.options.backend, candidate.options
            if candidate.blocked or name in request.refused or closed:
                continue
            stages.append((needed, candidate))
            needed += options.patience
            closed = options.then == "shed"
        waited = NOW - request.since
        reached = [t for start, t in stages if waited >= start - 1e-9]
        answer = rule.recheck(request, pool, NOW, chance)
        ready = [t for t in reached if request.free_on(t)]
        if ready:
            assert isinstance(answer, Run), case
            assert answer.backend == ready[0].options.backend, case
        elif waited < needed - 1e-9:
            moments = [start for start, _ in stages if start > waited + 1e-9]
            moment = min([*moments, needed])
            assert isinstance(answer, Hold), case
            assert answer.until == pytest.approx(min(request.since + moment, request.deadline)), case
        else:
            assert answer == Shed(Reason.SHED_FULL, contended=bool(stages)), case
