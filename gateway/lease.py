"""The claim of one call on a slot.

A `Lease` is one call's way through the pool: it asks, perhaps waits, holds a slot and gives it back.
All waiting of the gateway's own is in `Lease.granted`; deciding is the pool's part, at its desk.
"""

from asyncio import Future, get_running_loop
from collections.abc import Callable, Collection, Mapping
from functools import partial
from math import inf
from operator import attrgetter
from types import TracebackType
from typing import Protocol, Self

from gateway.capacity import Capacity
from gateway.clock import Clock
from gateway.errors import DeadlinePassed, OverspillError, again
from gateway.slot import Slot
from gateway.tier import Tier
from gateway.vocab import SUCCESS, Call, Verdict
from policies.base import TierView


class Attempt(Protocol):
    """What the pool needs to know about one attempt at a call."""

    @property
    def number(self) -> int:
        """0 for the first."""
        ...

    @property
    def tried(self) -> Collection[tuple[str, int]]:
        """Places where earlier attempts failed, as (backend name, replica index)."""
        ...


class First:
    """The attempt of a call that was not tried before."""

    number = 0
    tried: Collection[tuple[str, int]] = ()


FIRST = First()


class Desk(Protocol):
    """What a lease needs of its pool."""

    clock: Clock
    supplies: Mapping[str, Capacity]
    """The capacity of each tier, by the name of its backend."""
    carries_all: bool
    """There is no call that any of them could not carry."""
    within_s: float
    """The latency budget in seconds; `first_byte_s` that of a streamed answer. Infinite without one."""
    first_byte_s: float

    def draw(self) -> float:
        """A random number from [0, 1)."""
        ...

    def arrive(self, lease: "Lease", now: float) -> Slot | None:
        """Its slot, or None when it was put into the queue."""
        ...

    def leave(self, lease: "Lease") -> None:
        """It gives up waiting."""
        ...

    def bucket_of(self, size: float) -> int:
        """Class of a size, for estimates."""
        ...

    def release(self, lease: "Lease", slot: Slot, verdict: Verdict) -> None:
        """Its attempt has ended."""
        ...

    def too_late(self, now: float) -> DeadlinePassed:
        """The error for a call whose deadline is over."""
        ...


class Lease:
    """One call's claim on a slot: a context manager, and the policy's view of the call.

    Entering asks: `slot` is there at once, or `granted` waits as long as the policy holds the call. Raises
    Contended, NoCapacity or DeadlinePassed. Leaving gives back what is held, or leaves the queue; how the
    attempt ended is read from the exception that passes through, if any.
    """

    __slots__ = (
        "_anywhere", "_carries", "_fields", "_lot", "_on_settled", "_pool", "attempt", "bucket", "call",
        "deadline", "due", "error", "late", "mark", "order", "since", "slot", "tier", "tried", "waiting",
        "wake_at", "work",
    )  # fmt: skip

    # Set when it asks (`since`), when it joins the queue, and when it takes a slot (`tier`).
    since: float
    order: tuple[int, float, int]
    wake_at: float
    mark: float
    """What the pool's count of work that has left the queue will be when nothing stands before this call."""
    tier: Tier
    _on_settled: Callable[[], object] | None

    def __init__(self, pool: Desk, call: Call, attempt: Attempt) -> None:
        self._pool = pool
        self.call = call
        self.attempt = attempt.number
        self.tried = attempt.tried
        self._anywhere = pool.carries_all and not attempt.tried and call.protocol != "grpc"
        self.deadline = call.deadline
        due = call.arrived + (pool.first_byte_s if call.stream else pool.within_s)
        self.due = due if due < call.deadline else call.deadline
        self.bucket = 0 if call.size is None else pool.bucket_of(call.size)
        self.work = 0.0
        self.late = False
        self.slot: Slot | None = None
        self.error: Exception | None = None
        self.waiting = False
        self._lot: float | None = None
        self._carries: dict[str, bool] | None = None  # once it waits, or may be spilled
        self._fields: dict[bytes, bytes | None] | None = None  # only those asked for

    # -- for the policy ------------------------------------------------------------------------

    # Read for every decision: by getters without a frame of their own.
    priority: "property" = property(attrgetter("call.priority"))
    """Its class."""
    stream: "property" = property(attrgetter("call.stream"))
    """Its answer is read as it is made."""

    @property
    def lot(self) -> float:
        """Drawn when first asked for, and kept."""
        if self._lot is None:
            self._lot = self._pool.draw()
        return self._lot

    @property
    def drawn(self) -> float | None:
        """The lot, if it was asked for."""
        return self._lot

    @property
    def asked(self) -> Mapping[bytes, bytes | None]:
        """The headers that were asked for, by name."""
        return self._fields or {}

    def may_use(self, backend: str) -> bool:
        """False for a backend of which every replica failed this call, or that could not carry it."""
        if self._anywhere:
            return True
        supply = self._pool.supplies[backend]
        if supply.carries_all and not self.tried and self.call.protocol != "grpc":
            return True
        known = self._carries
        if known is not None and backend in known:
            return known[backend]
        may = supply.backend.unfit(self.call) is None
        if self.tried and supply.exhausted(self.tried):
            may = False
        if known is None and (self.waiting or not supply.backend.owned):
            known = self._carries = {}  # who waits, and what is rented, is asked about again and again
        if known is not None:
            known[backend] = may
        return may

    def free_on(self, tier: TierView) -> bool:
        """True when this call could take a slot of that tier now."""
        if not self.tried or not tier.free:
            return tier.free > 0
        return self._pool.supplies[tier.options.backend].free(self.tried) > 0

    def header(self, name: bytes) -> bytes | None:
        """Looked for when first asked, and kept."""
        fields = self._fields
        if fields is None:
            fields = self._fields = {}
        if name not in fields:
            fields[name] = next((value for key, value in self.call.headers if key == name), None)
        return fields[name]

    # -- for the pipeline ----------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.since = now = self._pool.clock.now()
        self._pool.arrive(self, now)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.slot is not None:  # perhaps handed over in the very tick in which the call was cancelled
            self.release(SUCCESS if error is None else verdict_of(error))
        elif self.waiting:
            self._pool.leave(self)

    async def granted(self) -> Slot:
        """The slot, waited for. Raises Contended, NoCapacity or DeadlinePassed."""
        if self.waiting:
            settled: Future[None] = get_running_loop().create_future()
            self._on_settled = partial(_resolve, settled)
            await settled
        return self.result()

    # -- the same without asyncio (also for the simulator) -------------------------------------

    def ask(self, on_settled: Callable[[], object] | None = None) -> Slot | None:
        """Take a slot now, or join the queue and return None; `on_settled` is called once it is over."""
        self.since = now = self._pool.clock.now()
        slot = self._pool.arrive(self, now)
        if slot is None:
            self._on_settled = on_settled
        return slot

    def wait(self) -> None:
        """It begins to wait."""
        self.waiting = True
        self.wake_at = inf
        self._on_settled = None

    def settle(self, slot: Slot | None, error: Exception | None) -> None:
        """It has left the queue, with a slot or with an error."""
        self.waiting = False
        self.slot = slot
        self.error = None if error is None else again(error)
        if self._on_settled is not None:
            self._on_settled()

    def result(self) -> Slot:
        """How the waiting ended; never a slot for a call whose deadline passed before it woke up."""
        if self.error is not None:
            raise again(self.error)
        assert self.slot is not None
        now = self._pool.clock.now()
        if now >= self.deadline:
            self.release(Verdict.NEUTRAL)
            raise self._pool.too_late(now)
        return self.slot

    def release(self, verdict: Verdict) -> None:
        """The attempt has ended: give the slot back."""
        slot, self.slot = self.slot, None
        if slot is None:
            raise RuntimeError("this lease holds no slot")
        self._pool.release(self, slot, verdict)

    def take_over(self, other: "Lease", verdict: Verdict) -> None:
        """Go on with the slot of another lease on the same call; its own ends with `verdict`, at once."""
        self.slot, other.slot = other.slot, self.slot
        self.tier, other.tier = other.tier, self.tier
        other.release(verdict)

    def abandon(self) -> None:
        """Nobody wants it any more: out of the queue, or the slot back if it was handed over already."""
        if self.waiting:
            self._pool.leave(self)
        elif self.slot is not None:
            self.release(Verdict.NEUTRAL)


def verdict_of(error: BaseException | None) -> Verdict:
    """Only what a backend did counts for or against it; a client that left, a deadline, a bug do not."""
    if error is None:
        return SUCCESS
    return error.verdict if isinstance(error, OverspillError) else Verdict.NEUTRAL


def _resolve(settled: "Future[None]") -> None:
    if not settled.done():
        settled.set_result(None)
