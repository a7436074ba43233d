"""A backend without a server: answers from memory, after a delay, with failures on cue.

For trying out a policy file without any GPU, and for tests of everything that stands in front of a
backend. Two kinds: `loopback` stands for a fleet that is owned, `loopback_rented` for an endpoint
that is paid by use and boots when it has been idle.

Behaves by its options, drawing from the kit's `chance`; a test may also queue the next outcomes
(`script`) and set what probes say (`set_ready`). No sockets, no threads.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar

from pydantic import Field, model_validator

from backends.base import Backend, BackendOptions, Kit, backends
from gateway.errors import BackendBroke, BackendDown, BackendFull
from gateway.options import Duration, Options, Share, Usd
from gateway.vocab import Call, Reply, Start, Usage


class LoopbackOptions(BackendOptions):
    """How the answers come."""

    replicas: int = Field(1, ge=1)
    """How many places with slots of their own it has."""
    latency: Duration = 0.0
    """From the call to its answer."""
    jitter: Share = 0.0
    """Latencies vary by this share either way."""
    fail_share: Share = 0.0
    """Share of calls that break after they may have begun."""
    down_share: Share = 0.0
    """Share of calls that do not reach it."""
    full_share: Share = 0.0
    """Share of calls that it pushes back as too many."""
    status: int = Field(200, ge=200, le=599)
    """Status of its answers."""
    answer: str | None = None
    """Body of its answers; the request's own body when not given."""

    @model_validator(mode="after")
    def _shares_fit(self) -> "LoopbackOptions":
        if self.fail_share + self.down_share + self.full_share > 1:
            raise ValueError("fail_share, down_share and full_share together are more than 100%")
        return self


class RentedPrice(Options):
    """What running costs."""

    usd_per_second: Usd
    """Price of one second, start-up included."""


class LoopbackRentedOptions(LoopbackOptions):
    """A loopback that is paid by use."""

    boot: Duration = 0.0
    """What a call waits longer when nothing has run for `idle_after`."""
    idle_after: Duration = 30.0
    """How long it stays warm after the last answer."""
    price: RentedPrice | None = None
    """Without a price its cost is unknown."""


@backends.add("loopback")
class Loopback(Backend):
    """A fleet in memory."""

    Options: ClassVar[type[BackendOptions]] = LoopbackOptions
    EXAMPLE: ClassVar[Mapping[str, Any]] = {"type": "loopback", "max_in_flight": 2, "replicas": 2}
    owned: ClassVar[bool] = True

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        super().__init__(name, options, kit)
        assert isinstance(options, LoopbackOptions)
        self.plan = options
        self.script: deque[Reply | Exception] = deque()
        """Outcomes of the next calls, before chance decides again."""
        self.running = [0] * options.replicas
        """Calls running now, by replica."""
        self._ready: list[bool | None] = [True] * options.replicas
        self._names = tuple(f"{name}-{index}" for index in range(options.replicas))

    @property
    def replicas(self) -> Sequence[str]:
        """`NAME-0`, `NAME-1`, …"""
        return self._names

    def set_ready(self, replica: int, ready: bool | None) -> None:
        """What the next probes of that replica say."""
        self._ready[replica] = ready

    async def probe(self, replica: int) -> bool | None:
        """What `set_ready` said last; ready at first."""
        return self._ready[replica]

    def send(self, call: Call, replica: int) -> "_Exchange":
        """Wait, then answer or fail."""
        return _Exchange(self, call, replica)

    def delay(self) -> float:
        """Seconds that the next answer takes."""
        spread = self.plan.jitter * (2.0 * self.kit.chance.random() - 1.0)
        return self.plan.latency * (1.0 + spread)

    def outcome(self, body: bytes) -> Reply:
        """The next answer, or raises the next failure."""
        if self.script:
            planned = self.script.popleft()
            if isinstance(planned, Exception):
                raise planned
            return planned
        mark = self.kit.chance.random()
        plan = self.plan
        if (mark := mark - plan.fail_share) < 0:
            raise BackendBroke(f"{self.name} failed on purpose")
        if (mark := mark - plan.down_share) < 0:
            raise BackendDown(f"{self.name} is unreachable on purpose")
        if mark - plan.full_share < 0:
            raise BackendFull(f"{self.name} is full on purpose", retry_after=1.0)
        content = body if plan.answer is None else plan.answer.encode()
        return Reply(plan.status, [(b"content-type", b"application/octet-stream")], content, start=Start.WARM)

    def finished(self, reply: Reply, seconds: float, boot: float) -> None:
        """An answer is complete: say what it used."""


@backends.add("loopback_rented")
class LoopbackRented(Loopback):
    """A serverless endpoint in memory: one place, cold after a pause, billed while it runs."""

    Options: ClassVar[type[BackendOptions]] = LoopbackRentedOptions
    EXAMPLE: ClassVar[Mapping[str, Any]] = {
        "type": "loopback_rented",
        "max_in_flight": 4,
        "boot": "2s",
        "price": {"usd_per_second": 0.0002},
    }
    owned: ClassVar[bool] = False

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        super().__init__(name, options, kit)
        assert isinstance(options, LoopbackRentedOptions)
        self.rent = options
        self._last_used = float("-inf")
        self._booting = 0.0

    @property
    def price_known(self) -> bool:
        """True with a `price`."""
        return self.rent.price is not None

    async def probe(self, replica: int) -> bool | None:
        """Nothing can be asked for free."""
        return None

    def boot_time(self) -> float:
        """Seconds that a call coming now waits for the start; 0 when it is warm."""
        now = self.kit.clock.now()
        if self.running_calls == 0 and now - self._last_used > self.rent.idle_after:
            return self.rent.boot
        return 0.0

    @property
    def running_calls(self) -> int:
        """Calls running now."""
        return sum(self.running)
