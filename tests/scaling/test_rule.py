"""The fleet grows when sustained spill costs more than a replica, and shrinks when it does not."""

from itertools import pairwise

import pytest

from gateway.scaling.rule import EMPTY_S, Load, Sizer, Terms, Word
from tests.scaling.looks import constant, fleet

HOUR = 3600.0
# A replica of 4 slots at 1 $/h, kept full, spends 4 * 3600 slot-seconds an hour: its spill at 0.001 $ a second
# would be 14.40 $, at 0.00006 $ a second 0.864 $.
DEAR, CHEAP = 0.001, 0.00006


def test_it_grows_by_as_many_as_pay_at_once() -> None:
    made = fleet(replicas=2, usd_per_spilled_second=DEAR)
    verdict = made.run(660, constant(20))
    assert verdict.wanted == 5
    assert [count for _, count in made.asked] == [2, 5]


def test_growth_says_what_it_saves() -> None:
    made = fleet(replicas=2, usd_per_spilled_second=DEAR)
    grown = next(each for each in made.looks(900, constant(20)) if each.word is Word.GROW)
    # 12 slots spilled for 600 s at 0.001 $; three replicas for 600 s at 1 $/h
    assert grown.why.startswith("3 more would have saved 7.2 $ of spill for 0.5 $")
    assert grown.spill_slots == pytest.approx(12.0)
    assert grown.spill_usd_per_hour == pytest.approx(12 * DEAR * HOUR)


def test_it_does_not_grow_where_spilling_is_cheaper_than_a_replica() -> None:
    made = fleet(replicas=2, usd_per_spilled_second=CHEAP)
    assert made.run(4 * HOUR, constant(20)).wanted == 2
    assert made.sizer.verdict.word is Word.HOLD


def test_the_last_replica_is_asked_for_only_if_it_would_be_used_enough() -> None:
    # 9 spilled slots: two further replicas are full, the third would carry one slot, 3.60 $ an hour at DEAR.
    made = fleet(replicas=1, usd_per_spilled_second=DEAR, usd_per_hour=3.5)
    assert made.run(700, constant(13)).wanted == 4
    made = fleet(replicas=1, usd_per_spilled_second=DEAR, usd_per_hour=3.7)
    assert made.run(700, constant(13)).wanted == 3


def test_nothing_is_asked_for_before_the_window_has_been_seen() -> None:
    made = fleet(replicas=1)
    verdicts = list(made.looks(590, constant(50)))
    assert {each.wanted for each in verdicts} == {1}
    assert verdicts[-1].word is Word.LEARNING


def test_one_burst_is_no_sustained_spill() -> None:
    made = fleet(replicas=1, usd_per_spilled_second=DEAR)

    def burst(now: float) -> int:
        return 100 if 1000 <= now < 1060 else 2

    assert made.run(2 * HOUR, burst).wanted == 1


def test_it_shrinks_slowly_by_one_at_a_time() -> None:
    made = fleet(replicas=5, usd_per_spilled_second=DEAR)
    made.run(3 * HOUR, constant(3))
    times = [at for at, _ in made.asked[1:]]
    assert [count for _, count in made.asked] == [5, 4, 3, 2, 1]
    assert all(later - sooner >= 1800 for sooner, later in pairwise(times))
    assert times[0] >= 1600


def test_it_keeps_a_replica_that_is_worth_its_price_and_not_one_that_is_not() -> None:
    # The third replica carries 2 of its 4 slots: 0.43 $ an hour of spill at CHEAP, 7.20 $ at DEAR.
    for rate, wanted in ((DEAR, 3), (CHEAP, 2)):
        made = fleet(replicas=3, usd_per_spilled_second=rate)
        made.run(1000, constant(14))  # what spills here says what spill costs
        made.sizer.terms = Terms(most=3)
        assert made.run(4 * HOUR, constant(10)).wanted == wanted


def test_without_any_known_rate_a_used_replica_stays_and_an_unused_one_goes() -> None:
    used = fleet(replicas=3)
    assert used.run(4 * HOUR, constant(9)).wanted == 3
    unused = fleet(replicas=3)
    assert unused.run(4 * HOUR, constant(8)).wanted == 2


def test_bounds_hold_whatever_pays() -> None:
    most = fleet(Terms(most=3), replicas=1, usd_per_spilled_second=DEAR)
    assert most.run(2 * HOUR, constant(400)).wanted == 3
    least = fleet(Terms(least=2), replicas=4)
    assert least.run(8 * HOUR, constant(0)).wanted == 2
    below = fleet(Terms(least=3), replicas=1)
    assert below.run(10, constant(0)).wanted == 3
    none = fleet(Terms(least=0), replicas=1)
    assert none.run(2 * HOUR, constant(0)).wanted == 0


def test_from_nothing_it_grows_when_spill_pays() -> None:
    made = fleet(Terms(least=0), replicas=0, usd_per_spilled_second=DEAR)
    assert made.run(EMPTY_S + 700, constant(8)).wanted == 2


def test_a_fleet_that_was_not_seen_yet_is_not_asked_to_be_empty() -> None:
    sizer = Sizer(Terms(least=0))
    for now in range(0, 40, 5):
        sizer.look(Load(0, 0, 4, 0, 0, 0, 0.0, 1.0), now)
        assert sizer.decide().wanted is None
    sizer.look(Load(5, 5, 4, 0, 0, 0, 0.0, 1.0), 45)
    assert sizer.decide().wanted == 5


def test_replicas_that_come_back_late_after_a_start_are_counted() -> None:
    sizer = Sizer(Terms())
    wanted = []
    for now, present in ((0, 2), (5, 3), (10, 5), (15, 4)):
        sizer.look(Load(present, present, 4, 0, 0, 0, 0.0, 1.0), now)
        wanted.append(sizer.decide().wanted)
    assert wanted == [2, 3, 5, 5]


def test_an_unknown_price_of_a_replica_is_said_and_changes_nothing() -> None:
    made = fleet(replicas=2, usd_per_hour=None, usd_per_spilled_second=DEAR)
    verdict = made.run(4 * HOUR, constant(40))
    assert (verdict.wanted, verdict.word) == (2, Word.UNKNOWN)
    assert "usd_per_replica_hour" in verdict.why


def test_an_unknown_price_of_spill_is_said_and_never_asks_for_more() -> None:
    made = fleet(replicas=2, usd_per_spilled_second=None)
    verdict = made.run(4 * HOUR, constant(40))
    assert (verdict.wanted, verdict.word, verdict.spill_usd_per_hour) == (2, Word.UNKNOWN, None)
    assert verdict.spill_slots == pytest.approx(32)


def test_what_is_spilled_while_replicas_are_down_is_no_reason_for_more() -> None:
    made = fleet(replicas=4, ready=0, usd_per_spilled_second=DEAR)
    assert made.run(4 * HOUR, constant(16)).wanted == 4, "nor for less: the load is theirs"


def test_a_gap_in_the_looks_is_not_taken_for_spill() -> None:
    sizer = Sizer(Terms())
    for now in range(0, 300, 5):
        sizer.look(Load(1, 1, 4, 4, 0, 1, now * CHEAP, 1.0), now)
    sizer.look(Load(1, 1, 4, 4, 0, 1, 900.0, 1.0), 295 + HOUR)
    verdict = sizer.decide()
    assert verdict.wanted == 1
    assert verdict.spill_usd_per_hour == pytest.approx(900 * HOUR / HOUR, rel=0.2)


def test_deciding_again_changes_nothing() -> None:
    made = fleet(replicas=1, usd_per_spilled_second=DEAR)
    made.run(700, constant(20))
    wanted = made.sizer.verdict.wanted
    assert [made.sizer.decide().wanted for _ in range(5)] == [wanted] * 5
