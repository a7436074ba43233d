"""A gateway worth looking at: an owned backend in memory, a rented one with a price, one without."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from backends.loopback import Loopback
from gateway.app import Gateway
from tests.support.gateways import port_of, running

CONFIG = """
backends:
  fleet: {type: loopback, replicas: 2, max_in_flight: 1, latency: 20ms}
  runpod: {type: loopback_rented, max_in_flight: 4, latency: 20ms, boot: 40ms, price: {usd_per_second: 0.001}}
routes:
  embed:
    match: {model: [minilm, "<script>alert(1)"]}
    latency_budget: {within: 250ms, objective: 99%}
    spill_budget: {usd_per_hour: 1}
    policy: spill_when_full
    tiers: [{backend: fleet, when_full: spill}, {backend: runpod, when_full: shed}]
  chat:
    latency_budget: {within: 1s, objective: 90%}
    tiers: [{backend: fleet, when_full: {queue: 300ms, then: shed}}]
"""
BODY = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}]}
SECRET = "s3cret-in-a-body"


class Clients:
    """Who calls the gateway, and reads its admin port."""

    def __init__(self, session: aiohttp.ClientSession, gateway: Gateway) -> None:
        self._session = session
        self.gateway = gateway
        self.data = f"http://127.0.0.1:{port_of(gateway)}"
        self.admin = f"http://{gateway.admin_address}"

    async def call(self, *, model: str = "minilm", request_id: str | None = None) -> tuple[int, str]:
        """One call of the route `embed`: its status and its request id."""
        headers = {"authorization": f"Bearer {SECRET}"}
        if request_id is not None:
            headers["x-request-id"] = request_id
        path = f"/v2/models/{quote(model, safe='')}/infer"
        body = {**BODY, "parameters": {"note": SECRET}}
        url = URL(self.data + path, encoded=True)
        async with self._session.post(url, json=body, headers=headers) as answer:
            await answer.read()
            return answer.status, answer.headers["x-request-id"]

    def ready(self, ready: bool) -> None:
        """The owned replicas pass their probes, or fail them, from now on."""
        fleet, supply = self.gateway.backends["fleet"], self.gateway.capacities["fleet"]
        assert isinstance(fleet, Loopback)
        for index in (0, 1):
            fleet.set_ready(index, ready)
            for _ in range(2):
                supply.note_ready(index, answer=ready, now=self.gateway.clock.now())

    async def get(self, path: str) -> str:
        async with self._session.get(self.admin + path) as answer:
            return await answer.text()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        total = 0.0
        for line in (await self.get("/metrics")).splitlines():
            if line.startswith((name + "{", name + " ")) and all(each in line for each in wanted):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def events(self) -> Any:
        """The stream."""
        return self._session.get(self.admin + "/console/events")


async def read_event(answer: aiohttp.ClientResponse) -> tuple[str, dict[str, Any]]:
    """The next event of a stream: its kind and what it says."""
    kind = ""
    async for line in answer.content:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            kind = text.removeprefix("event: ")
        elif text.startswith("data: "):
            return kind, json.loads(text.removeprefix("data: "))
    raise EOFError("the stream has ended")


@asynccontextmanager
async def watched(config: str = CONFIG) -> AsyncIterator[Clients]:
    async with running(config) as gateway, aiohttp.ClientSession(read_bufsize=2**20) as session:
        yield Clients(session, gateway)
