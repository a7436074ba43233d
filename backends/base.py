"""The backend contract: one kind of server, how to call it, and what a call on it cost.

Knows the leaves only. A backend never counts slots, never retries and never chooses: the pool has
given it a slot, and it carries out exactly one attempt. What it learns it says in the Reply (status,
start, usage) or in the one BackendError it may raise.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self

from pydantic import Field, field_validator, model_validator

from backends import grpc_transcoded
from backends.calibration import Calibration
from gateway.clock import Clock
from gateway.cork import Cork
from gateway.options import Options, SecretRef, Usd
from gateway.registry import Registry
from gateway.vocab import HOP_BY_HOP, Call, Charge, Headers, Rent, Reply, Usage

_GATEWAYS_OWN = {"host", "content-length", "expect", *(name.decode() for name in HOP_BY_HOP)}

FieldName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
FieldValue = Annotated[str, Field(pattern=r"^[\t\x20-\x7e]*$")]


ModelVersion = Annotated[int, Field(ge=0, strict=True)]


class SpillBudget(Options):
    """Most that may be spent on rented backends, and what happens to calls that would need more."""

    usd_per_hour: Usd | None = None
    """Most dollars in any 3,600 seconds."""
    usd_per_day: Usd | None = None
    """Most dollars in any 24 hours."""
    on_exhausted: Literal["queue", "shed", "warn"] = "queue"
    """`queue`: what is rented looks full, so calls wait for the fleet; `shed`: a call that needs it is
    refused; `warn`: spend on, and say so."""

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        limits = [name for name in type(self).model_fields if name != "on_exhausted"]
        if all(getattr(self, name) is None for name in limits):
            raise ValueError(f"limits nothing; give at least one of {', '.join(sorted(limits))}")
        return self


class BackendOptions(Options):
    """What every backend's section may say. Each backend adds its own keys, `price` among them."""

    type: str
    """Kind of backend."""
    max_in_flight: int = Field(ge=1)
    """Slots per replica: the most calls the gateway has running there at once."""
    headers: dict[FieldName, FieldValue | SecretRef] = {}
    """Fields added to every request sent there."""
    versions: Annotated[tuple[ModelVersion, ...], Field(min_length=1)] | None = None
    """Versions of the model that it serves, like [1, 2]: a call for another one, as in
    /v2/models/M/versions/3/infer, is never sent there. Left out: whichever a call asks for."""
    calibration: Calibration | None = None
    """Measured figures, as `overspill probe` prints them. Better than a guess where nothing is known yet."""
    spill_budget: SpillBudget | None = None
    """Most that all routes together may spend here; only for a rented backend."""

    @field_validator("headers")
    @classmethod
    def _not_framing(cls, headers: dict[str, str | SecretRef]) -> dict[str, str | SecretRef]:
        """A second length, host or connection field would change where the request ends or goes."""
        for name in headers:
            if name.lower() in _GATEWAYS_OWN:
                raise ValueError(f"{name} is written by the gateway itself; take it out")
        return headers


class Spawn(Protocol):
    """Start a background task that the gateway owns: awaited at shutdown, its errors logged."""

    def __call__(self, work: Coroutine[Any, Any, None], /, *, name: str) -> None: ...


class Load(NamedTuple):
    """How busy a replica says it is.

    pending:    calls that wait in its own queues, whoever sent them
    elsewhere:  calls of other clients that run or wait there, at least
    at:         when it said so, on the clock
    kv_cache:   share of the key-value cache that is in use; None where it does not say
    """

    pending: int
    elsewhere: int
    at: float
    kv_cache: float | None = None

    def view(self, now: float) -> dict[str, float | None]:
        """For people: plain values, with the age of the figures in seconds."""
        return {
            "pending": self.pending,
            "elsewhere": self.elsewhere,
            "kv_cache": self.kv_cache,
            "age_s": max(0.0, now - self.at),
        }


class Places(Protocol):
    """Who keeps the slots of a backend's replicas, and is told what the backend learns of them."""

    def join(self, index: int) -> None:
        """`replicas[index]` has come, or has come back. It is given calls once a probe has found it ready."""
        ...

    def retire(self, index: int) -> None:
        """`replicas[index]` is to get no new calls; those it has go on."""
        ...

    def vacant(self, index: int) -> bool:
        """No call is left on a retired replica: its index may name another one."""
        ...

    def note_load(self, index: int, load: Load | None) -> None:
        """How busy `replicas[index]` says it is; None: it has not said so lately."""
        ...


class Kit(NamedTuple):
    """What the composition root hands to every backend.

    cork:  by which small pieces are written; None: each by itself
    """

    clock: Clock
    chance: Random
    spawn: Spawn
    cork: Cork | None = None


class Backend(ABC):
    """One entry of the `backends` section. Constructed offline; `open` is called on the event loop."""

    Options: ClassVar[type[BackendOptions]]
    EXAMPLE: ClassVar[Mapping[str, Any]]
    """Example options of a backend that has no server's address among them."""

    owned: ClassVar[bool] = False
    """True when it is paid for whether used or not: its requests are never called spilled."""
    needs: ClassVar[str] = ""
    """A package beside the gateway's own dependencies, without which `open` fails. Empty for none."""

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        self.name = name
        self.options = options
        self.kit = kit
        self.pushbacks = 0
        """Calls that it refused as one too many; counted where the slot is held."""
        self._versions = None if options.versions is None else frozenset(map(str, options.versions))

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options, as in the file, of a backend of this kind whose one server is at `url`.

        The conformance suite builds every registered backend with them. Secrets in them are
        `{env: OVERSPILL_EXAMPLE_SECRET}`. `EXAMPLE`, unless overridden.
        """
        return cls.EXAMPLE

    @property
    def replicas(self) -> Sequence[str]:
        """Names of the places with slots of their own: one for an endpoint that scales by itself."""
        return (self.name,)

    @property
    def moves(self) -> bool:
        """Whether it will tell `Places` of replicas that come and go, or of how busy they are."""
        return False

    def attach(self, places: Places) -> None:  # noqa: B027 - most have nothing to tell
        """From now on tell `places` what changes. Called once, before `open`."""

    @property
    def usd_per_replica_hour(self) -> float | None:
        """Standing price of one replica. None where nothing is paid for standing by, or it is unknown."""
        return None

    @property
    def price_known(self) -> bool:
        """False when the file does not say what this backend costs."""
        return True

    @property
    def can_open(self) -> bool:
        """Whether `ping` makes an instance boot that any call can use afterwards."""
        return False

    @property
    def binds_late(self) -> bool:
        """Whether a call waits in the provider's own queue for whichever instance is up or free first, so
        that it is not married to the start-up that it made begin.
        """
        return False

    @property
    def rent(self) -> Rent | None:
        """What its instances cost and how they live. None for an owned backend."""
        return None

    def report(self, now: float) -> Mapping[str, Any]:
        """What is worth showing beside its replicas: plain values."""
        return {}

    async def open(self) -> None:  # noqa: B027 - most backends open their connections with the first call
        """Prepare on the event loop. Must not fail because the server is down."""

    async def close(self) -> None:  # noqa: B027
        """Give back every connection."""

    def cannot_carry(self, call: Call) -> str | None:
        """Why this call could never run here (too large, wrong protocol), or None. Never waits."""
        return None

    @property
    def webhook(self) -> Callable[[Headers, bytes], tuple[int, str]] | None:
        """Takes what its provider tells on `/webhooks/NAME`: fields and body; an HTTP status and a line of
        text to answer with. It must judge whose it is. None where nothing is taken.
        """
        return None

    @property
    def carries_all(self) -> bool:
        """Whether no HTTP call could ever be unfit for it: a question that need not be asked of each."""
        return type(self).cannot_carry is Backend.cannot_carry and self._versions is None

    @property
    def speaks_grpc(self) -> bool:
        """Whether `send` takes a gRPC call as it is. Elsewhere it is transcoded to KServe's REST form."""
        return False

    def unfit(self, call: Call) -> str | None:
        """Why this call could never run here, or None: `cannot_carry`, asked of what would be sent."""
        if self._versions is not None and call.version and call.version not in self._versions:
            served = ", ".join(map(str, self.options.versions or ()))
            return f"{self.name}: serves version {served} of the model (`versions`), not {call.version[:64]}"
        if call.protocol == "grpc" and not self.speaks_grpc:
            return grpc_transcoded.unfit(call, self.cannot_carry, name=self.name, owned=self.owned)
        return self.cannot_carry(call)

    def carry(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """`send`, of the call as this backend can take it. The same errors."""
        if call.protocol == "grpc" and not self.speaks_grpc:
            return grpc_transcoded.TranscodedAttempt(call, lambda other: self.send(other, replica))
        return self.send(call, replica)

    @abstractmethod
    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """Carry out one attempt on `replicas[replica]`.

        Entering returns the Reply as soon as its head is known; leaving releases whatever the attempt
        holds, and cancels the remote work if the answer was not read to its end. Raises only
        BackendError, on entering or from the reply's stream. A 4xx that blames the client's own
        request is a Reply, not an error.
        """

    async def ping(self, replica: int, *, route: str, kind: str, fresh: bool = True) -> Usage | None:
        """Have an instance boot, and return when it is up; what that used, which is booked as a Charge.

        It is sent no client's request. `route` and `kind` (`spill` or `prewarm`) say who pays for it, its
        idling included until a call uses it. With `fresh` one that was up before does not count; without,
        any does, so that it keeps one that idles from going. Raises BackendError: BackendFull also when no
        new one came up. Only where `can_open` says so.
        """
        raise NotImplementedError(f"{self.name} cannot be opened without a call")

    async def probe(self, replica: int) -> bool | None:
        """Ask the replica whether it can serve. None where no free question exists.

        Must not start paid work. Raises nothing.
        """
        return None

    def settle(self, now: float) -> list[Charge]:
        """Charges outside attempts that fell due since the last call (idle tails of rented instances)."""
        return []

    def instances(self, now: float) -> Mapping[str, int]:
        """Elastic instances by inferred state: opening, busy, idle. Empty where it does not apply."""
        return {}

    @property
    def instances_started(self) -> int | None:
        """Elastic instances that are known to have started. None where it does not apply."""
        return None

    @property
    def instances_presumed(self) -> tuple[int, float] | None:
        """Elastic instances that were billed though nobody was ever told of them, and what was booked for
        them in US dollars. None where it does not apply.
        """
        return None


backends: Registry[Backend] = Registry("backend")
"""Every kind of backend by its `type` in the file."""
