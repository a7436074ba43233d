"""Ports that several processes listen on: made sure that nobody else does, and kept for them.

With SO_REUSEPORT a second gateway on the same port would silently take half of the connections. So the port
is first bound without it, which fails if anybody has it. Then it is kept by a socket that is bound and never
listens, so that the system deals no connection to it. Knows no protocol.
"""

import socket
from typing import Self


class Port:
    """A port for several processes, kept until `close`. Raises OSError if it is in use."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._kept: list[socket.socket] = []
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
