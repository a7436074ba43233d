"""The last decisions of every pool: what was decided, and the numbers it was decided on.

Noting one costs a microsecond: numbers are put into a tuple, and what they mean is worked out when somebody
asks (`record.py`). No body, no header and no secret is kept. Knows the pool; never HTTP.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from gateway.lease import Lease
from gateway.pool import Pool
from gateway.tier import Tier
from policies.base import Action, Hold, Run

_in_order: Callable[[Lease], Any] = attrgetter("order")
_due: Callable[[Lease], Any] = attrgetter("due")

KEPT = 1_000
"""Decisions that are kept, of all routes together."""


class Noted(NamedTuple):
    """One decision.

    waiting:  (calls that waited, those in time among them, seconds of work before this call); None where
              nobody waited and an owned slot was free, so that nothing else was looked at
    tiers:    for each tier (free, in flight, service mean, tail, deviation), and where `waiting` is not None
              also (blocked, may use, warm, opening, idle for, claimants, all services' mean, deviation,
              cold mean, tail, deviation, answer mean, tail, deviation)
    """

    request_id: str
    route: str
    at: float
    action: Action
    due: float
    deadline: float
    attempt: int
    stream: bool
    since: float
    lot: float | None
    late: bool
    caution: float
    waiting: tuple[int, int, float] | None
    tiers: list[tuple[Any, ...]]


class Ring:
    """All of them, the oldest first. `of` makes the witness of one pool (`Pool.witness`)."""

    def __init__(self, kept: int = KEPT) -> None:
        self._noted: deque[tuple[Any, ...]] = deque(maxlen=kept)

    def of(self, pool: Pool) -> "Witness":
        """Who notes what that pool decides."""
        return Witness(pool, self._noted)

    def find(self, request_id: str) -> Iterator[Noted]:
        """What was decided about one request, in order."""
        return (Noted._make(noted) for noted in self._noted if noted[0] == request_id)

    def __len__(self) -> int:
        return len(self._noted)


class Witness:
    """Notes the decisions of one pool."""

    __slots__ = ("_append", "_owned", "_pool", "_tiers")

    def __init__(self, pool: Pool, noted: deque[tuple[Any, ...]]) -> None:
        self._pool = pool
        self._append = noted.append
        self._tiers = tuple(pool.tiers)
        self._owned = frozenset(tier.name for tier in pool.tiers if tier.owned)

    def note(self, lease: Lease, action: Action, now: float) -> None:
        """A decision was made and not carried out yet."""
        pool = self._pool
        if isinstance(action, Run) and not pool.waiting and action.backend in self._owned:
            call = lease.call
            self._append((
                call.request_id, pool.route, now, action, lease.due, lease.deadline, lease.attempt, call.stream,
                lease.since, lease.drawn, False, 0.0, None, [_short(tier, lease.bucket) for tier in self._tiers],
            ))  # fmt: skip
            return
        if isinstance(action, Hold) and lease.waiting and not action.opens and action.late is lease.late:
            return  # looked at again, and it goes on waiting as before
        self._append(self._whole(lease, action, now))

    def _whole(self, lease: Lease, action: Action, now: float) -> tuple[Any, ...]:
        pool = self._pool
        call = lease.call
        waiting = pool.queue_depth, pool.in_time, _before(pool, lease)
        return (
            call.request_id, pool.route, now, action, lease.due, lease.deadline, lease.attempt, call.stream,
            lease.since, lease.drawn, lease.late, pool.caution, waiting,
            [_row(tier, lease, now) for tier in self._tiers],
        )  # fmt: skip


def _short(tier: Tier, bucket: int) -> tuple[Any, ...]:
    supply, estimates = tier.supply, tier.estimates
    if estimates is None:
        return supply.free_slots, supply.in_flight, 0.0, 0.0, 0.0
    service = estimates.profiles[bucket]
    return supply.free_slots, supply.in_flight, service.mean, service.tail, service.deviation


def _before(pool: Pool, lease: Lease) -> float:
    """Work before the call; inside the queue by its place, as if all that wait took alike."""
    waiting, in_time = pool.waiting, pool.in_time
    if not in_time:
        return 0.0
    if lease.waiting:
        place = min(bisect_left(waiting, lease.order, key=_in_order), in_time)
    elif lease.due >= waiting[in_time - 1].due:
        return pool.work
    else:
        place = bisect_left(waiting, lease.due, hi=in_time, key=_due)
    return pool.work * place / in_time


def _row(tier: Tier, lease: Lease, now: float) -> tuple[Any, ...]:
    supply, estimates, answers = tier.supply, tier.estimates, tier.answers
    warmth = supply.warmth
    warm = 0
    opening: tuple[float, ...] = ()
    idle_for: float | None = None
    if warmth is not None:
        warm = min(warmth.warm(now), supply.free_slots)
        opening = tuple(warmth.opening)
        since = warmth.next_since
        idle_for = None if since is None else now - since
    head = (supply.blocked, lease.may_use(tier.name), warm, opening, idle_for, supply.claimants)
    if estimates is None:
        return (supply.free_slots, supply.in_flight, 0.0, 0.0, 0.0, *head, *(0.0,) * 8)
    each, cold, overall = estimates.profiles[lease.bucket], estimates.cold, estimates.service
    answer = answers.profiles[lease.bucket] if answers is not None and lease.call.stream else each
    return (
        supply.free_slots, supply.in_flight, each.mean, each.tail, each.deviation, *head,
        overall.mean, overall.deviation, cold.mean, cold.tail, cold.deviation,
        answer.mean, answer.tail, answer.deviation,
    )  # fmt: skip
