"""A gateway that reads its file again, in this process."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from gateway.app import Gateway, load_file
from gateway.clock import SystemClock
from gateway.config.source import Source
from tests.support.gateways import port_of
from tests.support.wire import Peer

LISTEN = "listen: {http: '127.0.0.1:0', admin: '127.0.0.1:0'}"


def backend(url: str, *, slots: int = 4, more: str = "") -> str:
    return f'{{type: triton, replicas: ["{url}"], max_in_flight: {slots}, probe_every: 50ms, price: {{usd_per_replica_hour: 1}}{more}}}'


def text(backends: dict[str, str], routes: dict[str, str], more: str = "", listen: str = LISTEN) -> str:
    lines = ["version: 1", listen, "backends:", *(f"  {name}: {each}" for name, each in backends.items())]
    return "\n".join([*lines, "routes:", *(f"  {name}: {each}" for name, each in routes.items()), more, ""])


def route(backend: str, *, model: str = "m", more: str = "") -> str:
    return f"{{match: {{model: {model}}}, policy: spill_when_full, tiers: [{{backend: {backend}, when_full: {{queue: 20s, then: shed}}}}]{more}}}"


BODY = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}]}'


def infer(model: str = "m", more: bytes = b"") -> bytes:
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n".encode()
    return head + more + b"\r\n" + BODY


@dataclass
class Run:
    gateway: Gateway
    file: Path
    session: aiohttp.ClientSession

    @property
    def http(self) -> int:
        return port_of(self.gateway)

    async def reload(self, text: str) -> tuple[int, dict[str, Any]]:
        """Write the file and POST /admin/reload."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)
        return await self.ask("POST", "/admin/reload")

    async def ask(self, method: str, path: str, **fields: str) -> tuple[int, dict[str, Any]]:
        url = f"http://{self.gateway.admin_address}{path}"
        async with self.session.request(method, url, headers=fields) as response:
            return response.status, json.loads(await response.text())

    async def words(self, path: str) -> str:
        async with self.session.get(f"http://{self.gateway.admin_address}{path}") as response:
            return await response.text()

    async def metric(self, line: str) -> float | None:
        """The value of the sample that is written so."""
        for each in (await self.words("/metrics")).splitlines():
            if each.startswith(f"{line} "):
                return float(each.rsplit(" ", 1)[1])
        return None


@asynccontextmanager
async def running(folder: Path, text: str) -> AsyncIterator[Run]:
    file = folder / "gateway.yaml"
    file.write_text(text)
    source = Source(file, load_file)
    gateway = Gateway(source.read().settings, clock=SystemClock(), chance=Random(7), source=source)
    await gateway.open()
    try:
        async with aiohttp.ClientSession() as session:
            yield Run(gateway, file, session)
    finally:
        await Peer.close_all()
        await gateway.close()
        assert gateway.ledger.open_records == 0
        assert not len(gateway.background)
        assert not gateway.tables.draining
