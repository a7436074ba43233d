"""The last decisions of every pool: what was decided, and the numbers it was decided on.

Noting one costs a microsecond: numbers are put into a tuple, and what they mean is worked out when somebody
asks (`record.py`). No body, no header and no secret is kept. Knows the pool; never HTTP.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any, NamedTuple

from gateway.capacity import Capacity
from gateway.lease import Lease
from gateway.pool import Pool
from gateway.record import Hedged
from gateway.tier import Tier
from gateway.tracing.trace import SAMPLED_ENDS
from gateway.vocab import Call, Reason
from policies.base import Action, Hold, Run

_in_order: Callable[[Lease], Any] = attrgetter("order")
_due: Callable[[Lease], Any] = attrgetter("due")

_slots: Callable[[Capacity], Any] = attrgetter("free_slots", "in_flight")

_WARM = Reason.WARM

KEPT = 1_000
"""Decisions that are kept, of all routes together."""


class Noted(NamedTuple):
    """One decision.

    waiting:  (calls that waited, those in time among them, seconds of work before this call); None where
              the call took an owned slot at once, so that nothing else was looked at
    tiers:    for each tier (free, in flight), and where `waiting` is not None also (blocked, warm, up at,
              idle since, claimants, why it cannot carry the call, queued), may use, and the estimates: a
              call's service (mean, tail, deviation), of all sizes (mean, deviation), a boot (mean, tail,
              deviation), an answer (the same)
    hedged:   what became of the second attempt that this was; None where it was none
    """

    request_id: str
    route: str
    at: float
    action: Action
    due: float
    deadline: float
    attempt: int
    stream: bool
    bucket: int
    tiers: list[tuple[Any, ...]]
    since: float = 0.0
    lot: float | None = None
    late: bool = False
    waiting: tuple[int, int, float] | None = None
    hedged: Hedged | None = None


Told = Callable[[Pool, Call, tuple[Any, ...]], None]
"""Takes a decision as it is noted: the pool, the call, and the fields of a `Noted`."""


class Ring:
    """All of them, the oldest first. `of` makes the witness of one pool (`Pool.witness`).

    told:  who else wants to know those about calls whose trace is kept
    """

    def __init__(self, kept: int = KEPT, *, told: Told | None = None) -> None:
        self._noted: deque[tuple[Any, ...]] = deque(maxlen=kept)
        self._told = told

    def of(self, pool: Pool) -> "Witness":
        """Who notes what that pool decides."""
        return Witness(pool, self._noted) if self._told is None else Telling(pool, self._noted, self._told)

    def find(self, request_id: str) -> Iterator[Noted]:
        """What was decided about one request, in order."""
        return (Noted(*noted) for noted in self._noted if noted[0] == request_id)

    def newest(self) -> Iterator[Noted]:
        """All of them, the last first."""
        return (Noted(*noted) for noted in reversed(self._noted))

    def __len__(self) -> int:
        return len(self._noted)


class Witness:
    """Notes the decisions of one pool."""

    __slots__ = ("_append", "_pool", "_supplies", "_tiers")

    def __init__(self, pool: Pool, noted: deque[tuple[Any, ...]]) -> None:
        self._pool = pool
        self._append = noted.append
        self._supplies = [tier.supply for tier in pool.tiers]
        self._tiers = list(pool.tiers)

    def hedges(self, lease: Lease, action: Run, now: float, hedged: Hedged) -> None:
        """A second attempt beside the first starts; `hedged` says later what became of it."""
        pool = self._pool
        call = lease.call
        self._append((
            call.request_id, pool.route, now, action, lease.due, lease.deadline, lease.attempt, call.stream,
            lease.bucket, [_row(tier, lease) for tier in self._tiers], lease.since, lease.drawn, lease.late,
            (len(pool.waiting), pool.in_time, _before(pool, lease)), hedged,
        ))  # fmt: skip

    def note(self, lease: Lease, action: Action, now: float) -> None:
        """A decision was made and not carried out yet."""
        if action.__class__ is Run and action.reason is _WARM:  # as cheap as can be: nearly every call
            call = lease.call
            self._append((
                call.request_id, call.route, now, action, lease.due, lease.deadline, lease.attempt,
                call.stream, lease.bucket,
                list(map(_slots, self._supplies)),
            ))  # fmt: skip
            return
        if action.__class__ is Hold and lease.waiting and not action.opens and action.late is lease.late:
            return  # looked at again, and it goes on waiting as before
        pool = self._pool
        call = lease.call
        self._append((
            call.request_id, pool.route, now, action, lease.due, lease.deadline, lease.attempt, call.stream,
            lease.bucket, [_row(tier, lease) for tier in self._tiers], lease.since, lease.drawn, lease.late,
            (len(pool.waiting), pool.in_time, _before(pool, lease)),
        ))  # fmt: skip


class Telling(Witness):
    """Notes them, and passes on those about calls whose trace is kept."""

    __slots__ = ("_noted", "_told")

    def __init__(self, pool: Pool, noted: deque[tuple[Any, ...]], told: Told) -> None:
        super().__init__(pool, noted)
        self._noted = noted
        self._told = told

    def hedges(self, lease: Lease, action: Run, now: float, hedged: Hedged) -> None:
        """See `Witness.hedges`."""
        super().hedges(lease, action, now, hedged)
        self._told(self._pool, lease.call, self._noted[-1])

    def note(self, lease: Lease, action: Action, now: float) -> None:
        """See `Witness.note`."""
        if lease.call.traceparent[-1:] not in SAMPLED_ENDS:
            Witness.note(self, lease, action, now)
            return
        before = self._noted[-1] if self._noted else None
        Witness.note(self, lease, action, now)
        if self._noted and (noted := self._noted[-1]) is not before:
            self._told(self._pool, lease.call, noted)


def _before(pool: Pool, lease: Lease) -> float:
    """Work before the call; inside the queue by its place, as if all that wait took alike."""
    waiting, in_time = pool.waiting, pool.in_time
    if not in_time:
        return 0.0
    if lease.waiting:
        place = min(bisect_left(waiting, lease.order, key=_in_order), in_time)
    elif lease.due >= waiting[in_time - 1].due:
        return float(pool.work)
    else:
        place = bisect_left(waiting, lease.due, hi=in_time, key=_due)
    return float(pool.work * place / in_time)


def _row(tier: Tier, lease: Lease) -> tuple[Any, ...]:
    supply, estimates = tier.supply, tier.estimates
    warmth = supply.warmth
    may = lease.may_use(tier.name)
    cannot = None if may else supply.backend.unfit(lease.call)
    state: tuple[Any, ...]
    if warmth is None:
        state = (supply.blocked, 0, (), None, supply.claimants, cannot, None)
    else:
        opening = warmth.opening
        state = (
            supply.blocked, supply.warm, tuple(opening) if opening else (), warmth.next_since,
            supply.claimants, cannot,
            None if supply.provider_queue is None else supply.provider_queue.calls,
        )  # fmt: skip
    if estimates is None:
        return supply.free_slots, supply.in_flight, state, may
    service, cold, overall = estimates.profiles[lease.bucket], estimates.cold, estimates.service
    answers = tier.answers
    answer = service if answers is None or not lease.call.stream else answers.profiles[lease.bucket]
    return (
        supply.free_slots, supply.in_flight, state, may,
        service.mean, service.tail, service.deviation, overall.mean, overall.deviation,
        cold.mean, cold.tail, cold.deviation, answer.mean, answer.tail, answer.deviation,
    )  # fmt: skip
