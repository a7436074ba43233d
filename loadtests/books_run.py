"""Requests in bursts and pauses through one gateway to every endpoint, while things go wrong.

Knows the gateway by its file, its ports, its metrics and its access log. It must never compare.
"""

import asyncio
import json
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import Gateway, registries
from gateway.clock import SystemClock
from gateway.config.load import load
from loadtests.books_endpoints import (
    FRONT,
    INSIDE,
    SECRETS,
    SLOTS,
    Endpoint,
    Times,
    breaks,
    endpoint,
)

Samples = Mapping[tuple[str, ...], float]
"""Values by the metric's name and its labels' values, in the order of the labels' names."""

BURST = (4, 24)
TROUBLE = 0.035
"""Share of requests beside which something is made to go wrong at the endpoint."""
LEAVING = 0.015
"""Share of clients that hang up without waiting for the answer."""


class Sent(NamedTuple):
    """One request. `status`: 0 for a client that left, -1 for an answer that broke off."""

    id: str
    route: str
    status: int
    by: str


@dataclass
class Books:
    """Everything that was seen, by both sides."""

    endpoints: Sequence[Endpoint]
    times: Times
    sent: list[Sent] = field(default_factory=list)
    samples: Samples = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def total(self, metric: str, backend: str) -> float:
        """A metric that has no other label than the backend's."""
        return self.samples.get((f"overspill_{metric}", backend), 0.0)

    def starts(self, backend: str, start: str) -> float:
        """Calls that began so there, of all routes."""
        return self._sum("starts_total", backend, start)

    def booked(self, backend: str) -> float:
        """Dollars, of all routes and kinds."""
        return self._sum("cost_usd_total", backend)

    def _sum(self, metric: str, backend: str, start: str = "") -> float:
        return sum(
            value
            for (name, *labels), value in self.samples.items()
            if name == f"overspill_{metric}" and labels[0] == backend and start in ("", labels[-1])
        )


def _file(endpoints: Sequence[Endpoint], times: Times, log: Path) -> str:
    """Each endpoint has a route. Calls that fail where they are opened by calls go on to the next endpoint,
    and every second one of these routes sends slow calls to both.
    """
    names = [each.name for each in endpoints]
    plain = [name for name in names if not name.endswith("-pinged")]
    backends, routes = [], []
    for each in endpoints:
        binding = "ping" if each.name.endswith("-pinged") else "none"
        section = each.section.replace("{url}", each.emulator.url)
        backends.append(
            f"  {each.name}: {{{section}, "
            f"max_in_flight: {SLOTS}, late_binding: {binding}, "
            f"cold_start: {{expect: {times.expected}s, idle_after: {times.idle}s}}}}"
        )
        tiers, more = [f"{{backend: {each.name}, when_full: {{queue: 20s, then: shed}}}}"], ""
        budget = f"cheapest_in_budget, latency_budget: {{within: {10 * times.work[0] + 3 * times.work[1]}s}}"
        policy = budget if binding == "ping" else "spill_when_full"
        if binding == "none" and len(plain) > 1:
            place = plain.index(each.name)
            tiers.append(
                f"{{backend: {plain[(place + 1) % len(plain)]}, when_full: {{queue: 20s, then: shed}}}}"
            )
            if place % 2:
                more = f", hedge: {{after: {times.idle / 4}s, share: 20%}}"
        again = "true" if len(tiers) > 1 else "false"
        routes.append(
            f"  {each.name}: {{match: {{model: {each.name}}}, idempotent: {again}, "
            f"policy: {policy}, timeout: 30s{more}, tiers: [{', '.join(tiers)}]}}"
        )
    return "\n".join(
        [
            "version: 1",
            "listen: {http: '127.0.0.1:0', admin: '127.0.0.1:0'}",
            f"access_log: {{path: '{log}', sample: 100%}}",
            "retry_budget: {share: 100%, floor_per_second: 1000}",
            "backends:", *backends, "routes:", *routes, "",
        ]
    )  # fmt: skip


@asynccontextmanager
async def _gateway(text: str) -> AsyncIterator[Gateway]:
    for name, value in SECRETS.items():
        os.environ[name] = value
    clock = SystemClock()
    gateway = Gateway(load(text, *registries()).settings, clock=clock, chance=Random(7))
    await gateway.open()
    try:
        yield gateway
    finally:
        await gateway.close()


class Clients:
    """Everybody who asks."""

    def __init__(self, books: Books, host: str, port: int, session: aiohttp.ClientSession, seed: int) -> None:
        self._books = books
        self._host, self._port = host, port
        self._session = session
        self._chance = Random(seed)
        self._number = 0

    async def bursts(self, each: Endpoint, requests: int) -> None:
        """So many requests for one endpoint's route."""
        left = requests
        while left:
            size = min(left, self._chance.randint(*BURST))
            left -= size
            async with asyncio.TaskGroup() as burst:
                for _ in range(size):
                    burst.create_task(self._one(each))
                    if self._chance.random() < 0.3:
                        await asyncio.sleep(0.01)
            idle = self._books.times.idle
            # Instances idle, some go, all go.
            await asyncio.sleep(self._chance.choice((0.05, idle / 3, 1.25 * idle, 2 * idle)))

    async def _one(self, each: Endpoint) -> None:
        chance, books = self._chance, self._books
        self._number += 1
        name = f"books-{self._number}"
        if chance.random() < TROUBLE:
            kind = chance.choice(FRONT + INSIDE)
            each.emulator.fail_next(1, kind, after_s=0.01, status=chance.choice((500, 502)))
            books.troubles[kind] += 1
        kinds = ("fail", "break") if breaks(each.name) else ("fail",)
        do = chance.choice(kinds) if chance.random() < 0.01 else "work"
        if do != "work":
            books.troubles[do] += 1
        asked = {"id": name, "work_s": chance.uniform(*books.times.work), "do": do}
        body = json.dumps({"parameters": asked, "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}).encode()  # fmt: skip
        path = f"/v2/models/{each.name}/infer"
        if chance.random() < LEAVING:
            await self._leave(name, path, body, chance.uniform(0.0, books.times.idle / 1.5))
            books.sent.append(Sent(name, each.name, 0, ""))
            return
        status, by = await self._ask(name, path, body)
        books.sent.append(Sent(name, each.name, status, by))

    async def _ask(self, name: str, path: str, body: bytes) -> tuple[int, str]:
        url = f"http://{self._host}:{self._port}{path}"
        fields = {"x-request-id": name, "content-type": "application/json"}
        try:
            async with self._session.post(url, data=body, headers=fields) as reply:
                answer = await reply.read()
                if reply.status != 200:
                    return reply.status, ""
                said = json.loads(answer)
                return (200, said["by"]) if said["id"] == name else (-2, said["by"])
        except aiohttp.ClientPayloadError:
            return -1, ""

    async def _leave(self, name: str, path: str, body: bytes, after_s: float) -> None:
        """The whole request, and no wait for an answer."""
        _, writer = await asyncio.open_connection(self._host, self._port)
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\nx-request-id: {name}\r\ncontent-type: application/json\r\n"
        )
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        await asyncio.sleep(after_s)
        writer.close()
        self._books.troubles["left"] += 1


async def _metrics(gateway: Gateway, session: aiohttp.ClientSession) -> Samples:
    async with session.get(f"http://{gateway.admin_address}/metrics") as reply:
        text = await reply.text()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def run(names: Sequence[str], requests: int, *, seed: int = 1, factor: float = 1.0) -> Books:
    """`requests` through one gateway, spread over the endpoints of these names. `factor`: see `Times`."""
    clock, times = SystemClock(), Times.times(factor)
    async with AsyncExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="overspill-books-")))
        books = Books([endpoint(name, seed + number, times) for number, name in enumerate(names)], times)
        for each in books.endpoints:
            await held.enter_async_context(each.emulator)
        session = await held.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        began = clock.now()
        async with _gateway(_file(books.endpoints, times, folder / "access.log")) as gateway:
            assert gateway.http_address is not None
            clients = Clients(books, "127.0.0.1", gateway.http_address.port, session, seed)
            share, rest = divmod(requests, len(names))
            async with asyncio.TaskGroup() as everybody:
                for number, each in enumerate(books.endpoints):
                    everybody.create_task(clients.bursts(each, share + (number < rest)))
            for each in books.endpoints:
                each.emulator.cues.clear()
            await asyncio.sleep(2 * times.idle + 1.2)  # every instance is gone by then, and billed
            gateway.settle(gateway.clock.now())
            books.samples = await _metrics(gateway, session)
        books.log = [json.loads(line) for line in (folder / "access.log").read_text().splitlines()]
        books.seconds = clock.now() - began
        for each in books.endpoints:
            each.emulator.fleet.reap()
    return books
