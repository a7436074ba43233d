"""The gradient limiter against replicas in virtual time, whose true capacity is known."""

import heapq
from collections import deque
from collections.abc import Callable
from random import Random

import pytest

from gateway.limiter import GradientLimiter


class Replica:
    """`servers` calls run at once, the rest wait in order. `demand` calls would like to be there.

    queue:  it refuses what would wait beyond so many
    """

    def __init__(
        self,
        *,
        servers: int = 10**6,
        seconds: Callable[[int], float],
        demand: int = 10**6,
        queue: int = 10**6,
        spread: float = 0.1,
    ) -> None:
        self.servers, self.seconds, self.demand, self.queue, self.spread = (
            servers, seconds, demand, queue, spread,
        )  # fmt: skip
        self.limiter = GradientLimiter(chance=Random(1), now=0.0)
        self.chance = Random(2)
        self.now = 0.0
        self.in_flight = self.answered = self.refused = 0
        self.waiting: deque[float] = deque()
        self.running: list[tuple[float, float]] = []
        self.limits: list[int] = []

    def run(self, until: float) -> None:
        self.admit()
        while self.running and self.running[0][0] <= until:
            self.now, began = heapq.heappop(self.running)
            if self.waiting:
                self.start(self.waiting.popleft())
            self.limiter.answered(self.now - began, self.in_flight, self.now)
            self.in_flight -= 1
            self.answered += 1
            self.limits.append(self.limiter.limit)
            self.admit()

    def admit(self) -> None:
        while self.in_flight < min(self.limiter.limit, self.demand):
            self.in_flight += 1
            if len(self.running) < self.servers:
                self.start(self.now)
            elif len(self.waiting) < self.queue:
                self.waiting.append(self.now)
            else:
                self.refused += 1
                self.limiter.pushed_back(self.in_flight, self.now)
                self.in_flight -= 1
                return

    def start(self, began: float) -> None:
        length = self.seconds(self.in_flight) * (1 + self.spread * (2 * self.chance.random() - 1))
        heapq.heappush(self.running, (self.now + length, began))


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("servers", [1, 4, 16, 64])
def test_a_saturated_replica_is_kept_busy_and_little_waits_there(servers: int, spread: float) -> None:
    replica = Replica(servers=servers, seconds=lambda _: 0.05, spread=spread)
    replica.run(until=400.0)
    before, replica.answered, replica.limits = replica.now, 0, []
    replica.run(until=500.0)
    busy = replica.answered * 0.05 / servers / (replica.now - before)
    assert busy > 0.96
    assert sorted(replica.limits)[len(replica.limits) // 2] <= 1.5 * servers + 2


def test_a_replica_that_works_on_calls_together_is_given_more_of_them() -> None:
    replica = Replica(seconds=lambda together: 0.01 + 0.0003 * together, spread=0.0)
    replica.run(until=300.0)
    assert replica.limiter.limit > 20, "ten times the throughput of one at a time"
    assert 0.01 + 0.0003 * replica.limiter.limit < 0.03, "and not three times the latency"


def test_what_is_not_limited_is_not_raised() -> None:
    replica = Replica(servers=64, seconds=lambda _: 0.05, demand=5)
    replica.run(until=200.0)
    assert replica.limiter.limit == 8, "doubled once while five wanted more than four, then never again"


def test_a_model_that_becomes_slower_is_not_taken_for_congestion_for_long() -> None:
    seconds = 0.05
    replica = Replica(servers=16, seconds=lambda _: seconds)
    replica.run(until=100.0)
    seconds = 0.2
    replica.run(until=200.0)
    replica.answered = 0
    replica.run(until=250.0)
    assert replica.answered * 0.2 / 16 / 50 > 0.95


def test_a_replica_that_refuses_is_given_less_and_hardly_ever_refuses_again() -> None:
    replica = Replica(servers=8, queue=2, seconds=lambda _: 0.05)
    replica.run(until=100.0)
    assert replica.refused < 0.01 * replica.answered
    assert 8 <= replica.limiter.limit <= 12


def test_refusals_in_one_burst_are_one() -> None:
    limiter = GradientLimiter(chance=Random(1), now=0.0, start=100)
    assert limiter.pushed_back(100, 1.0)
    assert not any(limiter.pushed_back(100, 1.0 + 0.001 * n) for n in range(50))
    assert limiter.limit == 90
    assert limiter.pushed_back(40, 2.0)
    assert limiter.limit == 36, "by what was there when it refused"


def test_the_limit_stays_between_floor_and_most_whatever_it_is_told() -> None:
    chance = Random(5)
    for seed in range(30):
        limiter = GradientLimiter(chance=Random(seed), now=0.0, start=3, floor=2, most=40)
        now, before = 0.0, 3
        for _ in range(3000):
            now += chance.expovariate(50.0)
            told = chance.random()
            in_flight = chance.randrange(1, limiter.limit + 3)
            if told < 0.02:
                changed = limiter.pushed_back(in_flight, now)
            else:
                changed = limiter.answered(chance.choice((0.0, 0.001, 0.5, 30.0)), in_flight, now)
            assert 2 <= limiter.limit <= 40
            assert changed is (limiter.limit != before)
            before = limiter.limit


@pytest.mark.parametrize("numbers", [{"start": 0}, {"floor": 5}, {"most": 3}])
def test_numbers_that_make_no_sense_are_refused(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="floor <= start <= most"):
        GradientLimiter(chance=Random(1), now=0.0, **numbers)
