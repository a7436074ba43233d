"""Whatever prices and loads there are: it never flaps, grows only where it pays, and keeps within bounds."""

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.scaling.rule import Terms
from tests.scaling.looks import EVERY_S, constant, fleet

HOUR = 3600.0
prices = st.floats(0.05, 20.0)
rates = st.floats(1e-6, 0.01)
sizes = st.integers(0, 8)
slots = st.integers(1, 8)
loads = st.integers(0, 60)
SHORT = Terms(grow_over_s=120.0, shrink_over_s=240.0)


def turns(counts: list[int]) -> int:
    """How often the direction of change changes."""
    signs = [later > sooner for sooner, later in pairwise(counts) if later != sooner]
    return sum(a != b for a, b in pairwise(signs))


@settings(max_examples=60, deadline=None)
@given(
    replicas=sizes, load=loads, slots=slots, price=prices, rate=rates, lag=st.sampled_from([0.0, 60.0, 300.0])
)
def test_under_a_constant_load_it_goes_one_way_and_stays(
    replicas: int, load: int, slots: int, price: float, rate: float, lag: float
) -> None:
    made = fleet(
        SHORT, replicas=max(1, replicas), slots=slots, usd_per_hour=price,
        usd_per_spilled_second=rate, follows_after_s=lag,
    )  # fmt: skip
    made.run(1.5 * HOUR, constant(load))
    counts = [count for _, count in made.asked]
    assert turns(counts) == 0, counts


@settings(max_examples=60, deadline=None)
@given(replicas=sizes, load=loads, slots=slots, price=prices, rate=rates)
def test_it_grows_only_where_the_spill_cost_more(
    replicas: int, load: int, slots: int, price: float, rate: float
) -> None:
    replicas = max(1, replicas)
    made = fleet(
        SHORT, replicas=replicas, slots=slots, usd_per_hour=price,
        usd_per_spilled_second=rate, follows_after_s=None,
    )  # fmt: skip
    wanted = made.run(HOUR, constant(load)).wanted
    assert wanted is not None
    spilled = max(0, load - replicas * slots)
    more = wanted - replicas
    if more > 0:
        for count in range(1, more + 1):  # each of them pays
            last = min(spilled, count * slots) - min(spilled, (count - 1) * slots)
            assert last * rate * HOUR > price * (1 - 1e-9)
    elif more == 0:
        assert min(spilled, slots) * rate * HOUR <= price * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), least=st.integers(0, 3), room=st.integers(0, 5), price=prices, rate=rates)
def test_under_any_load_it_keeps_within_its_bounds_and_shrinks_slowly(
    seed: int, least: int, room: int, price: float, rate: float
) -> None:
    chance = Random(seed)
    terms = SHORT._replace(least=least, most=max(1, least + room))
    made = fleet(terms, replicas=chance.randint(1, 6), usd_per_hour=price, usd_per_spilled_second=rate)
    level = [chance.randint(0, 40) for _ in range(200)]
    made.run(HOUR, lambda now: level[int(now // 30) % len(level)])
    assert all(least <= count <= max(1, least + room) for _, count in made.asked)
    downs = [later for sooner, later in pairwise(made.asked) if later[1] < sooner[1]]
    assert all(b[0] - a[0] >= terms.shrink_over_s - EVERY_S for a, b in pairwise(downs))
    for sooner, later in pairwise(made.asked):
        if later[1] < sooner[1]:
            assert later[1] == sooner[1] - 1
            assert later[0] - sooner[0] >= terms.shrink_over_s * 0.8


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), mean=st.integers(1, 30), price=prices, rate=rates)
def test_a_noisy_load_turns_it_seldom(seed: int, mean: int, price: float, rate: float) -> None:
    """Jitter around one level, for 30 times `shrink_over`: waits double, so there are few turns."""
    chance = Random(seed)
    made = fleet(SHORT, replicas=2, usd_per_hour=price, usd_per_spilled_second=rate)
    made.run(2 * HOUR, lambda _: max(0, mean + chance.choice((-1, 0, 0, 1))))
    assert turns([count for _, count in made.asked]) <= 8
