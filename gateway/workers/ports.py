"""Ports that several processes listen on, one after the other or at once: kept for them, their queues too.

A connection that the kernel has accepted waits in the queue of one socket, and is reset when that socket is
closed for the last time. So the sockets that listen belong to the process that lives longest (`Door`): a
worker takes connections from the queue of its number, and who takes its place finds what is left in it.

With SO_REUSEPORT a second gateway on the same port would silently take half of the connections. So the port
is first bound without it, which fails if anybody has it. Then it is kept by a socket that is bound and never
listens, so that the system deals no connection to it (`Port`): that is for a library that opens its own.
Knows no protocol.
"""

import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self


class Port:
    """A port for several processes, kept until `close`. Raises OSError if it is in use."""

    def __init__(self, host: str, port: int, *, kept: Sequence[socket.socket] = ()) -> None:
        self.host = host
        self.port = port
        self._kept = list(kept)
        if kept:
            self.port = int(kept[0].getsockname()[1])
            return
        try:
            for family, kind, number, _, address in _resolved(host, port):
                place = (address[0], self.port, *address[2:])
                with _bound(family, kind, number, place, shared=False) as probe:
                    self.port = int(probe.getsockname()[1])
                place = (address[0], self.port, *address[2:])
                self._kept.append(_bound(family, kind, number, place, shared=True))
        except OSError:
            self.close()
            raise

    @property
    def sockets(self) -> list[socket.socket]:
        """What keeps it."""
        return self._kept

    def close(self) -> None:
        """Keep it no longer."""
        for each in self._kept:
            each.close()
        self._kept.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Door:
    """A port with a queue of connections for each of `count` workers. Raises OSError if it is in use.

    kept:  its sockets, from the process that was here before

    A queue is a socket for each address of the host. None listens before somebody takes connections from it.
    """

    def __init__(
        self, host: str, port: int, count: int, *, kept: Sequence[Sequence[socket.socket]] = ()
    ) -> None:
        self.host = host
        self.port = port
        self.queues: list[list[socket.socket]] = [list(each) for each in kept]
        if kept:
            self.port = int(kept[0][0].getsockname()[1])
            return
        self.queues = [[] for _ in range(count)]
        try:
            for family, kind, number, _, address in _resolved(host, port):
                place = (address[0], self.port, *address[2:])
                with _bound(family, kind, number, place, shared=False) as probe:
                    self.port = int(probe.getsockname()[1])
                place = (address[0], self.port, *address[2:])
                for queue in self.queues:
                    queue.append(_bound(family, kind, number, place, shared=True))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Hold it no longer in this process. Closing twice does nothing."""
        for queue in self.queues:
            for each in queue:
                each.close()
        self.queues = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Attended:
    """The queues of a door that one worker takes connections from (`gateway.listener.Doors`).

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

    admin:  None: it is to open it itself
    grpc:   keeps the port for a library that opens its own sockets
    """

    doors: Attended
    door: Door
    admin: socket.socket | None
    grpc: Port | None


def taken(numbers: Sequence[int]) -> list[socket.socket]:
    """Sockets by their descriptors."""
    return [socket.socket(fileno=number) for number in numbers]


def one_address(host: str, port: int) -> bool:
    """Does the name of that host lead to a single address?"""
    return len(_resolved(host, port)) == 1


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens already, for a process yet to be started. Raises OSError."""
    family, kind, number, _, address = _resolved(host, port)[0]
    made = _bound(family, kind, number, address, shared=False)
    made.listen(128)
    return made


_Resolved = list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[object, ...]]]


def _resolved(host: str, port: int) -> _Resolved:
    found: _Resolved = []
    for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        if each not in found:
            found.append(each)
    return found


def _bound(
    family: socket.AddressFamily,
    kind: socket.SocketKind,
    number: int,
    place: tuple[object, ...],
    *,
    shared: bool,
) -> socket.socket:
    made = socket.socket(family, kind, number)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(place)
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"cannot listen on {place[0]}:{place[1]}: {error.strerror}") from None
    return made
