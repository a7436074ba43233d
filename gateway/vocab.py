"""The shared nouns: what a call, an answer and an outcome are, and the closed lists of words.

Leaf: no behaviour beyond holding values. What is made for every call is a struct, which costs a third of an
object. The words here are the ones users meet: the same spelling is the metric label, the log field, the
response header and the config key.
"""

from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from enum import StrEnum
from math import inf
from typing import NamedTuple, Protocol

from msgspec import Struct

Headers = list[tuple[bytes, bytes]]
"""Header fields in wire order; names are lower-case, values as received."""

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Fields that speak of one connection only and are never forwarded (RFC 9110 section 7.6.1)."""


class Reason(StrEnum):
    """Why a call went where it went. One closed list for header, metric, log and trace."""

    WARM = "warm"
    WARM_QUEUED = "warm_queued"
    SPILL_FULL = "spill_full"
    SPILL_SLOW = "spill_slow"
    SPILL_UNHEALTHY = "spill_unhealthy"
    SPILL_BREAKER = "spill_breaker"
    FALLBACK = "fallback"
    HEDGE = "hedge"
    CANARY = "canary"
    PINNED = "pinned"
    SHED_BUDGET = "shed_budget"
    SHED_FULL = "shed_full"
    SHED_DEADLINE = "shed_deadline"
    NO_ROUTE = "no_route"


class Start(StrEnum):
    """Did the instance that answered have to boot first? `unknown` is never counted as warm."""

    WARM = "warm"
    COLD = "cold"
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """How one attempt ended, for the breaker and the estimates.

    `neutral` is back-pressure (429, 503-full) and clients that left: it moves the call on to the
    next tier but never trips a breaker and never teaches a latency estimate.
    """

    SUCCESS = "success"
    FAILURE = "failure"
    NEUTRAL = "neutral"


class Work(StrEnum):
    """May the work have been executed when an attempt failed?

    `not_started`: safe to try elsewhere. `maybe`: only if the call is idempotent. `done`: never.
    """

    NOT_STARTED = "not_started"
    MAYBE = "maybe"
    DONE = "done"


class Outcome(StrEnum):
    """How one call ended, as its client saw it. Every call has exactly one."""

    OK = "ok"
    REJECTED = "rejected"  # the gateway refused the request itself: 4xx
    SHED = "shed"  # no place inside the limits: 429, 503
    DEADLINE = "deadline"  # 504
    BACKEND_REJECTED = "backend_rejected"  # a backend's own 4xx, relayed
    BACKEND_ERROR = "backend_error"  # a backend's own 5xx relayed, or every attempt failed: 502
    TRUNCATED = "truncated"  # the answer broke off after its first byte
    CLIENT_GONE = "client_gone"
    INTERNAL_ERROR = "internal_error"


# Members that are read for every call have a name of their own: before Python 3.12 to reach one by its class
# costs more than what is done with it.
WARM = Reason.WARM
WARM_START = Start.WARM
SUCCESS, NEUTRAL = Verdict.SUCCESS, Verdict.NEUTRAL
OK, UNFINISHED = Outcome.OK, Outcome.INTERNAL_ERROR


class Body(Protocol):
    """A request body: whole and repeatable when small, a stream with back-pressure when large."""

    @property
    def length(self) -> int | None:
        """Declared size in bytes; None for a chunked body whose end has not been seen."""
        ...

    @property
    def repeatable(self) -> bool:
        """True until a reader took bytes away: a second attempt could still send all of it."""
        ...

    def whole(self) -> bytes | None:
        """All bytes, if they are here and held; never waits."""
        ...

    async def prefix(self, size: int) -> bytes:
        """The first `size` bytes, fewer if the body ends before; they stay in the body."""
        ...

    async def settle(self) -> None:
        """Wait until all bytes are here or the buffer is full: before a slot is taken, not while."""
        ...

    async def read(self, limit: int) -> bytes:
        """Wait for all bytes and keep them. Raises errors.BodyTooLarge beyond `limit` bytes."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive. A body that was not read whole can be iterated once."""
        ...


class WholeBody:
    """A body that is already here."""

    __slots__ = ("_data",)
    repeatable = True

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def length(self) -> int | None:
        """Size in bytes."""
        return len(self._data)

    def whole(self) -> bytes | None:
        """The bytes."""
        return self._data

    async def prefix(self, size: int) -> bytes:
        """The first `size` bytes."""
        return self._data[:size]

    async def settle(self) -> None:
        """Nothing to wait for."""

    async def read(self, limit: int) -> bytes:
        """The bytes."""
        return self._data

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, in one piece."""
        if self._data:
            yield self._data


class Discreet(Struct, eq=False):
    """A struct that does not tell what it holds when it is printed: credentials and bodies are among it."""

    __repr__ = object.__repr__


class Call(Discreet, kw_only=True, eq=False):
    """One request after its protocol has read it: all that later steps need, nothing decoded twice.

    protocol:   `kserve`, `openai` or `raw`
    operation:  the protocol's word for what is asked (`infer`, `generate_stream`, `chat`, …)
    inference:  True for work that takes a slot; False for questions about a model (metadata, config, stats)
    model:      the name that routes match on, percent-decoded ("" for raw calls, which name a route)
    version:    model version asked for, "" for whichever is current
    target:     path and query to send upstream, in wire form
    headers:    end-to-end request fields only
    route:      name of the route it took (set by the route step)
    route_hint: the route a raw call names in its path
    size:       how much there is to do, in a unit of the route's own; None: unknown (set by the route step)
    deadline:   on the monotonic clock; the answer must have begun by then (set by the route step)
    lost:       another attempt of the same call was faster than the one that was sent this; None while nobody
                raced against it
    idempotency_key: what the client calls this request, as it came; b"" for most, which have none
    """

    protocol: str
    operation: str
    method: bytes
    target: bytes
    headers: Headers
    body: Body
    model: str = ""
    version: str = ""
    route_hint: str = ""
    inference: bool = True
    stream: bool = False
    max_tokens: int | None = None
    arrived: float = 0.0
    request_id: str = ""
    traceparent: str = ""
    route: str = ""
    deadline: float = inf
    deadline_is_clients: bool = False
    idempotent: bool = True
    idempotency_key: bytes = b""
    priority: str = "default"
    size: float | None = None
    lost: bool | None = None


class Usage(NamedTuple):
    """What one attempt used of a rented backend, as far as it is known.

    billed_s:    seconds the provider bills for this attempt, start-up included; None if not known
    boot_s:      seconds of start-up within them; 0.0 for a warm start; None if not known
    usd:         their price; None when the price or the seconds are unknown (never 0 as a guess)
    instance:    the provider's or the worker's word for the instance that served it
    reported:    True when the provider said so, False when the gateway measured it
    memory_gb:   memory of the instance as the provider reports it; None where it does not
    queued_s:    seconds it waited in the provider's own queue, no start-up among them; None if not known
    input_tokens, output_tokens:  what a language model read and wrote; None where nobody counted
    """

    billed_s: float | None = None
    boot_s: float | None = None
    usd: float | None = None
    instance: str = ""
    reported: bool = False
    memory_gb: float | None = None
    queued_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Poured(AsyncIterable[bytes]):
    """A stream that can hand over what comes the moment it comes, and wakes nobody for it."""

    __slots__ = ()

    @abstractmethod
    def pour(self, take: Callable[[bytes], bool]) -> Awaitable[bool]:
        """Give `take` all that comes; True at the end, False once `take` has said so: no more for now.

        Can be gone on with. `take` is called by whoever brings the bytes, not by the task that waits here;
        what it raises is raised here.
        """


class Reply(Discreet, eq=False):
    """A backend's answer. Either `body` is all of it, or `stream` yields the rest as it arrives, once.

    `usage` and `start` may still change until the stream is exhausted: some providers only tell at
    the end. `length` is the declared size of the body (of an answer to HEAD: of the body that GET would
    have), None when it is not known ahead. Framing fields among `headers` are not passed on.
    """

    status: int
    headers: Headers
    body: bytes | None = None
    stream: AsyncIterable[bytes] | None = None
    length: int | None = None
    start: Start = Start.UNKNOWN
    usage: Usage | None = None


class Rent(NamedTuple):
    """What an instance of a rented backend costs and how it lives, as far as the file says.

    usd_per_second:  of an instance, whether it boots, serves or idles; None when it is not known
    usd_per_call:    fee on top
    idle_s:          how long an unused instance lives on
    boot_s:          how long an instance takes from nothing to its first answer, as declared
    bills_boot:      whether the seconds of booting are billed
    bills_idle:      whether the seconds of idling are billed
    round_up_s:      the provider rounds up to multiples of this; 0 for none
    """

    usd_per_second: float | None
    usd_per_call: float = 0.0
    idle_s: float = 0.0
    boot_s: float = 0.0
    bills_boot: bool = True
    bills_idle: bool = True
    round_up_s: float = 0.0


class Charge(NamedTuple):
    """Money that fell due outside any attempt: the idle tail of a rented instance, a prewarm."""

    route: str
    kind: str  # `spill`, `prewarm` or `hedge`
    usd: float
