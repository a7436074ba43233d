"""Where the replicas of a fleet are found while it serves: the options for it, and DNS.

A discovery says again and again which addresses there are, or why it cannot tell. What follows from that
is `membership.py`'s part: it knows no index, no slot and no backend.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Protocol, Self

from pydantic import Field, model_validator

from backends.kubernetes import KubernetesOptions
from gateway.options import Duration, Options

RESOLVE_TIMEOUT_S = 5.0

Found = Callable[[Sequence[str]], None]
"""Is given every address (HOST:PORT) that there is now."""
Failed = Callable[[str], None]
"""Is given why nothing could be learned."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host name, port) -> addresses as HOST:PORT. Raises OSError."""


class Discovery(Protocol):
    """Finds addresses."""

    async def run(self, found: Found, failed: Failed) -> None:
        """Say what there is, for ever. Returns only by cancellation."""
        ...

    async def close(self) -> None:
        """Give back every connection."""
        ...


class DiscoverOptions(Options):
    """Where the replicas are found: `{dns: NAME, port: 8000}` or `{kubernetes: {service: NAME}}`."""

    dns: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$")
    """A name with an address record for each replica, like a headless Service's."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """With `dns`: port of each replica; 8000 where nothing is said."""
    every: Duration | None = Field(default=None, ge=0.1)
    """With `dns`: time between two look-ups; 5s where nothing is said."""
    kubernetes: KubernetesOptions | None = None
    """A Service whose EndpointSlices are watched."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.dns is None) == (self.kubernetes is None):
            raise ValueError(
                "give exactly one of dns and kubernetes, like {dns: triton.ns.svc, port: 8000} or"
                " {kubernetes: {service: triton}}"
            )
        if self.dns is None and (self.port is not None or self.every is not None):
            raise ValueError("port and every are for dns; the port of a Service stands inside kubernetes")
        return self


async def resolve(host: str, port: int) -> Sequence[str]:
    """Every IPv4 or IPv6 address of a name, asked of the system. Raises OSError."""
    loop = asyncio.get_running_loop()
    answers = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    by_family: dict[int, list[str]] = {}
    for family, _, _, _, address in answers:
        by_family.setdefault(family, []).append(authority(str(address[0]), port))
    # A replica with an address of each kind is one replica.
    return by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or []


def authority(host: str, port: int) -> str:
    """HOST:PORT as URLs and `host` fields have it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class DnsDiscovery:
    """Looks a name up again and again.

    An address is gone when it is missing from two answers in a row: some resolvers give a part of many.
    """

    def __init__(
        self, name: str, port: int, *, every: float, chance: Random, lookup: Resolve = resolve
    ) -> None:
        self._name = name
        self._port = port
        self._every = every
        self._chance = chance
        self._lookup = lookup
        self._before: frozenset[str] = frozenset()

    async def run(self, found: Found, failed: Failed) -> None:
        """Say what there is, for ever."""
        while True:
            try:
                async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                    answer = frozenset(await self._lookup(self._name, self._port))
            except TimeoutError:
                failed(f"{self._name} was not resolved in {RESOLVE_TIMEOUT_S:g} s")
            except (OSError, UnicodeError) as error:
                failed(f"{self._name} cannot be resolved: {getattr(error, 'strerror', None) or error}")
            else:
                if answer:
                    found(sorted(answer | self._before))
                    self._before = answer
                else:
                    failed(f"{self._name} has no address")
            await asyncio.sleep(self._every * (0.9 + 0.2 * self._chance.random()))

    async def close(self) -> None:
        """Nothing is held."""
