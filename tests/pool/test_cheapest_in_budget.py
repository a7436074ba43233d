"""What it promises, on scenes whose arithmetic is plain: services of one second, no spread, no caution."""

from random import Random
from typing import Any

import pytest

from gateway.vocab import Reason, Rent
from policies.base import Action, Hold, Open, Run, Shed, Take
from policies.cheapest_in_budget import CheapestInBudget, CheapestInBudgetOptions
from tests.support.views import NOW, Expected, Pool, Request, Tier, enqueue, tier

CHANCE = Random(0)
SECOND = Expected(1.0, 0.0, 1.0)
rule = CheapestInBudget(CheapestInBudgetOptions())


def fleet(**state: Any) -> Tier:
    """Four busy slots, each free in half a second as far as can be known."""
    return tier("fleet", **{"capacity": 4, "in_flight": 4, "overall": SECOND, **state})


def burst(name: str = "burst", *, usd: float | None = 0.001, idle_s: float = 1.0, **state: Any) -> Tier:
    """Eight slots without an instance, which boot in a second."""
    facts = {
        "owned": False, "capacity": 8, "free": 8, "room": 8, "rent": Rent(usd, idle_s=idle_s),
        "cold": SECOND, "overall": SECOND,
    }  # fmt: skip
    return tier(name, **{**facts, **state})


def warm(name: str = "burst", *, usd: float | None = 0.001, **state: Any) -> Tier:
    return burst(name, usd=usd, **{"warm": 1, "room": 7, **state})


def scene(*tiers: Tier, ahead: int = 0) -> Pool:
    """A pool in which so many calls stand before the next one."""
    pool = Pool(list(tiers), caution=0.0, in_flight=sum(each.in_flight for each in tiers))
    for _ in range(ahead):
        enqueue(pool, Request(within=1.5))
    return pool


def arrive(pool: Pool, within: float = 2.0, **facts: Any) -> Action:
    return rule.arrive(Request(within=within, **facts), pool, NOW, CHANCE)


def opened(action: Action) -> dict[str, int]:
    assert isinstance(action, Hold)
    return {each.backend: each.instances for each in action.opens}


# -- what is owned


def test_a_free_owned_slot_is_taken_whatever_else_there_is() -> None:
    pool = scene(warm(), fleet(free=1, in_flight=3))
    assert arrive(pool) == Run("fleet", Reason.WARM)
    assert arrive(pool, attempt=1) == Run("fleet", Reason.FALLBACK)
    assert arrive(pool, attempt=1, missed=frozenset(["fleet"])) != Run("fleet", Reason.FALLBACK)


def test_a_call_waits_for_the_fleet_as_long_as_it_will_start_there_in_time() -> None:
    """Until it must start, in a second, the four slots do two seconds of work: one call may stand before it."""
    for ahead in (0, 1):
        answer = arrive(scene(fleet(), warm(), ahead=ahead))
        assert isinstance(answer, Hold)
        assert not answer.opens
        assert not answer.late
    assert arrive(scene(fleet(), warm(), ahead=3)) == Run("burst", Reason.SPILL_SLOW)


def test_the_whole_budget_may_be_waited_for() -> None:
    assert isinstance(arrive(scene(fleet(), warm(), ahead=3), within=4.0), Hold)
    assert isinstance(arrive(scene(fleet(), warm(), ahead=0), within=1.2), Run)


def test_of_a_stream_only_the_first_byte_must_be_in_time() -> None:
    quick = fleet(first_byte=Expected(0.1, 0.0, 0.1))
    assert isinstance(arrive(scene(quick, warm(), ahead=3), stream=True), Hold)
    assert isinstance(arrive(scene(quick, warm(), ahead=3), stream=False), Run)


def test_caution_spills_earlier() -> None:
    spread = Expected(1.0, 0.5, 2.2)
    pool = scene(fleet(overall=spread), warm(overall=spread))
    assert isinstance(arrive(pool), Hold)
    pool.caution = 2.0
    assert isinstance(arrive(pool), Run)


# -- what is there


def test_of_idle_instances_the_cheapest_that_is_in_time_is_used() -> None:
    slow = Expected(9.0, 0.0, 9.0)
    pool = scene(
        fleet(), warm("dear", usd=0.003), warm("cheap", usd=0.001), warm("slow", usd=0.0001, overall=slow),
        ahead=9,
    )  # fmt: skip
    assert arrive(pool) == Run("cheap", Reason.SPILL_SLOW)
    pool.tiers[2].blocked = Reason.SPILL_BREAKER
    assert arrive(pool) == Run("dear", Reason.SPILL_SLOW)


def test_an_idle_instance_that_may_have_gone_is_worth_what_is_left_of_the_chance() -> None:
    """Half of those that idled for so long had gone: half a boot is in the sum, and half of its price."""
    sure, doubtful = warm("sure", usd=0.0015), warm("doubtful", usd=0.001, still_there=0.5)
    assert arrive(scene(fleet(), sure, doubtful, ahead=12)) == Run("sure", Reason.SPILL_SLOW)
    doubtful.still_there = 1.0
    assert arrive(scene(fleet(), sure, doubtful, ahead=12)) == Run("doubtful", Reason.SPILL_SLOW)
    lonely = warm(still_there=0.0, cold=Expected(5.0, 0.0, 5.0))
    assert not isinstance(arrive(scene(fleet(), lonely, ahead=12)), Run)


def test_a_price_that_is_not_known_is_no_bargain() -> None:
    pool = scene(fleet(), warm("unknown", usd=None), warm("dear", usd=9.0), ahead=9)
    assert arrive(pool) == Run("dear", Reason.SPILL_SLOW)
    assert arrive(scene(fleet(), warm("unknown", usd=None), ahead=9)) == Run("unknown", Reason.SPILL_SLOW)


def test_a_lost_fleet_is_called_so() -> None:
    pool = scene(fleet(blocked=Reason.SPILL_UNHEALTHY), warm())
    assert arrive(pool) == Run("burst", Reason.SPILL_UNHEALTHY)


def test_instances_that_boot_already_count_and_none_is_opened_beside_them() -> None:
    pool = scene(fleet(), burst(), ahead=11)
    assert opened(arrive(pool, within=4.0)) != {}
    on_the_way = burst(in_flight=4, free=4, room=4, opening=(NOW + 0.1,) * 4)
    assert opened(arrive(scene(fleet(), on_the_way, ahead=11), within=4.0)) == {}


# -- what must be opened


def test_as_few_instances_are_opened_as_can_work_off_what_is_too_much() -> None:
    counts = []
    for ahead in (0, 6, 12, 16, 40):
        counts.append(opened(arrive(scene(fleet(), burst(), ahead=ahead), within=3.0)).get("burst", 0))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert 0 < counts[2] < counts[3], "the more is lacking the more are opened"
    assert counts[-1] == 8, "and never more than there is room for"


def test_the_call_waits_meanwhile_and_is_married_to_no_instance() -> None:
    answer = arrive(scene(fleet(), burst(), ahead=12), within=3.0)
    assert isinstance(answer, Hold)
    assert not answer.late
    assert answer.until <= NOW + 3.0


def test_the_cheapest_backend_is_opened_first_and_the_next_one_for_what_it_has_no_room_for() -> None:
    def opens(room: int) -> dict[str, int]:
        cheap = burst("cheap", usd=0.001, room=room)
        pool = scene(fleet(), burst("dear", usd=0.002), cheap, burst("unknown", usd=None), ahead=14)
        return opened(arrive(pool, within=3.0))

    plenty = opens(8)
    assert list(plenty) == ["cheap"]
    assert opens(1) == {"cheap": 1, "dear": plenty["cheap"] - 1}


def test_an_instance_that_would_be_up_too_late_is_not_opened_for_this_call() -> None:
    pool = scene(fleet(), burst(cold=Expected(9.0, 0.0, 9.0)), ahead=4)
    answer = arrive(pool)
    assert opened(answer) == {}
    assert answer != Shed(Reason.SHED_FULL, contended=True), "it is served all the same, only later"


def test_a_queue_that_will_still_stand_when_it_is_up_opens_one_all_the_same() -> None:
    pool = scene(fleet(), burst(cold=Expected(9.0, 0.0, 9.0)), ahead=200)
    assert opened(arrive(pool))["burst"] > 0


def test_where_only_a_call_can_make_an_instance_boot_the_call_goes_there_if_it_will_be_in_time() -> None:
    bound = burst(room=0)
    assert arrive(scene(fleet(), bound, ahead=20), within=4.0) == Run("burst", Reason.SPILL_SLOW)
    bound.cold = Expected(9.0, 0.0, 9.0)
    assert isinstance(arrive(scene(fleet(), bound, ahead=20), within=4.0), Hold)


def test_with_nothing_but_closed_instances_one_is_opened_however_late_it_is() -> None:
    slow = Expected(9.0, 0.0, 9.0)
    assert opened(arrive(scene(burst(cold=slow)))) == {"burst": 1}
    assert arrive(scene(burst(cold=slow, room=0))) == Run("burst", Reason.PINNED)


# -- what cannot be in time


def test_a_call_that_cannot_be_in_time_any_more_lets_others_go_first_and_costs_nothing() -> None:
    call = Request(since=NOW - 1.5, within=2.0, work=1.0)
    pool = scene(fleet(), warm())
    pool.waiting.append(call)
    answer = rule.recheck(call, pool, NOW, CHANCE)
    assert answer == Hold(call.deadline, late=True)
    call.late = True
    assert rule.recheck(call, pool, NOW, CHANCE) == Hold(call.deadline, late=True)
    pool.tiers[0].free = 1
    assert rule.recheck(call, pool, NOW, CHANCE) == Run("fleet", Reason.WARM_QUEUED)


def test_nothing_that_could_ever_take_it_is_no_capacity() -> None:
    lost = scene(fleet(blocked=Reason.SPILL_BREAKER), burst(blocked=Reason.SPILL_UNHEALTHY))
    assert arrive(lost) == Shed(Reason.SHED_FULL, contended=False)
    unfit = frozenset(["fleet", "burst"])
    assert arrive(scene(fleet(), burst()), refused=unfit) == Shed(Reason.SHED_FULL, contended=False)


# -- who gets a slot that is free


def test_an_owned_slot_goes_to_the_first_call_that_may_use_it() -> None:
    pool = scene(fleet(free=1, in_flight=3), burst(), ahead=3)
    assert rule.slot_freed("fleet", pool, NOW, CHANCE) == Take(pool.waiting[0], Reason.WARM_QUEUED)
    pool.waiting[0].refused = frozenset(["fleet"])
    take = rule.slot_freed("fleet", pool, NOW, CHANCE)
    assert take is not None
    assert take.request is pool.waiting[1]


@pytest.mark.parametrize(("ahead", "fed"), [(0, False), (1, False), (5, True), (30, True)])
def test_an_instance_goes_on_while_the_queue_is_longer_than_the_owned_slots(ahead: int, fed: bool) -> None:
    pool = scene(fleet(), warm(), ahead=0)
    for _ in range(ahead):
        enqueue(pool, Request(within=30.0))
    take = rule.slot_freed("burst", pool, NOW, CHANCE)
    assert (take is not None) is fed
    if take is not None:
        assert take == Take(pool.waiting[0], Reason.SPILL_SLOW)


def test_how_long_it_goes_on_can_be_said() -> None:
    pool = scene(fleet(), warm())
    for _ in range(6):
        enqueue(pool, Request(within=30.0))
    slack = CheapestInBudget(CheapestInBudgetOptions(drain=2.0))
    assert rule.slot_freed("burst", pool, NOW, CHANCE) is not None
    assert slack.slot_freed("burst", pool, NOW, CHANCE) is None
    pool.waiting[:] = []
    enqueue(pool, Request(within=1.2))
    assert slack.slot_freed("burst", pool, NOW, CHANCE) is not None, "a call at risk is not left waiting"


def test_an_instance_serves_the_call_that_frees_most_of_the_fleet_for_its_price() -> None:
    """Two sizes: the small takes as long there as here, the large three times as long as here."""
    there = (Expected(1.0), Expected(12.0))
    pool = scene(
        fleet(services=(Expected(1.0), Expected(4.0)), overall=Expected(2.0)),
        warm(services=there, overall=Expected(4.0)),
    )
    for bucket in (1, 1, 0, 1, 1, 1):
        enqueue(pool, Request(within=30.0, bucket=bucket))
    take = rule.slot_freed("burst", pool, NOW, CHANCE)
    assert take is not None
    assert take.request is pool.waiting[2]


def test_a_slot_without_an_instance_is_no_reason_to_spill() -> None:
    assert rule.slot_freed("burst", scene(fleet(), burst(), ahead=30), NOW, CHANCE) is None


def test_a_call_that_the_fleet_has_failed_gets_an_instance_however_dear_and_however_short_the_queue() -> None:
    """The fleet has a free slot; but it is on the replica that failed this call."""
    failed = Request(attempt=1, refused=frozenset(["fleet"]))
    dear = burst(rent=Rent(0.001, idle_s=600.0))
    answer = rule.arrive(failed, scene(fleet(free=1, in_flight=3), dear), NOW, CHANCE)
    assert opened(answer) == {"burst": 1}
    pool = scene(fleet(free=1, in_flight=3), warm(), ahead=1)
    assert rule.slot_freed("burst", pool, NOW, CHANCE) is None
    enqueue(pool, failed)
    assert rule.slot_freed("burst", pool, NOW, CHANCE) == Take(failed, Reason.FALLBACK)


def test_openings_name_the_backend_and_a_count() -> None:
    answer = arrive(scene(fleet(), burst(), ahead=12), within=3.0)
    assert isinstance(answer, Hold)
    assert all(isinstance(each, Open) for each in answer.opens)


# -- where there is no fleet


def test_a_late_call_with_no_fleet_to_wait_for_takes_what_idles() -> None:
    late = Request(since=NOW - 1.5, within=2.0, work=1.0, late=True)
    for tiers in ([warm()], [fleet(blocked=Reason.SPILL_UNHEALTHY), warm()]):
        pool = scene(*tiers)
        pool.waiting.append(late)
        answer = rule.recheck(late, pool, NOW, CHANCE)
        assert isinstance(answer, Run)
        assert answer.backend == "burst"
    pool = scene(fleet(), warm())
    pool.waiting.append(late)
    assert isinstance(rule.recheck(late, pool, NOW, CHANCE), Hold), "a fleet that works costs nothing"


def test_when_the_last_instance_has_failed_the_first_that_waits_boots_its_own() -> None:
    pool = scene(burst())
    late = Request(since=NOW - 1.5, within=2.0, work=1.0, late=True)
    pool.waiting.append(late)
    take = rule.slot_freed("burst", pool, NOW, CHANCE)
    assert take is not None
    assert take.request is late
    for others in ([burst(in_flight=1, free=7)], [burst(), fleet()], [burst(), warm("other")]):
        pool = scene(*others)
        pool.waiting.append(late)
        assert rule.slot_freed("burst", pool, NOW, CHANCE) is None, "there is somebody to wait for"
