"""What is sent, and what became of it: classes of calls, and how one of them ended.

Pure: knows no socket and no clock.
"""

from random import Random
from typing import NamedTuple

PRIORITIES = ("critical", "default", "best_effort")
SHARES = (0.1, 0.7, 0.2)
"""How the calls of a load are divided among them."""
LARGE = 1024 * 1024
SMALL = 64
"""Bytes of a body."""


class Mix(NamedTuple):
    """What a load is made of.

    budget_s:  within which an answer counts
    told:      share of the calls that say so themselves, in `x-overspill-deadline-ms`; of the others only the
               route's latency budget is known
    large:     share of the calls with a body of one MiB
    """

    budget_s: float = 0.4
    told: float = 0.5
    large: float = 0.02


class Kind(NamedTuple):
    """One class of calls, with its request as it goes over the wire."""

    priority: str
    told: bool
    large: bool
    head: bytes
    body: bytes


class Seen(NamedTuple):
    """One call and its end.

    status:  0 where there was no answer
    why:     what its refusal says (`error.type`), or how it ended without an answer
    after_s: how long that took; from the moment it was sent
    """

    kind: Kind
    status: int
    why: str
    after_s: float


class Kinds:
    """All classes of one mix, drawn by their shares."""

    def __init__(self, mix: Mix) -> None:
        self.mix = mix
        body = {False: b'{"x":"%s"}' % (b"a" * (SMALL - 8)), True: b'{"x":"%s"}' % (b"a" * (LARGE - 8))}
        self._kinds = {
            (priority, told, large): Kind(
                priority,
                told,
                large,
                _head(priority, mix.budget_s if told else None, len(body[large])),
                body[large],
            )
            for priority in PRIORITIES
            for told in (False, True)
            for large in (False, True)
        }

    def draw(self, chance: Random) -> Kind:
        """One of them."""
        lot, place = chance.random(), 0
        while place < len(SHARES) - 1 and lot >= SHARES[place]:
            lot -= SHARES[place]
            place += 1
        told, large = chance.random() < self.mix.told, chance.random() < self.mix.large
        return self._kinds[PRIORITIES[place], told, large]


def _head(priority: str, budget_s: float | None, length: int) -> bytes:
    fields = [
        b"POST /invoke/overload/work HTTP/1.1",
        b"host: overload",
        b"content-type: application/json",
        b"content-length: %d" % length,
    ]
    if priority != "default":
        fields.append(b"x-overspill-priority: " + priority.encode())
    if budget_s is not None:
        fields.append(b"x-overspill-deadline-ms: %d" % round(budget_s * 1000))
    return b"\r\n".join(fields) + b"\r\n\r\n"
