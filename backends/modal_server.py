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
from backends.modal_proxy import ModalProxied, ModalProxyOptions, modal_example


class ModalServerOptions(ModalProxyOptions):
    """A server of Modal, of one region or of all."""

    type: Literal["modal_server"]
    """Kind of backend."""


@backends.add("modal_server")
class ModalServer(ModalProxied):
    """One server."""

    Options: ClassVar[type[BackendOptions]] = ModalServerOptions
    WHAT: ClassVar[str] = "the server"
    options: ModalServerOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, ModalServerOptions)
        super().__init__(name, options, kit)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a server at `url`."""
        return modal_example("modal_server", url)
