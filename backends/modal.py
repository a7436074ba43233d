"""Modal web functions: plain HTTP with a proxy token, and a chain of 303s for answers that take long.

The call's own path, fields and body go out unchanged below `url`, and the answer streams back. Knows
which failures are Modal's own and which are the application's; it never retries a call.

Wire facts (Modal documentation, "Web functions" and "Request timeouts"; error texts as seen in use):
- after 150 s Modal answers 303 to the same URL with `__modal_function_call_id` in its query; that has
  to be asked with GET, again and again, and may be asked twice: it never runs the function again;
- its own errors are text that begins with `modal-http: `;
- it says nothing about cold starts: the worker kit's two fields do. Without them it is unknown.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from yarl import URL

from backends.base import BackendOptions, Kit, backends
from backends.client import Exchange
from backends.modal_proxy import ModalProxied, ModalProxyOptions, modal_example
from gateway.errors import BackendBroke, BackendDown, BackendError

_CALL_ID = "__modal_function_call_id"
_CHAIN_FAILURES = 3  # in a row, until the answer is given up
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


class ModalOptions(ModalProxyOptions):
    """A web function of Modal."""

    QUEUES: ClassVar[bool] = True
    type: Literal["modal"]
    """Kind of backend."""


@backends.add("modal")
class Modal(ModalProxied):
    """One web function."""

    Options: ClassVar[type[BackendOptions]] = ModalOptions
    WHAT: ClassVar[str] = "the function"
    RUNS_ON: ClassVar[bool] = True
    options: ModalOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, ModalOptions)
        super().__init__(name, options, kit)
        self._origin = URL(options.url).origin()

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a web function that is served at `url`."""
        return modal_example("modal", url)

    async def arrive(self, exchange: Exchange, held: contextlib.AsyncExitStack) -> Exchange:
        """Modal's chain of 303s, to its end. One that comes at once, not after 150 s, is paced."""
        pause = 0.0
        while (location := self._continues(exchange)) is not None:
            await held.aclose()
            await asyncio.sleep(pause)
            asked = self.kit.clock.now()
            exchange = await self._follow(location, held)
            at_once = self.kit.clock.now() - asked < _LONGEST_PAUSE_S
            pause = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * pause)) if at_once else 0.0
        return exchange

    def _continues(self, exchange: Exchange) -> str | None:
        """Where the answer will be, if this is Modal's 303; None for any other answer.

        The token goes to the function's own host only: a call id on another host is not followed.
        """
        if exchange.status != 303:
            return None
        location = dict(exchange.headers).get(b"location", b"").decode("latin-1")
        try:
            url = URL(self.options.url).join(URL(location, encoded=True))
            ours = _CALL_ID in url.query
            same_host = url.origin() == self._origin
        except ValueError:
            return None
        if not ours:
            return None  # a redirect of the application's own: the client's to follow
        if not same_host:
            raise BackendBroke(f"{self.name}: Modal's redirect leads to another host; it was not followed")
        return str(url)

    async def _follow(self, location: str, held: contextlib.AsyncExitStack) -> Exchange:
        """Ask for the answer of a call that is running. Asking again is safe, and never runs it again."""
        failures = 0
        while True:
            try:
                return await held.enter_async_context(
                    self.client.open("GET", location, headers=await self.fields([], location))
                )
            except BackendError as error:
                failures += 1
                if failures > _CHAIN_FAILURES or not isinstance(error, BackendBroke | BackendDown):
                    # Whatever kept us from asking: the work itself has begun.
                    raise BackendBroke(f"{self.name}: lost a running call: {error}") from error
