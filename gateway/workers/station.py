"""What one worker is given when it is forked: its number, and its view of everything that it shares.

Knows no route and no policy; who builds the gateway asks it for slots and budgets.
"""

from asyncio import AbstractEventLoop, get_running_loop
from pathlib import Path
from typing import NamedTuple

from msgspec import json

from gateway.spending import SpendSource
from gateway.spill_share import ShareSource
from gateway.tenants.meter import Meter
from gateway.workers.assignment import CURRENT, Assignment
from gateway.workers.desk import place_of
from gateway.workers.ports import Attended, DoorsBySpeech
from gateway.workers.shared_slots import Replicas, SharedSlots
from gateway.workers.shared_spending import Accounts, Limits


class Common(NamedTuple):
    """What all workers share. Made before the first of them is forked.

    directory:  where their Unix sockets are
    """

    replicas: Replicas
    accounts: Accounts
    directory: Path


class Station:
    """One worker's place among `count`.

    index:  its number, which its successor has too
    place:  its own part of what is shared, which no other process has while it lives
    leash:  becomes readable when the supervisor is gone
    doors:  where it takes connections, by what is spoken there
    """

    def __init__(
        self, index: int, common: Common, leash: int, *, place: int, count: int, doors: DoorsBySpeech
    ) -> None:
        self.index = index
        self.count = count
        self.leash = leash
        self.desk = place_of(common.directory, place)
        attended = common.replicas.attended
        self.doors = {name: Attended(door, index, attended) for name, door in doors.items()}
        self.retired = False
        self._place = place
        self._common = common
        self._slots: list[SharedSlots] = []

    @property
    def writes_state(self) -> bool:
        """Only one worker writes the file with what was learned."""
        return self.index == 0 and not self.retired

    def slots(self, backend: str, replica: int) -> SharedSlots:
        """The slots of a replica. To be asked for on the event loop that will use them."""
        loop: AbstractEventLoop = get_running_loop()
        replicas = self._common.replicas
        source = SharedSlots(replicas, replicas.keys[backend, replica], self._place, loop)
        self._slots = [each for each in self._slots if not each.closed] + [source]
        return source

    def spend(self, budget: str) -> SpendSource:
        """The dollars of a budget, named as `route NAME`, `backend NAME` or `tenant NAME`."""
        return self._common.accounts[budget].spend(self._place)

    def share(self, budget: str) -> ShareSource | None:
        """Its share of calls, if it has one."""
        return self._common.accounts[budget].share()

    def meter(self, budget: str) -> Meter:
        """What a tenant uses of its rates, named as its budget."""
        return self._common.accounts[budget].meter(self._place)

    def assign(self, shared: "Assignment") -> None:
        """Other rows and accounts from now on, for what is made from now on."""
        self._common.replicas.keys = {(backend, index): row for backend, index, row in shared.rows}
        limits = {name: Limits(*each) for name, each in shared.limits.items()}
        self._common.accounts.assign(dict(shared.accounts), limits)

    def rows(self) -> list[int]:
        """Rows that this worker may still take slots of."""
        return [source.row for source in self._slots if not source.closed]

    def current(self) -> "Assignment | None":
        """The last configuration that all workers took over; None: that with which they were started."""
        try:
            return json.decode((self._common.directory / CURRENT).read_bytes(), type=Assignment)
        except FileNotFoundError:
            return None

    def serving(self) -> None:
        """The port takes calls from now on."""
        own = self._common.replicas.worker(self._place)
        own[3] = self.index
        own[0] = 1

    def leaving(self) -> None:
        """Others are to take the connections of this one's queue from now on."""
        self._common.replicas.worker(self._place)[0] = 0

    def close(self) -> None:
        """Watch no slots any more."""
        for source in self._slots:
            source.close()
