"""Slots of one replica seen by several workers: here in one process, which the table cannot tell apart."""

import asyncio
from random import Random

import pytest

from gateway.workers.shared_slots import LINGER_S, YIELD_S, Replicas, SharedSlots, tokens_left


def sources(slots: int, workers: int = 2) -> tuple[Replicas, list[SharedSlots]]:
    replicas = Replicas({("other", 0): 3, ("fleet", 0): slots}, workers)
    return replicas, [seen_by(replicas, worker) for worker in range(workers)]


def seen_by(replicas: Replicas, worker: int) -> SharedSlots:
    return SharedSlots(replicas, 1, worker, asyncio.get_running_loop())


def close(views: list[SharedSlots]) -> None:
    for view in views:
        view.close()


async def test_what_one_worker_takes_the_other_cannot_have() -> None:
    _, (one, two) = sources(2)
    assert one.take()
    assert two.take()
    assert not one.take()
    assert not two.take()
    assert (one.in_flight, two.in_flight, one.free, two.free) == (1, 1, 0, 0)
    close([one, two])


async def test_giving_back_what_was_not_taken_is_a_mistake() -> None:
    _, (one, two) = sources(2)
    assert two.take()
    with pytest.raises(RuntimeError, match="nobody had taken"):
        one.give_back()
    close([one, two])


async def test_a_worker_hears_of_a_slot_that_another_gave_back() -> None:
    _, (one, two) = sources(1)
    told = asyncio.Event()
    two.on_free(told.set)
    assert one.take()
    assert not two.take()
    one.give_back()
    await asyncio.wait_for(told.wait(), 5)
    assert two.free == 1
    assert two.take()
    close([one, two])


async def test_a_worker_that_took_the_last_slot_hears_when_there_is_one_again() -> None:
    """It did not fail to take one, but it believes that there is none, and nobody else would tell it."""
    _, (one, two) = sources(2)
    told = asyncio.Event()
    two.on_free(told.set)
    assert one.take()
    assert two.take()
    assert two.free == 0
    one.give_back()
    await asyncio.wait_for(told.wait(), 5)
    assert two.free == 1
    close([one, two])


async def test_a_worker_that_believes_in_free_slots_is_not_woken() -> None:
    _, (one, two) = sources(3)
    told: list[bool] = []
    two.on_free(lambda: told.append(True))
    assert one.take()
    assert two.take()
    one.give_back()
    await asyncio.sleep(2 * YIELD_S)
    assert not told
    close([one, two])


async def test_a_worker_with_more_slots_leaves_one_to_a_worker_that_waits() -> None:
    _, (rich, poor) = sources(4)
    served: list[bool] = []
    poor.on_free(lambda: served.append(poor.take()))
    rich.on_free(lambda: None)
    for _ in range(4):
        assert rich.take()
    assert not poor.take()
    rich.give_back()
    assert rich.free == 0, "its own queue would have it at once"
    await asyncio.sleep(20 * YIELD_S)
    assert served == [True]
    assert (rich.in_flight, poor.in_flight) == (3, 1)
    close([rich, poor])


async def test_a_slot_that_the_other_does_not_want_comes_back_to_the_worker_that_left_it() -> None:
    _, (rich, poor) = sources(4)
    told = asyncio.Event()
    rich.on_free(told.set)
    for _ in range(4):
        assert rich.take()
    assert not poor.take()
    rich.give_back()
    await asyncio.wait_for(told.wait(), 5)
    assert rich.take()
    close([rich, poor])


async def test_what_a_dead_worker_held_is_free_after_a_while() -> None:
    replicas, (dead, alive) = sources(2)
    told = asyncio.Event()
    alive.on_free(told.set)
    assert dead.take()
    assert dead.take()
    assert not alive.take()
    close([dead])
    assert replicas.reap(0, 100.0) == 2
    assert replicas.tend(100.0 + 0.9 * LINGER_S)
    assert not alive.take(), "its replica may still be working"
    assert not replicas.tend(100.0 + LINGER_S)
    await asyncio.wait_for(told.wait(), 5)
    assert alive.take()
    assert alive.take()
    assert not alive.take()
    close([alive])


@pytest.mark.parametrize("counted", [True, False])
async def test_a_slot_moved_in_the_moment_of_death_is_found(*, counted: bool) -> None:
    """Dead between the semaphore and the table: the slot is neither there nor anybody's."""
    replicas, (dead, alive) = sources(2)
    assert dead.take()
    assert alive.take()
    own = replicas.worker(0)
    own[1] += 1  # a step has begun
    if not counted:
        replicas.held(1)[0] -= 1  # as when it was giving the slot back
    close([dead])
    assert replicas.reap(0, 0.0) == int(counted)
    assert not replicas.tend(LINGER_S)
    assert alive.take()
    assert not alive.take()
    assert tokens_left(replicas.tokens[1]) == 0
    close([alive])


async def test_no_slot_is_found_while_a_worker_moves_one() -> None:
    """What it has taken and not counted yet looks as if it were missing."""
    replicas, (dead, alive) = sources(2)
    replicas.worker(0)[1] += 1
    replicas.worker(0)[2] = 1
    close([dead])
    replicas.reap(0, 0.0)
    assert alive.take()
    replicas.held(1)[1] -= 1
    replicas.worker(1)[1] += 1  # in the middle of a step
    assert replicas.tend(LINGER_S), "it must be looked at again"
    assert tokens_left(replicas.tokens[1]) == 1
    replicas.held(1)[1] += 1
    replicas.worker(1)[1] += 1
    assert not replicas.tend(LINGER_S)
    assert tokens_left(replicas.tokens[1]) == 1
    close([alive])


@pytest.mark.parametrize("seed", range(20))
async def test_slots_are_neither_lost_nor_made_whatever_happens(seed: int) -> None:
    chance, slots, workers = Random(seed), 5, 3
    replicas, views = sources(slots, workers)
    now = 0.0
    for _ in range(400):
        worker = chance.randrange(workers)
        view = views[worker]
        what = chance.random()
        if what < 0.5:
            view.take()
        elif what < 0.95:
            if view.in_flight:
                view.give_back()
        else:
            close([view])
            replicas.reap(worker, now)
            views[worker] = seen_by(replicas, worker)
        if chance.random() < 0.1:
            await asyncio.sleep(0)
        now += chance.random()
        replicas.tend(now)
        held = sum(replicas.held(1))
        assert tokens_left(replicas.tokens[1]) + held == slots
        assert held >= sum(each.in_flight for each in views)
    close(views)
