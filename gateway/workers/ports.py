"""Ports that several processes listen on, one after the other or at once: kept for them, their queues too.

A connection that the kernel has accepted waits in the queue of one socket, and is reset when that socket is
closed for the last time. So the sockets that listen belong to the process that lives longest (`Door`): a
worker takes connections from the queue of its number, and who takes its place finds what is left in it.

With SO_REUSEPORT a second gateway on the same port would silently take half of the connections. So the port
is first bound without it, which fails if anybody has it. Knows no protocol.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

from gateway import bound_sockets
from gateway.bound_sockets import bound


class Door:
    """A port with a queue of connections for each of `count` workers, until `close`. OSError if in use.

    A queue is a socket for each address of the host. None listens before somebody takes connections from it.

    kept:    these queues, from the process that was here before
    queues:  by the numbers of the workers
    """

    def __init__(
        self, host: str, port: int, count: int, *, kept: Sequence[Sequence[socket.socket]] = ()
    ) -> None:
        self.host = host
        self.queues = [list(each) for each in kept] or _claimed(host, port, count)
        self.port = int(self.queues[0][0].getsockname()[1])

    def close(self) -> None:
        """Keep it no longer in this process. Closing twice does nothing."""
        _close(self.queues)
        self.queues = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


DoorsBySpeech = Mapping[str, Door]
"""`http`, and `grpc` where it is served."""


def descriptors(doors: DoorsBySpeech) -> dict[str, list[list[int]]]:
    """Of the queues of each door, for who takes them over."""
    return {
        name: [[each.fileno() for each in queue] for queue in door.queues] for name, door in doors.items()
    }


class Attended:
    """The queues of a door that one worker takes connections from (`gateway.accepting.Doors`).

    Its own, and those whose worker serves no more: what waits there is not to wait for a restart. In a queue
    that nobody has listened on yet nothing waits: it is left to its own worker.

    attended:  whether somebody serves the queue of that number
    """

    def __init__(self, door: Door, number: int, attended: Callable[[int], bool] = lambda _: True) -> None:
        self._door = door
        self._number = number
        self._attended = attended
        self.kept = False
        """Whether the port outlives this process' gateway: a new version takes over in the same process."""

    def wanted(self) -> Sequence[socket.socket]:
        """Where this worker is to take connections now."""
        return [
            each
            for number, queue in enumerate(self._door.queues)
            for each in queue
            if number == self._number or (_listens(each) and not self._attended(number))
        ]

    def close(self) -> None:
        """Hold none any longer in this process."""
        if not self.kept:
            self._door.close()


def _listens(each: socket.socket) -> bool:
    return bool(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


class Held(NamedTuple):
    """The ports of a gateway that is alone, opened for it.

    claims:  its doors by what is spoken there
    doors:   the same, for its servers
    admin:   None: it is to open it itself
    """

    claims: DoorsBySpeech
    doors: Mapping[str, Attended]
    admin: socket.socket | None


def taken(numbers: Sequence[int]) -> list[socket.socket]:
    """Sockets by their descriptors."""
    return [socket.socket(fileno=number) for number in numbers]


def one_address(host: str, port: int) -> bool:
    """Does the name of that host lead to a single address?"""
    return len(resolved(host, port)) == 1


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens already, for a process yet to be started. Raises OSError."""
    family, kind, number, _, address = resolved(host, port)[0]
    return bound_sockets.listening(family, kind, number, address, backlog=128)


_Resolved = list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]]


def resolved(host: str, port: int) -> _Resolved:
    """Every address that a host leads to, with what a socket for it is made of. Raises OSError."""
    found: _Resolved = []
    for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        if each not in found:
            found.append(each)
    return found


def _claimed(host: str, port: int, count: int) -> list[list[socket.socket]]:
    """So many sets of a socket for each address, all on one port: of the system's choice for 0."""
    sets: list[list[socket.socket]] = [[] for _ in range(count)]
    try:
        for family, kind, number, _, address in resolved(host, port):
            place = (address[0], port, *address[2:])
            with bound(family, kind, number, place, shared=False) as probe:
                port = int(probe.getsockname()[1])
            place = (address[0], port, *address[2:])
            for each in sets:
                each.append(bound(family, kind, number, place, shared=True))
    except OSError:
        _close(sets)
        raise
    return sets


def _close(sets: Sequence[Sequence[socket.socket]]) -> None:
    for each in sets:
        for kept in each:
            kept.close()
