"""What always-on fleets share, whatever their servers speak: price, connections, a question to one replica.

Knows replicas and their connections; it must never know what an answer means.
"""

import asyncio
from typing import ClassVar

from backends.base import Backend, BackendOptions, Kit
from backends.replica_connections import Attempt, ReplicaConnections
from backends.replica_requests import RequestHeads
from backends.upstream_tls import ClientTls, UpstreamTls
from gateway.errors import BackendBroke, BackendError, NoDescriptor
from gateway.options import Duration, Options, SlotCount, Usd
from gateway.vocab import Reply, WholeBody

_LONGEST_ANSWER = 1 << 20


class FleetPrice(Options):
    """What the fleet costs, used or not."""

    usd_per_replica_hour: Usd
    """Price of one replica for one hour."""


class FleetOptions(BackendOptions):
    """What the section of every always-on fleet may say."""

    max_in_flight: SlotCount
    """Slots per replica: the most calls the gateway has running there at once. `auto` learns it from how long
    calls take."""
    price: FleetPrice | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    connect_timeout: Duration = 1.0
    """Longest wait for a connection before the replica counts as down."""
    keep_idle: Duration
    """How long an unused connection is kept; keep it below the server's own limit."""
    tls: UpstreamTls | None = None
    """TLS towards replicas with an https address; absent: their certificates must be of those that the system
    trusts."""
    probe_every: Duration = 2.0
    """Time between readiness checks of each replica."""


class WarmFleet(Backend):
    """One fleet. `heads` writes the heads of its requests."""

    owned: ClassVar[bool] = True
    options: FleetOptions

    def __init__(self, name: str, options: FleetOptions, kit: Kit, *, heads: RequestHeads) -> None:
        super().__init__(name, options, kit)
        self.heads = heads
        self.tls = ClientTls(name, options.tls)

    @property
    def usd_per_replica_hour(self) -> float | None:
        """Price of one replica, None if the file does not say."""
        return None if self.options.price is None else self.options.price.usd_per_replica_hour

    @property
    def price_known(self) -> bool:
        """False when the file does not say."""
        return self.options.price is not None

    async def open(self) -> None:
        """Check that every secret is there. Raises ConfigError, naming the reference."""
        self.heads.open()
        if self.options.tls is not None:
            self.tls.open()

    def connections_to(self, url: str) -> ReplicaConnections:
        """Those to the replica at `url`, none of them made yet."""
        options = self.options
        return ReplicaConnections(
            url, clock=self.kit.clock, connect_timeout=options.connect_timeout, keep_idle=options.keep_idle,
            tls=self.tls, cork=self.kit.cork,
        )  # fmt: skip

    async def ask(
        self, connections: ReplicaConnections, path: str, limit: int = _LONGEST_ANSWER
    ) -> tuple[int, bytes]:
        """Status and body, of at most `limit` bytes, of a GET of the gateway's own.

        Raises BackendError, TimeoutError.
        """
        head = self.heads.question(connections, path.encode("ascii"))
        asking = Attempt(connections, b"GET", head, WholeBody(b""), _resend=True)
        async with asyncio.timeout(self.options.connect_timeout + 1.0), asking as reply:
            return reply.status, await whole(reply, limit)

    async def ready(self, connections: ReplicaConnections, path: str) -> bool | None:
        """Whether `path` answers 200 there; any other answer, or none in time, is not ready.

        None where it could not be asked for want of a descriptor: that says nothing of the replica.
        """
        try:
            return (await self.ask(connections, path))[0] == 200
        except NoDescriptor:
            return None
        except (BackendError, TimeoutError):
            return False


async def whole(reply: Reply, limit: int) -> bytes:
    """All of an answer. Raises BackendBroke beyond `limit` bytes."""
    if reply.stream is None:
        return reply.body or b""
    parts: list[bytes] = []
    size = 0
    async for part in reply.stream:
        parts.append(part)
        size += len(part)
        if size > limit:
            raise BackendBroke(f"the answer is over {limit} bytes")
    return b"".join(parts)
