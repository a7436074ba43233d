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
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from backends.base import Backend, BackendOptions, Kit, backends
from gateway.errors import BackendBroke, BackendDown, BackendFull
from gateway.options import Duration, Options, Share, Usd
from gateway.vocab import Call, Charge, Rent, Reply, Start, Usage

MOST_BYTES = 64 * 1024 * 1024
"""Largest request body it takes."""


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
    late_binding: Literal["ping", "none"] = "ping"
    """Whether it may be made to boot while calls wait (`ping`), or boots for calls only (`none`)."""


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
        self.fail_by_chance()
        plan = self.plan
        content = body if plan.answer is None else plan.answer.encode()
        return Reply(plan.status, [(b"content-type", b"application/octet-stream")], content, start=Start.WARM)

    def fail_by_chance(self) -> None:
        """Raises a failure as often as the options say."""
        mark = self.kit.chance.random()
        plan = self.plan
        if (mark := mark - plan.fail_share) < 0:
            raise BackendBroke(f"{self.name} failed on purpose")
        if (mark := mark - plan.down_share) < 0:
            raise BackendDown(f"{self.name} is unreachable on purpose")
        if mark - plan.full_share < 0:
            raise BackendFull(f"{self.name} is full on purpose", retry_after=1.0)

    def begin(self, replica: int) -> float:
        """A call starts there. Returns the seconds it waits for a start before anything else."""
        self.running[replica] += 1
        return 0.0

    def end(self, replica: int) -> None:
        """A call has left, answered or not."""
        self.running[replica] -= 1

    def bill(self, seconds: float, boot: float) -> Usage | None:
        """What an answer used; None where nothing is paid by use."""
        return None


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
        self._terms = options
        self._last_used = float("-inf")
        self._ready_at = float("-inf")
        self._charges: list[Charge] = []

    @property
    def price_known(self) -> bool:
        """True with a `price`."""
        return self._terms.price is not None

    @property
    def rent(self) -> Rent:
        """Its seconds of booting and of work are paid for, those in which it idles are not."""
        terms = self._terms
        usd = None if terms.price is None else terms.price.usd_per_second
        return Rent(usd, idle_s=terms.idle_after, boot_s=terms.boot, bills_idle=False)

    @property
    def can_open(self) -> bool:
        """True unless the file says otherwise."""
        return self._terms.late_binding == "ping"

    async def probe(self, replica: int) -> bool | None:
        """Nothing can be asked for free."""
        return None

    async def ping(self, replica: int, *, route: str, kind: str, fresh: bool = True) -> Usage | None:
        """Boot it, if it is not up. There is one place only, so none is newer than another."""
        boot = self.begin(replica)
        began = self.kit.clock.now()
        try:
            await asyncio.sleep(boot)
            self.fail_by_chance()
        finally:
            self.end(replica)
            usage = self.bill(self.kit.clock.now() - began, boot)
            if usage.usd:
                self._charges.append(Charge(route, kind, usage.usd))
        return usage

    def settle(self, now: float) -> list[Charge]:
        """What pings cost."""
        due, self._charges = self._charges, []
        return due

    def begin(self, replica: int) -> float:
        """The first call after a pause boots it; those that come while it boots wait as long as is left."""
        now = self.kit.clock.now()
        idle = not self.running[replica]
        super().begin(replica)
        if idle and now - self._last_used > self._terms.idle_after:
            self._ready_at = now + self._terms.boot
        return max(0.0, self._ready_at - now)

    def end(self, replica: int) -> None:
        """It stays warm for a while from here."""
        super().end(replica)
        self._last_used = self.kit.clock.now()

    def bill(self, seconds: float, boot: float) -> Usage:
        """The seconds this call took, start-up included."""
        price = self._terms.price
        usd = None if price is None else seconds * price.usd_per_second
        return Usage(billed_s=seconds, boot_s=boot, usd=usd, instance=self.name)


class _Exchange:
    """One attempt: an async context manager, as `Backend.send` promises."""

    def __init__(self, backend: Loopback, call: Call, replica: int) -> None:
        self._backend = backend
        self._call = call
        self._replica = replica

    async def __aenter__(self) -> Reply:
        backend = self._backend
        boot = backend.begin(self._replica)
        started = backend.kit.clock.now()
        try:
            body = await self._call.body.read(MOST_BYTES)
            await asyncio.sleep(boot + backend.delay())
            reply = backend.outcome(body)
        except BaseException:
            backend.end(self._replica)
            raise
        reply.usage = backend.bill(backend.kit.clock.now() - started, boot)
        if boot:
            reply.start = Start.COLD
        return reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backend.end(self._replica)
