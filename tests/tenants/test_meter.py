"""What a meter promises, whatever comes: no more than the limit in any window, and every place given back."""

import os
from collections import deque
from itertools import pairwise
from random import Random

import pytest

from gateway.tenants.meter import SECOND, Meter, Rates, TooMuch, interval
from gateway.workers.shared_spending import Accounts, Limits

NOW = 50_000.0


def most_within(events: list[tuple[float, float]], rate: float) -> float:
    """The largest sum of amounts in any window, less what `rate` brings in that window."""
    best = worst = 0.0
    before: float | None = None
    for at, amount in events:
        worst = max(0.0, worst - (0.0 if before is None else (at - before) * rate)) + amount
        best, before = max(best, worst), at
    return best


@pytest.mark.parametrize("seed", range(20))
def test_no_window_ever_lets_in_more_requests_than_its_rate_and_the_burst(seed: int) -> None:
    chance = Random(seed)
    rate, burst = chance.choice((0.1, 1.0, 7.3, 500.0)), chance.randrange(1, 40)
    rates, meter, now = Rates(request_ns=interval(rate), burst=burst), Meter(), NOW
    let_in: list[tuple[float, float]] = []
    for _ in range(2_000):
        now += chance.choice((0.0, 0.0, 0.01, 0.3, 5.0)) * chance.random() / rate
        if meter.admit(rates, 0, now) is None:
            let_in.append((now, 1.0))
            meter.leave(0, 0, now)
    assert burst <= len(let_in) < 2_000
    assert burst - 1 < most_within(let_in, rate) <= burst + 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_who_waits_as_long_as_was_said_is_let_in_and_nobody_sooner(seed: int) -> None:
    chance, now, meter = Random(seed), NOW, Meter()
    rates = Rates(interval(3.0), 4, interval(50.0), 200)
    for _ in range(500):
        now += chance.random()
        tokens = chance.randrange(0, 200)
        refused = meter.admit(rates, tokens, now)
        if refused is None:
            meter.leave(tokens, tokens, now)
            continue
        assert refused.wait_s is not None
        assert meter.admit(rates, tokens, now + refused.wait_s - 1e-5) is not None
        now += refused.wait_s + 1e-6
        after = meter.admit(rates, tokens, now)
        if after is None:
            meter.leave(tokens, tokens, now)
        else:  # two limits: each says when it lets go
            assert after.limit != refused.limit


@pytest.mark.parametrize("seed", range(20))
def test_tokens_that_are_used_stay_within_their_rate_in_every_window(seed: int) -> None:
    chance, now, meter = Random(seed), NOW, Meter()
    per_second, burst = 20.0, 1_200
    rates = Rates(token_ns=interval(per_second), token_burst=burst)
    running: deque[tuple[int, int]] = deque()
    used: list[tuple[float, float]] = []
    for _ in range(2_000):
        now += chance.random() * 10
        expected = chance.randrange(1, 600)
        if meter.admit(rates, expected, now) is None:
            running.append((expected, chance.randrange(0, expected + 1)))
        while running and chance.random() < 0.6:
            reserved, tokens = running.popleft()
            meter.leave(reserved, tokens, now)
            used.append((now, tokens))
    assert len(used) > 300
    assert most_within(used, per_second) <= burst + 1e-3


def test_tokens_used_beyond_what_was_expected_are_worked_off_before_the_next_call() -> None:
    meter, rates = Meter(), Rates(token_ns=interval(10.0), token_burst=600)
    assert meter.admit(rates, 100, NOW) is None
    meter.leave(100, 1_600, NOW)  # a debt of 1,000
    assert meter.left(rates, NOW).tokens == 0
    refused = meter.admit(rates, 1, NOW)
    assert refused is not None
    assert refused.limit == "tokens"
    assert refused.wait_s == pytest.approx(100.1)
    assert meter.admit(rates, 1, NOW + 100.0) is not None
    assert meter.admit(rates, 1, NOW + 100.2) is None


def test_what_a_call_set_aside_and_did_not_use_is_there_again_at_once() -> None:
    meter, rates = Meter(), Rates(token_ns=interval(1.0), token_burst=60)
    assert meter.admit(rates, 60, NOW) is None
    assert meter.admit(rates, 1, NOW + 3_600.0) is not None  # what is set aside does not come back by itself
    meter.leave(60, 5, NOW + 3_600.0)
    assert meter.left(rates, NOW + 3_600.0).tokens == 55


def test_a_refused_call_uses_nothing() -> None:
    meter, rates = Meter(), Rates(interval(1.0), 1, interval(1.0), 60, 2)
    assert meter.admit(rates, 10, NOW) is None
    before = meter.left(rates, NOW)
    for _ in range(10):
        assert meter.admit(rates, 10, NOW) is not None
    assert meter.left(rates, NOW) == before
    assert meter.inside == 1


def test_a_debt_of_any_size_keeps_its_cell() -> None:
    meter, rates = Meter(), Rates(token_ns=interval(1 / 60), token_burst=1)
    for _ in range(50):
        meter.leave(0, 0, NOW)
        meter.admit(rates, 0, NOW)
        meter.leave(0, 10**15, NOW)
    assert meter.left(rates, NOW).tokens_full_s * SECOND < 2**62


def shared(workers: int) -> list[Meter]:
    accounts = Accounts({"tenant acme": Limits(None, None, None)}, workers)
    return [accounts["tenant acme"].meter(worker) for worker in range(workers)]


def test_a_meter_of_several_processes_decides_as_one() -> None:
    chance, now, alone, several = Random(5), NOW, Meter(), shared(3)
    rates = Rates(interval(5.0), 7, interval(90.0), 400, 5)
    inside: list[tuple[int, Meter]] = []
    for _ in range(3_000):
        now += chance.random() * 0.3
        meter, tokens = chance.choice(several), chance.randrange(0, 120)
        expected = alone.admit(rates, tokens, now)
        assert meter.admit(rates, tokens, now) == expected
        if expected is None:
            inside.append((tokens, meter))
        while inside and chance.random() < 0.4:
            reserved, its = inside.pop(chance.randrange(len(inside)))
            used = chance.randrange(0, 200)
            alone.leave(reserved, used, now)
            its.leave(reserved, used, now)
        assert alone.inside == meter.inside == len(inside) <= 5
        assert alone.left(rates, now) == meter.left(rates, now)


def test_processes_that_ask_at_once_get_no_more_than_one_would() -> None:
    several, rates = shared(4), Rates(interval(0.001), 50)
    pipes = [os.pipe() for _ in several]
    for meter, (_, write) in zip(several, pipes, strict=True):
        if not os.fork():
            try:
                let_in = sum(meter.admit(rates, 0, NOW) is None for _ in range(200))
                os.write(write, b"%d" % let_in)
            finally:
                os._exit(0)
    for _ in several:
        os.wait()
    assert sum(int(os.read(read, 10)) for read, _ in pipes) == 50
    for pair in pipes:
        for fd in pair:
            os.close(fd)
    assert several[0].inside == 50


def test_what_a_dead_worker_held_is_free_and_what_it_had_set_aside_counts_as_used() -> None:
    accounts = Accounts({"tenant acme": Limits(None, None, None)}, 2)
    dead, alive = (accounts["tenant acme"].meter(worker) for worker in range(2))
    rates = Rates(token_ns=interval(1.0), token_burst=60, most=2)
    for meter in (dead, alive):
        assert meter.admit(rates, 20, NOW) is None
    assert alive.admit(rates, 0, NOW) == TooMuch("concurrency", None)
    accounts.reap(0, NOW)
    assert alive.inside == 1
    assert alive.left(rates, NOW).tokens == 20
    assert alive.left(rates, NOW + 20.0).tokens == 40


def test_intervals_are_rounded_against_the_caller() -> None:
    for rate in (1.0, 3.0, 7.7, 1e6):
        assert SECOND / interval(rate) <= rate
    assert all(a >= b for a, b in pairwise(interval(rate) for rate in (0.1, 1.0, 2.0, 1e6)))
