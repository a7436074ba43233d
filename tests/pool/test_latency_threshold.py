from random import Random

import pytest

from gateway.vocab import Reason, Rent
from policies.base import Hold, Run, Shed, Take
from policies.latency_threshold import LatencyThreshold, LatencyThresholdOptions
from tests.support.views import NOW, Expected, Pool, Request, Tier, enqueue, tier

CHANCE = Random(0)
SECOND = Expected(1.0, 3.0, 9.0)


def rule(threshold: str | None = None) -> LatencyThreshold:
    return LatencyThreshold(LatencyThresholdOptions.model_validate({"threshold": threshold}))


def fleet(**state: object) -> Tier:
    return tier("fleet", **{"overall": SECOND, "capacity": 4, "in_flight": 4, **state})  # type: ignore[arg-type]


def burst(**state: object) -> Tier:
    facts = {"owned": False, "free": 8, "capacity": 8, "overall": SECOND, "rent": Rent(1.0), **state}
    return tier("burst", **facts)  # type: ignore[arg-type]


def waiting(pool: Pool, count: int) -> Pool:
    for _ in range(count):
        enqueue(pool, Request(since=NOW, within=0.5))
    return pool


def test_a_free_owned_slot_is_taken_however_slow_it_is() -> None:
    slow = fleet(overall=Expected(100.0, 0.0, 100.0), free=1)
    assert rule("1s").arrive(Request(), Pool([burst(), slow]), NOW, CHANCE) == Run("fleet", Reason.WARM)


@pytest.mark.parametrize(("ahead", "spilled"), [(0, False), (2, False), (3, True), (50, True)])
def test_it_spills_when_predicted_wait_and_service_exceed_the_threshold(ahead: int, spilled: bool) -> None:
    """Four slots of one second: behind n others the answer is due after (n + 1) / 4 + 1 s."""
    pool = waiting(Pool([fleet(), burst()]), ahead)
    answer = rule("2s").arrive(Request(), pool, NOW, CHANCE)
    assert isinstance(answer, Run) is spilled
    if spilled:
        assert answer == Run("burst", Reason.SPILL_SLOW)
    else:
        left = 2.0 - ((ahead + 1) / 4 + 1)
        assert answer == Hold(pytest.approx(NOW + left))  # type: ignore[arg-type]


def test_without_a_threshold_the_latency_budget_is_one() -> None:
    pool = waiting(Pool([fleet(), burst()]), 3)
    assert rule().arrive(Request(within=2.0), pool, NOW, CHANCE) == Run("burst", Reason.SPILL_SLOW)
    assert isinstance(rule().arrive(Request(within=2.1), pool, NOW, CHANCE), Hold)


def test_of_a_stream_it_is_the_first_byte_that_counts() -> None:
    pool = waiting(Pool([fleet(first_byte=Expected(0.1)), burst()]), 3)
    assert isinstance(rule("2s").arrive(Request(stream=True), pool, NOW, CHANCE), Hold)
    assert isinstance(rule("2s").arrive(Request(stream=False), pool, NOW, CHANCE), Run)


def test_what_it_has_waited_already_counts() -> None:
    pool = Pool([fleet(), burst()])
    call = Request(since=NOW - 0.8)
    enqueue(pool, call)
    assert rule("2s").recheck(call, pool, NOW, CHANCE) == Run("burst", Reason.SPILL_SLOW)
    assert isinstance(rule("3s").recheck(call, pool, NOW, CHANCE), Hold)


def test_at_the_moment_that_it_named_it_spills() -> None:
    pool, call = Pool([fleet(), burst()]), Request()
    held = rule("2s").arrive(call, pool, NOW, CHANCE)
    assert isinstance(held, Hold)
    enqueue(pool, call)
    again = rule("2s").recheck(call, pool, held.until + 1e-9, CHANCE)
    assert again == Run("burst", Reason.SPILL_SLOW)


def test_prices_cold_starts_and_spread_do_not_matter() -> None:
    dear = burst(rent=Rent(None), cold=Expected(90.0, 90.0, 900.0), room=8)
    spread = fleet(overall=Expected(1.0, 50.0, 500.0))
    pool = waiting(Pool([spread, dear, burst()]), 3)
    dear.options = dear.options.model_copy(update={"backend": "dear"})
    assert rule("2s").arrive(Request(), pool, NOW, CHANCE) == Run("dear", Reason.SPILL_SLOW)
    assert isinstance(rule("2.1s").arrive(Request(), pool, NOW, CHANCE), Hold)


def test_a_call_that_will_be_late_waits_for_whatever_frees_first_when_all_is_taken() -> None:
    pool = waiting(Pool([fleet(), burst(free=0, in_flight=8)]), 20)
    assert rule("2s").arrive(Request(), pool, NOW, CHANCE) == Hold(NOW + 60)


def test_a_freed_rented_slot_goes_to_the_first_call_that_the_fleet_would_answer_too_late() -> None:
    pool = waiting(Pool([fleet(), burst(free=1)]), 6)
    assert rule("2s").slot_freed("burst", pool, NOW, CHANCE) == Take(pool.waiting[3], Reason.SPILL_SLOW)
    assert rule("9s").slot_freed("burst", pool, NOW, CHANCE) is None


def test_a_freed_owned_slot_goes_to_the_first_call() -> None:
    pool = waiting(Pool([fleet(free=1), burst()]), 6)
    take = rule("2s").slot_freed("fleet", pool, NOW, CHANCE)
    assert take == Take(pool.waiting[0], Reason.WARM_QUEUED)
    assert take is not None
    assert take.request is pool.waiting[0]


def test_a_lost_fleet_is_no_reason_to_wait() -> None:
    lost = fleet(blocked=Reason.SPILL_BREAKER)
    assert rule("9s").arrive(Request(), Pool([lost, burst()]), NOW, CHANCE) == Run(
        "burst", Reason.SPILL_BREAKER
    )
    assert rule("9s").arrive(Request(), Pool([lost]), NOW, CHANCE) == Shed(Reason.SHED_FULL, contended=False)


def test_a_threshold_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        rule("0s")
