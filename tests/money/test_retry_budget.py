"""Extra attempts stay within a share of the first ones and a floor, and routes do not pay for each other."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from gateway.retry_budget import TTL_S, RetryBudgets

NOW = 1_000.0


@given(
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    floor=st.sampled_from([0.0, 0.5, 3.0]),
    pace=st.sampled_from([0.5, 10.0, 200.0]),
)
def test_an_outage_of_any_length_is_answered_with_a_share_and_the_floor(
    seed: int, share: float, floor: float, pace: float
) -> None:
    chance = Random(seed)
    budgets = RetryBudgets(["a", "b"], share=share, floor_per_second=floor, now=NOW)
    now, first, extra = NOW, 0, 0
    for _ in range(600):
        now += chance.expovariate(pace)
        route = budgets.routes[chance.choice("ab")]
        route.deposit(now)
        first += 1
        extra += route.withdraw(now)
        burst = max(1.0, floor) if floor else 0.0
        assert extra <= share * first + floor * (now - NOW) + burst + 1e-6
    if pace > 100:  # nothing has been forgotten yet
        assert extra >= share * first - 2


def test_deposits_are_spent_once_and_forgotten() -> None:
    route = RetryBudgets(["a"], share=0.2, floor_per_second=0.0, now=NOW).routes["a"]
    for _ in range(25):
        route.deposit(NOW)
    assert route.tokens(NOW) == 5.0
    assert [route.withdraw(NOW) for _ in range(6)] == [True] * 5 + [False]
    for _ in range(25):
        route.deposit(NOW)
    assert not route.withdraw(NOW + TTL_S + 1.0)
    assert (route.granted, route.refused) == (5, 2)


def test_a_route_that_is_down_leaves_others_their_own() -> None:
    budgets = RetryBudgets(["down", "fine"], share=0.2, floor_per_second=2.0, now=NOW)
    for _ in range(1000):
        budgets.routes["down"].deposit(NOW)
        budgets.routes["down"].withdraw(NOW)
    for _ in range(5):
        budgets.routes["fine"].deposit(NOW)
    assert not budgets.routes["down"].withdraw(NOW)
    assert budgets.routes["fine"].withdraw(NOW)


def test_the_floor_comes_back_with_time_and_never_piles_up() -> None:
    route = RetryBudgets(["a"], share=0.0, floor_per_second=3.0, now=NOW).routes["a"]
    assert sum(route.withdraw(NOW) for _ in range(10)) == 3
    assert sum(route.withdraw(NOW + 0.34) for _ in range(10)) == 1
    assert sum(route.withdraw(NOW + 500.0) for _ in range(10)) == 3


def test_a_slow_floor_still_gives_whole_tokens() -> None:
    route = RetryBudgets(["a"], share=0.0, floor_per_second=0.1, now=NOW).routes["a"]
    assert route.withdraw(NOW)
    assert not route.withdraw(NOW + 9.0)
    assert route.withdraw(NOW + 10.0)
