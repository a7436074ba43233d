"""The queue: who stands where, and how much work that is, whoever comes and goes."""

from math import fsum
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.deadline_queue import DeadlineQueue
from gateway.lease import Lease
from tests.pool.parts import FIRST, NOW, Rig, call

RIG = Rig()


def lease(until: float = 60.0, priority: str = "default") -> Lease:
    """A call that is due so many seconds from now."""
    made = call(deadline=NOW + until)
    made.priority = priority
    return RIG.pool.slot(made, FIRST)


def joined(
    queue: DeadlineQueue, until: float, work: float = 1.0, *, priority: str = "default", late: bool = False
) -> Lease:
    made = lease(until, priority)
    queue.join(made, work, late=late)
    return made


def test_the_class_comes_first_then_who_can_be_in_time_then_what_is_due_then_who_came_first() -> None:
    queue = DeadlineQueue()
    slow = joined(queue, 50)
    late = joined(queue, 1, late=True)
    twin = joined(queue, 50)
    soon = joined(queue, 10)
    filler = joined(queue, 1, priority="best_effort")
    critical = joined(queue, 90, priority="critical")
    late_critical = joined(queue, 0.5, priority="critical", late=True)
    assert queue.calls == [critical, soon, slow, twin, late_critical, late]
    assert queue.best_effort == [filler]
    assert (queue.in_time, queue.work, len(queue)) == (4, 4.0, 7)
    assert (slow.late, late.late) == (False, True)


def test_an_empty_queue_is_falsy_and_best_effort_counts() -> None:
    queue = DeadlineQueue()
    assert not queue
    filler = joined(queue, 5, priority="best_effort")
    assert queue
    queue.leave(filler)
    assert not queue
    assert len(queue) == 0


def test_best_effort_calls_are_in_order_among_themselves_and_no_work_to_anybody() -> None:
    queue = DeadlineQueue()
    later, sooner = (joined(queue, until, 7.0, priority="best_effort") for until in (9, 3))
    assert queue.best_effort == [sooner, later]
    assert (queue.calls, queue.in_time, queue.work) == ([], 0, 0.0)


def test_who_is_demoted_stands_behind_those_in_time_and_is_no_work_any_more() -> None:
    queue = DeadlineQueue()
    first, second = joined(queue, 1, 2.0), joined(queue, 5, 3.0)
    earlier = joined(queue, 0.5, late=True)
    queue.demote(first)
    assert queue.calls == [second, earlier, first]
    assert (queue.in_time, queue.work, first.late) == (1, 3.0, True)
    assert queue.ahead(second) == 0.0
    queue.leave(first)
    assert queue.calls == [second, earlier]


def test_work_before_a_call_that_would_join_is_that_of_those_due_no_later() -> None:
    queue = DeadlineQueue()
    for until, work in ((10, 1.0), (20, 2.0), (30, 4.0)):
        joined(queue, until, work)
    joined(queue, 1, 8.0, late=True)
    assert [queue.ahead_of("default", NOW + until) for until in (5, 10, 25, 30, 99)] == [0, 1, 3, 7, 7]
    assert queue.ahead_of("critical", NOW + 99) == 0.0
    assert queue.ahead_of("best_effort", NOW + 1) == 7.0, "after everybody"


def test_whoever_comes_in_between_knows_what_stands_before_it() -> None:
    queue = DeadlineQueue()
    for until, work in ((10, 1.0), (20, 2.0), (30, 4.0)):
        joined(queue, until, work)
    assert queue.ahead(joined(queue, 25, 8.0)) == 3.0
    assert queue.ahead(joined(queue, 1, 8.0, priority="critical")) == 0.0


@given(
    works=st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.5]), min_size=1, max_size=30), gone=st.integers(0, 30)
)
def test_first_come_first_served_it_is_the_plain_sum_of_what_stands_before(
    works: list[float], gone: int
) -> None:
    """Calls of one budget are due in the order in which they came, and leave at the front."""
    queue = DeadlineQueue()
    row = [joined(queue, 60 + place, work) for place, work in enumerate(works)]
    for _ in range(min(gone, len(row))):
        queue.leave(row.pop(0))
    for place, waiting in enumerate(row):
        assert queue.ahead(waiting) == pytest.approx(fsum(other.work for other in row[:place]))
    assert queue.work == pytest.approx(fsum(other.work for other in row))


comings = st.tuples(
    st.sampled_from(["critical", "default", "default", "default", "best_effort"]),
    st.integers(1, 50),
    st.sampled_from([0.0, 0.1, 1.0, 7.0]),
    st.sampled_from([False, False, False, True]),
)


@given(
    script=st.lists(st.one_of(comings, st.sampled_from(["leave", "demote"])), max_size=60),
    seed=st.integers(0, 99),
)
def test_whoever_comes_and_goes_order_and_sums_hold(script: list[object], seed: int) -> None:
    queue, waiting, chance = DeadlineQueue(), list[Lease](), Random(seed)
    for step in script:
        if isinstance(step, tuple):
            priority, until, work, late = step
            waiting.append(joined(queue, until, work, priority=priority, late=late))
        elif waiting:
            chosen = waiting[chance.randrange(len(waiting))]
            if step == "leave":
                queue.leave(chosen)
                waiting.remove(chosen)
            else:
                queue.demote(chosen)
        check(queue, waiting)
    for each in waiting:
        queue.leave(each)
    assert (len(queue), queue.in_time, queue.work) == (0, 0, 0.0)


def check(queue: DeadlineQueue, waiting: list[Lease]) -> None:
    fillers = [each for each in waiting if each.call.priority == "best_effort"]
    calls = [each for each in waiting if each.call.priority != "best_effort"]
    assert queue.calls == sorted(calls, key=lambda each: each.order)
    assert queue.best_effort == sorted(fillers, key=lambda each: each.order)
    in_time = [each for each in queue.calls if not each.late]
    assert queue.in_time == len(in_time)
    assert queue.calls[: queue.in_time] == in_time
    total = fsum(each.work for each in in_time)
    assert queue.work == pytest.approx(total, abs=1e-9)
    for each in in_time:
        assert queue.ahead(each) >= 0.0
