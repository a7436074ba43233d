"""When a second attempt is due, and how many there may be."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hedging import SHARE_S, Allotment, Hedging, Learned
from tests.hedge.parts import Rig
from tests.support.virtual_time import LoopClock


def hedging(rig: Rig) -> Hedging:
    return Hedging(
        rig.gateway.pools["one"],
        after_s=None,
        quantile=0.9,
        share=0.05,
        clock=LoopClock(),
        chance=Random(1),
        spawn=rig.gateway.background.spawn,
    )


@pytest.mark.parametrize(("quantile", "needed"), [(0.5, 2), (0.9, 10), (0.95, 20), (0.99, 100)])
def test_a_quantile_is_not_known_before_something_beyond_it_can_have_been_seen(
    quantile: float, needed: int
) -> None:
    known = Learned(quantile)
    for _ in range(needed - 1):
        known.learn(1.0, 0.0)
        assert known.value is None
    known.learn(1.0, 0.0)
    assert known.value == pytest.approx(1.0, rel=0.06)


@given(st.integers(0, 100), st.floats(0.5, 0.99))
def test_a_quantile_is_that_of_what_was_seen_lately(seed: int, quantile: float) -> None:
    chance, known = Random(seed), Learned(quantile)
    for step in range(400):
        known.learn(100.0, float(step))
    lately = [chance.lognormvariate(0.0, 0.5) for _ in range(2000)]
    for step, value in enumerate(lately):
        known.learn(value, 1e5 + step * 0.01)
    assert known.value is not None
    below = sum(value <= known.value for value in lately) / len(lately)
    assert below == pytest.approx(quantile, abs=0.04)


def test_attempts_that_were_cut_short_do_not_pull_the_quantile_down() -> None:
    chance, known = Random(5), Learned(0.9)
    hedges = 0
    for step in range(20_000):
        service, now = chance.lognormvariate(0.0, 0.5), step * 0.1
        limit = known.value
        if limit is not None and service > limit:  # the hedge answers a moment later
            hedges += 1
            known.learn(min(service, limit + 0.05), now)
        else:
            known.learn(service, now)
    assert 0.07 < hedges / 20_000 < 0.14


@pytest.mark.virtual_time
async def test_calls_that_are_not_alike_have_quantiles_of_their_own() -> None:
    terms = hedging(Rig())
    for _ in range(30):
        terms.learn("slow", 1, 1.0, 0.0)
        terms.learn("slow", 5, 8.0, 0.0)
    short, long = terms.after("slow", 1), terms.after("slow", 5)
    assert short is not None
    assert long is not None
    assert 0.9 < short < 1.1
    assert 7.5 < long < 8.5
    assert terms.after("slow", 2) is None
    assert terms.after("fast", 1) is None


@given(
    st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=200),
    st.sampled_from([0.01, 0.05, 0.5, 1.0]),
)
def test_hedges_never_exceed_the_share_of_any_ten_minutes(
    moves: list[tuple[float, bool]], share: float
) -> None:
    allotment = Allotment(share)
    calls: list[float] = []
    hedges: list[float] = []
    now = 0.0
    for pause, wants in moves:
        now += pause
        allotment.called(now)
        calls.append(now)
        if wants and allotment.permits(now):
            allotment.hedged(now)
            hedges.append(now)
            recent = sum(at > now - SHARE_S for at in hedges)
            # A call may count for a sixtieth longer than ten minutes.
            assert recent < share * sum(at > now - 1.1 * SHARE_S for at in calls) + 1


def test_the_first_calls_and_old_ones_count_for_what_they_are() -> None:
    allotment = Allotment(0.05)
    assert not allotment.permits(0.0)
    for step in range(20):
        allotment.called(float(step))
    allotment.hedged(20.0)
    assert not allotment.permits(20.0)
    allotment.called(21.0)
    assert allotment.permits(21.0)
    assert not allotment.permits(2 * SHARE_S)


@pytest.mark.virtual_time
async def test_with_a_learned_quantile_only_the_slow_ones_are_hedged() -> None:
    rig = Rig(
        slow_more=", jitter: 90%",
        fast_more=", jitter: 0",
        more="hedge: {after: p90, share: 100%}",
        floor=1000,
    )
    for _ in range(110):
        answer = await rig.call()
        if sum(rig.hedges.values()):
            assert answer.took < 2.2
    hedged = sum(rig.hedges.values())
    assert 2 <= hedged <= 25
    await rig.settle()
    rig.assert_nothing_left()
