"""BentoML services: plain HTTP; which answers say that a service is full, or was too slow.

The call's own path, fields and body go out unchanged below `url`, or below one API's path, and the answer
streams back. Knows BentoML's own answers; it never retries a call.

Wire facts (BentoML 1.4 as it was seen to answer, and its documentation, "Configurations: traffic"):
- `traffic.max_concurrency` is reached: 429 at once, before anything has run;
- `traffic.timeout` is over: 504, after it has been running for that long;
- every API is a POST to a path of its own; `/livez` and `/readyz` say whether the server is up;
- nothing is said about cold starts: the worker kit's two fields do. Without them it is unknown.
Not confirmed: that BentoCloud holds requests for a service that is scaled to zero. There `health` would keep
an instance up.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from backends.base import BackendOptions, Kit, backends
from backends.client import join_url
from backends.health import UrlPath
from backends.self_hosted import SelfHosted, SelfHostedOptions
from gateway.vocab import Call

_MODEL = "{model}"


class BentoMlOptions(SelfHostedOptions):
    """A service of BentoML, on one's own machines or in BentoCloud."""

    type: Literal["bentoml"]
    """Kind of backend."""
    path: UrlPath | None = None
    """Path of the API where every call goes instead of its own, like `/predict`; `{model}` is the model's
    name there."""


@backends.add("bentoml")
class BentoMl(SelfHosted):
    """One service."""

    Options: ClassVar[type[BackendOptions]] = BentoMlOptions
    options: BentoMlOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, BentoMlOptions)
        super().__init__(name, options, kit)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a service at `url`."""
        return {
            "type": "bentoml",
            "url": url,
            "token": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.0002},
            "cold_start": {"expect": "10s", "idle_after": "60s"},
        }

    def cannot_carry(self, call: Call) -> str | None:
        """Too large, or a question that an API's path does not answer."""
        if self.options.path is not None and (call.method != b"POST" or not call.inference):
            return f"{self.name}: {self.options.path} is for POST requests that want work done"
        return super().cannot_carry(call)

    def address(self, call: Call) -> str:
        """The call's own path, or the one of the API."""
        path = self.options.path
        if path is None or call.operation == "ping":
            return super().address(call)
        return join_url(self.options.url, path.replace(_MODEL, quote(call.model, safe="")).encode("ascii"))
