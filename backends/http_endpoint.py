"""Any other HTTP endpoint that is paid by use: the call's own request goes there, its answer streams back.

For what has no backend of its own here. Knows nothing about the provider but what the file says; whether
an answer had to wait for a boot is told by the worker kit's two fields, or it is unknown.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self
from urllib.parse import quote

from pydantic import model_validator

from backends.base import BackendOptions, Kit, backends
from backends.client import Answer, join_url
from backends.elastic import HttpUrl
from backends.health import UrlPath
from backends.rated_endpoint import RatedEndpoint, RatedOptions
from gateway.errors import BackendError
from gateway.vocab import Call

_MODEL = "{model}"


class HttpOptions(RatedOptions):
    """An HTTP endpoint that is paid by use."""

    type: Literal["http"]
    """Kind of backend."""
    url: HttpUrl
    """Address of the endpoint; the path of each request is appended to it, or `path` where that is given."""
    path: UrlPath | None = None
    """Where every call goes instead of its own path, like `/predict`; `{model}` is the model's name there."""
    late_binding: Literal["ping", "none"] = "none"
    """`ping`: an instance may be made to boot while calls wait; a small POST to `/.overspill/ping` is sent
    for it, whose answer does not matter. `none`: only a call makes one boot, and waits for it."""

    @model_validator(mode="after")
    def _known_places(self) -> Self:
        if self.path is not None and not set("{}").isdisjoint(self.path.replace(_MODEL, "")):
            raise ValueError(f"path {self.path!r} has a placeholder that is not {_MODEL}")
        return self


@backends.add("http")
class HttpEndpoint(RatedEndpoint):
    """One endpoint."""

    Options: ClassVar[type[BackendOptions]] = HttpOptions
    options: HttpOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, HttpOptions)
        super().__init__(name, options, kit)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint at `url`."""
        return {
            "type": "http",
            "url": url,
            "token": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.0002, "usd_per_request": 0.000001},
            "cold_start": {"expect": "10s", "idle_after": "60s"},
        }

    def cannot_carry(self, call: Call) -> str | None:
        """Too large, or a question about the model where one path takes all calls."""
        options = self.options
        if options.path is not None and not call.inference:
            return f"{self.name}: every call goes to {options.path}, which answers no questions about a model"
        return super().cannot_carry(call)

    def address(self, call: Call) -> str:
        """Its own path, or the one that the file says; a query is kept either way."""
        path = self.options.path
        if path is None or call.operation == "ping":
            return join_url(self.options.url, call.target)
        _, mark, query = call.target.partition(b"?")
        path = path.replace(_MODEL, quote(call.model, safe=""))
        return join_url(self.options.url, path.encode("ascii") + mark + query)

    def refusal(self, answer: Answer) -> BackendError | None:
        """As of any web endpoint; where we show a token, a 403 is about it."""
        if answer.status == 403 and self.options.token is not None:
            return self.denied(f"{self.name}: the endpoint answered 403", answer.body)
        return super().refusal(answer)
