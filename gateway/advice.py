"""Live advice: remembers the last calls of each route, and a child process works out the replicas for them.

What is remembered of a call is when it came and how long it held its slot, nothing else. Knows the record
and how to start a process; it never knows a policy, a price or a simulation: the child does, which is this
program again (`overspill advise`), at the lowest priority and bounded in time. The gateway's event loop
only ever writes to it and waits for its one line.

    to the child      {"config": the running file, "calls": {ROUTE: [[arrived, held, owned], …]},
                       "replicas": {BACKEND: replicas of today}}
    from the child    {"recommended": {BACKEND: replicas}, "unknown": {BACKEND: why},
                       "one_more": {BACKEND: what today's replicas and one more come to}}
"""

import asyncio
import logging
import os
import sys
from array import array
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import nan
from pathlib import Path

import msgspec

from gateway.record import Record
from gateway.vocab import Start

log = logging.getLogger("overspill.advice")

FEWEST_CALLS = 200
"""With fewer calls on every route there is nothing to advise from."""
CALLS_PER_ROUTE = 20_000
CALLS_OF_ALL = 200_000
LOOK_EVERY_S = 10.0
"""How often it looks whether there are enough calls, before the first advice."""
LIMIT_S = 120.0
"""A child that takes longer is killed."""

_PIECE = 1_000
_NICE = "import os; os.nice(19); from gateway.cli import main; main()"
COMMAND = (sys.executable, "-P", "-c", _NICE, "advise")


class OneMore(msgspec.Struct, forbid_unknown_fields=True):
    """The last calls, simulated with the replicas that stand there and with one more.

    usd:       all of it, fleet and rented; `usd_with` with one more
    attained:  share of the calls inside their budget; `attained_with` with one more
    seconds:   from the first of the calls to the end of the last
    """

    replicas: int
    calls: int
    seconds: float
    usd: float
    usd_with: float
    attained: float
    attained_with: float


class Answer(msgspec.Struct, forbid_unknown_fields=True):
    """What the child says."""

    recommended: dict[str, int]
    unknown: dict[str, str]
    one_more: dict[str, OneMore] = {}


class RecentCalls:
    """The last calls of one route, in the order in which they ended; older ones are overwritten.

    All calls of a stretch of time, not a sample of the calls of a longer one: thinned traffic would need
    fewer replicas than its share, and bursts would be lost.
    """

    __slots__ = ("_arrived", "_held", "_most", "_next", "_owned")

    def __init__(self, most: int) -> None:
        self._most = most
        self._next = 0
        self._arrived = array("d")
        self._held = array("d")
        self._owned = bytearray()

    def __len__(self) -> int:
        return len(self._owned)

    def add(self, arrived: float, held_s: float, owned: bool) -> None:
        """A call that came at `arrived` and held a slot so long; nan where that is not known."""
        if len(self._owned) < self._most:
            self._arrived.append(arrived)
            self._held.append(held_s)
            self._owned.append(owned)
            return
        at = self._next
        self._arrived[at] = arrived
        self._held[at] = held_s
        self._owned[at] = owned
        self._next = at + 1 if at + 1 < self._most else 0

    def add_all(self, arrived: Sequence[float], held_s: Sequence[float]) -> None:
        """Calls on owned backends, in the order in which they ended."""
        count = len(arrived)
        if len(self._owned) + count <= self._most:
            self._arrived.extend(arrived)
            self._held.extend(held_s)
            self._owned += b"\x01" * count
            return
        for moment, seconds in zip(arrived, held_s, strict=True):
            self.add(moment, seconds, True)  # noqa: FBT003

    def copy(self) -> "RecentCalls":
        """As it is now."""
        other = RecentCalls(self._most)
        other._arrived, other._held, other._owned = self._arrived[:], self._held[:], self._owned[:]
        return other

    def rows(self, start: int, count: int) -> list[tuple[float, float, bool]]:
        """Some of them: when it came, how long it held a slot, whether an owned one."""
        part = slice(start, start + count)
        owned = map(bool, self._owned[part])
        return list(zip(self._arrived[part], self._held[part], owned, strict=True))


class Advice:
    """Recommended replicas of each owned backend, once they are known.

    every_s:  seconds from one advice to the next
    routes:   those whose calls count; `backends` those that advice is wanted for
    command:  starts the child
    limit_s:  how long it may take
    """

    def __init__(
        self,
        *,
        every_s: float,
        routes: Sequence[str],
        backends: Iterable[str],
        command: Sequence[str] = COMMAND,
        limit_s: float = LIMIT_S,
    ) -> None:
        self.recommended: dict[str, int] = {}
        """Absent: not known (yet)."""
        self.one_more: dict[str, OneMore] = {}
        """What one more replica would have come to."""
        self.replicas: Callable[[], dict[str, int]] = dict
        """How many there are of each, when somebody asks."""
        self._every_s = every_s
        self._backends = frozenset(backends)
        self._command = command
        self._limit_s = limit_s
        most = min(CALLS_PER_ROUTE, CALLS_OF_ALL // max(1, len(routes)))
        self._recent = {name: RecentCalls(most) for name in routes}
        self._said = ""

    def note(self, record: Record, owned: bool, now: float) -> None:
        """Remember a call that ended at `now`. The calls of routes that do not count are forgotten."""
        recent = self._recent.get(record.route)
        if recent is None:
            return
        slot_at = record.slot_at
        if slot_at is None or not 0 < record.status < 500:
            held_s = nan
        elif owned or record.start is Start.WARM:
            held_s = now - slot_at
        elif (usage := record.usage) is not None and usage.boot_s is not None:
            held_s = now - slot_at - usage.boot_s
        else:
            held_s = nan
        recent.add(record.arrived, held_s, owned)

    def note_all(self, route: str, arrived: Sequence[float], held_s: Sequence[float]) -> None:
        """The same of several that owned backends have served: when they came, how long they held a slot."""
        recent = self._recent.get(route)
        if recent is not None:
            recent.add_all(arrived, held_s)

    @property
    def enough(self) -> bool:
        """Have there been enough calls?"""
        return any(len(recent) >= FEWEST_CALLS for recent in self._recent.values())

    async def run(self, config: Callable[[], str]) -> None:
        """Advise for ever: as soon as there are enough calls, then at long intervals."""
        while True:
            pause_s = min(LOOK_EVERY_S, self._every_s)
            if self.enough:
                await self.work_out(config())
                pause_s = self._every_s
            await asyncio.sleep(pause_s)

    async def work_out(self, config: str) -> None:
        """Ask a child process once; whatever goes wrong there, what was known is known no more."""
        try:
            answer = await self._asked(await self._question(config))
        except TimeoutError:
            self._failed(f"took longer than {self._limit_s:g} s and was ended")
        except (OSError, ValueError) as error:
            self._failed(str(error))
        else:
            self.recommended = {
                name: count
                for name, count in answer.recommended.items()
                if name in self._backends and count >= 0
            }
            self.one_more = {name: one for name, one in answer.one_more.items() if name in self._backends}
            self._say("; ".join(f"{name}: {why}" for name, why in sorted(answer.unknown.items())))

    async def _question(self, config: str) -> bytes:
        """In pieces, so that other requests are served in between."""
        parts = [b'{"config":', msgspec.json.encode(config), b',"calls":{']
        for place, (name, recent) in enumerate(self._recent.items()):
            parts += [b"," if place else b"", msgspec.json.encode(name), b":["]
            calls = recent.copy()
            for start in range(0, len(calls), _PIECE):
                piece = msgspec.json.encode(calls.rows(start, _PIECE))
                parts += [b"," if start else b"", piece[1:-1]]
                await asyncio.sleep(0)
            parts.append(b"]")
        return b"".join([*parts, b'},"replicas":', msgspec.json.encode(self.replicas()), b"}"])

    async def _asked(self, question: bytes) -> Answer:
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=_environment(os.environ)
        )
        try:
            async with asyncio.timeout(self._limit_s):
                said, _ = await process.communicate(question)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise ValueError(f"ended with status {process.returncode}")
        return msgspec.json.decode(said, type=Answer)

    def _failed(self, why: str) -> None:
        self.recommended = {}
        self.one_more = {}
        self._say(f"the child process {why}")

    def _say(self, why: str) -> None:
        """Once, until it is something else."""
        if why and why != self._said:
            log.warning("no advice on replicas: %s", why)
        self._said = why


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """The child runs the code that runs here, wherever it was started."""
    return {**own, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
