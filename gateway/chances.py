"""Whether a call still has a chance of a slot before its deadline, from what waits already and what comes.

Pure arithmetic over a pool; it changes nothing and refuses nobody. Knows no policy and no backend.
"""

from collections.abc import Sequence
from typing import Protocol

from gateway.deadline_queue import DeadlineQueue
from gateway.lease import Lease
from gateway.tier import Tier

OVERLOADED = 1.25
"""Work that comes for each unit that all slots can do, from which on calls that are late have no turn."""


class Desk(Protocol):
    """What is needed of a pool. `load`: work that came per second lately."""

    @property
    def tiers(self) -> Sequence[Tier]: ...

    queue: DeadlineQueue
    reference: Tier

    def load(self, now: float) -> float: ...
    def ahead(self, request: Lease) -> float: ...


def hopeless(pool: Desk, lease: Lease, now: float, *, memory_s: float) -> bool:
    """Whether a call that stands behind all those in time has no chance of a turn before its deadline.

    More arriving than all slots can do is taken to go on for `memory_s`, for as long as the rate remembers,
    and until then nobody who is late has a turn.
    """
    queue = pool.queue
    if not queue:
        return False
    slots = _slots(pool, lease)
    left = lease.deadline - now - pool.reference.answer(lease).mean
    if pool.load(now) > OVERLOADED * slots:
        left -= memory_s
    waiting = len(queue.calls) if lease.call.priority != "best_effort" else len(queue)
    return queue.work + (waiting - queue.in_time) * pool.reference.overall.mean > slots * left


def late(pool: Desk, lease: Lease, now: float) -> bool:
    """Whether what stands before a call is more than every slot could do until it must have begun."""
    if lease.call.priority == "best_effort":
        return True  # it stands behind everybody
    return pool.ahead(lease) > _slots(pool, lease) * (lease.due - now - pool.reference.answer(lease).mean)


def _slots(pool: Desk, lease: Lease) -> int:
    slots = 0
    for tier in pool.tiers:
        if tier.blocked is None and lease.may_use(tier.name):
            slots += tier.capacity
    return slots
