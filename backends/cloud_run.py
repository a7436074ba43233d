"""Google Cloud Run, functions included: plain HTTP with an ID token; which failures are Google's own.

Knows Cloud Run's texts and how it bills; a token is `google_identity.py`'s. It never retries a call, but
for one whose token was refused.

Wire facts (Cloud Run documentation, "Authenticating service-to-service", "Troubleshooting", "Quotas and
limits"; the pages' texts as they are seen in use, so they are looked for and not relied on):
- the token's audience is the service's URL without a path. `X-Serverless-Authorization` may carry it where
  the application wants `Authorization` for itself; it is taken off before the application sees it;
- no instance in time, or all that are allowed are busy: 429, sometimes 500 or 503, in its own words;
- a 503 whose text is of the connection to the instance may have run: that instance broke;
- HTTP/1 requests, and answers that do not stream, have at most 32 MiB;
- nothing is said about cold starts: the worker kit's two fields do. Without them it is unknown.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from backends.base import BackendOptions, Kit, backends
from backends.billing import billed
from backends.client import Answer
from backends.elastic import ColdStart, HttpUrl
from backends.google_identity import GoogleIdentity, origin
from backends.instances import Span
from backends.token_endpoint import TokenEndpoint
from backends.web_endpoint import WebOptions
from gateway.errors import BackendBroke, BackendError
from gateway.options import Options, Usd
from gateway.vocab import Call, Rent, Usage

REQUEST_LIMIT = 32 * 2**20
"""Bytes of an HTTP/1 request."""
_STEP_S = 0.1

_NOT_STARTED = (b"no available instance", b"Rate exceeded", b"service you requested is not available yet")
_INSTANCE_BROKE = (b"connection to the instance had an error", b"upstream connect error", b"malformed")
_NOT_ALLOWED = (b"does not have permission to get URL", b"The requested URL was not found on this server")


class CloudRunPrice(Options):
    """What an instance costs: its CPUs, memory and GPU together."""

    usd_per_second: Usd
    """Price of one second of one instance."""
    usd_per_request: Usd = 0.0
    """Fee of one request; only with request-based billing."""


class CloudRunOptions(WebOptions):
    """A service or function of Google Cloud Run."""

    type: Literal["cloud_run"]
    """Kind of backend."""
    url: HttpUrl
    """URL of the service; the path of each request is appended to it."""
    identity: GoogleIdentity | None = GoogleIdentity()
    """As whom it is called. Null for a service that anyone may call."""
    audience: str | None = None
    """Audience of the ID token, where it is not the URL without its path: a custom domain, say."""
    billing: Literal["instance", "request"] = "instance"
    """`instance`: a whole instance is paid from start to end, idling included, as it always is with a GPU;
    `request`: only while a request is running there, in tenths of a second, and a fee for each."""
    price: CloudRunPrice | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "10s", "idle_after": "15m"})
    """What is known ahead about its instances; one that idles is kept for up to a quarter of an hour."""

    @model_validator(mode="after")
    def _fee_by_request(self) -> Self:
        if self.billing == "instance" and self.price is not None and self.price.usd_per_request > 0:
            raise ValueError("usd_per_request is charged with `billing: request` only; take it out")
        return self


@backends.add("cloud_run")
class CloudRun(TokenEndpoint):
    """One service."""

    Options: ClassVar[type[BackendOptions]] = CloudRunOptions
    options: CloudRunOptions
    not_sent = frozenset((b"x-serverless-authorization",))

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, CloudRunOptions)
        price, by_request = options.price, options.billing == "request"
        rent = Rent(
            price.usd_per_second if price else None,
            usd_per_call=price.usd_per_request if price else 0.0,
            idle_s=options.cold_start.idle_after,
            boot_s=options.cold_start.expect,
            bills_idle=not by_request,
            round_up_s=_STEP_S,
        )
        audience = options.audience or origin(options.url)
        who = options.identity
        source = None if who is None else who.source(name, kit.clock, audience=audience)
        super().__init__(name, options, kit, rent=rent, source=source)
        if any(field.lower() == "authorization" for field in options.headers):
            self.token_field = b"x-serverless-authorization"

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a service that is served at `url`."""
        return {
            "type": "cloud_run",
            "url": url,
            "identity": {"token": {"env": "OVERSPILL_EXAMPLE_SECRET"}},
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.000394},
            "cold_start": {"expect": "10s", "idle_after": "15m"},
        }

    def cannot_carry(self, call: Call) -> str | None:
        """Too large for HTTP/1."""
        size = call.body.length or 0
        if size > REQUEST_LIMIT:
            return f"{self.name}: {size} bytes for Cloud Run, {REQUEST_LIMIT} are allowed"
        return None

    def refusal(self, answer: Answer) -> BackendError | None:
        """What is no answer of the application's, or says that it did not begin; None for anything else."""
        status, body = answer.status, answer.body
        said = f"{self.name}: Cloud Run answered {status}"
        if status in (403, 404):
            return self.denied(said, body) if _any(_NOT_ALLOWED, body) else None
        if status in (429, 500, 503) and _any(_NOT_STARTED, body):
            return self.full(said, answer, own=True)
        if status == 503 and _any(_INSTANCE_BROKE, body):
            return BackendBroke(f"{said}: {self.credentials.excerpt(body)}")
        return super().refusal(answer)

    def usage(self, span: Span, boot_s: float | None, instance: str, *, reported: bool) -> Usage:
        """With request-based billing each request is rounded up; else an instance's life is."""
        if self.options.billing == "instance":
            return super().usage(span, boot_s, instance, reported=reported)
        seconds = billed(span.billed_s, step=_STEP_S)
        return Usage(seconds, boot_s, self.price(seconds), instance, reported)


def _any(texts: tuple[bytes, ...], body: bytes) -> bool:
    return any(text in body for text in texts)
