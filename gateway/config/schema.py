"""The shape of the file, as frozen models: what app.py builds everything from.

A `Document` is the file as written, with each backend and policy still a raw mapping; `Settings` is the
same with those turned into the plugins' own options. Two stages, so that this module never needs to know
a plugin, and so that a mistake in one section hides none in another. Every docstring of a field is its
description in `overspill schema`.
"""

import re
from typing import Annotated, Any, Literal, cast

from pydantic import Field, PlainValidator, SerializeAsAny, WithJsonSchema, model_validator

from backends.base import BackendOptions, SpillBudget
from gateway.config.address import Address as Address  # noqa: PLC0414 - others take it from here
from gateway.config.address import ListenAddress
from gateway.config.address import parse_address as parse_address  # noqa: PLC0414 - the same
from gateway.config.auth import AuthSection
from gateway.config.idempotency import Idempotency
from gateway.config.scaling import Scaling
from gateway.config.tenants import Tenants
from gateway.config.tls import TlsOptions
from gateway.config.tracing import Tracing
from gateway.options import Duration, Options, Share, Size, Usd, parse_duration
from policies.base import PolicyOptions, TierOptions

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""Names become metric labels, header values and path segments, so they are plain."""

Period = Annotated[Duration, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=NAME)]


class Listen(Options):
    """The ports. Nothing is reachable from other machines unless an address here says so."""

    http: ListenAddress = Address("127.0.0.1", 8000)
    """HTTP data plane: KServe v2, OpenAI and /invoke calls."""
    admin: ListenAddress = Address("127.0.0.1", 8002)
    """Metrics, health and the views under /admin. It asks for a credential where `auth` has one for it."""
    grpc: ListenAddress | None = None
    """gRPC data plane: KServe v2, `inference.GRPCInferenceService`. Absent: not served."""


class Limits(Options):
    """What one client may ask of the gateway."""

    head: Size = Field(default=32 * 1024, ge=256, le=16 * 2**20)
    """Most bytes of a request's header section; beyond it 431. Of a gRPC call: of its metadata, each entry
    with 32 bytes more (RFC 9113, 6.5.2); beyond it RESOURCE_EXHAUSTED."""
    fields: int = Field(default=100, ge=1, le=10_000)
    """Most header fields of a request; beyond it 431."""
    target: Size = Field(default=8 * 1024, ge=16, le=2**20)
    """Most bytes of a request target (path and query); beyond it 414."""
    body: Size = Field(default=64 * 2**20, ge=0, le=2**40)
    """Most bytes of a request body; beyond it 413."""
    body_buffer: Size = Field(default=256 * 1024, ge=0, le=2**30)
    """Bodies up to this size are held, so that a call can be tried again; larger ones are streamed once."""
    head_timeout: Period = 10.0
    """How long a client may take to send a request's header section; then 408."""
    body_timeout: Period = 30.0
    """Longest silence inside a request body; then 408."""
    body_min_rate: Size = Field(default=1024, ge=0, le=2**40)
    """Fewest bytes a second of a request body, over any ten seconds in which they are waited for; then 408.
    0: any."""
    json_depth: int = Field(default=64, ge=16, le=500)
    """Most levels to which the JSON of a request may be nested; beyond it 400."""
    idle_timeout: Period = 75.0
    """How long an idle connection is kept open."""
    write_timeout: Period = 60.0
    """Longest time in which a client takes nothing of an answer that waits for it; then it is cut off."""
    connections: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most open client connections."""
    calls: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most calls inside the gateway at once, the queued ones included; beyond it 429."""
    pipelined: int = Field(default=16, ge=1, le=1024)
    """Most requests of one connection that may wait for the one before them."""


class AccessLog(Options):
    """One JSON line for each call."""

    path: str = Field(default="-", min_length=1)
    """File to append to; `-` is standard output."""
    sample: Share = 1.0
    """Share of the calls that are logged; calls that failed are always logged."""


class State(Options):
    """What is kept across restarts."""

    path: str = Field(min_length=1)
    """File for what was learned about backends: how long calls take, how long instances boot and idle."""
    every: Period = 60.0
    """How often it is written; it is also written when the gateway stops."""


class Advice(Options):
    """How many replicas the last calls would have needed, shown as `recommended_replicas`."""

    every: Period = 600.0
    """Time from one advice to the next. Each is worked out by a child process of the lowest priority."""


class Match(Options):
    """Which calls take a route. Without `model` it is reached only by its name, as /invoke/<route>."""

    model: str | list[str] = []
    """Model names; `*`, `?` and `[…]` match as in file names."""
    protocol: Literal["kserve", "openai", "raw"] | None = None
    """Only calls of this protocol; any when absent."""

    @property
    def models(self) -> tuple[str, ...]:
        """The patterns, one or many."""
        return (self.model,) if isinstance(self.model, str) else tuple(self.model)


class LatencyBudget(Options):
    """What counts as fast enough, and how often it must be reached."""

    within: Period = 0.0
    """From the request's arrival to its answer. Absent: as `first_byte`."""
    first_byte: Period | None = None
    """The same for streamed answers, whose first byte is what counts; absent: as `within`."""
    objective: Share = Field(default=0.99, gt=0)
    """Share of the calls that should stay within it."""

    @model_validator(mode="before")
    @classmethod
    def _one_at_least(cls, written: Any) -> Any:
        """Where only one of the two is written it stands for both."""
        if isinstance(written, dict) and "within" not in written:
            if written.get("first_byte") is None:
                raise ValueError("within is missing; write how fast an answer must be, like {within: 250ms}")
            return {**written, "within": written["first_byte"]}
        return written


class PolicyUse(Options):
    """The policy of a route: its registered name and its checked options."""

    type: str
    options: SerializeAsAny[PolicyOptions]


class Prewarm(Options):
    """Opening rented instances ahead of demand, and keeping idle ones up. Off unless written."""

    max_instances: int = Field(ge=1, le=10_000)
    """No instance is opened ahead of demand beyond this many, counting those that calls opened."""
    usd_per_hour: float = Field(gt=0, allow_inf_nan=False)
    """Most dollars of any hour that may be spent this way; reserved before anything is opened."""
    miss_usd: Usd | None = None
    """What it is worth to spare one call a late answer, dollars; absent: what opening one instance costs."""


class RouteSpillBudget(SpillBudget):
    """What a route may spend on rented backends."""

    share_of_requests: Share | None = None
    """Most calls that may go to rented backends, of those that came within the last hour, rounded up."""


class RetryBudget(Options):
    """How many extra attempts the gateway makes after failures, whatever happens.

    Repeating work that may have run, and going on to a rented backend after a failure, cost a token each.
    """

    share: Share = 0.2
    """Tokens that each first attempt adds to its route; they last 10 s."""
    floor_per_second: float = Field(default=10.0, ge=0, le=1e6, allow_inf_nan=False)
    """Tokens that come every second in any case, for all routes together."""
    on_outage: Literal["spill", "limit"] = "spill"
    """Calls that go to a rented backend at once because the fleet is known to be down: `spill` lets them
    all go, `limit` makes each cost a token, so that an outage is not a bill."""


_QUANTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,3})?)")


def _written_after(value: object) -> str:
    """`200ms`, or `p95`; kept as it is written."""
    if isinstance(value, str) and (match := _QUANTILE.fullmatch(value)) and float(match[1]) > 0:
        return value
    try:
        seconds = parse_duration(value)
    except ValueError:
        raise ValueError(
            f"{value!r} is neither a duration like 200ms nor a quantile like p95, of how long calls take"
        ) from None
    if not seconds:
        raise ValueError("must be more than 0: a second attempt at once would double every call")
    return str(value).strip()


class Hedge(Options):
    """A second attempt on another place where an answer does not come; the first answer of the two counts.

    Off unless written, and only where calls are idempotent. Each takes a token of the retry budget, and on a
    rented backend its part of the spill budgets.
    """

    after: Annotated[
        str,
        PlainValidator(_written_after),
        WithJsonSchema(
            {
                "type": "string",
                "pattern": r"^((\d+(\.\d+)?(ms|s|m|h|d))+|p\d{1,2}(\.\d{1,3})?)$",
                "examples": ["200ms", "p95"],
            }
        ),
    ]
    """When it starts, counted from the first attempt: a duration, or a quantile like `p95` of how long the
    first attempt's backend takes to begin its answers to calls of that size."""
    share: Share = Field(default=0.05, gt=0)
    """Most calls that may be hedged, of those within any ten minutes, rounded up."""

    @property
    def quantile(self) -> float | None:
        """As a fraction; None where `after` is a duration."""
        match = _QUANTILE.fullmatch(self.after)
        return float(match[1]) / 100.0 if match else None

    @property
    def after_s(self) -> float | None:
        """Seconds; None where `after` is a quantile."""
        return None if self.quantile is not None else cast("float", parse_duration(self.after))


class SizeOf(Options):
    """Features of a call, each with the weight that it has in the call's size."""

    body_bytes: Weight = 0.0
    """Bytes of the request's body."""
    max_tokens: Weight = 0.0
    """The most tokens that it wants generated."""
    tensor_elements: Weight = 0.0
    """Elements of its input tensors."""

    @property
    def weights(self) -> dict[str, float]:
        """By the name of the feature."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class _Route(Options):
    match: Match = Match()
    """Which calls take this route."""
    latency_budget: LatencyBudget | None = None
    """What counts as fast enough here; shown beside what was reached."""
    tiers: list[TierOptions] = Field(min_length=1, max_length=64)
    """The backends that may serve this route, in the order of preference."""
    timeout: Period = 60.0
    """Hard limit from arrival to the first byte of the answer; then 504."""
    stall_timeout: Period = 60.0
    """Longest silence inside a streamed answer; then it is cut off."""
    idempotent: bool = True
    """Whether a call may run again elsewhere when a failed attempt may already have executed it."""
    size: SizeOf = SizeOf()
    """What a call's size is made of, each feature with its weight: calls of like size are expected to take
    alike. Absent: one expectation for all."""
    best_effort_limit: int | None = Field(default=None, ge=0, le=1_000_000)
    """Most calls with `x-overspill-priority: best_effort` that may wait or run; absent: no limit. They only
    ever use owned slots that nobody else wants."""
    prewarm: Prewarm | None = None
    """Whether, and how far, instances may be opened ahead of demand; absent: never."""
    spill_budget: RouteSpillBudget | None = None
    """Most that calls of this route may spend on rented backends; absent: no limit."""
    hedge: Hedge | None = None
    """When a call that is not answered is sent to a second place as well; absent: never."""


class RouteDocument(_Route):
    """A route as written."""

    policy: str | dict[str, Any] = "cheapest_in_budget"
    """How a backend is chosen: the name of a policy, or {type: NAME, …its options}."""


class RouteOptions(_Route):
    """A route, checked."""

    policy: PolicyUse


class Reload(Options):
    """When a changed file is taken over: always at SIGHUP and at POST /admin/reload."""

    watch: bool = True
    """Also as soon as the file is seen to have changed; it is looked at every second."""


class _File(Options):
    version: Literal[1]
    """Version of this file format."""
    listen: Listen = Listen()
    """The ports."""
    auth: AuthSection = None
    """Who may call; `none`: nobody is asked. Absent: nobody is asked either, on loopback ports only."""
    tenants: Tenants = {}
    """How much each tenant may use; `default` is for callers without one, and for tenants that are not here.
    With workers all of it holds for all of them together."""
    tls: TlsOptions | None = None
    """TLS on the data ports, HTTP and gRPC; absent: they speak in the clear."""
    admin_tls: TlsOptions | None = None
    """TLS on the admin port; absent: it speaks in the clear."""
    limits: Limits = Limits()
    """How much one client may ask."""
    access_log: AccessLog | None = None
    """One JSON line for each call; absent: none is written."""
    tracing: Tracing | None = None
    """Spans for OpenTelemetry; absent: none are made."""
    retry_budget: RetryBudget = RetryBudget()
    """How many extra attempts there may be after failures."""
    state: State | None = None
    """What is kept across restarts; absent: nothing."""
    drain_timeout: Period = 30.0
    """How long calls in flight may take to finish when the gateway stops."""
    drain_delay: Annotated[Duration, Field(ge=0, le=3600)] = 0.0
    """How long it goes on taking calls before that, not ready any more: what load balancers need."""
    busy_poll: Annotated[Duration, Field(ge=0, le=0.01)] = 0.0
    """How long a worker looks for an answer before it lets its processor sleep, where answers have been that
    quick; 0s: not at all. Saves the time that waking takes, at the price of a processor that looks busy."""
    idempotency: Idempotency | Literal[False] = Idempotency()
    """How answers to calls with an `Idempotency-Key` are remembered; `false`: the field is only passed on."""
    reload: Reload = Reload()
    """When a changed file is taken over. Its ports, limits of connections, logs and idempotency need a
    restart."""
    scaling: Scaling = Scaling()
    """What an autoscaler of the owned backends is told."""
    advice: Advice | Literal[False] = Advice()
    """How often to work out how many replicas were needed; `false`: never. It takes an owned backend with a
    price on a route with a latency budget, and then, each time, some seconds of one core that nothing else
    wants, about 100 MB meanwhile, and 24 bytes for each of the last 20,000 calls of a route."""


class PriceSource(Options):
    """Where a backend's price comes from, and of when it is; as far as somebody has said so."""

    source: str | None
    as_of: str | None


class Document(_File):
    """The file as written."""

    prices: str | None = Field(default=None, min_length=1)
    """File with prices of one's own, in the form of `config/prices.yaml`, for `price: {like: …}`."""

    backends: dict[Name, dict[str, Any]] = Field(min_length=1)
    """Everything that can serve calls, each under a name that tiers use."""
    routes: dict[Name, RouteDocument] = Field(min_length=1)
    """Which calls go where."""


class Settings(_File):
    """The file, checked: what the gateway runs with."""

    backends: dict[str, SerializeAsAny[BackendOptions]]
    routes: dict[str, RouteOptions]
    price_sources: dict[str, PriceSource] = {}
    """By the name of the backend."""
