"""Budgets that several processes spend from at once."""

import os
from collections.abc import Callable
from math import inf
from random import Random

from backends.base import SpillBudget
from gateway.spending import DAY_S, HOUR_S, HOUR_SLOTS, Budget, LocalSpend
from gateway.windows import Window
from gateway.workers.shared_spending import Account, Accounts, Limits

NOW = 50_000.0


def account(workers: int = 2, *, hour: float | None = 1.0, share: float | None = None) -> Account:
    return Accounts({"route r": Limits(hour, None, share)}, workers)["route r"]


def in_children(count: int, work: Callable[[int], None]) -> None:
    """Run `work` in that many processes at once; what they do is seen through shared memory."""
    children = []
    for number in range(count):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                work(number)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * count


def test_a_shared_window_counts_as_a_plain_one() -> None:
    for seed in range(30):
        chance, now = Random(seed), NOW
        plain, shared = Window(HOUR_S, HOUR_SLOTS), account().hour
        for _ in range(300):
            now += chance.choice((0.0, 1.0, 20.0, 40.0, 500.0, 4000.0)) * chance.random()
            at = now - chance.choice((0.0, 0.0, 100.0)) * chance.random()
            amount = chance.randrange(1, 1000)
            plain.add(amount, at)
            shared.add(amount, at)
            assert shared.total(now) == plain.total(now)
            level = chance.randrange(-1, plain.total(now) + 2)
            assert shared.falls_to(level, now) == plain.falls_to(level, now)


def test_shared_dollars_count_as_local_ones() -> None:
    chance, now = Random(3), NOW
    local = LocalSpend(usd_per_hour=1.0, usd_per_day=5.0)
    whole = Accounts({"route r": Limits(1.0, 5.0, None)}, 3)["route r"]
    views, reserved = [whole.spend(worker) for worker in range(3)], []
    for _ in range(1500):
        now += chance.random() * 120
        view, amount = chance.choice(views), chance.randrange(1, 10**11)
        assert view.remaining(now) == local.remaining(now)
        assert view.available_at(amount, now) == local.available_at(amount, now)
        granted = view.reserve(amount, now)
        assert granted == local.reserve(amount, now)
        if granted:
            reserved.append((view, amount))
        if len(reserved) > 5:
            view, amount = reserved.pop(chance.randrange(len(reserved)))
            for each in (view, local):
                each.spend(amount // 2, now)
                each.release(amount)
    assert now > NOW + DAY_S


def test_processes_at_once_never_reserve_more_than_there_is() -> None:
    whole, granted = account(4, hour=1.0), account(4).reserved
    part = 10**12 // 1000

    def work(worker: int) -> None:
        view = whole.spend(worker)
        for _ in range(600):
            granted[worker] += view.reserve(part, NOW)

    in_children(4, work)
    assert sum(granted) == 1000
    assert sum(whole.reserved) == 10**12


def test_processes_at_once_never_go_beyond_the_share_of_calls() -> None:
    whole, granted = account(4, hour=None, share=0.1), account(4).reserved

    def work(worker: int) -> None:
        share = whole.share()
        assert share is not None
        for _ in range(500):
            share.requested(NOW)
            granted[worker] += share.take(NOW)

    in_children(4, work)
    assert sum(granted) <= 200
    assert sum(granted) >= 190


def test_what_a_dead_worker_had_set_aside_is_spent() -> None:
    """Its attempts may have run, and will be billed."""
    accounts = Accounts({"route r": Limits(1.0, None, None)}, 2)
    dead, alive = accounts["route r"].spend(0), accounts["route r"].spend(1)
    assert dead.reserve(3 * 10**11, NOW)
    accounts.reap(0, NOW)
    assert accounts["route r"].reserved[0] == 0
    assert alive.remaining(NOW) == 7 * 10**11
    assert alive.remaining(NOW + HOUR_S + 31) == 10**12


def test_a_sum_that_a_dead_worker_left_half_written_is_made_right() -> None:
    whole = account()
    view = whole.spend(1)
    view.spend(10**11, NOW)

    def work(_: int) -> None:
        with whole.lock.held():
            whole.hour._cells[0] += 10**11  # the sum, and then it died before the slot
            os._exit(0)

    in_children(1, work)
    assert view.remaining(NOW) == 9 * 10**11


def test_a_refused_share_sets_no_money_aside() -> None:
    """Another worker was faster between the question and the answer."""
    whole = account(share=1.0)
    share = whole.share()
    assert share is not None
    budget = Budget("route r", SpillBudget(usd_per_hour=1.0), source=whole.spend(0), share=share)
    budget.requested(NOW)
    assert share.take(NOW)
    assert not budget.reserve(0.25, NOW)
    assert budget.remaining_usd(NOW) == 1.0
    assert budget.refused == 1
    budget.requested(NOW)
    assert budget.reserve(0.25, NOW)
    assert budget.available_at(2.0, NOW) == inf
