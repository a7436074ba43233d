"""Azure ML managed online endpoints: machines that stand by, behind a bearer key or an Entra token.

Knows which failures are Azure's own and which the model's; an owned backend, since its machines are paid
for whether used or not. It never retries a call, but for one whose token was refused.

Wire facts (Azure Machine Learning documentation, "Troubleshoot online endpoints", and the REST reference of
online deployments):
- whatever else than 200 a model answers comes as 424, with `ms-azureml-model-error-statuscode`; every other
  error is Azure's own;
- 429: more requests are pending than the deployment allows; 408: the model took longer than
  `request_timeout_ms` (5 s, unless set; 180 s at most); 404: no deployment has any traffic;
- `azureml-model-deployment` asks for one deployment, and says which one answered;
- there is no scaling to zero, so that no call waits for a machine.
Not confirmed: whether the body of a 424 is the model's own. It is passed on as if it were.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from backends.azure_identity import EntraIdentity
from backends.base import BackendOptions, Kit, backends
from backends.billing import Standing, StandingOptions
from backends.client import Answer, join_url
from backends.elastic import HttpUrl
from backends.instances import Ticket
from backends.token_endpoint import TokenEndpoint
from backends.tokens import GivenToken, TokenSource
from backends.web_endpoint import Told, WebOptions
from gateway.errors import BackendBroke, BackendDenied, BackendError
from gateway.options import SecretRef
from gateway.vocab import Call, Headers, Rent, Reply, Start

BODY_LIMIT = 10 * 2**20
"""Bytes of a request."""
_RESOURCE = "https://ml.azure.com"
_DEPLOYMENT = b"azureml-model-deployment"
_MODELS_STATUS = b"ms-azureml-model-error-statuscode"


class AzureMlOptions(WebOptions, StandingOptions):
    """A managed online endpoint of Azure Machine Learning."""

    type: Literal["azure_ml"]
    """Kind of backend."""
    url: HttpUrl
    """Address of the endpoint without `/score`; the path of each request is appended to it."""
    path: str | None = Field(default=None, pattern=r"^/[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*$")
    """Where every call goes instead of its own path: `/score`, for a scoring script."""
    key: SecretRef | None = None
    """Key of the endpoint, or a token of its own kind that something else keeps fresh."""
    entra: EntraIdentity | None = None
    """As whom it is called with a Microsoft Entra token, instead of a key."""
    deployment: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{1,64}$")
    """Deployment that has to answer, whatever the traffic rules say."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.key is None) == (self.entra is None):
            raise ValueError("give exactly one of key and entra; `entra: {}` is the machine's own identity")
        return self


@backends.add("azure_ml")
class AzureMl(Standing, TokenEndpoint):
    """One endpoint."""

    Options: ClassVar[type[BackendOptions]] = AzureMlOptions
    options: AzureMlOptions
    not_sent = frozenset((_DEPLOYMENT,))

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, AzureMlOptions)
        source: TokenSource
        if options.key is not None:
            source = GivenToken(name, options.key)
        else:
            assert options.entra is not None
            source = options.entra.source(name, _RESOURCE)
        super().__init__(name, options, kit, rent=Rent(None), source=source)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint that is served at `url`."""
        return {
            "type": "azure_ml",
            "url": url,
            "key": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "instances": 1,
            "price": {"usd_per_replica_hour": 0.53},
        }

    def address(self, call: Call) -> str:
        """The call's own path, or the one of the scoring script."""
        path = self.options.path
        return super().address(call) if path is None else join_url(self.options.url, path.encode())

    def cannot_carry(self, call: Call) -> str | None:
        """Too large, or a question that a scoring script does not know."""
        size = call.body.length or 0
        if size > BODY_LIMIT:
            return f"{self.name}: {size} bytes for Azure ML, {BODY_LIMIT} are allowed"
        if self.options.path is not None and (call.method != b"POST" or not call.inference):
            return f"{self.name}: {self.options.path} is for POST requests that want work done"
        return None

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the key or token, and the deployment that has to answer."""
        headers = await super().fields(headers, address)
        deployment = self.options.deployment
        return headers if deployment is None else [*headers, (_DEPLOYMENT, deployment.encode())]

    def judged(self, status: int) -> bool:
        """Everything that is no success: the model's own errors come in a 424."""
        return status >= 400

    def refusal(self, answer: Answer) -> BackendError | None:
        """What an error of Azure's is. None for the model's own word on the request."""
        status = answer.status
        said = f"{self.name}: Azure ML answered {status}"
        if status == 424:
            return self._models(answer)
        if status in (429, 503):
            return self.full(said, answer, own=True)
        if status in (401, 403, 404):
            return self.denied(said, answer.body)
        said = f"{said}: {self.credentials.excerpt(answer.body)}"
        # A 408 is of the model's time limit: it has been running for all of it.
        return BackendBroke(said) if status == 408 or status >= 500 else BackendDenied(said)

    def _models(self, answer: Answer) -> BackendError | None:
        status = _models_status(answer.headers)
        said = f"{self.name}: the model answered {status or 'with an error'}"
        if status in (429, 503):
            return self.full(said, Answer(status, answer.headers, answer.body))
        if 400 <= status < 500:
            return None
        reply = Reply(status or 424, answer.headers, answer.body)
        return BackendBroke(f"{said}: {self.credentials.excerpt(answer.body)}", answer=reply)

    def shown(self, answer: Answer) -> int:
        """The model's own status, where Azure put another in its place."""
        return (_models_status(answer.headers) or 424) if answer.status == 424 else answer.status

    def told(self, headers: Headers, ticket: Ticket) -> tuple[Headers, Told]:
        """What the worker kit says; without it, warm: no call waits for a machine here."""
        headers, told = super().told(headers, ticket)
        return headers, Told(Start.WARM, 0.0) if told.start is Start.UNKNOWN else told


def _models_status(headers: Headers) -> int:
    """The model's own status; 0 where it is not said."""
    text = dict(headers).get(_MODELS_STATUS, b"")
    return int(text) if text.isdigit() and 400 <= int(text) <= 599 else 0
