from collections import Counter
from random import Random

import pytest

from gateway.vocab import Reason
from policies.base import Action, Hold, PolicyOptions, Run, Shed
from policies.weighted import Weighted
from tests.support.views import NOW, Pool, Request, queue, tier

rule = Weighted(PolicyOptions())
CHANCE = Random(0)
DRAWS = 4000


def arrive(pool: Pool, lot: float = 0.5, **facts: object) -> Action:
    return rule.arrive(Request(lot=lot, **facts), pool, NOW, CHANCE)  # type: ignore[arg-type]


def shares(pool: Pool) -> dict[str, float]:
    """Where calls go, as shares of a thousand lots spread evenly."""
    answers = [arrive(pool, (n + 0.5) / DRAWS) for n in range(DRAWS)]
    counts = Counter(answer.backend for answer in answers if isinstance(answer, Run))
    return {name: count / DRAWS for name, count in counts.items()}


def test_calls_follow_the_weights() -> None:
    pool = Pool([tier("a", weight=6, free=1), tier("b", weight=3, free=1), tier("c", weight=1, free=1)])
    assert shares(pool) == pytest.approx({"a": 0.6, "b": 0.3, "c": 0.1}, abs=0.001)


def test_the_share_of_a_full_tier_that_spills_goes_to_the_others_by_their_weights() -> None:
    pool = Pool([tier("a", weight=5), tier("b", weight=3, free=1), tier("c", weight=2, free=1)])
    assert shares(pool) == pytest.approx({"b": 0.6, "c": 0.4}, abs=0.001)


def test_the_share_of_a_lost_tier_goes_to_the_others_too() -> None:
    lost = tier("a", weight=5, blocked=Reason.SPILL_BREAKER)
    pool = Pool([lost, tier("b", weight=3, free=1), tier("c", weight=2, free=1)])
    assert shares(pool) == pytest.approx({"b": 0.6, "c": 0.4}, abs=0.001)


def test_a_call_waits_for_the_full_tier_it_drew_even_where_others_are_free() -> None:
    pool = Pool([tier("a", queue(0.5), weight=9), tier("b", weight=1, free=1)])
    assert arrive(pool, lot=0.1) == Hold(NOW + 0.5)
    assert arrive(pool, lot=0.95) == Run("b", Reason.WARM)
    later = Request(lot=0.1, since=NOW - 0.5)
    assert rule.recheck(later, pool, NOW, CHANCE) == Run("b", Reason.WARM_QUEUED)


def test_a_call_that_drew_a_full_tier_that_sheds_is_shed() -> None:
    pool = Pool([tier("a", "shed", weight=9), tier("b", weight=1, free=1)])
    assert arrive(pool, lot=0.1) == Shed(Reason.SHED_FULL, contended=True)


def test_everything_full_is_contended_and_everything_lost_is_no_capacity() -> None:
    assert arrive(Pool([tier("a"), tier("b")])) == Shed(Reason.SHED_FULL, contended=True)
    lost = Pool([tier("a", blocked=Reason.SPILL_UNHEALTHY)])
    assert arrive(lost) == Shed(Reason.SHED_FULL, contended=False)


def test_weight_zero_is_a_standby_for_when_no_weighted_tier_is_left() -> None:
    weighted, first, second = (
        tier("a", weight=1, free=1),
        tier("s", weight=0, free=1),
        tier("t", weight=0, free=1),
    )
    pool = Pool([first, second, weighted])
    assert {arrive(pool, lot / 100) for lot in range(100)} == {Run("a", Reason.WARM)}
    weighted.free = 0
    assert arrive(pool) == Shed(Reason.SHED_FULL, contended=True)
    weighted.blocked = Reason.SPILL_UNHEALTHY
    assert arrive(pool) == Run("s", Reason.WARM)
    first.free = 0
    assert arrive(pool) == Run("t", Reason.WARM)
    first.owned = second.owned = False
    first.free = 1
    assert arrive(pool) == Run("s", Reason.SPILL_UNHEALTHY)


def test_a_rented_tier_that_was_drawn_is_a_canary_and_one_that_was_fallen_back_on_is_not() -> None:
    fleet, rented = tier("fleet", weight=9, free=1), tier("new", weight=1, free=1, owned=False)
    pool = Pool([fleet, rented])
    assert arrive(pool, lot=0.95) == Run("new", Reason.CANARY)
    assert arrive(pool, lot=0.95, attempt=1) == Run("new", Reason.FALLBACK)
    fleet.free = 0
    assert arrive(pool, lot=0.1) == Run("new", Reason.SPILL_FULL)
    fleet.blocked = Reason.SPILL_BREAKER
    assert arrive(pool, lot=0.1) == Run("new", Reason.SPILL_BREAKER)
    assert arrive(Pool([rented])) == Run("new", Reason.PINNED)


def test_a_freed_slot_goes_to_the_earliest_deadline_that_drew_its_tier() -> None:
    drew_b = Request(lot=0.95, deadline=NOW + 1, since=NOW - 0.1)
    drew_a = Request(lot=0.1, deadline=NOW + 2, since=NOW - 0.1)
    pool = Pool([tier("a", queue(0.5), weight=9, free=1), tier("b", queue(0.5), weight=1)], [drew_b, drew_a])
    taken = rule.slot_freed("a", pool, NOW, CHANCE)
    assert taken is not None
    assert taken.request is drew_a
    assert rule.slot_freed("b", pool, NOW, CHANCE) is None, "it has no free slot"


def test_lots_at_the_edges_are_draws_like_any_other() -> None:
    pool = Pool([tier(name, weight=weight, free=1) for name, weight in (("a", 0.1), ("b", 0.2), ("c", 0.7))])
    for lot in (0.0, 0.1, 0.3, 0.1 + 0.2, 1.0 - 2**-53):
        assert isinstance(arrive(pool, lot), Run)
    for full in pool.tiers:
        full.free = 0
    for lot in (0.0, 0.1, 0.3, 0.1 + 0.2, 1.0 - 2**-53):
        assert arrive(pool, lot) == Shed(Reason.SHED_FULL, contended=True)
