"""Small plugins for the tests of the file: every shape of option a real one has, and nothing behind it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import ClassVar, Literal

from pydantic import Field

from backends.base import Backend, BackendOptions
from gateway.config.load import Loaded, load
from gateway.config.problems import ConfigProblems
from gateway.options import Duration, Options, SecretRef, Share, Size, Usd
from gateway.registry import Registry
from gateway.vocab import Call, Rent, Reply
from policies.base import Action, Hold, Policy, PolicyOptions, PoolView, RequestView, Take


class HourPrice(Options):
    usd_per_replica_hour: Usd
    """Price of one replica for one hour."""


class FleetOptions(BackendOptions):
    replicas: tuple[str, ...] = Field(min_length=1)
    """Addresses of the servers."""
    price: HourPrice | None = None
    """What it costs."""
    probe_every: Duration | None = None
    """Time between checks."""


class ColdStart(Options):
    expect: Duration
    """From nothing to the first answer."""
    idle_after: Duration | None = None
    """How long an idle instance stays up."""


class SecondPrice(Options):
    usd_per_second: Usd
    """Price of one second."""


class RentedOptions(BackendOptions):
    type: Literal["rented"]
    endpoint: str = Field(pattern=r"^[a-z0-9-]+$")
    """Name of the endpoint."""
    api_key: SecretRef
    """Key of the account."""
    backup_keys: list[SecretRef] = []
    """Keys to try when the first one is refused."""
    memory: Size = 0
    """Memory of one instance."""
    price: SecondPrice | None = None
    """What it costs."""
    cold_start: ColdStart | None = None
    """What is known ahead about its instances."""
    late_binding: Literal["ping", "none"] = "ping"
    """Whether an instance can be opened without a call."""


class _Silent(Backend):
    @asynccontextmanager
    async def send(self, call: Call, replica: int) -> AsyncIterator[Reply]:
        yield Reply(200, [])


class Fleet(_Silent):
    Options: ClassVar[type[BackendOptions]] = FleetOptions
    owned: ClassVar[bool] = True


class Rented(_Silent):
    Options: ClassVar[type[BackendOptions]] = RentedOptions
    options: RentedOptions

    @property
    def rent(self) -> Rent:
        price, cold = self.options.price, self.options.cold_start
        idle_s = cold.idle_after or 0.0 if cold is not None else 0.0
        usd = None if price is None else price.usd_per_second
        return Rent(usd, idle_s=idle_s, boot_s=0.0 if cold is None else cold.expect)

    @property
    def price_known(self) -> bool:
        return self.options.price is not None

    @property
    def can_open(self) -> bool:
        return self.options.late_binding == "ping"


class Waits(Policy):
    def arrive(self, request: RequestView, pool: PoolView, now: float, chance: Random) -> Action:
        return Hold(now + 1)

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        return None


class SkewedOptions(PolicyOptions):
    skew: Share
    """How uneven."""
    after: Duration = 0.0
    """From when on."""


class Skewed(Waits):
    Options: ClassVar[type[PolicyOptions]] = SkewedOptions


def registries() -> tuple[Registry[Backend], Registry[Policy]]:
    """A fresh pair for each use."""
    backends: Registry[Backend] = Registry("backend")
    backends.add("fleet")(Fleet)
    backends.add("rented")(Rented)
    policies: Registry[Policy] = Registry("policy")
    for name in ("cheapest_in_budget", "spill_when_full", "weighted"):
        policies.add(name)(Waits)
    policies.add("skewed")(Skewed)
    return backends, policies


def read(text: str, *, resolve_secrets: bool = False) -> Loaded:
    """Load a text with these plugins."""
    return load(text, *registries(), resolve_secrets=resolve_secrets, name="f.yaml")


def problems(text: str, *, resolve_secrets: bool = False) -> list[str]:
    """The problems of a text, one line each, without the file's name; [] if there are none."""
    try:
        read(text, resolve_secrets=resolve_secrets)
    except ConfigProblems as error:
        return [str(problem).removeprefix("f.yaml:") for problem in error.problems]
    return []


GOOD = """\
version: 1
listen: {http: 0.0.0.0:8000, admin: 127.0.0.1:8002}
auth: none
backends:
  fleet:
    type: fleet
    replicas: [http://triton-0:8000, http://triton-1:8000]
    max_in_flight: 16
    price: {usd_per_replica_hour: 0.79}
  burst:
    type: rented
    endpoint: abc123
    api_key: {env: RENTED_API_KEY}
    max_in_flight: 40
    memory: 1GiB
    price: {usd_per_second: 0.00022}
    cold_start: {expect: 8s, idle_after: 30s}
    headers: {x-team: search, authorization: {file: /run/secrets/token}}
routes:
  embed:
    match: {model: [minilm, "minilm-*"], protocol: kserve}
    latency_budget: {within: 250ms, objective: 99%}
    policy: {type: skewed, skew: 20%}
    tiers:
      - {backend: fleet, when_full: {queue: 40ms, then: spill}}
      - {backend: burst, when_full: shed}
  invoke:
    latency_budget: {within: 2s}
    tiers: [{backend: burst}]
"""
"""One of everything."""
