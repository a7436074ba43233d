"""A gateway in front of a server that counts how often it was really asked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.app import Gateway
from tests.support.gateways import port_of, running
from tests.support.upstream import Received, upstream
from tests.support.wire import Peer

READY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[1],"data":[1]}]}'

Answered = tuple[int, dict[bytes, bytes], bytes]


def whole(body: bytes, status: int = 200) -> bytes:
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


@dataclass
class Server:
    """Answers the n-th call with the n-th answer, the last of them for good. None: it hangs up.

    gate:  calls are answered once it is set
    """

    answers: list[bytes | None]
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def executed(self) -> int:
        return len(self.bodies)

    async def __call__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if b"/ready" in request.line:
            writer.write(READY)
            return
        answer = self.answers[min(len(self.bodies), len(self.answers) - 1)]
        self.bodies.append(request.body)
        await self.gate.wait()
        if answer is None:
            writer.close()
        else:
            writer.write(answer)


@dataclass
class Field:
    """A gateway with its server, and what a test asks of them."""

    gateway: Gateway
    server: Server

    async def ask(
        self, key: str | None = "k-1", body: bytes = BODY, *, more: str = "", path: str = "infer"
    ) -> Answered:
        return await (await self.begin(key, body, more=more, path=path)).answer()

    async def begin(
        self, key: str | None = "k-1", body: bytes = BODY, *, more: str = "", path: str = "infer"
    ) -> Peer:
        peer = await Peer.connect(port_of(self.gateway))
        named = "" if key is None else f"Idempotency-Key: {key}\r\n"
        head = f"POST /v2/models/m/{path} HTTP/1.1\r\nHost: x\r\n{named}{more}Content-Length: {len(body)}\r\n\r\n"
        peer.send(head.encode("latin-1") + body)
        return peer

    @property
    def in_flight(self) -> int:
        return self.gateway.capacities["fleet"].in_flight

    @property
    def waiting(self) -> int:
        """Calls that wait for another one's answer."""
        assert self.gateway.keys is not None
        return sum(turn.waiting for turn in self.gateway.keys._turns.values())


def config(url: str, *, slots: int = 2, route: str = "", section: str = "") -> str:
    return f"""
backends:
  fleet: {{type: triton, replicas: ["{url}"], max_in_flight: {slots}, price: {{usd_per_replica_hour: 1}},
    probe_every: 50ms}}
routes:
  m:
    match: {{model: m}}
    policy: spill_when_full
    tiers: [{{backend: fleet, when_full: shed}}]
    {route}
{section}
"""


@asynccontextmanager
async def serving(
    *answers: bytes | None, slots: int = 2, route: str = "", section: str = "", gated: bool = False
) -> AsyncIterator[Field]:
    server = Server(list(answers) or [whole(b'{"n":1}'), whole(b'{"n":2}')])
    if not gated:
        server.gate.set()
    async with upstream(server) as replica:
        async with running(config(replica.url, slots=slots, route=route, section=section)) as gateway:
            yield Field(gateway, server)


def booked(gateway: Gateway, condition: Callable[[object], bool]) -> int:
    """Calls in the books of which this is true."""
    return sum(1 for record in gateway.ledger.ended if condition(record))
