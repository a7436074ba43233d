"""A gateway whose file limits tenants, before a replica that answers when the test says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.app import Gateway
from tests.auth.support import request
from tests.support.gateways import port_of, running
from tests.support.upstream import Received, upstream
from tests.support.wire import Peer

Answered = tuple[int, dict[bytes, bytes], bytes]


@dataclass
class Replica:
    """Answers every call with this body once `gate` is set."""

    body: bytes = b"{}"
    seconds: float = 0.0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0
    running: int = 0
    most: int = 0

    async def __call__(self, received: Received, writer: asyncio.StreamWriter) -> None:
        if received.line.startswith(b"POST"):
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await self.gate.wait()
                await asyncio.sleep(self.seconds)
            finally:
                self.running -= 1
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(self.body) + self.body)


def file(url: str, tenants: str, *, auth: str = "{anonymous: {tenant: acme}}", price: str = "1.0") -> str:
    priced = f", price: {{usd_per_replica_hour: {price}}}" if price else ""
    return f"""
auth: {auth}
tenants: {tenants}
backends:
  fleet: {{type: triton, replicas: ["{url}"], max_in_flight: 64{priced}}}
routes:
  one: {{match: {{model: m}}, policy: spill_when_full, tiers: [{{backend: fleet}}]}}
"""


@asynccontextmanager
async def limited(tenants: str, **more: str) -> AsyncIterator[tuple[Gateway, Replica]]:
    replica = Replica()
    replica.gate.set()
    async with upstream(replica) as server, running(file(server.url, tenants, **more)) as gateway:
        try:
            yield gateway, replica
        finally:
            replica.gate.set()
    assert all(tenant.meter.inside == 0 for tenant in gateway.tenants._known.values())


async def begin(gateway: Gateway, raw: bytes) -> Peer:
    """Send a request, and do not wait."""
    peer = await Peer.connect(port_of(gateway))
    peer.send(raw)
    return peer


async def ask(gateway: Gateway, more: str = "") -> Answered:
    return await (await begin(gateway, request(more=more))).answer()
