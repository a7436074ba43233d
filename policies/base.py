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
from collections.abc import Collection, Mapping, Sequence, Sized
from random import Random
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import msgspec
from pydantic import Field

from gateway.options import Duration, Options
from gateway.registry import Registry
from gateway.vocab import Reason, Rent


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


class Estimate(Protocol):
    """What is known of a duration, in seconds. Plain numbers, kept up to date elsewhere."""

    @property
    def mean(self) -> float:
        """Expected."""
        ...

    @property
    def deviation(self) -> float:
        """Standard deviation."""
        ...

    @property
    def tail(self) -> float:
        """The quantile at the route's objective."""
        ...


class ProviderQueueView(Protocol):
    """The queue that a provider keeps."""

    @property
    def calls(self) -> int:
        """Those of the calls that hold a slot which wait there."""
        ...


class TierView(Protocol):
    """All a policy may know about one tier. Read-only."""

    @property
    def options(self) -> TierOptions:
        """The tier as written in the file."""
        ...

    @property
    def name(self) -> str:
        """Of its backend: `options.backend`."""
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

    @property
    def rent(self) -> Rent | None:
        """What an instance costs and how it lives; None for an owned tier."""
        ...

    @property
    def warm(self) -> int:
        """Free slots of a rented tier that have an instance behind them, idle and paid for."""
        ...

    @property
    def idle(self) -> Sized:
        """Instances that idle, those included that may be gone by now: where there is none, `warm` is 0."""
        ...

    @property
    def opening(self) -> Collection[float]:
        """When each instance that boots for nobody in particular is expected to be up."""
        ...

    def alive(self, now: float) -> float:
        """The chance that the idle instance which would serve next is still there; 1 where none idles."""
        ...

    def up_by(self, until: float, now: float) -> float:
        """Seconds until `until` for which they are expected to have been up, all together."""
        ...

    @property
    def room(self) -> int:
        """Instances that could be opened now; 0 where only a call can make one boot."""
        ...

    @property
    def provider_queue(self) -> "ProviderQueueView | None":
        """The provider's own queue, where calls wait for whichever instance is up or free first. None where
        it has none, or none is counted on.
        """
        ...

    @property
    def claimants(self) -> int:
        """Pools with calls waiting that this tier is one of, this one included: at least 1."""
        ...

    @property
    def overall(self) -> Estimate:
        """How long calls of this route hold a slot here, over all sizes."""
        ...

    @property
    def calibration(self) -> float:
        """Factor on deviations of services, for predictions to hold as often as they say."""
        ...

    @property
    def cold(self) -> Estimate:
        """How long an instance boots."""
        ...

    def service(self, request: "RequestView") -> Estimate:
        """How long this call would hold a slot, boot and queue excluded."""
        ...

    def answer(self, request: "RequestView") -> Estimate:
        """How long after taking a slot its budget would be kept: its answer, or the first byte of it."""
        ...


class RequestView(Protocol):
    """All a policy may know about one call. Read-only."""

    @property
    def since(self) -> float:
        """When it began to wait, on the clock."""
        ...

    @property
    def deadline(self) -> float:
        """When it is given up if no answer has begun."""
        ...

    @property
    def due(self) -> float:
        """When its latency budget is used up; its deadline where it has none. Never after the deadline."""
        ...

    @property
    def bucket(self) -> int:
        """Its class of size."""
        ...

    @property
    def priority(self) -> str:
        """`critical` or `default`. Best-effort calls fill idle slots without a policy being asked."""
        ...

    @property
    def stream(self) -> bool:
        """Its answer is read as it is made: its budget speaks of the first byte."""
        ...

    @property
    def work(self) -> float:
        """Seconds of a slot of the reference tier that it is expected to take. 0 until it waits."""
        ...

    @property
    def late(self) -> bool:
        """It has been held as late: it stands behind those that can still be answered in time."""
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

    def header(self, name: bytes) -> bytes | None:
        """Value of its first header of that name, in lower case; None where it has none."""
        ...


class PoolView(Protocol):
    """The pool at this moment. Read-only."""

    @property
    def tiers(self) -> Sequence[TierView]:
        """In the order of the file."""
        ...

    @property
    def waiting(self) -> Sequence[RequestView]:
        """The queue: by class, those in time before those that are late, and then what is due first."""
        ...

    @property
    def in_flight(self) -> int:
        """Slots that calls of this pool hold, on any tier."""
        ...

    @property
    def opening(self) -> int:
        """Instances that boot because this pool had them opened."""
        ...

    @property
    def in_time(self) -> int:
        """How many of them are not late: the first so many of `waiting`."""
        ...

    @property
    def work(self) -> float:
        """Seconds of a slot of the reference tier that the calls in time are expected to take."""
        ...

    def ahead(self, request: RequestView) -> float:
        """Of that work, what stands before a call, or would if it joined the queue now."""
        ...

    @property
    def reference(self) -> TierView:
        """The tier that `work` is measured in: the first owned one, else the first."""
        ...

    def load(self, now: float) -> float:
        """Work that came per second lately: slots of the reference tier that it would keep busy."""
        ...

    def spare(self, now: float) -> float:
        """Late answers that the objective still allows; negative: too many were late."""
        ...

    @property
    def caution(self) -> float:
        """How many standard deviations to allow for, so that the objective is reached and not overdone."""
        ...


# One or two of these are made for every call: as structs, for a sixth of what a tuple with names costs.


class Run(msgspec.Struct, frozen=True, gc=False):
    """Take a slot of this backend now."""

    backend: str
    reason: Reason


class Open(msgspec.Struct, frozen=True, gc=False):
    """Let instances of this backend boot for whoever needs them first."""

    backend: str
    instances: int


class Hold(msgspec.Struct, frozen=True, gc=False):
    """Stay in the queue; ask again at `until` (on the clock) unless a slot is taken before.

    opens:  instances to open meanwhile
    late:   its budget cannot be kept any more: let those that can still be in time go first
    """

    until: float
    opens: tuple[Open, ...] = ()
    late: bool = False


class Shed(msgspec.Struct, frozen=True, gc=False):
    """Give the call up. `contended`: slots exist but all are taken; False when nothing can take calls."""

    reason: Reason
    contended: bool


Action = Run | Hold | Shed


class Take(msgspec.Struct, frozen=True):
    """The freed slot goes to this waiting call."""

    request: RequestView
    reason: Reason


Way = Literal["free slot", "after queueing", "warm instance", "busy instance", "new instance", "closed"]


class Candidate(NamedTuple):
    """One way in which a call could have been answered, as `policies.explanation` works it out.

    Seconds count from the moment of the decision; None is not known (or, for a wait, without an end).

    way:       how it would come to a slot of that backend
    start:     whether an instance would have to boot first; `unknown` where nothing is known of instances
    waits_s:   until it has a slot, or an instance that is up
    finish_s:  until what its budget speaks of, the answer or its first byte: expected
    tail_s:    the same, at the quantile of the route's objective
    chance:    of being within its budget, 0 to 1
    usd:       what it adds to the bill; None when the price is not known
    chosen:    it is what the policy answered, or, for a call that is held, what it counts on
    why:       why it was chosen, or why not
    """

    backend: str
    way: Way
    start: Literal["warm", "cold", "unknown"]
    waits_s: float | None = None
    finish_s: float | None = None
    tail_s: float | None = None
    chance: float | None = None
    usd: float | None = None
    chosen: bool = False
    why: str = ""


class PolicyOptions(Options):
    """Options of a policy; its registered name is the `type`."""


class Policy(ABC):
    """One rule for choosing. Construct with `cls(options)`; keep no other state."""

    Options: ClassVar[type[PolicyOptions]] = PolicyOptions
    learns: ClassVar[bool] = False
    """True for a policy that looks at estimates: only for it must they be learned."""
    rents: bool = True
    """False for a policy that never uses what is rented: nothing is opened ahead for it."""
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

    def problems(self, backends: Sequence[str]) -> Mapping[tuple[str, ...], str]:
        """What is wrong with its options on a route with tiers on these backends; by the path of the key."""
        return {}

    def explain(self, action: Action, request: RequestView, pool: PoolView, now: float) -> str:
        """The rule by which it gave `action` on what it was shown: one sentence for people."""
        return (type(self).__doc__ or "").strip().partition("\n")[0]


policies: Registry[Policy] = Registry("policy")
"""Every policy by its name in the file."""

__all__ = [
    "Action", "Candidate", "Estimate", "Hold", "Open", "Policy", "PolicyOptions", "PoolView", "Queue",
    "RequestView", "Run", "Shed", "Take", "TierOptions", "TierView", "Way", "policies",
]  # fmt: skip
