"""One tier of a route as a policy sees it: its slots, its price, and what is expected of it.

Reads a `Capacity` and the estimates of one route on one backend; changes neither. Knows no policy.
"""

from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol

from gateway.capacity import Capacity
from gateway.vocab import Rent
from policies.base import Estimate, RequestView, TierOptions


class Learned(Protocol):
    """The estimates of one route on one backend (`gateway.estimates.BackendEstimates` is one)."""

    @property
    def profiles(self) -> Sequence[Estimate]:
        """Service by size bucket."""
        ...

    @property
    def service(self) -> Estimate:
        """Service over all sizes."""
        ...

    @property
    def cold(self) -> Estimate:
        """Boots."""
        ...

    def bucket_of(self, size: float | None) -> int:
        """Class of a size."""
        ...

    def learn_service(self, bucket: int, seconds: float, now: float) -> None:
        """A warm call took that long."""
        ...

    def learn_cold(self, age: float | None, seconds: float, now: float) -> None:
        """An instance took that long to boot, so long after the one before it was last used."""
        ...

    def learn_start(self, age: float, cold: bool) -> None:
        """An instance that had idled for `age` was still there, or was not."""
        ...


class _Unknown(NamedTuple):
    """Nothing is known, and nothing is asked: for policies that do not look at estimates."""

    mean: float = 0.0
    deviation: float = 0.0
    tail: float = 0.0


_UNKNOWN = _Unknown()


class Tier:
    """One tier (`policies.base.TierView`).

    estimates:  how long calls hold a slot; None where the policy does not ask
    answers:    how long until what the budget of a streamed call speaks of, its first byte
    """

    __slots__ = ("answers", "estimates", "name", "options", "owned", "rent", "supply")

    def __init__(
        self,
        options: TierOptions,
        supply: Capacity,
        estimates: Learned | None = None,
        answers: Learned | None = None,
    ) -> None:
        self.options = options
        self.name = options.backend
        self.supply = supply
        self.owned = supply.backend.owned
        self.rent: Rent | None = supply.backend.rent
        self.estimates = estimates
        self.answers = answers

    # Read for every call: by getters without a frame of their own.
    blocked: "property" = property(attrgetter("supply.blocked"))
    """Why none of its replicas can take calls; None when one can."""
    free: "property" = property(attrgetter("supply.free_slots"))
    """Slots that could be taken now."""
    in_flight: "property" = property(attrgetter("supply.in_flight"))
    """Slots taken, by every pool on this backend."""

    @property
    def capacity(self) -> int:
        """All slots."""
        return self.supply.capacity

    @property
    def warm(self) -> int:
        """Free slots with an idle instance behind them."""
        return self.supply.warm

    @property
    def opening(self) -> Collection[float]:
        """When each instance that boots is expected to be up."""
        warmth = self.supply.warmth
        return () if warmth is None else warmth.opening

    @property
    def room(self) -> int:
        """Instances that could be opened now."""
        return self.supply.room

    @property
    def claimants(self) -> int:
        """Pools that wait for slots here."""
        return self.supply.claimants

    @property
    def overall(self) -> Estimate:
        """How long calls hold a slot, over all sizes."""
        return _UNKNOWN if self.estimates is None else self.estimates.service

    @property
    def cold(self) -> Estimate:
        """How long an instance boots."""
        return _UNKNOWN if self.estimates is None else self.estimates.cold

    def service(self, request: RequestView) -> Estimate:
        """How long this call would hold a slot."""
        return _UNKNOWN if self.estimates is None else self.estimates.profiles[request.bucket]

    def answer(self, request: RequestView) -> Estimate:
        """How long until what its budget speaks of."""
        if self.answers is not None and request.stream:
            return self.answers.profiles[request.bucket]
        return _UNKNOWN if self.estimates is None else self.estimates.profiles[request.bucket]
