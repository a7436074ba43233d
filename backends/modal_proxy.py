"""What Modal's web functions and servers share: the proxy token, the bill, and which errors are Modal's own.

Knows the web endpoint that it extends; it must never know how an answer that takes long is had.

Wire facts (Modal documentation, "Proxy auth tokens"; error texts as seen in use): the token is two fields,
and Modal's own errors are text that begins with `modal-http: `.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from backends.base import Kit
from backends.client import Answer
from backends.credentials import Credentials
from backends.elastic import ColdStart, HttpUrl, PricePerSecond, rent_by_second
from backends.web_endpoint import WebEndpoint, WebOptions
from gateway.errors import BackendBroke, BackendError
from gateway.options import Options, SecretRef
from gateway.vocab import Headers

_OWN_ERROR = b"modal-http:"


class ProxyAuth(Options):
    """A proxy auth token of the workspace."""

    key: SecretRef
    """Token id (`wk-…`), sent as Modal-Key."""
    secret: SecretRef
    """Token secret (`ws-…`), sent as Modal-Secret."""

    def references(self) -> dict[str, SecretRef]:
        """Both by what they are."""
        return {"key": self.key, "secret": self.secret}


class ModalProxyOptions(WebOptions):
    """What is behind Modal's proxy."""

    url: HttpUrl
    """Its URL; the path of each request is appended to it."""
    proxy_auth: ProxyAuth | None = None
    """Token for what requires proxy authorization."""
    price: PricePerSecond | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "10s", "idle_after": "60s"})
    """What is known ahead about its containers; `idle_after` is its scaledown window."""


class ModalProxied(WebEndpoint):
    """One web function or server. `WHAT`: what to call it in an error."""

    WHAT: ClassVar[str]
    STARTS_FOR_WAITING: ClassVar[bool] = True
    options: ModalProxyOptions

    def __init__(self, name: str, options: ModalProxyOptions, kit: Kit) -> None:
        rent = rent_by_second(options.price, options.cold_start)
        auth = options.proxy_auth
        super().__init__(name, options, kit, rent=rent, secrets=auth.references() if auth else {})

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the proxy token, if there is one."""
        if self.options.proxy_auth is not None:
            headers = _with_token(headers, self.credentials)
        return self.added.onto(headers, self.credentials)

    def judged(self, status: int) -> bool:
        """400 too: Modal says with it that the app is stopped."""
        return status == 400 or super().judged(status)

    def refusal(self, answer: Answer) -> BackendError | None:
        """What is no answer of the application's, or says that it did not begin; None for anything else."""
        status, body = answer.status, answer.body
        own = body.startswith(_OWN_ERROR)
        said = f"{self.name}: {'Modal' if own else self.WHAT} answered {status}"
        if status == 401 or (own and status in (400, 403, 404)):
            # Wrong address, wrong token, an app that is stopped, a workspace that is disabled.
            return self.denied(f"{self.name}: Modal answered {status}", body)
        if status in (429, 503):
            # Neither starts the work: a limit, or no container. An application's own 503 says it is full.
            return self.full(said, answer, own=own)
        if own and status >= 500:
            return BackendBroke(f"{said}: {self.credentials.excerpt(body)}")
        return None

    def died(self, answer: Answer) -> bool:
        """Modal has been seen to say: "function was terminated by signal"."""
        return answer.body.startswith(_OWN_ERROR) and b"terminated" in answer.body


def modal_example(kind: str, url: str) -> Mapping[str, Any]:
    """Options of a backend of this kind at `url`, as in the file."""
    secret = {"env": "OVERSPILL_EXAMPLE_SECRET"}
    return {
        "type": kind,
        "url": url,
        "proxy_auth": {"key": secret, "secret": secret},
        "max_in_flight": 4,
        "price": {"usd_per_second": 0.000222},
        "cold_start": {"expect": "6s", "idle_after": "60s"},
    }


def _with_token(headers: Headers, credentials: Credentials) -> Headers:
    """`headers` with the proxy token; a client's own is never sent."""
    ours = [
        (b"modal-key", credentials["key"].encode()),
        (b"modal-secret", credentials["secret"].encode()),
    ]
    return [field for field in headers if field[0] not in (b"modal-key", b"modal-secret")] + ours
