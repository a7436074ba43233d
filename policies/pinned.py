"""`pinned`: calls go to one backend and to no other, by the file or by a header of the request.

    policy: {type: pinned, backend: fleet}            every call of the route
    policy: {type: pinned, header: x-backend}         the tier that the header names

For calls that must not leave a place (data that has to stay in a region), for comparing two backends, and
for looking at one of them through the gateway. A pinned call waits for its backend until its deadline;
where the tier says `then: shed` (or `when_full: shed`), for as long as `when_full` lets it. `spill` changes
nothing, for there is nowhere to go. If the backend cannot take calls, the call is shed.

With `header`, a call without that header is decided by the policy under `otherwise`, and so is one whose
header names no tier of the route: a client may say a name that another route, or an older file, has. The
value chooses among the route's own tiers and is never kept, counted or logged.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

from pydantic import field_validator, model_validator

from gateway.vocab import HOP_BY_HOP, Reason
from policies.base import (
    Action,
    Hold,
    Policy,
    PolicyOptions,
    PoolView,
    RequestView,
    Run,
    Shed,
    Take,
    TierView,
    policies,
)
from policies.choice import usable
from policies.otherwise import Otherwise, build, not_a_tier, place_of

_SIGNS = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
"""What a field name is made of (RFC 9110 section 5.6.2), in lower case."""
_ENDS_HERE = frozenset(
    ("host", "content-length", "expect", "authorization", "accept-encoding", "x-request-id", "traceparent")
)
_OURS = ("x-overspill-", "proxy-")


class PinnedOptions(PolicyOptions):
    """Where to: exactly one of `backend` and `header`."""

    backend: str | None = None
    """The tier that all calls go to."""
    header: str | None = None
    """Name of the request header whose value is the name of a tier, like x-backend."""
    otherwise: Otherwise = "cheapest_in_budget"
    """With `header`: the policy for calls without it: its name, or {type: NAME, …its options}."""

    @field_validator("header")
    @classmethod
    def _goes_on(cls, header: str | None) -> str | None:
        if header is None:
            return None
        name = header.lower()
        if not name or not _SIGNS.issuperset(name):
            raise ValueError(f"{header!r} is not the name of a header; write one like x-backend")
        if name in _ENDS_HERE or name.encode() in HOP_BY_HOP or name.startswith(_OURS):
            raise ValueError(f"{header!r} is read by the gateway itself; take another name, like x-backend")
        return name

    @model_validator(mode="after")
    def _exactly_one(self) -> "PinnedOptions":
        if (self.backend is None) == (self.header is None):
            raise ValueError("give exactly one of backend and header, like {type: pinned, header: x-backend}")
        return self


@policies.add("pinned")
class Pinned(Policy):
    """Calls go to one backend only, as the file or a header says."""

    Options: ClassVar[type[PolicyOptions]] = PinnedOptions
    learns: ClassVar[bool] = True
    """For the other policy, which may look at them."""
    EXAMPLE: ClassVar[Mapping[str, Any]] = {"header": "x-backend"}

    def __init__(self, options: PolicyOptions) -> None:
        super().__init__(options)
        assert isinstance(options, PinnedOptions)
        self._backend = options.backend
        self._header = (options.header or "").encode()
        self._otherwise = build(options.otherwise)

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """Its backend, now or later, and no other."""
        tier = self._tier(request, pool.tiers)
        if tier is None:
            return self._otherwise.arrive(request, pool, now, chance)
        return _answer(request, tier, pool, now)

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The same."""
        tier = self._tier(request, pool.tiers)
        if tier is None:
            return self._otherwise.recheck(request, pool, now, chance)
        return _answer(request, tier, pool, now)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """The first in the queue that is pinned to it, or that the other policy would give it to."""
        tiers = pool.tiers
        place = place_of(backend, tiers)
        if place is None or tiers[place].blocked is not None or not tiers[place].free:
            return None
        freed = tiers[place]
        other = None if self._backend is not None else self._unpinned(backend, pool, now, chance)
        for request in pool.waiting:
            if other is not None and request is other.request:
                return other
            if self._tier(request, tiers) is freed and usable(freed, request) and request.free_on(freed):
                return Take(request, _word(request))
        return None

    def problems(self, backends: Sequence[str]) -> Mapping[tuple[str, ...], str]:
        """A backend that is no tier of the route, and what is wrong with the other policy."""
        found = {("otherwise", *key): text for key, text in self._otherwise.problems(backends).items()}
        if self._backend is not None and self._backend not in backends:
            found["backend",] = not_a_tier(self._backend, backends)
        return found

    def explain(self, action: Action, request: RequestView, pool: PoolView, now: float) -> str:
        """Who pinned it, and to what."""
        tier = self._tier(request, pool.tiers)
        if tier is not None:
            who = "the file" if self._backend is not None else f"its header {self._header.decode()}"
            return f"pinned to {tier.options.backend} by {who}: no other backend is looked at"
        return f"not pinned; decided otherwise: {self._otherwise.explain(action, request, pool, now)}"

    def _tier(self, request: RequestView, tiers: Sequence[TierView]) -> TierView | None:
        """What the call is pinned to; None if it is not."""
        name = self._backend
        if name is None:
            value = request.header(self._header)
            if value is None:
                return None
            name = value.decode("latin-1").strip()
        place = place_of(name, tiers)
        return None if place is None else tiers[place]

    def _unpinned(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """What the other policy would do with the slot; only calls that are its own can get it."""
        take = self._otherwise.slot_freed(backend, pool, now, chance)
        if take is None or self._tier(take.request, pool.tiers) is None:
            return take
        left = [request for request in pool.waiting if self._tier(request, pool.tiers) is None]
        return self._otherwise.slot_freed(backend, _Shown(pool, left), now, chance)


class _Shown:
    """A pool with some of its waiting calls only (`policies.base.PoolView`)."""

    __slots__ = (
        "_pool", "caution", "in_flight", "in_time", "opening", "reference", "tiers", "waiting", "work",
    )  # fmt: skip

    def __init__(self, pool: PoolView, waiting: Sequence[RequestView]) -> None:
        self._pool = pool
        self.tiers = pool.tiers
        self.waiting = waiting
        self.in_time = sum(not request.late for request in waiting)
        self.work = sum(request.work for request in waiting if not request.late)
        self.reference = pool.reference
        self.caution = pool.caution
        self.in_flight = pool.in_flight
        self.opening = pool.opening

    def load(self, now: float) -> float:
        """That of the whole pool."""
        return self._pool.load(now)

    def ahead(self, request: RequestView) -> float:
        """In the whole pool: what is pinned takes slots as well."""
        return self._pool.ahead(request)

    def spare(self, now: float) -> float:
        """That of the whole pool."""
        return self._pool.spare(now)


def _answer(request: RequestView, tier: TierView, pool: PoolView, now: float) -> Action:
    if not usable(tier, request):
        return Shed(Reason.SHED_FULL, contended=any(usable(other, request) for other in pool.tiers))
    if request.free_on(tier):
        return Run(tier.options.backend, _word(request))
    until = request.deadline
    if tier.options.then == "shed":
        until = min(until, request.since + tier.options.patience)
        if now >= until:
            return Shed(Reason.SHED_FULL, contended=True)
    return Hold(until)


def _word(request: RequestView) -> Reason:
    """An attempt after a failed one is a fallback, wherever it goes."""
    return Reason.FALLBACK if request.attempt else Reason.PINNED
