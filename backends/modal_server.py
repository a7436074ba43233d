"""Modal servers: HTTP straight to a process of yours behind Modal's proxy, with its token.

The call's own path, fields and body go out unchanged below `url`, and the answer streams back: no chain of
redirects, no limit on how long it takes. `Modal-Session-ID` passes, so clients keep their containers.
Sessions that Modal keeps strictly (`@modal.sessioned`) are not offered: the gateway would have to start them.

Wire facts (Modal documentation, "Servers"):
- `https://WORKSPACE--APP….REGION.modal.direct`; the proxy token is asked for unless the server says no;
- 429 above the server's `max_concurrency`. Whether a request is held or answered 503 while no container is
  up is not documented: either is understood;
- nothing tells about cold starts: the worker kit's two fields do. Without them it is unknown.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from backends.base import BackendOptions, Kit, backends
from backends.client import Answer
from backends.elastic import ColdStart, HttpUrl, PricePerSecond
from backends.modal_proxy import ProxyAuth, refusal, with_token
from backends.web_endpoint import WebEndpoint, WebOptions
from gateway.errors import BackendError
from gateway.vocab import Headers, Rent


class ModalServerOptions(WebOptions):
    """A server of Modal."""

    type: Literal["modal_server"]
    """Kind of backend."""
    url: HttpUrl
    """URL of the server, of one region or of all; the path of each request is appended to it."""
    proxy_auth: ProxyAuth | None = None
    """Token, unless the server is `unauthenticated`."""
    price: PricePerSecond | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "10s", "idle_after": "60s"})
    """What is known ahead about its containers; `idle_after` is the server's scaledown window."""


@backends.add("modal_server")
class ModalServer(WebEndpoint):
    """One server."""

    Options: ClassVar[type[BackendOptions]] = ModalServerOptions
    STARTS_FOR_WAITING: ClassVar[bool] = True
    options: ModalServerOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, ModalServerOptions)
        usd = options.price.usd_per_second if options.price else None
        rent = Rent(usd, idle_s=options.cold_start.idle_after, boot_s=options.cold_start.expect)
        auth = options.proxy_auth
        super().__init__(name, options, kit, rent=rent, secrets=auth.references() if auth else {})

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a server at `url`."""
        secret = {"env": "OVERSPILL_EXAMPLE_SECRET"}
        return {
            "type": "modal_server",
            "url": url,
            "proxy_auth": {"key": secret, "secret": secret},
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.000222},
            "cold_start": {"expect": "6s", "idle_after": "60s"},
        }

    async def fields(self, headers: Headers, address: str) -> Headers:
        """With the proxy token, if there is one."""
        if self.options.proxy_auth is not None:
            headers = with_token(headers, self.credentials)
        return self.added.onto(headers, self.credentials)

    def judged(self, status: int) -> bool:
        """400 too: Modal says with it that the app is stopped."""
        return status == 400 or super().judged(status)

    def refusal(self, answer: Answer) -> BackendError | None:
        """What is no answer of the server's, or says that it did not begin; None for anything else."""
        return refusal(self, "the server", answer)
