"""Where no connection of the gateway may lead: what only a machine's own metadata service answers at.

An address in the file is the operator's choice, whatever it is. A name is not: who answers for it may
answer with the address at which a cloud gives this machine's credentials away, now or at the next look-up
(DNS rebinding). So the addresses of a name are judged where the connection is made, and those that were
judged are connected to. Knows addresses, and of whom they are nothing.

Sources: RFC 3927 and RFC 4291 (link-local), RFC 6052 (IPv4 in IPv6); documentation of the clouds for the
addresses of metadata services that are not link-local.
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp.abc import AbstractResolver, ResolveResult

METADATA = frozenset(
    ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
        "fd00:42::42",  # Scaleway
    )
)
"""Metadata services that are not at a link-local address."""

_CARRIES_IPV4 = (ip_network("64:ff9b::/96"), ip_network("::/96"), ip_network("::ffff:0:0:0/96"))

Literal = IPv4Address | IPv6Address
Lookup = Callable[[str, int], Awaitable[Iterable[str]]]
"""(host name, port) -> its addresses. Raises OSError."""


def literal(host: str) -> Literal | None:
    """The address that a host is; None for a name, and `2852039166` or `0xa9fea9fe` are names."""
    try:
        return ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None


def forbidden(host: str) -> bool:
    """Is this an address that no name may stand for? False for a name: it has none of its own."""
    address = literal(host)
    if address is None:
        return False
    inner = _inner(address) if isinstance(address, IPv6Address) else None
    return any(one.is_link_local or one in METADATA for one in (address, inner) if one is not None)


def _inner(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this one stands for."""
    known = address.ipv4_mapped or address.sixtofour
    if known is not None:
        return known
    carries = any(isinstance(net, IPv6Network) and address in net for net in _CARRIES_IPV4)
    return IPv4Address(int(address) & 0xFFFFFFFF) if carries else None


def allowed(host: str, addresses: Iterable[str]) -> list[str]:
    """Those that may be connected to for the sake of a name. OSError where none is left."""
    given = list(addresses)
    kept = [address for address in given if not forbidden(address)]
    if given and not kept:
        raise OSError(
            errno.EACCES,
            f"the name {host} leads to a link-local or metadata address; "
            "if that is meant, write the address itself in the file",
        )
    return kept


async def ask_system(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, as the system has them. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Guarded(AbstractResolver):
    """A resolver that gives no forbidden address. The library asks it for names only, never for addresses.

    names:  those for which any address will do: metadata services, which the file says to ask
    """

    def __init__(self, inner: AbstractResolver, *, names: Iterable[str] = ()) -> None:
        self._inner = inner
        self._names = frozenset(names)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """See `AbstractResolver.resolve`. Raises OSError."""
        found = await self._inner.resolve(host, port, family)
        if host in self._names:
            return found
        kept = set(allowed(host, (each["host"] for each in found)))
        return [each for each in found if each["host"] in kept]

    async def close(self) -> None:
        """Close the resolver behind it."""
        await self._inner.close()
