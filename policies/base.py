"""The policy contract: what a policy is shown, when it is asked, and what it may answer.

Knows the leaves only. A policy is synchronous and pure: it does no I/O, reads no clock, draws no
random number of its own and changes nothing it is shown. Everything it may use is an argument, and
its answer is data that the pool carries out in the same step of the event loop: nothing can have
changed between deciding and taking the slot.

A policy is asked at three moments:

    arrive       a call has come (again, after a failed attempt)   -> Run | Hold | Shed
    recheck      the moment came that a Hold named                 -> Run | Hold | Shed
    slot_freed   a slot of one backend became free                 -> Take (a waiting call) | None
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field

from gateway.options import Duration, Options
from gateway.registry import Registry
from gateway.vocab import Reason


class Queue(Options):
    """`when_full: {queue: 40ms, then: spill}`: wait in the gateway's own queue before going on."""

    queue: Duration
    """How long a call may wait for a slot of this tier."""
    then: Literal["spill", "shed"] = "spill"
    """What happens when that time is over."""


class TierOptions(Options):
    """One tier of a route. The order of the tiers is the order of preference."""

    backend: str
    """Name of a backend from the `backends` section."""
    when_full: Literal["spill", "shed"] | Queue = "spill"
    """What happens when every slot of this tier is taken: `spill` to the next tier, `shed`, or wait."""
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Share of the calls under the `weighted` policy."""

    @property
    def patience(self) -> float:
        """Seconds a call may wait for this tier."""
        return self.when_full.queue if isinstance(self.when_full, Queue) else 0.0

    @property
    def then(self) -> str:
        """`spill` or `shed`, once the patience is over."""
        return self.when_full.then if isinstance(self.when_full, Queue) else self.when_full


class TierView(Protocol):
    """All a policy may know about one tier. Read-only."""

    @property
    def options(self) -> TierOptions:
        """The tier as written in the file."""
        ...

    @property
    def owned(self) -> bool:
        """Paid for whether used or not."""
        ...

    @property
    def blocked(self) -> Reason | None:
        """None when some replica can take calls; else `spill_unhealthy` or `spill_breaker`."""
        ...

    @property
    def free(self) -> int:
        """Slots that could be taken now, on replicas that can take calls."""
        ...

    @property
    def in_flight(self) -> int:
        """Slots taken."""
        ...

    @property
    def capacity(self) -> int:
        """All slots of the tier's replicas, usable now or not."""
        ...


class RequestView(Protocol):
    """All a policy may know about one call. Read-only."""

    @property
    def since(self) -> float:
        """When it began to wait, on the clock."""
        ...

    @property
    def deadline(self) -> float:
        """When its answer must have begun."""
        ...

    @property
    def attempt(self) -> int:
        """0 for the first attempt; more when earlier ones failed."""
        ...

    @property
    def lot(self) -> float:
        """A number from [0, 1) drawn for this attempt: the same whenever a policy asks, so that a policy
        without memory can keep to a choice it made by chance.
        """
        ...

    def may_use(self, backend: str) -> bool:
        """False for a backend that failed this call, or that could not carry it at all."""
        ...

    def free_on(self, tier: TierView) -> bool:
        """True when this call could take a slot of that tier now (not one that failed it already)."""
        ...


class PoolView(Protocol):
    """The pool at this moment. Read-only."""

    @property
    def tiers(self) -> Sequence[TierView]:
        """In the order of the file."""
        ...

    @property
    def waiting(self) -> Sequence[RequestView]:
        """The queue, earliest deadline first."""
        ...


class Run(NamedTuple):
    """Take a slot of this backend now."""

    backend: str
    reason: Reason


class Hold(NamedTuple):
    """Stay in the queue; ask again at `until` (on the clock) unless a slot is taken before."""

    until: float


class Shed(NamedTuple):
    """Give the call up. `contended`: slots exist but all are taken; False when nothing can take calls."""

    reason: Reason
    contended: bool


Action = Run | Hold | Shed


class Take(NamedTuple):
    """The freed slot goes to this waiting call."""

    request: RequestView
    reason: Reason


class PolicyOptions(Options):
    """Options of a policy; its registered name is the `type`."""


class Policy(ABC):
    """One rule for choosing. Construct with `cls(options)`; keep no other state."""

    Options: ClassVar[type[PolicyOptions]] = PolicyOptions
    EXAMPLE: ClassVar[Mapping[str, Any]] = {}
    """Options that the conformance suite builds this policy with."""

    def __init__(self, options: PolicyOptions) -> None:
        self.options = options

    @abstractmethod
    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """A call has come: run it, hold it or shed it."""

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """A held call's moment came. The same question as on arrival, unless overridden."""
        return self.arrive(request, pool, now, chance)

    @abstractmethod
    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """A slot of `backend` is free: which waiting call gets it, if any."""


policies: Registry[Policy] = Registry("policy")
"""Every policy by its name in the file."""

__all__ = [
    "Action", "Hold", "Policy", "PolicyOptions", "PoolView", "Queue", "RequestView", "Run", "Shed",
    "Take", "TierOptions", "TierView", "policies",
]  # fmt: skip
