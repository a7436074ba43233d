"""Which replica has which index, while replicas come and go.

An index stays with its replica until the last call on it is over; then it may name another one. An empty
or failed answer changes nothing: an outage of DNS or of the cluster's API must not empty a fleet that
serves. Knows no protocol of finding them, and of slots only `Places`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from backends.base import Kit, Places
from backends.discovery import Discovery
from backends.egress import forbidden

log = logging.getLogger("overspill.discovery")

MOST_REPLICAS = 256
"""More than so many are not used: each has labels in the metrics and is probed."""
FIRST_ANSWER_S = 3.0
"""How long the start of the gateway waits to learn of the first replicas."""


class Change(NamedTuple):
    """What an answer changes. `came` are (index, address); `left_out` replicas were too many."""

    came: Sequence[tuple[int, str]]
    went: Sequence[int]
    left_out: int


class Roster:
    """Addresses by index."""

    def __init__(self, most: int = MOST_REPLICAS) -> None:
        self._most = most
        self.names: list[str] = []
        self._present: set[int] = set()

    @property
    def present(self) -> int:
        """Replicas that are there."""
        return len(self._present)

    def update(self, found: Sequence[str], vacant: Callable[[int], bool]) -> Change:
        """These addresses are there now. `vacant`: whether no call is left on a replica that has left."""
        indexes = {name: index for index, name in enumerate(self.names)}
        wanted = dict.fromkeys(found)
        known = [name for name in wanted if indexes.get(name, -1) in self._present]
        new = [name for name in wanted if indexes.get(name, -1) not in self._present]
        room = max(0, self._most - len(known))
        went = [index for index in sorted(self._present) if self.names[index] not in wanted]
        self._present.difference_update(went)
        came = []
        for name in new[:room]:
            index = indexes.get(name)
            if index is None:
                taken = self._present | {indexes[other] for other in new if other in indexes}
                index = next((i for i in range(len(self.names)) if i not in taken and vacant(i)), None)
            if index is None:
                index = len(self.names)
                self.names.append(name)
            self.names[index] = name
            self._present.add(index)
            came.append((index, name))
        return Change(came, went, len(new) - len(came))


class Membership:
    """Follows a discovery, and tells the backend and the holder of its slots.

    arrive:  prepare for a replica (index, HOST:PORT), before it is given calls
    leave:   it gets no new calls any more
    """

    def __init__(
        self,
        name: str,
        discovery: Discovery,
        *,
        kit: Kit,
        arrive: Callable[[int, str], None],
        leave: Callable[[int], None],
    ) -> None:
        self._name = name
        self._discovery = discovery
        self._kit = kit
        self._arrive = arrive
        self._leave = leave
        self._roster = Roster()
        self._places: Places | None = None
        self._first = asyncio.Event()
        self._answered_at: float | None = None
        self._trouble: str | None = None
        self._left_out = 0

    def attach(self, places: Places) -> None:
        """Who is told."""
        self._places = places

    async def open(self) -> None:
        """Begin, and wait a little for the first answer."""
        self._kit.spawn(self._discovery.run(self.found, self.failed), name=f"find replicas of {self._name}")
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ANSWER_S):
                await self._first.wait()

    async def close(self) -> None:
        """Give back every connection."""
        await self._discovery.close()

    def found(self, addresses: Sequence[str]) -> None:
        """An answer."""
        if not addresses:
            self.failed("the answer names no replica that is ready")
            return
        addresses = [each for each in addresses if not forbidden(each.rpartition(":")[0])]
        if not addresses:
            self.failed("the answer names link-local or metadata addresses only, and none of these is used")
            return
        if self._trouble is not None:
            log.info("%s: its replicas are found again", self._name)
            self._trouble = None
        self._answered_at = self._kit.clock.now()
        places = self._places
        change = self._roster.update(addresses, _always if places is None else places.vacant)
        for index in change.went:
            self._leave(index)
            if places is not None:
                places.retire(index)
        for index, address in change.came:
            self._arrive(index, address)
            if places is not None:
                places.join(index)
        if change.came or change.went:
            log.info(
                "%s: %d replicas, %d came and %d went",
                self._name, self._roster.present, len(change.came), len(change.went),
            )  # fmt: skip
        if change.left_out != self._left_out:
            self._left_out = change.left_out
            log.warning("%s: %d replicas over %d are not used", self._name, self._left_out, MOST_REPLICAS)
        self._first.set()

    def failed(self, why: str) -> None:
        """No answer: what is known stays."""
        if self._trouble is None:
            log.warning("%s: keeping its %d replicas: %s", self._name, self._roster.present, why)
        self._trouble = why
        self._first.set()

    def report(self, now: float) -> dict[str, Any]:
        """For people: plain values only."""
        return {
            "replicas": self._roster.present,
            "left_out": self._left_out,
            "age_s": None if self._answered_at is None else max(0.0, now - self._answered_at),
            "trouble": self._trouble,
        }


def _always(_: int) -> bool:
    return True
