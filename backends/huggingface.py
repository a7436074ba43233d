"""Hugging Face Inference Endpoints: the call's own HTTP request, to an endpoint that may be scaled to zero.

The path, fields and body go out unchanged below `url`, and the answer streams back. Knows which failures are
the proxy's; it sends a call again only where the proxy has said that nobody was there to take it.

Wire facts (Hugging Face's documentation of Inference Endpoints, "Autoscaling" and FAQ; its Python client):
- while no replica is up the proxy answers 503 and has one start; with `X-Scale-Up-Timeout: SECONDS` it holds
  the request for so long instead. So the first try does without: a call that is answered at once has not
  waited for a replica, and one that met a 503 and then waited has;
- 502 and 504 come from the proxy as well as from what runs behind it: the work may have begun;
- 400 whose text says that the endpoint is paused: somebody has to resume it;
- a custom router drops the oldest request of a full queue with 503 too: such a wait is short, so it is told
  apart from a start by its length;
- replicas are billed by the minute while they initialise and run, idling included;
- `status.state` of the management API: `pending`, `initializing`, `updating`, `updateFailed`, `running`,
  `paused`, `failed`, `scaledToZero`.
"""

import asyncio
import copy
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import Field

from backends.base import BackendOptions, Kit, backends
from backends.client import Answer, Exchange
from backends.elastic import ColdStart, HttpUrl, PricePerSecond, rent_by_second
from backends.instances import Ticket
from backends.pings import Pinged
from backends.web_endpoint import Told, WebEndpoint, WebOptions
from gateway.errors import BackendBroke, BackendError
from gateway.options import Duration, Options, SecretRef
from gateway.vocab import Call, Headers, Reply, Start

_HOLD = b"x-scale-up-timeout"
_PAUSED = re.compile(rb"\bpaused\b", re.IGNORECASE)
_CONTROL_S = 10.0
_DOWN = frozenset(("paused", "failed"))
_UP = frozenset(("running", "updating", "initializing", "scaledToZero", "pending"))

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]


class HuggingFaceControl(Options):
    """Where the endpoint's state can be read, which is free and starts nothing."""

    namespace: _Name
    """User or organisation that owns the endpoint."""
    name: _Name
    """Name of the endpoint."""
    url: HttpUrl = "https://api.endpoints.huggingface.cloud"
    """Address of the management API."""


class HuggingFaceOptions(WebOptions):
    """A dedicated endpoint of Hugging Face."""

    type: Literal["huggingface"]
    """Kind of backend."""
    url: HttpUrl
    """URL of the endpoint; the path of each request is appended to it."""
    token: SecretRef | None = None
    """Token for a protected endpoint, by reference. None for a public one."""
    wait_for_replica: Annotated[Duration, Field(ge=0, le=3600)] = 300.0
    """How long the proxy holds a call while a replica starts. `0s`: not at all, the call goes elsewhere."""
    control: HuggingFaceControl | None = None
    """Where its state can be read, with the same token. Left out, it is not asked."""
    price: PricePerSecond | None = None
    """What one replica costs, in whole minutes. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "2m", "idle_after": "1h"})
    """What is known ahead about its replicas; `idle_after` is the endpoint's scale-to-zero time-out."""


@backends.add("huggingface")
class HuggingFace(WebEndpoint):
    """One endpoint."""

    Options: ClassVar[type[BackendOptions]] = HuggingFaceOptions
    options: HuggingFaceOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, HuggingFaceOptions)
        rent = rent_by_second(options.price, options.cold_start, round_up_s=60.0)
        secrets = {"token": options.token} if options.token is not None else {}
        super().__init__(name, options, kit, rent=rent, secrets=secrets)
        self._held: dict[Ticket, float | None] = {}  # since when, for as long as its answer is not judged
        self.state = ""
        """The endpoint's own word for its state, as of the last probe."""

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint at `url`."""
        return {
            "type": "huggingface",
            "url": url,
            "token": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.000222},
            "cold_start": {"expect": "2m", "idle_after": "15m"},
        }

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the token, if there is one."""
        if self.options.token is not None:
            headers = [*headers, (b"authorization", b"Bearer " + self.credentials["token"].encode())]
        return self.added.onto(headers, self.credentials)

    async def answered(self, call: Call, ticket: Ticket, held: AsyncExitStack) -> Reply:
        """The call sent, and the head of its answer."""
        try:
            return await super().answered(call, ticket, held)
        finally:
            self._held.pop(ticket, None)

    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """One request. Whatever the application answers, a replica is up then, unless it says 5xx."""
        try:
            return await super().send_ping(call, ticket)
        finally:
            self._held.pop(ticket, None)

    async def _first(self, call: Call, ticket: Ticket, held: AsyncExitStack) -> Exchange:
        """The call; if nobody is up to take it, the call again, held by the proxy until somebody is.

        A body that cannot be sent twice is held from the start.
        """
        patient = self.options.wait_for_replica > 0
        if patient and call.body.whole() is None:
            return await super()._first(self._holding(call, self.options.wait_for_replica), ticket, held)
        exchange = await super()._first(self._holding(call, 0.0), ticket, held)
        if exchange.status != 503:
            self._held[ticket] = None
            return exchange
        if not patient:
            return exchange
        await held.aclose()
        self._held[ticket] = self.kit.clock.now()
        return await super()._first(self._holding(call, self.options.wait_for_replica), ticket, held)

    def _holding(self, call: Call, seconds: float) -> Call:
        """The call with the proxy's field as we want it, whatever the client's says."""
        headers = [field for field in call.headers if field[0] != _HOLD]
        if seconds > 0:
            headers.append((_HOLD, b"%d" % max(1, round(seconds))))
        if headers == call.headers:
            return call
        call = copy.copy(call)
        call.headers = headers
        return call

    def told(self, headers: Headers, ticket: Ticket) -> tuple[Headers, Told]:
        """The worker kit's word if there is one, else whether the proxy had to hold the call."""
        headers, told = super().told(headers, ticket)
        if told.instance or ticket not in self._held:
            return headers, told
        since = self._held[ticket]
        if since is None:
            return headers, Told(Start.WARM, 0.0)
        if self.kit.clock.now() - since > self.options.cold_start.expect / 4:
            return headers, Told(Start.COLD)
        return headers, told  # the last moment of a start, or a queue that had been full

    def judged(self, status: int) -> bool:
        """400 too: a paused endpoint answers so."""
        return status == 400 or super().judged(status)

    def refusal(self, answer: Answer) -> BackendError | None:
        """What is the proxy's own word, or says that nobody took the call; None for anything else."""
        status, body = answer.status, answer.body
        said = f"{self.name}: the endpoint answered {status}"
        if status == 400:
            return self.denied(said, body) if _PAUSED.search(body) else None
        if status == 403 and self.options.token is not None:
            return self.denied(said, body)
        if status in (502, 504):
            return BackendBroke(f"{said}: {self.credentials.excerpt(body)}")
        if status == 503:
            full = self.full(said, answer, own=True)
            full.retry_after = full.retry_after or self.options.cold_start.expect
            return full
        return super().refusal(answer)

    async def probe(self, replica: int) -> bool | None:
        """What the management API says, where it may be asked: False while somebody has to resume it."""
        control = self.options.control
        if control is None:
            return None
        address = f"{control.url.rstrip('/')}/v2/endpoint/{control.namespace}/{control.name}"
        try:
            async with asyncio.timeout(_CONTROL_S):
                # The fields of the file's `headers` are for the endpoint, and stay off another host.
                token: Headers = []
                if self.options.token is not None:
                    token = [(b"authorization", b"Bearer " + self.credentials["token"].encode())]
                answer = await self.client.exchange("GET", address, headers=token, limit=2**20)
            self.state = msgspec.json.decode(answer.body, type=_Endpoint).status.state
        except (BackendError, TimeoutError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None  # that it cannot be asked says nothing about calls
        return False if self.state in _DOWN else True if self.state in _UP else None


class _Status(msgspec.Struct):
    state: str


class _Endpoint(msgspec.Struct):
    status: _Status
