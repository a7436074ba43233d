"""Google Vertex AI endpoints: a container on nodes that stand by, or that can be scaled to zero.

    vertex_ai           nodes stand by and are paid by the hour, used or not: an owned backend
    vertex_ai_elastic   the same endpoint with a minimum of no nodes: rented

Knows Vertex AI's paths, limits and errors; a token is `google_identity.py`'s. It never retries a call, but
for one whose token was refused.

Wire facts (Vertex AI documentation, "Get online predictions" and the REST reference of endpoints; Triton
server source, vertex_ai_server.cc):
- `:rawPredict` and `:streamRawPredict` carry any body to the container's one predict route; `:predict` wants
  `{"instances": …}`; a dedicated endpoint can offer every path of its container below `/invoke`;
- Triton takes the path from `X-Vertex-Ai-Triton-Redirect`, and the length of the JSON part of binary tensors
  from the content type;
- an error of Google's is `{"error": {"code", "message", "status"}}`; any other is the container's own;
- a shared endpoint takes 1.5 MB and 60 s, a dedicated one 10 MB.
Not confirmed: what is answered while the first node comes up (429, or FAILED_PRECONDITION in words of
scaling: both are taken for it), that nodes are billed in steps of 30 s, and that fields of the container's
answer arrive: where the worker kit's two do not, warm or cold is unknown.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import Field

from backends.base import BackendOptions, Kit, backends
from backends.billing import Standing, StandingOptions, ToZeroOptions, rent_by_hour
from backends.client import Answer, Upload, join_url
from backends.elastic import ColdStart, HttpUrl
from backends.google_identity import GoogleIdentity
from backends.instances import Ticket
from backends.token_endpoint import TokenEndpoint
from backends.triton_binary import LENGTH, from_platform, to_platform
from backends.web_endpoint import Told, WebOptions
from gateway.errors import BackendBroke, BackendDenied, BackendError
from gateway.vocab import Call, Headers, Rent

SHARED_LIMIT = 1_500_000
"""Bytes of a request to a shared endpoint."""
DEDICATED_LIMIT = 10_000_000
"""Bytes of a request to a dedicated endpoint."""
_SHARED_HOST = "aiplatform.googleapis.com"
_REDIRECT = b"x-vertex-ai-triton-redirect"
_STEP_S = 30.0
_FULL = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
_DENIED = ("INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "FAILED_PRECONDITION")


class VertexOptions(WebOptions):
    """What the section of every Vertex AI endpoint may say."""

    url: HttpUrl
    """`https://REGION-aiplatform.googleapis.com`, or the address of a dedicated endpoint's own."""
    project: str = Field(pattern=r"^[a-z0-9:.-]+$")
    """Id or number of the project."""
    location: str = Field(pattern=r"^[a-z0-9-]+$")
    """Region of the endpoint."""
    endpoint: str = Field(pattern=r"^[A-Za-z0-9-]+$")
    """Id of the endpoint."""
    identity: GoogleIdentity = GoogleIdentity()
    """As whom it is called."""
    method: Literal["raw_predict", "predict", "invoke"] = "raw_predict"
    """`raw_predict` sends the body as it is; `predict` is for calls whose body has `instances`; `invoke`
    sends every path to a dedicated endpoint that offers all of its container's."""
    container: Literal["triton", "other"] = "other"
    """`triton`: the container is Triton, so with `raw_predict` every POST of the KServe API reaches its path,
    binary tensors included."""


class Vertex(TokenEndpoint):
    """One endpoint, whatever it costs."""

    options: VertexOptions
    not_sent = frozenset((_REDIRECT,))

    def __init__(self, name: str, options: VertexOptions, kit: Kit, *, rent: Rent) -> None:
        source = options.identity.source(name, kit.clock, audience=None)
        super().__init__(name, options, kit, rent=rent, source=source)
        path = f"/v1/projects/{options.project}/locations/{options.location}/endpoints/{options.endpoint}"
        self._base = options.url.rstrip("/") + path
        shared = (urlsplit(options.url).hostname or "").endswith(_SHARED_HOST)
        self._limit = SHARED_LIMIT if shared else DEDICATED_LIMIT
        self._triton = options.container == "triton" and options.method == "raw_predict"

    def address(self, call: Call) -> str:
        """The endpoint's own method, or the container's path below it."""
        match self.options.method:
            case "invoke":
                return join_url(f"{self._base}/invoke", call.target)
            case "predict":
                return f"{self._base}:predict"
            case _:
                return f"{self._base}:{'streamRawPredict' if call.stream else 'rawPredict'}"

    def cannot_carry(self, call: Call) -> str | None:
        """Too large, or nothing that the container can tell from its body alone."""
        size, method = call.body.length or 0, self.options.method
        if size > self._limit:
            return f"{self.name}: {size} bytes for Vertex AI, {self._limit} are allowed"
        if method == "invoke":
            return None
        if call.method != b"POST" or not call.inference:
            return f"{self.name}: `method: {method}` carries POST requests that want work done"
        if method == "predict":
            if call.stream or call.protocol != "raw":
                return f"{self.name}: `method: predict` carries raw calls that do not stream"
        elif self._triton:
            if call.protocol != "kserve":
                return f"{self.name}: `container: triton` carries KServe calls only"
        elif any(name == LENGTH for name, _ in call.headers):
            return f"{self.name}: binary tensors need `container: triton`"
        return None

    async def sealed(self, call: Call, address: str, fields: Headers, body: Upload) -> tuple[Headers, Upload]:
        """For Triton: the path that was asked for, and the length of the binary tensors' JSON part."""
        fields, body = await super().sealed(call, address, fields, body)
        if self._triton:
            path = call.target.partition(b"?")[0].lstrip(b"/")
            fields = [*to_platform(fields, "vertex-ai-triton"), (_REDIRECT, path)]
        return fields, body

    def judged(self, status: int) -> bool:
        """Everything that is no success may be Google's own."""
        return status >= 400

    def refusal(self, answer: Answer) -> BackendError | None:
        """What an error of Google's is, or a container's that did not begin; None for anything else."""
        error = _google_error(answer.body)
        if error is None:
            return super().refusal(answer)
        said = f"{self.name}: Vertex AI answered {answer.status}"
        scaling = error.status == "FAILED_PRECONDITION" and "scal" in error.message.lower()
        if scaling or error.status in _FULL or answer.status in (429, 503):
            return self.full(said, answer, own=True)
        if answer.status in (401, 403):
            return self.denied(said, answer.body)
        said = f"{said}: {self.credentials.excerpt(answer.body)}"
        never = error.status in _DENIED or answer.status < 500
        return BackendDenied(said) if never else BackendBroke(said)

    def told(self, headers: Headers, ticket: Ticket) -> tuple[Headers, Told]:
        """What the worker kit says, and Triton's binary tensors as its own HTTP front end says it."""
        headers, told = super().told(headers, ticket)
        return from_platform(headers), told


class VertexAiOptions(VertexOptions, StandingOptions):
    """An endpoint of Google Vertex AI whose nodes stand by."""

    type: Literal["vertex_ai"]
    """Kind of backend."""


@backends.add("vertex_ai")
class VertexAi(Standing, Vertex):
    """One endpoint whose nodes stand by."""

    Options: ClassVar[type[BackendOptions]] = VertexAiOptions
    options: VertexAiOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, VertexAiOptions)
        super().__init__(name, options, kit, rent=Rent(None))

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint whose API is served at `url`."""
        return {**_example("vertex_ai", url), "instances": 1}


class VertexAiElasticOptions(VertexOptions, ToZeroOptions):
    """An endpoint of Google Vertex AI that is scaled to zero when nobody calls."""

    type: Literal["vertex_ai_elastic"]
    """Kind of backend."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "5m", "idle_after": "1h"})
    """What is known ahead about its nodes; `idle_after` is its idle scale-down period."""
    late_binding: Literal["none"] = "none"
    """An endpoint without nodes refuses calls while it scales out: none can wait there."""


@backends.add("vertex_ai_elastic")
class VertexAiElastic(Vertex):
    """One endpoint that can be scaled to zero."""

    Options: ClassVar[type[BackendOptions]] = VertexAiElasticOptions
    options: VertexAiElasticOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, VertexAiElasticOptions)
        rent = rent_by_hour(options.price, options.cold_start, round_up_s=_STEP_S)
        super().__init__(name, options, kit, rent=rent)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint whose API is served at `url`."""
        return _example("vertex_ai_elastic", url)


def _example(kind: str, url: str) -> dict[str, Any]:
    return {
        "type": kind,
        "url": url,
        "project": "demo",
        "location": "us-central1",
        "endpoint": "1234567890",
        "identity": {"token": {"env": "OVERSPILL_EXAMPLE_SECRET"}},
        "max_in_flight": 4,
        "price": {"usd_per_replica_hour": 0.99},
    }


class _Status(msgspec.Struct):
    status: str
    message: str = ""


class _Error(msgspec.Struct):
    error: _Status


def _google_error(body: bytes) -> _Status | None:
    """Google's own error (AIP-193); a stream's comes in a list. None for a container's."""
    try:
        document = msgspec.json.decode(body, type=_Error | list[_Error])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if isinstance(document, list):
        return document[0].error if document else None
    return document.error
