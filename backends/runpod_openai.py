"""The OpenAI route of a RunPod queue endpoint, as its vLLM worker has it: plain HTTP, streams included.

Knows which failures are RunPod's and which are the worker's. Beside it, `type: runpod` is for the same
kind of endpoint where a worker takes jobs.

Wire facts (RunPod documentation, "OpenAI compatibility"; its vLLM worker):
- `https://api.runpod.ai/v2/ENDPOINT_ID/openai/v1/…` with the account's key; each request is a job, which
  waits for a worker while the request is held; 429 beyond the endpoint's rate;
- the worker answers a failure of its own with 200 and `{"error": {"type": "worker_error", …}}`.
Nothing tells a cold start here: an answer that comes far sooner than a worker boots is warm, any other is
not known. Not documented: the size of a request (that of a `run` is kept), and whether a job whose client
leaves goes on; it ends with the endpoint's own time limit at the latest.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field

from backends.base import BackendOptions, Kit, backends
from backends.client import Answer, join_url
from backends.elastic import ColdStart, HttpUrl, PricePerSecond
from backends.instances import Ticket
from backends.pings import Pinged
from backends.runpod_control import ControlOptions, RunPodControl, control_secrets
from backends.web_endpoint import Told, WebEndpoint, WebOptions
from gateway.errors import BackendBroke, BackendError
from gateway.options import SecretRef
from gateway.vocab import Call, Headers, Rent, Start

PAYLOAD_LIMIT = 10_000_000
"""Bytes of a request (documented as 10 MB for a `run`)."""

_PREFIX = b"/v1/"


class RunPodOpenAiOptions(WebOptions):
    """A serverless endpoint of RunPod with a vLLM worker, through its OpenAI route."""

    type: Literal["runpod_openai"]
    """Kind of backend."""
    endpoint_id: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Id of the endpoint, as in its URL."""
    api_key: SecretRef
    """API key of the account, by reference."""
    url: HttpUrl = "https://api.runpod.ai/v2/{endpoint_id}/openai"
    """Address of the route, without `/v1`."""
    control: ControlOptions | None = None
    """Access to the endpoint's settings, with a key of its own. Left out, they are not even read."""
    price: PricePerSecond | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "60s", "idle_after": "5s"})
    """What is known ahead about its workers."""


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Failed(msgspec.Struct):
    error: _Error | str


@backends.add("runpod_openai")
class RunPodOpenAi(WebEndpoint):
    """One endpoint."""

    Options: ClassVar[type[BackendOptions]] = RunPodOpenAiOptions
    STARTS_FOR_WAITING: ClassVar[bool] = True
    options: RunPodOpenAiOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, RunPodOpenAiOptions)
        usd = options.price.usd_per_second if options.price else None
        cold = options.cold_start
        # A worker's life is billed in whole seconds.
        rent = Rent(usd, idle_s=cold.idle_after, boot_s=cold.expect, round_up_s=1.0)
        secrets = {"api_key": options.api_key, **control_secrets(options.control)}
        super().__init__(name, options, kit, rent=rent, secrets=secrets)
        self._control = RunPodControl(self, options.endpoint_id, options.control) if options.control else None
        self._base = options.url.replace("{endpoint_id}", options.endpoint_id)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint whose route is served at `url`."""
        return {
            "type": "runpod_openai",
            "endpoint_id": "abc123",
            "api_key": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "url": url,
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.00076},
            "cold_start": {"expect": "60s", "idle_after": "5s"},
        }

    def cannot_carry(self, call: Call) -> str | None:
        """No OpenAI call, or too large."""
        if call.protocol != "openai" or not call.target.startswith(_PREFIX):
            return f"{self.name}: the OpenAI route carries /v1/ calls of OpenAI clients only"
        size = call.body.length or 0
        if size > PAYLOAD_LIMIT:
            return f"{self.name}: {size} bytes, {PAYLOAD_LIMIT} are allowed"
        return None

    def address(self, call: Call) -> str:
        """The route's own."""
        return join_url(self._base, call.target)

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the account's key."""
        ours = (b"authorization", b"Bearer " + self.credentials["api_key"].encode())
        return self.added.onto([*headers, ours], self.credentials)

    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """The list of models: a job like any other, which only a worker can answer."""
        if self._control is not None and self._control.manages and ticket.fresh:
            return await self._control.open_one(ticket, self.pings.patience)
        call.method, call.target = b"GET", b"/v1/models"
        return await super().send_ping(call, ticket)

    def refusal(self, answer: Answer) -> BackendError | None:
        """What RunPod said; None for whatever vLLM did."""
        status, body = answer.status, answer.body
        said = f"{self.name}: RunPod answered {status}"
        if status in (401, 403) or (status == 404 and b"endpoint" in body):
            return self.denied(said, body)
        if status in (429, 503):
            return self.full(said, answer)
        return None

    def unsound(self, answer: Answer) -> BackendError | None:
        """A worker's failure, which comes with 200."""
        if answer.status != 200 or not answer.body.lstrip().startswith(b'{"error"'):
            return None
        try:
            error = msgspec.json.decode(answer.body, type=_Failed).error
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        why = error if isinstance(error, str) else f"{error.type} {error.message}"
        return BackendBroke(f"{self.name}: the worker failed: {self.credentials.excerpt(why)}")

    def told(self, headers: Headers, ticket: Ticket) -> tuple[Headers, Told]:
        """The worker kit's word if there is one; else see the top of this file."""
        headers, told = super().told(headers, ticket)
        elapsed = self.kit.clock.now() - ticket.began
        if not told.instance and elapsed <= self.options.cold_start.expect / 4:
            told = Told(Start.WARM, 0.0)
        return headers, told

    async def probe(self, replica: int) -> bool | None:
        """Whether it may have workers, if its settings may be read: a request would make one start."""
        return None if self._control is None else await self._control.usable()
