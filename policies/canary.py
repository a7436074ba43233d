"""`canary`: a share of the calls goes to one backend on purpose; another policy decides about the rest.

For a new version that should see some real calls first, or a rented backend that should be known to work
before the day it is needed:

    policy: {type: canary, backend: fleet-v2, share: 5%, otherwise: spill_when_full}

A call is drawn by its own number, so that it stays drawn while it waits. Whatever comes of it, the client
is served: a drawn call that finds the backend full, blocked or unfit is decided by the other policy like
any other, and so is every further attempt, whose first one failed. The share is that of first attempts;
the other policy sees all tiers, and may use the canary's for calls of its own.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar
from zlib import crc32

from gateway.options import Share
from gateway.vocab import Reason
from policies.base import Action, Policy, PolicyOptions, PoolView, RequestView, Run, Take, policies
from policies.choice import usable
from policies.otherwise import Otherwise, build, not_a_tier, place_of


class CanaryOptions(PolicyOptions):
    """Which share goes where."""

    backend: str
    """The tier that gets the share; one of the route's."""
    share: Share = 0.05
    """Share of the calls that go there, as far as it has slots for them."""
    otherwise: Otherwise = "cheapest_in_budget"
    """The policy that decides about all other calls: its name, or {type: NAME, …its options}."""


@policies.add("canary")
class Canary(Policy):
    """A share of the calls goes to one backend, the others as another policy says."""

    Options: ClassVar[type[PolicyOptions]] = CanaryOptions
    learns: ClassVar[bool] = True
    """For the other policy, which may look at them."""
    EXAMPLE: ClassVar[Mapping[str, Any]] = {"backend": "tier-1", "share": "30%"}

    def __init__(self, options: PolicyOptions) -> None:
        super().__init__(options)
        assert isinstance(options, CanaryOptions)
        self._backend = options.backend
        self._share = options.share
        self._otherwise = build(options.otherwise)
        # Low digits of the call's number: the high ones may choose a tier of `weighted` for the others,
        # which must not depend on who was drawn here. The name sets two canaries on one route apart.
        self._scale = 4096.0 + crc32(options.backend.encode()) % 4096

    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The canary for a call that is drawn, else the other policy's answer."""
        return self._canary(request, pool) or self._otherwise.arrive(request, pool, now, chance)

    def recheck(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        """The same: a drawn call that had to wait still takes the canary where it can."""
        return self._canary(request, pool) or self._otherwise.recheck(request, pool, now, chance)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        """As the other policy says; a slot of the canary that it would leave goes to the first drawn call."""
        take = self._otherwise.slot_freed(backend, pool, now, chance)
        if backend != self._backend:
            return take
        if take is not None:
            return Take(take.request, Reason.CANARY) if self._drawn(take.request) else take
        place = place_of(backend, pool.tiers)
        freed = None if place is None else pool.tiers[place]
        if freed is not None and freed.free:
            for request in pool.waiting:
                if self._drawn(request) and usable(freed, request) and request.free_on(freed):
                    return Take(request, Reason.CANARY)
        return None

    def problems(self, backends: Sequence[str]) -> Mapping[tuple[str, ...], str]:
        """A canary that is no tier of the route, and what is wrong with the other policy."""
        found = {("otherwise", *key): text for key, text in self._otherwise.problems(backends).items()}
        if self._backend not in backends:
            found["backend",] = not_a_tier(self._backend, backends)
        return found

    def explain(self, action: Action, request: RequestView, pool: PoolView, now: float) -> str:
        """Whether it was drawn, and else what the other policy says."""
        if isinstance(action, Run) and action.reason is Reason.CANARY:
            return f"drawn as one of the {self._share:.3g} of all calls that go to {self._backend}"
        other = self._otherwise.explain(action, request, pool, now)
        if self._drawn(request):
            return f"drawn for {self._backend}, which could not take it; decided otherwise: {other}"
        return f"not drawn for {self._backend}; decided otherwise: {other}"

    def _drawn(self, request: RequestView) -> bool:
        return request.attempt == 0 and request.lot * self._scale % 1.0 < self._share

    def _canary(self, request: RequestView, pool: PoolView) -> Run | None:
        if self._drawn(request):
            place = place_of(self._backend, pool.tiers)
            if place is not None:
                tier = pool.tiers[place]
                if usable(tier, request) and request.free_on(tier):
                    return Run(self._backend, Reason.CANARY)
        return None
