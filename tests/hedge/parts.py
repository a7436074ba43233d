"""A gateway on virtual time whose one route hedges, and clients that call it through the whole pipeline."""

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Any, cast

from backends.loopback import Loopback
from gateway.app import Gateway, registries
from gateway.body import IncomingBody
from gateway.config.load import load
from gateway.exchange import Exchange
from gateway.spending import LocalSpend
from tests.pipeline.test_every_call_is_booked_once import Visit, Wire, exchange_for
from tests.support.virtual_time import LoopClock

FILE = """
version: 1
retry_budget: {{share: {tokens}, floor_per_second: {floor}}}
backends:
  slow: {{type: {slow}, max_in_flight: 2, latency: 1s{slow_more}}}
  fast: {{type: {fast}, max_in_flight: 2, latency: 100ms{fast_more}}}
routes:
  one:
    match: {{model: one}}
    timeout: {timeout}
    policy: {policy}
    tiers: [{{backend: slow, when_full: spill}}, {{backend: fast, when_full: shed}}]
    {more}
"""
OPTIONS: dict[str, Any] = {
    "tokens": "20%", "floor": 10, "slow": "loopback", "slow_more": "", "fast": "loopback", "fast_more": "",
    "timeout": "5s", "policy": "spill_when_full", "more": "hedge: {after: 200ms, share: 100%}",
}  # fmt: skip
PRICED = ", price: {usd_per_second: 0.01}, boot: 0s, idle_after: 1h"


@dataclass
class Answered:
    """One call, and what its client saw."""

    exchange: Exchange
    wire: Wire
    took: float

    @property
    def status(self) -> int:
        return int(self.wire.written[9:12])

    def field(self, name: str) -> str | None:
        """One header of the answer."""
        for row in bytes(self.wire.written).partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
            key, _, value = row.decode().partition(": ")
            if key == name:
                return value
        return None


class Rig:
    """The gateway and its parts by name."""

    def __init__(self, **options: Any) -> None:
        self.clock = LoopClock()
        text = FILE.format(**{**OPTIONS, **options})
        self.gateway = Gateway(load(text, *registries()).settings, clock=self.clock, chance=Random(3))
        self.slow = cast("Loopback", self.gateway.backends["slow"])
        self.fast = cast("Loopback", self.gateway.backends["fast"])
        self._calls = 0

    def start(self, *, complete: bool = True, **more: Any) -> asyncio.Task[Answered]:
        """A client calls; unless `complete` with a body that is larger than what is held of it, and not over."""
        self._calls += 1
        visit = Visit(0.0, "one", None, more.pop("deadline_ms", None), b'{"inputs":[{"name":"x"}]}')
        exchange, wire = exchange_for(visit, self._calls, self.clock)
        exchange.method = more.pop("method", exchange.method)
        exchange.target = more.pop("target", exchange.target)
        if not complete:
            exchange.body = IncomingBody(wire, length=100, buffer=10, limit=1 << 20)
            exchange.body.feed(b'{"inputs":[{"name":"x"')
        for name, value in more.items():
            exchange.headers.append((name.replace("_", "-").encode(), value.encode()))
        return asyncio.get_running_loop().create_task(self._answer(exchange, wire))

    async def call(self, **more: Any) -> Answered:
        """A client calls, and waits."""
        return await self.start(**more)

    async def _answer(self, exchange: Exchange, wire: Wire) -> Answered:
        began = self.clock.now()
        await self.gateway.pipeline.handle(exchange)
        return Answered(exchange, wire, self.clock.now() - began)

    @property
    def hedges(self) -> dict[str, int]:
        return self.gateway.ledger.routes["one"].hedges

    @property
    def granted(self) -> int:
        """Tokens of the retry budget that were spent."""
        return self.gateway.retries.routes["one"].granted

    def usd(self, backend: str) -> dict[str, float]:
        """Dollars by kind."""
        return self.gateway.ledger.lanes["one", backend].usd

    async def settle(self) -> None:
        """What was cancelled unwinds."""
        for _ in range(5):
            await asyncio.sleep(0)

    def assert_nothing_left(self) -> None:
        """Every slot, every reservation and every task is back."""
        gateway = self.gateway
        assert gateway.ledger.open_records == 0
        assert len(gateway.background) == 0
        for capacity in gateway.capacities.values():
            assert capacity.in_flight == 0
        for pool in gateway.pools.values():
            assert (pool.in_flight, pool.queue_depth) == (0, 0)
        for backend in (self.slow, self.fast):
            assert not any(backend.running)
        for budget in (*gateway.spending.routes.values(), *gateway.spending.backends.values()):
            assert isinstance(budget._source, LocalSpend)
            assert budget._source._reserved == 0
        assert len(gateway.pipeline._dispatch._watch) == 0
