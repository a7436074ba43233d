"""IBM watsonx.ai deployments: always there, called by the call's own body with an IAM token.

Body and fields go out unchanged to the one path of the deployment's task, and the answer streams back. An
owned backend, since a deployment is paid for by the hour. It never retries a call, but for one whose token
was refused.

Wire facts (IBM's Python SDK for watsonx.ai and its API reference; IBM Cloud documentation, "Generating an IBM
Cloud IAM token by using an API key"):
- `POST /ml/v4/deployments/ID/predictions?version=DATE` and, below `/ml/v1/deployments/ID`, `text/generation`,
  `text/chat` and `time_series/forecast`; `ai_service` is below v4. `_stream` at the end asks for events;
- the token is had for an API key at `iam.cloud.ibm.com/identity/token` and lasts for an hour;
- errors are `{"errors": [{"code", "message"}], "trace", "status_code"}`;
- online deployments do not scale to zero, so that no call waits for a machine;
- IBM's SDK takes 500, 502, 503, 504, 520, 521 and 524 for passing trouble. Which of them come before the work
  has begun is not said: 503 and 429 are taken to, the others to come after it.
Not confirmed: that `text/chat` takes the `model` of a request of OpenAI's API, which it has no use for.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlencode

from pydantic import Field, model_validator

from backends.base import BackendOptions, Kit, backends
from backends.billing import Standing, StandingOptions
from backends.client import Answer, join_url
from backends.credentials import Credential
from backends.elastic import HttpUrl
from backends.instances import Ticket
from backends.token_endpoint import TokenEndpoint
from backends.tokens import GivenToken, Token, TokenHost, TokenSource, read_grant
from backends.web_endpoint import Told, WebOptions
from gateway.errors import BackendBroke, BackendDenied, BackendError
from gateway.options import SecretRef
from gateway.vocab import Call, Headers, Rent, Start

Task = Literal["predictions", "chat", "generation", "ai_service", "forecast"]
_PATHS: dict[Task, str] = {
    "predictions": "/ml/v4/deployments/{}/predictions",
    "chat": "/ml/v1/deployments/{}/text/chat",
    "generation": "/ml/v1/deployments/{}/text/generation",
    "ai_service": "/ml/v4/deployments/{}/ai_service",
    "forecast": "/ml/v1/deployments/{}/time_series/forecast",
}
_STREAMED = frozenset(("chat", "generation", "ai_service"))
_GRANT = "urn:ibm:params:oauth:grant-type:apikey"


class WatsonxOptions(WebOptions, StandingOptions):
    """An online deployment of watsonx.ai."""

    type: Literal["watsonx"]
    """Kind of backend."""
    url: HttpUrl
    """Address of the service in its region, like https://us-south.ml.cloud.ibm.com."""
    deployment: str = Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")
    """Id, or serving name, of the deployment."""
    task: Task
    """What is asked of it. `chat` takes chats of OpenAI's API; each takes calls of a raw route."""
    version: str = Field(default="2024-10-10", pattern=r"^\d{4}-\d{2}-\d{2}$")
    """Day of the API's version that is asked for."""
    api_key: SecretRef | None = None
    """API key of an IBM Cloud user or service id, by reference."""
    token: SecretRef | None = None
    """Instead of `api_key`: a token that something else keeps fresh."""
    iam_url: HttpUrl = "https://iam.cloud.ibm.com"
    """Where the key is exchanged for a token."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.api_key is None) == (self.token is None):
            raise ValueError("give exactly one of api_key and token")
        return self


@backends.add("watsonx")
class Watsonx(Standing, TokenEndpoint):
    """One deployment."""

    Options: ClassVar[type[BackendOptions]] = WatsonxOptions
    options: WatsonxOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, WatsonxOptions)
        source: TokenSource
        if options.token is not None:
            source = GivenToken(name, options.token)
        else:
            assert options.api_key is not None
            source = IamToken(name, options.iam_url, Credential(name, options.api_key))
        super().__init__(name, options, kit, rent=Rent(None), source=source)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a deployment that is served at `url`."""
        return {
            "type": "watsonx",
            "url": url,
            "deployment": "granite",
            "task": "chat",
            "token": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "price": {"usd_per_replica_hour": 5.22},
        }

    def cannot_carry(self, call: Call) -> str | None:
        """Nothing that the deployment's task takes."""
        task = self.options.task
        if call.protocol != "raw" and (task != "chat" or call.operation != "chat"):
            chats = "chats of OpenAI's API and " if task == "chat" else ""
            said = f"{self.name}: a watsonx deployment for {task} takes {chats}calls of raw routes"
            return f"{said}, not {call.operation} of {call.protocol}"
        if call.method != b"POST":
            return f"{self.name}: a watsonx deployment takes POST requests only"
        if call.stream and task not in _STREAMED:
            return f"{self.name}: a watsonx deployment for {task} cannot answer with a stream"
        return None

    def address(self, call: Call) -> str:
        """The one of the task."""
        path = _PATHS[self.options.task].format(self.options.deployment)
        stream = "_stream" if call.stream else ""
        return join_url(self.options.url, f"{path}{stream}?version={self.options.version}".encode())

    def judged(self, status: int) -> bool:
        """Everything that is no success."""
        return status >= 400

    def refusal(self, answer: Answer) -> BackendError | None:
        """What an error of IBM's is. None for what blames the request itself."""
        status = answer.status
        said = f"{self.name}: watsonx answered {status}"
        if status in (429, 503):
            return self.full(said, answer, own=True)
        if status in (401, 402, 403, 404):
            return self.denied(said, answer.body)
        if status < 500 and status != 408:
            return None
        return BackendBroke(f"{said}: {self.credentials.excerpt(answer.body)}")

    def told(self, headers: Headers, ticket: Ticket) -> tuple[Headers, Told]:
        """What the worker kit says; without it, warm: no call waits for a machine here."""
        headers, told = super().told(headers, ticket)
        return headers, Told(Start.WARM, 0.0) if told.start is Start.UNKNOWN else told


class IamToken:
    """The tokens of an IBM Cloud API key."""

    def __init__(self, name: str, url: str, key: Credential) -> None:
        self._host = TokenHost(name, url.rstrip("/"))
        self._key = key

    def check(self) -> None:
        """Raise ConfigError if the key is not there."""
        self._key.check()

    async def close(self) -> None:
        """Close every connection."""
        await self._host.close()

    async def fetch(self) -> Token:
        """A token. Raises BackendError whose `work` is NOT_STARTED."""
        form = urlencode({"grant_type": _GRANT, "apikey": self._key.value()})
        headers = [
            (b"content-type", b"application/x-www-form-urlencoded"),
            (b"accept", b"application/json"),
        ]
        url = f"{self._host.url}/identity/token"
        try:
            answer = await self._host.ask("POST", url, headers, form.encode())
        except BackendDenied:
            self._key.forget()  # it may have been rotated
            raise
        return read_grant(self._host, answer, "access_token")
