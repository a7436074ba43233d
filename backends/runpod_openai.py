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

from backends.base import BackendOptions, Kit, backends
from backends.client import Answer
from backends.elastic import ColdStart, HttpUrl
from backends.instances import Ticket
from backends.pings import Pinged
from backends.runpod_web import RunPodWeb, RunPodWebOptions, runpod_example
from backends.web_endpoint import Told
from gateway.errors import BackendBroke, BackendError
from gateway.vocab import Call, Headers, Start

PAYLOAD_LIMIT = 10_000_000
"""Bytes of a request (documented as 10 MB for a `run`)."""

_PREFIX = b"/v1/"


class RunPodOpenAiOptions(RunPodWebOptions):
    """A serverless endpoint of RunPod with a vLLM worker, through its OpenAI route."""

    type: Literal["runpod_openai"]
    """Kind of backend."""
    url: HttpUrl = "https://api.runpod.ai/v2/{endpoint_id}/openai"
    """Address of the route, without `/v1`."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "60s", "idle_after": "5s"})
    """What is known ahead about its workers."""


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Failed(msgspec.Struct):
    error: _Error | str


@backends.add("runpod_openai")
class RunPodOpenAi(RunPodWeb):
    """One endpoint."""

    Options: ClassVar[type[BackendOptions]] = RunPodOpenAiOptions
    PAYLOAD_LIMIT: ClassVar[int] = PAYLOAD_LIMIT
    options: RunPodOpenAiOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, RunPodOpenAiOptions)
        super().__init__(name, options, kit)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint whose route is served at `url`."""
        price, cold = {"usd_per_second": 0.00076}, {"expect": "60s", "idle_after": "5s"}
        return {**runpod_example("runpod_openai", url), "price": price, "cold_start": cold}

    def cannot_carry(self, call: Call) -> str | None:
        """No OpenAI call, or too large."""
        if call.protocol != "openai" or not call.target.startswith(_PREFIX):
            return f"{self.name}: the OpenAI route carries /v1/ calls of OpenAI clients only"
        return super().cannot_carry(call)

    async def ask_to_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """The list of models: a job like any other, which only a worker can answer."""
        call.method, call.target = b"GET", b"/v1/models"
        return await super().ask_to_ping(call, ticket)

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
        if not told.instance and self.soon(ticket):
            told = Told(Start.WARM, 0.0)
        return headers, told
