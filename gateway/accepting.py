"""Step 1, before any protocol: who accepts the connections of one port, in the clear or encrypted.

The sockets are its own, or somebody's who outlives it (`Doors`). Knows nothing of what is said there.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from socket import socket
from typing import Any, Protocol

from gateway.tls import TlsServer

BACKLOG = 2048
_ACCEPTED_ROUNDS = 3
_HANDSHAKES_S = 0.02


class Doors(Protocol):
    """Listening sockets that belong to somebody who outlives this gateway, so that no queue dies with it."""

    def wanted(self) -> Sequence[socket]:
        """Those at which this process is to take connections now."""
        ...

    def close(self) -> None:
        """Hold none of them any longer here."""
        ...


class Accepting:
    """Who accepts the connections of one port.

    made:       the protocol of a connection in the clear
    encrypted:  makes who accepts them with a handshake; None: they are in the clear
    handles:    of the event loop on each socket that listens. libuv accepts one connection for each in a turn
                of the loop, so that with one handle a thousand connections that come at once wait for a
                thousand turns, each as long as the requests of those before them take. Every handle more
                costs about 3 us for a connection that comes alone, because all of them are woken for it.
    """

    def __init__(
        self,
        made: Callable[[], asyncio.Protocol],
        encrypted: Callable[[], TlsServer] | None,
        *,
        handles: int = 1,
    ) -> None:
        self._made = made
        self._encrypted = encrypted
        self._handles = handles
        self._servers: dict[int, list[Any]] = {}  # by descriptor of the door
        self._left: list[Any] = []
        self._doors: Doors | None = None
        self._open = True

    async def open(self, host: str, port: int, *, doors: Doors | None = None) -> tuple[str, int]:
        """Listen; returns the address really bound (port 0 asks the system for one). Raises OSError.

        doors:  sockets that are bound already, in place of the address
        """
        self._doors = doors
        if doors is not None:
            await self.attend()
        elif self._encrypted is not None:
            server = self._encrypted()
            await server.open(host, port)
            self._servers[-1] = [server]
        else:
            loop = asyncio.get_running_loop()
            first = await loop.create_server(self._made, host, port, backlog=BACKLOG, reuse_address=True)
            self._servers[-1] = [first]
            for bound in first.sockets:
                copies = [socket(fileno=os.dup(bound.fileno())) for _ in range(self._handles - 1)]
                self._servers[-1] += await self._accepting(copies)
        name = next(iter(self._servers.values()))[0].sockets[0].getsockname()
        return str(name[0]), int(name[1])

    async def attend(self) -> None:
        """Take connections at the doors at which this process is wanted now, and at no others."""
        if self._doors is None or not self._open:
            return
        wanted = {door.fileno(): door for door in self._doors.wanted()}
        for number, door in wanted.items():
            if number in self._servers:
                continue
            copy = door.dup()  # a server closes its socket; the door's own queue stays
            copy.listen(BACKLOG)
            if self._encrypted is not None:
                encrypted = self._encrypted()
                encrypted.serve(copy)
                self._servers[number] = [encrypted]
            else:
                copies = [copy, *(copy.dup() for _ in range(self._handles - 1))]
                self._servers[number] = servers = await self._accepting(copies)
                self._leave_if_closed(servers)  # meanwhile
        for number in [number for number in self._servers if number not in wanted]:
            _leave(self._servers.pop(number))

    async def _accepting(self, sockets: Sequence[socket]) -> list[Any]:
        """One server for each of these, which closes it."""
        loop = asyncio.get_running_loop()
        return [await loop.create_server(self._made, sock=each, backlog=BACKLOG) for each in sockets]

    def _leave_if_closed(self, servers: Sequence[Any]) -> None:
        if not self._open:
            _leave(servers)

    async def leave(self) -> None:
        """Accept no more. What was accepted in this moment becomes a connection before this returns."""
        self._open = False
        self._left = [server for each in self._servers.values() for server in each]
        self._servers.clear()
        _leave(self._left)
        if self._doors is not None:
            self._doors.close()
        for _ in range(_ACCEPTED_ROUNDS):
            await asyncio.sleep(0)

    async def shaken(self, until: Callable[[], bool]) -> None:
        """Wait for the handshakes under way, at most until that is so; then cut them off."""
        while any(isinstance(server, TlsServer) and server.handshakes for server in self._left):
            if until():
                break
            await asyncio.sleep(_HANDSHAKES_S)
        for server in self._left:
            server.close()


def _leave(servers: Sequence[Any]) -> None:
    """Take no new connection there; those that were accepted go on."""
    for server in servers:
        if isinstance(server, TlsServer):
            server.leave()
        else:
            server.close()
