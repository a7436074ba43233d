"""One table after the other: prepares the next, puts it in place in one step, and sees the last one out.

    prepare ──► adopt      new backends are open and asked for their health; then all of it counts at once
           └──► discard    nothing has changed

A table that was replaced keeps what it needs until its last call is over: its queue, its policies, the
backends that only it knows. Then these are closed. Knows nothing of files, of ports and of why.
"""

import asyncio
import gc
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple, cast

from backends.base import Backend
from gateway.background import Background
from gateway.clock import Clock
from gateway.config.schema import Settings
from gateway.cork import Cork
from gateway.member import Member, NewCapacity, closed, opened
from gateway.pool import Pool
from gateway.registry import Registry
from gateway.routes import Route, RouteTable
from gateway.slots import SlotSource
from gateway.table import Builder, Table
from policies.base import Policy

LOOK_EVERY_S = (0.02, 0.25)
"""How often a replaced table is asked whether it still has calls: at first, and after a while."""


class Draft(NamedTuple):
    """A table that could take over.

    fresh:  members that were made and opened for it
    """

    settings: Settings
    members: dict[str, Member]
    fresh: list[Member]


class Succession:
    """The table that counts, and those before it that still have calls."""

    table: Table

    def __init__(
        self,
        builder: Builder,
        *,
        backends: Registry[Backend],
        policies: Registry[Policy],
        new_capacity: NewCapacity,
        background: Background,
        clock: Clock,
        chance: Random,
        cork: Cork | None = None,
    ) -> None:
        self._builder = builder
        self._backends = backends
        self._policies = policies
        self._new_capacity = new_capacity
        self._background = background
        self._clock = clock
        self._chance = chance
        self._cork = cork
        self._leaving: list[Table] = []
        self._parting: list[Member] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._usher: asyncio.Task[None] | None = None
        self._pause = LOOK_EVERY_S[0]
        self.parted: Callable[[Member], None] = lambda _: None
        """Is told of a member whose last call is over, before it is closed."""

    # -- the first -----------------------------------------------------------------------------

    def found(self, settings: Settings) -> None:
        """Build the first table; nothing of it is open yet."""
        members = {name: self._member(name, settings) for name in settings.backends}
        self.table = self._builder.table(settings, members)

    async def open(self) -> None:
        """Open its backends."""
        await opened(list(self.table.members.values()))

    def begin(self) -> None:
        """Keep asking its replicas whether they are up, and open instances ahead where that is wanted."""
        for member in self.table.members.values():
            member.begin()
        self.table.begin(self._background)

    # -- those that follow ---------------------------------------------------------------------

    async def prepare(self, settings: Settings) -> Draft:
        """Make and open what these settings need and is not there. ConfigError when it has done nothing."""
        # What could be wrong with it is found here, where there is a way back.
        RouteTable(Route.of(name, each, cast("Pool", None)) for name, each in settings.routes.items())
        for route in settings.routes.values():
            self._policies.get(route.policy.type)(route.policy.options)
        members, fresh = {}, []
        try:
            for name, options in settings.backends.items():
                member = self.table.members.get(name)
                if member is None or not member.serves(options):
                    fresh.append(member := self._member(name, settings, member))
                members[name] = member
        except BaseException:
            await closed(fresh)
            raise
        await opened(fresh)
        return Draft(settings, members, fresh)

    async def discard(self, draft: Draft) -> None:
        """It is not to be."""
        await closed(draft.fresh)

    def adopt(self, draft: Draft) -> None:
        """From now on calls come in by this table. One step of the event loop."""
        before = self.table
        inside = [table.admission for table in (*self._leaving, before)]
        self.table = table = self._builder.table(draft.settings, draft.members, before=before, inside=inside)
        for member in draft.fresh:
            member.begin()
        table.begin(self._background, before)
        here = set(table.members.values())
        self._leaving.append(before)
        self._parting += [member for member in before.members.values() if member not in here]
        self._pause = LOOK_EVERY_S[0]
        if self._usher is None:
            self._usher = self._background.start(self._see_out(), name="see out the last calls of old tables")

    def _member(self, name: str, settings: Settings, before: Member | None = None) -> Member:
        options = settings.backends[name]
        return Member(
            name, options, kind=self._backends.get(options.type), clock=self._clock, chance=self._chance,
            new_capacity=self._new_capacity, cork=self._cork, before=before,
        )  # fmt: skip

    # -- the last calls of those before ----------------------------------------------------------

    @property
    def members(self) -> Iterator[Member]:
        """Those of the table, then those that part."""
        yield from self.table.members.values()
        yield from self._parting

    @property
    def parting(self) -> Iterator[Member]:
        """Those that are closed once the last call is over that may need them."""
        return iter(self._parting)

    @property
    def draining(self) -> int:
        """Calls that came in by a table that was replaced, and are still inside."""
        return sum(table.admission.inside for table in self._leaving)

    async def _see_out(self) -> None:
        untidy = False
        while self._leaving or self._parting or self._closing:
            await asyncio.sleep(self._pause)
            self._pause = min(LOOK_EVERY_S[1], 1.1 * self._pause)
            untidy = self._see_some_out() or untidy
            if untidy and not self._closing:
                # A table is a web of references, and a gateway that serves hardly ever looks for such.
                gc.collect()
                untidy = False
        self._usher = None

    def _see_some_out(self) -> bool:
        """Part with the tables and members that no call needs any more. False: there was none."""
        inside = [table for table in self._leaving if table.admission.inside]
        left, self._leaving = len(inside) < len(self._leaving), inside
        needed = {member for table in inside for member in table.members.values()}
        gone: set[SlotSource] = set()
        for member in [each for each in self._parting if each not in needed and each.idle]:
            self._parting.remove(member)
            self.parted(member)
            gone.update(replica.slots for replica in member.capacity.replicas)
            task = self._background.start(closed([member]), name=f"close {member.name}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for heir in (heir for member in self.members for heir in member.heirs):
            if self._parting:
                heir.look(gone)
            else:
                heir.settle()
        return left or bool(gone)

    async def close(self) -> None:
        """Close every backend, whatever still uses it."""
        await asyncio.gather(*self._closing)
        if self._usher is not None:
            self._usher.cancel()
        await closed(list(self.members), grace=0.0)
        self._parting.clear()
