"""One configuration for all workers, or the old one for all: prepared in every one, then committed in all.

    prepare ─► every worker opens what is new ─► all said yes ─► the decision is written ─► commit
                                             └─► one said no, or nothing ─► abort in all

Once written, a worker that is started again runs by the new one, so that a death in between leaves nobody
behind. Knows the workers' desks and what they share; no gateway, no file of the user's and no HTTP.
"""

import asyncio
import os
from collections.abc import Iterable
from typing import Any

from msgspec import json, structs

from gateway.config.effective import effective
from gateway.config.schema import Settings
from gateway.reload import CannotNow
from gateway.workers.assignment import CURRENT, Assignment
from gateway.workers.desk import ask, place_of
from gateway.workers.inventory import Shared
from gateway.workers.shared_slots import Replicas
from gateway.workers.shared_spending import Accounts
from gateway.workers.station import Common

PREPARING_S = 30.0
"""What a worker may take to open what is new."""


class Takeover:
    """Puts settings in place in all workers."""

    def __init__(self, common: Common) -> None:
        self._directory = common.directory
        self._replicas: Replicas = common.replicas
        self._accounts: Accounts = common.accounts
        self._names: dict[tuple[str, int], str] = {}

    async def adopt(self, settings: Settings, shared: Shared, names: dict[tuple[str, int], str]) -> None:
        """All or none. ConfigError when nothing has changed.

        shared:  what these settings share
        names:   of each replica, to know it again
        """
        used = await self._used()
        rows, fresh = self._rows(shared, names, used)
        self._provide(fresh)
        assignment = Assignment(
            text=effective(settings),
            rows=rows,
            accounts=self._assigned(shared),
            limits={name: (*limits,) for name, limits in shared.budgets.items()},
        )
        told = await self._all({"ask": "prepare", "with": structs.asdict(assignment)}, PREPARING_S)
        refusals = [answer["error"] if answer is not None else "does not answer" for answer in told]
        if any(refusals):
            await self._all({"ask": "abort"})
            refusal = next(each for each in refusals if each)
            raise CannotNow(f"a worker: {refusal}; no worker has changed anything")
        self._decide(assignment)
        await self._all({"ask": "commit"})
        self._names = names

    def recover(self) -> Assignment | None:
        """What was decided before this process was started, if anything was."""
        try:
            found: Assignment = json.decode((self._directory / CURRENT).read_bytes(), type=Assignment)
        except FileNotFoundError:
            return None
        self._replicas.keys = {(backend, index): row for backend, index, row in found.rows}
        self._accounts.places = dict(found.accounts)
        return found

    def remember(self, names: dict[tuple[str, int], str]) -> None:
        """The replicas of the configuration that runs."""
        self._names = names

    def succeed(
        self, settings: Settings, shared: Shared, names: dict[tuple[str, int], str], *, trying: bool
    ) -> None:
        """For the workers of a new version, from now on. ConfigError as of `adopt`. `trying`: only look."""
        rows, fresh = self._rows(shared, names, set())
        limits = {name: (*each,) for name, each in shared.budgets.items()}
        assignment = Assignment(effective(settings), rows, self._assigned(shared), limits)
        if not trying:
            self._provide(fresh)
            self._decide(assignment)
            self._names = names

    async def _used(self) -> set[int]:
        told = await self._all({"ask": "rows"})
        if None in told:
            raise CannotNow("not every worker answers; try again")
        return {row for answer in told if answer is not None for row in answer["rows"]}

    def _rows(
        self, shared: Shared, names: dict[tuple[str, int], str], used: set[int]
    ) -> tuple[list[tuple[str, int, int]], list[tuple[int, int]]]:
        """The same row for the same replica; for a new one a row that nobody uses, to be provided."""
        replicas = self._replicas
        known = {(key[0], self._names[key]): row for key, row in replicas.keys.items()}
        taken = used | set(replicas.keys.values())
        spare = [
            row for row in range(len(replicas.tokens)) if row not in taken and not sum(replicas.held(row))
        ]
        rows, fresh = [], []
        for key, slots in shared.slots.items():
            row = known.get((key[0], names[key]))
            if row is not None and replicas.capacities[row] != slots:
                raise CannotNow(
                    f"backends.{key[0]}.max_in_flight cannot change while several workers share the slots of "
                    f"{names[key]}: restart, or give the backend another name"
                )
            if row is None:
                if not spare:
                    raise CannotNow("there is no room left for more replicas among the workers; restart")
                row = spare.pop()
                fresh.append((row, slots))
            rows.append((key[0], key[1], row))
        return rows, fresh

    def _provide(self, fresh: list[tuple[int, int]]) -> None:
        for row, slots in fresh:
            self._replicas.provide(row, slots)

    def _assigned(self, shared: Shared) -> dict[str, int]:
        """A budget keeps its account for good, so that what was spent counts when it comes back."""
        places = dict(self._accounts.places)
        free = (place for place in range(len(self._accounts)) if place not in places.values())
        for name in shared.budgets:
            if name not in places:
                place = next(free, None)
                if place is None:
                    raise CannotNow("there is no room left for more spill budgets; restart")
                places[name] = place
        return places

    def _decide(self, assignment: Assignment) -> None:
        new = self._directory / f"{CURRENT}.new"
        with new.open("wb") as file:
            file.write(json.encode(assignment))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._directory / CURRENT)
        self._replicas.keys = {(backend, index): row for backend, index, row in assignment.rows}
        self._accounts.places = dict(assignment.accounts)

    async def _all(self, question: dict[str, Any], patience: float = 5.0) -> list[dict[str, Any] | None]:
        places = [place_of(self._directory, place) for place in self._replicas.posted()]
        return list(await asyncio.gather(*(ask(each, question, patience=patience) for each in places)))


def names_of(backends: Iterable[tuple[str, Iterable[str]]]) -> dict[tuple[str, int], str]:
    """The name of each replica, by (backend, index)."""
    return {(name, index): each for name, several in backends for index, each in enumerate(several)}
