"""Sockets bound to an address of this machine, by themselves or beside other processes'.

Knows no protocol, and not who accepts.
"""

import socket
from typing import Any


def bound(
    family: socket.AddressFamily | int,
    kind: socket.SocketKind | int,
    number: int,
    address: Any,
    *,
    shared: bool,
) -> socket.socket:
    """A socket that is bound and does not listen yet; what it is given is what `socket.getaddrinfo` says.

    shared:  other processes may bind the same (SO_REUSEPORT)

    Raises OSError, which says the address.
    """
    made = socket.socket(family, kind, number)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise _cannot_listen(address, error) from None
    return made


def listening(
    family: socket.AddressFamily | int,
    kind: socket.SocketKind | int,
    number: int,
    address: Any,
    *,
    backlog: int,
) -> socket.socket:
    """The same for this process alone, with a queue for so many connections. Raises as `bound`."""
    made = bound(family, kind, number, address, shared=False)
    try:
        made.listen(backlog)
    except OSError as error:
        made.close()
        raise _cannot_listen(address, error) from None
    return made


def _cannot_listen(address: Any, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot listen on {address[0]}:{address[1]}: {error.strerror}")
