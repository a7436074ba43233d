"""Azure Functions with an HTTP trigger: plain HTTP with a function key or an Entra token.

Knows which failures are the host's own, and the consumption plan's bill. It never retries a call, but for
one whose token was refused.

Wire facts (source of the Functions host; Azure documentation, "HTTP trigger" and "Estimate
consumption-based costs"):
- a host that has too many requests pending answers 429 with `X-FUNCTION-SCALEOUT: 1`; one that does not
  come up answers 503 `Function host is not running.`: neither has begun the work;
- the front end cuts off an answer that has not begun after 230 s: a 502 or 504, and it may be running;
- it sets an ARRAffinity cookie, which would bind clients of the gateway to one worker: it is dropped;
- the first request of a worker carries `X-MS-COLDSTART: 1`, which the caller never sees. A function can
  answer `X-Overspill-Cold: 1` for it, or have the worker kit's two fields. Without either it is unknown;
- an execution is billed for 100 ms at least, in whole milliseconds, and its memory in steps of 128 MB.
Not confirmed: that the start of a host is never billed. Where its length is known it is not counted.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from backends.azure_identity import EntraIdentity
from backends.base import BackendOptions, Kit, backends
from backends.billing import billed
from backends.client import Answer
from backends.elastic import ColdStart, HttpUrl
from backends.instances import Span, Ticket
from backends.token_endpoint import TokenEndpoint
from backends.web_endpoint import Told, WebOptions
from gateway.errors import BackendError, BackendUnready
from gateway.options import Duration, Options, SecretRef, Size, Usd
from gateway.vocab import Call, Headers, Rent, Start, Usage

BODY_LIMIT = 210 * 10**6
"""Bytes of a request."""
_KEY = b"x-functions-key"
_SCALE_OUT = b"x-function-scaleout"
_COLD = b"x-overspill-cold"
_AFFINITY = b"ARRAffinity"
_STEP_S = 0.001
_MEMORY_STEP = 128 * 2**20
_NOT_RUNNING = (b"Function host is not running", b"host is not running")
_STOPPED = (b"web app is stopped", b"Site Disabled", b"Ip Forbidden")


class FunctionPrice(Options):
    """What an execution costs on a consumption plan."""

    usd_per_gb_second: Usd
    """Price of a gigabyte of memory for a second."""
    usd_per_request: Usd = 0.0
    """Price of one execution."""
    least: Duration = 0.1
    """Time for which an execution is billed at the least; longer on the Flex plan."""


class AzureFunctionOptions(WebOptions):
    """A function app of Azure."""

    type: Literal["azure_function"]
    """Kind of backend."""
    url: HttpUrl
    """URL of the app, `/api` included where its functions are below that; each request's path is appended."""
    key: SecretRef | None = None
    """Function or host key, sent as x-functions-key."""
    entra: EntraIdentity | None = None
    """As whom it is called with a Microsoft Entra token, where the app asks for one."""
    resource: str | None = Field(default=None, pattern=r"^[\x21-\x7e]+$")
    """What the Entra token is for: the application id URI that the app accepts, like `api://…`."""
    memory: Size | None = None
    """Memory of an execution, as it is billed: observed on the consumption plan, chosen on the Flex plan."""
    price: FunctionPrice | None = None
    """What it costs; needs `memory`. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "5s", "idle_after": "10m"})
    """What is known ahead about its workers; they are not billed while they idle."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.entra is None) != (self.resource is None):
            raise ValueError("entra and resource go together: a token is for the application that takes it")
        if self.price is not None and not self.memory:
            raise ValueError("price needs memory beside it, like `memory: 512MiB`")
        return self

    @property
    def memory_gb(self) -> float:
        """Memory as it is billed, in the provider's gigabytes of 1,024 MB; 0.0 where it is not said."""
        return math.ceil((self.memory or 0) / _MEMORY_STEP) * _MEMORY_STEP / 2**30


@backends.add("azure_function")
class AzureFunction(TokenEndpoint):
    """One function app."""

    Options: ClassVar[type[BackendOptions]] = AzureFunctionOptions
    options: AzureFunctionOptions
    not_sent = frozenset((_KEY, b"x-ms-coldstart"))

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, AzureFunctionOptions)
        price = options.price
        rent = Rent(
            price.usd_per_gb_second * options.memory_gb if price else None,
            usd_per_call=price.usd_per_request if price else 0.0,
            idle_s=options.cold_start.idle_after,
            boot_s=options.cold_start.expect,
            bills_boot=False,
            bills_idle=False,
            round_up_s=_STEP_S,
        )
        source = None
        if options.entra is not None and options.resource is not None:
            source = options.entra.source(name, options.resource)
        secrets = {"key": options.key} if options.key is not None else {}
        super().__init__(name, options, kit, rent=rent, source=source, secrets=secrets)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an app that is served at `url`."""
        return {
            "type": "azure_function",
            "url": url,
            "key": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "memory": "512MiB",
            "price": {"usd_per_gb_second": 0.000016, "usd_per_request": 0.0000002},
            "cold_start": {"expect": "5s", "idle_after": "10m"},
        }

    def cannot_carry(self, call: Call) -> str | None:
        """Too large for the host."""
        size = call.body.length or 0
        if size > BODY_LIMIT:
            return f"{self.name}: {size} bytes for Azure Functions, {BODY_LIMIT} are allowed"
        return None

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the key and the token, whichever there are; a client's own are never sent."""
        headers = await super().fields(headers, address)
        if self.options.key is not None:
            headers.append((_KEY, self.credentials["key"].encode()))
        return headers

    def refusal(self, answer: Answer) -> BackendError | None:
        """What is no answer of the function's, or says that it did not begin; None for anything else."""
        answer = answer._replace(headers=[f for f in answer.headers if not _is_affinity(f)])
        status, body = answer.status, answer.body
        said = f"{self.name}: Azure Functions answered {status}"
        if status == 403:
            return self.denied(said, body) if _any(_STOPPED, body) else None
        if status == 429 and _SCALE_OUT in dict(answer.headers):
            return self.full(said, answer, own=True)
        if status == 503 and _any(_NOT_RUNNING, body):
            return BackendUnready(f"{said}: {self.credentials.excerpt(body)}")
        return super().refusal(answer)

    def told(self, headers: Headers, ticket: Ticket) -> tuple[Headers, Told]:
        """What the worker kit says, else what the function does of its `X-MS-COLDSTART`."""
        headers, told = super().told(headers, ticket)
        cold = dict(headers).get(_COLD)
        headers = [f for f in headers if f[0] != _COLD and not _is_affinity(f)]
        if told.start is Start.UNKNOWN and cold is not None:
            told = Told(Start.COLD) if cold.strip() == b"1" else Told(Start.WARM, 0.0)
        return headers, told

    def usage(self, span: Span, boot_s: float | None, instance: str, *, reported: bool) -> Usage:
        """The measured seconds as an execution's: without the start-up, as far as that is known."""
        price = self.options.price
        least = price.least if price is not None else FunctionPrice.model_fields["least"].default
        seconds = billed(span.busy_s, step=_STEP_S, least=least)
        return Usage(seconds, boot_s, self.price(seconds), instance, reported)


def _is_affinity(field: tuple[bytes, bytes]) -> bool:
    return field[0] == b"set-cookie" and field[1].startswith(_AFFINITY)


def _any(texts: tuple[bytes, ...], body: bytes) -> bool:
    return any(text in body for text in texts)
