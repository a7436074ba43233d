"""One tier of a route as a policy sees it: its slots, its price, and what is expected of it.

Reads a `Capacity` and the estimates of one route on one backend; changes neither. Knows no policy.
"""

from collections.abc import Callable, Collection, Sequence, Sized
from math import inf
from operator import attrgetter
from typing import NamedTuple, Protocol

from gateway.capacity import Capacity
from gateway.clock import Clock
from gateway.replica_set import Replicas
from gateway.slot import Slot
from gateway.spending import Purse, refusal, reservation_usd
from gateway.vocab import Reason, Rent
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

    @property
    def calibration(self) -> float:
        """Factor by which deviations have to be stretched for tails to cover what they should."""
        ...

    def warm_chance(self, age: float) -> float:
        """The chance that an instance idle for `age` seconds still lives."""
        ...

    def bucket_of(self, size: float | None) -> int:
        """Class of a size."""
        ...

    def learn_service(self, bucket: int, seconds: float, now: float) -> None:
        """A warm call took that long."""
        ...

    def learn_served(self, bucket: int, seconds: float, now: float) -> None:
        """The same, and what had been predicted for it is held against it first."""
        ...

    def learn_cold(self, age: float | None, seconds: float, now: float) -> None:
        """An instance took that long to boot, so long after the one before it was last used."""
        ...

    def learn_start(self, age: float, cold: bool) -> None:
        """An instance that had idled for `age` was still there, or was not."""
        ...


Take = Callable[[Replicas, float, Reason, float], Slot | None]
"""(replicas that failed the call, now, why there, seconds waited) -> the slot."""


class _Unknown(NamedTuple):
    """Nothing is known, and nothing is asked: for policies that do not look at estimates."""

    mean: float = 0.0
    deviation: float = 0.0
    tail: float = 0.0


_UNKNOWN = _Unknown()


class _Nothing(NamedTuple):
    """Estimates of which there are none."""

    service: Estimate = _UNKNOWN
    cold: Estimate = _UNKNOWN
    calibration: float = 1.0


_NOTHING = _Nothing()


class Tier:
    """One tier (`policies.base.TierView`).

    estimates:  how long calls hold a slot; None where the policy does not ask
    answers:    how long until what the budget of a streamed call speaks of, its first byte
    """

    __slots__ = (
        "_known", "answers", "cold", "estimates", "idle", "name", "opening", "options", "overall", "owned",
        "provider_queue", "rent", "supply", "take",
    )  # fmt: skip

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
        self._known: Learned | _Nothing = _NOTHING if estimates is None else estimates
        # What these are is kept up to date elsewhere; which they are never changes.
        self.overall: Estimate = self._known.service
        """How long calls hold a slot, over all sizes."""
        self.cold: Estimate = self._known.cold
        """How long an instance boots."""
        self.idle: Sized = () if supply.warmth is None else supply.warmth.idle
        """Since when each instance idles, as last looked at."""
        self.opening: Collection[float] = () if supply.warmth is None else supply.warmth.opening
        """When each instance that boots is expected to be up."""
        self.provider_queue = supply.provider_queue
        """The provider's own, where calls wait there."""
        self.answers = answers
        self.take: Take = supply.take
        """A slot for a call; None when there is none."""

    # Read for every call: by getters without a frame of their own.
    blocked: "property" = property(attrgetter("supply.blocked"))
    """Why none of its replicas can take calls; None when one can."""
    free: "property" = property(attrgetter("supply.free_slots"))
    """Slots that could be taken now."""
    in_flight: "property" = property(attrgetter("supply.in_flight"))
    """Slots taken, by every pool on this backend."""
    warm: "property" = property(attrgetter("supply.warm"))
    """Free slots with an idle instance behind them."""
    room: "property" = property(attrgetter("supply.room"))
    """Instances that could be opened now."""
    claimants: "property" = property(attrgetter("supply.claimants"))
    """Pools that wait for slots here."""
    calibration: "property" = property(attrgetter("_known.calibration"))
    """Factor on the deviation of a service."""

    @property
    def capacity(self) -> int:
        """All slots."""
        return self.supply.capacity

    def alive(self, now: float) -> float:
        """The chance that the idle instance which would serve next is still there."""
        warmth, estimates = self.supply.warmth, self.estimates
        since = None if warmth is None else warmth.next_since
        return 1.0 if since is None or estimates is None else estimates.warm_chance(now - since)

    def up_by(self, until: float, now: float) -> float:
        """Seconds for which instances that boot will have been up by then."""
        warmth = self.supply.warmth
        return 0.0 if warmth is None else warmth.up_by(until, now, 0.5 * self.cold.deviation)

    def open(self, now: float) -> Slot | None:
        """A slot on which an instance is to boot; None when there is none."""
        return self.supply.open(now, now + self.cold.mean, Reason.SPILL_SLOW)

    def keep(self, now: float) -> Slot | None:
        """A slot whose idle instance is to be kept from going; None when there is none."""
        return self.supply.keep(now, Reason.SPILL_SLOW)

    def affordable(self, now: float) -> bool:
        """Nothing forbids to pay for a call here."""
        return True

    def service(self, request: RequestView) -> Estimate:
        """How long this call would hold a slot."""
        return _UNKNOWN if self.estimates is None else self.estimates.profiles[request.bucket]

    def answer(self, request: RequestView) -> Estimate:
        """How long until what its budget speaks of."""
        if self.answers is not None and request.stream:
            return self.answers.profiles[request.bucket]
        return _UNKNOWN if self.estimates is None else self.estimates.profiles[request.bucket]


class PursedTier(Tier):
    """A rented tier whose calls are limited by spill budgets: it looks full while these say so.

    fleet_usable:  whether any owned tier of the route can take calls: what a refusal should say
    """

    __slots__ = ("_clock", "_fleet_usable", "_requested", "_route", "purse")

    def __init__(
        self,
        options: TierOptions,
        supply: Capacity,
        estimates: Learned,
        answers: Learned | None,
        *,
        route: str,
        purse: Purse,
        clock: Clock,
        requested: Callable[[str, float], None],
        fleet_usable: Callable[[], bool],
    ) -> None:
        super().__init__(options, supply, estimates, answers)
        self.take = self._take_reserved
        self.purse = purse
        self._route = route
        self._clock = clock
        self._requested = requested
        self._fleet_usable = fleet_usable

    def requested(self, now: float) -> None:
        """A call that wants work done has come on this route."""
        self._requested(self._route, now)

    def price(self, *, opening: bool = False) -> float | None:
        """Dollars that are set aside for one attempt, or for one instance; None: the price is not known."""
        if self.rent is None:
            return None
        boot_s = 0.0 if self.supply.warm and not opening else max(self.cold.tail, self.rent.boot_s)
        return reservation_usd(self.rent, service_s=0.0 if opening else self.overall.tail, boot_s=boot_s)

    def affordable(self, now: float) -> bool:
        """There is money for a call."""
        return self.purse.would_allow(self.price(), now)

    @property
    def spent(self) -> bool:
        """Calls are to wait for the owned tiers, because the money is used up."""
        return self.purse.looks_full(self.price(), self._clock.now())

    def funded_at(self, now: float) -> float:
        """When there will be money again; never, where it is not what is wanting."""
        usd = self.price()
        return self.purse.available_at(usd, now) if self.purse.looks_full(usd, now) else inf

    @property
    def free(self) -> int:
        """None while the money is used up."""
        return 0 if self.supply.free_slots and self.spent else self.supply.free_slots

    @property
    def warm(self) -> int:
        """None while the money is used up."""
        warm = self.supply.warm
        return 0 if warm and self.spent else warm

    @property
    def room(self) -> int:
        """None unless there is money for an instance."""
        room = self.supply.room
        return room if room and self.purse.would_allow(self.price(opening=True), self._clock.now()) else 0

    def _take_reserved(self, tried: Replicas, now: float, reason: Reason, queued_s: float) -> Slot | None:
        """A slot, with what it may cost set aside. Raises Shed where the money is used up."""
        usd = self.price()
        reservation = self.purse.reserve(usd, now)
        if reservation is None:
            if self.purse.looks_full(usd, now):
                return None
            raise refusal(self._route, self.purse, usd, now, fleet_usable=self._fleet_usable())
        slot = self.supply.take(tried, now, reason, queued_s)
        if slot is None:
            reservation.cancel()
        else:
            slot.reservation = reservation
        return slot

    def open(self, now: float) -> Slot | None:
        """The same for an instance; None while there is no money for one."""
        reservation = self.purse.reserve(self.price(opening=True), now)
        if reservation is None:
            return None
        slot = super().open(now)
        if slot is None:
            reservation.cancel()
        else:
            slot.reservation = reservation
        return slot
