"""How a server of one's own is reached: its name looked up, a connection made, what goes wrong told apart.

Knows addresses and TLS; it must never know what is said on a connection.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from backends.egress import Lookup, allowed, ask_system, literal
from backends.upstream_tls import ClientTls, tls_failed
from gateway.errors import NO_DESCRIPTOR, BackendDown, ConfigError, NoDescriptor

P = TypeVar("P", bound=asyncio.Protocol)


class Reach:
    """The way to one server.

    tls:      None: in the clear
    timeout:  seconds that it may take
    lookup:   finds the addresses of a host name
    """

    def __init__(
        self, host: str, port: int, *, tls: ClientTls | None, timeout: float, lookup: Lookup = ask_system
    ) -> None:
        self.host = host
        self.port = port
        self._tls = tls
        self._timeout = timeout
        self._is_name = literal(host) is None
        self._lookup = lookup

    async def connect(
        self, make: Callable[[], P], ready: Callable[[P], "asyncio.Future[None]"] | None = None
    ) -> P:
        """A new connection. Raises BackendDown, NoDescriptor among them.

        ready:  what must have happened on it, in the same time
        """
        try:
            async with asyncio.timeout(self._timeout):
                transport, connection = await self._reach(make)
                if ready is not None:
                    try:
                        await ready(connection)
                    except BaseException:
                        transport.abort()  # nobody else knows of it
                        raise
                return connection
        except TimeoutError:
            raise BackendDown(f"no connection to {self.host}:{self.port} in {self._timeout:g} s") from None
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                raise NoDescriptor(
                    f"no connection to {self.host}:{self.port} can be tried: {error.strerror}"
                ) from None
            reason = tls_failed(error) or error.strerror or error
            raise BackendDown(f"cannot connect to {self.host}:{self.port}: {reason}") from None
        except ConfigError as error:
            raise BackendDown(f"cannot connect to {self.host}:{self.port}: {error}") from None

    async def _reach(self, make: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        """Connected to the first of the host's addresses that answers. Raises OSError, ConfigError."""
        loop, tls = asyncio.get_running_loop(), self._tls
        trust = None if tls is None else tls.context()
        named = None if tls is None else tls.server_name or self.host
        addresses: Sequence[str] = (self.host,)
        if self._is_name:
            addresses = allowed(self.host, await self._lookup(self.host, self.port))
        last = OSError(0, "the name has no address")
        for address in addresses:
            try:
                return await loop.create_connection(
                    make, address, self.port, ssl=trust, server_hostname=named
                )
            except OSError as error:
                last = error
        try:
            raise last
        finally:
            del last  # or it would hold this frame, and this frame it
