"""Ports that the service manager has opened and keeps: systemd's socket activation (sd_listen_fds(3)).

    LISTEN_PID      the process that they are for
    LISTEN_FDS      how many there are: descriptors 3, 4, …
    LISTEN_FDNAMES  what each is for, separated by colons: http, grpc, admin (FileDescriptorName= of the unit)

Who holds them is there while the gateway is not: connections wait in their queues through a restart. Knows
sockets and addresses; no protocol.
"""

import os
import socket
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from gateway.errors import ConfigError
from gateway.workers.ports import resolved

FIRST = 3
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class _Address(Protocol):
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


class Passed(NamedTuple):
    """What was passed.

    calls:  a socket for each address of a port for calls, `http` or `grpc`; none: the gateway opens it itself
    admin:  None: likewise
    """

    calls: Mapping[str, list[socket.socket]]
    admin: socket.socket | None

    def queues(self, name: str, count: int) -> list[list[socket.socket]]:
        """For so many workers, which all take connections from the same queue; each closes its own."""
        found = self.calls.get(name)
        if not found:
            return []
        return [found, *([each.dup() for each in found] for _ in range(count - 1))]


def passed(http: _Address, grpc: _Address | None, admin: _Address) -> Passed:
    """What the service manager has passed to this process, once: children find nothing.

    Raises ConfigError where it is not what the file says under `listen`: what `check` has said of the
    file's addresses would not hold.
    """
    process, count, names = (os.environ.pop(name, "") for name in _VARIABLES)
    if process != str(os.getpid()):
        return Passed({}, None)
    if not count.isdecimal():
        raise ConfigError(f"LISTEN_FDS is {count!r}, which is not a number of sockets")
    wanted = {"http": http, "grpc": grpc, "admin": admin}
    found: dict[str, list[socket.socket]] = {name: [] for name in wanted}
    words = names.split(":") if names else []
    for place in range(int(count)):
        name = words[place] if place < len(words) else ""
        address = _address(name, wanted)
        found[name].append(_taken(FIRST + place, name, address))
    if len(found["admin"]) > 1:
        raise ConfigError("more than one socket named admin was passed: that port has one address")
    admins = found.pop("admin")
    return Passed(found, admins[0] if admins else None)


def _address(name: str, wanted: Mapping[str, _Address | None]) -> _Address:
    """Which the socket of that name must have."""
    if name not in wanted:
        raise ConfigError(
            f"a socket named {name!r} was passed: write FileDescriptorName=http, grpc or admin in its unit, "
            "so that it is known which port it is"
        )
    address = wanted[name]
    if address is None:
        raise ConfigError(
            f"a socket named {name} was passed, and the file has no listen.{name}: write its address there, "
            "or leave that socket out of the unit"
        )
    return address


def _taken(number: int, name: str, wanted: _Address) -> socket.socket:
    try:
        os.set_inheritable(number, False)  # noqa: FBT003 - it takes no keywords
        found = socket.socket(fileno=number)
    except OSError as error:
        raise ConfigError(f"descriptor {number}, named {name}, is no socket: {error.strerror}") from None
    inet = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
    if not inet or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(f"the socket named {name} does not listen on TCP: write ListenStream=HOST:PORT")
    host, port = found.getsockname()[:2]
    for *_, address in resolved(wanted.host, wanted.port):
        if address[0] == host and wanted.port in (0, port):
            return found
    raise ConfigError(
        f"the socket named {name} listens on {host} port {port}, and listen.{name} says {wanted}: "
        "write the same address in both"
    )
