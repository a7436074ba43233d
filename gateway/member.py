"""One backend of a running gateway with all that lives and dies with it: its slots, its probes, its tasks.

A reload makes members for backends that are new or have changed, keeps the others as they are, and closes
those that nobody needs any more. Knows the backend contract; no route, no policy and no call.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Protocol, runtime_checkable

from backends.base import Backend, BackendOptions, Kit
from gateway.background import Background
from gateway.capacity import Capacity
from gateway.clock import Clock
from gateway.cork import Cork
from gateway.heir_slots import HeirSlots, heirs
from gateway.readiness import Readiness

PROBE_EVERY_S = 5.0
"""Time between readiness checks where a backend has no `probe_every` of its own."""
_LAST_TASKS_S = 1.0
"""What a backend's own tasks may take to end, once no call is left."""
_OURS = ("spill_budget", "calibration")
"""Keys of a backend's section that the gateway looks at, not the backend."""


@runtime_checkable
class Closing(Protocol):
    """Slots that hold something to be given back."""

    def close(self) -> None: ...


NewCapacity = Callable[[Backend, "Capacity | None"], Capacity]
"""(backend, capacity of the one that it stands in for) -> its slots."""


class Member:
    """A backend, at work from `open` to `close`."""

    def __init__(
        self,
        name: str,
        options: BackendOptions,
        *,
        kind: type[Backend],
        clock: Clock,
        chance: Random,
        new_capacity: NewCapacity,
        cork: Cork | None = None,
        before: "Member | None" = None,
    ) -> None:
        self.name = name
        self.background = Background()
        self.backend = kind(name, options, Kit(clock, chance, self.background.spawn, cork))
        earlier: Capacity | None = None if before is None else before.capacity
        self.capacity: Capacity = new_capacity(self.backend, earlier)
        self.readiness = Readiness(self.capacity, clock=clock, chance=chance)

    @property
    def options(self) -> BackendOptions:
        """Its section of the file."""
        return self.backend.options

    def serves(self, options: BackendOptions) -> bool:
        """May this section be taken over without another backend being made?"""
        if type(options) is not type(self.options):
            return False
        names = [name for name in type(options).model_fields if name not in _OURS]
        return all(_same(getattr(options, name), getattr(self.options, name)) for name in names)

    async def open(self) -> None:
        """Open the backend, and ask whether its replicas are up: before a first request, not at its cost."""
        await self.backend.open()
        await self.readiness.probe_all()

    def begin(self) -> None:
        """Go on asking."""
        every = getattr(self.options, "probe_every", PROBE_EVERY_S)
        self.background.spawn(self.readiness.run(every), name=f"probe {self.name}")

    @property
    def idle(self) -> bool:
        """No slot is taken."""
        return not self.capacity.in_flight

    @property
    def heirs(self) -> list[HeirSlots]:
        """Those of its slots that an earlier member on the same replica still holds a part of."""
        return heirs(self.capacity)

    async def close(self, *, grace: float = 0.0) -> None:
        """End its tasks, which may take `grace` seconds, and give back every connection."""
        self.capacity.close()
        for replica in self.capacity.replicas:
            if isinstance(replica.slots, Closing):
                replica.slots.close()
        await self.background.close(grace)
        await self.backend.close()


def _same(one: object, other: object) -> bool:
    """Equal, and of one type: `auto` is a number too."""
    return type(one) is type(other) and one == other


async def opened(members: list[Member]) -> None:
    """Open all of them, or none. Raises what the first failure was."""
    try:
        await asyncio.gather(*(member.open() for member in members))
    except BaseException:
        await closed(members)
        raise


async def closed(members: list[Member], *, grace: float = _LAST_TASKS_S) -> None:
    """Close all of them."""
    await asyncio.gather(*(member.close(grace=grace) for member in members))
