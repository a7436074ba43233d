"""What one client connection needs around it: who answers its requests, and who owns it.

Belongs to step 1. Shapes only.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

from gateway.clock import Clock
from gateway.cork import Cork
from gateway.doorkeeper import Doorkeeper
from gateway.errors import OverspillError
from gateway.exchange import Exchange
from gateway.heads import Head
from gateway.kept_fields import HeadTable
from gateway.listener_limits import ListenerLimits


class Handler(Protocol):
    """What the listener needs from the pipeline."""

    def handle(self, exchange: Exchange) -> Awaitable[None]:
        """Answer one request. Must answer or abort the exchange before it returns."""
        ...

    def refuse(self, exchange: Exchange, error: OverspillError) -> None:
        """Answer a request that could not even be read."""
        ...


class Host(Protocol):
    """What a connection needs from the listener that owns it."""

    limits: ListenerLimits
    clock: Clock
    handler: Handler
    draining: bool
    heads: HeadTable[Head]
    loop: asyncio.AbstractEventLoop
    doorkeeper: Doorkeeper | None
    cork: Cork

    def admit(self, connection: Any) -> bool:
        """Count a new connection in, unless there are too many."""
        ...

    def forget(self, connection: Any) -> None:
        """Count a connection out."""
        ...

    def name(self, exchange: Exchange) -> None:
        """Give the request an id and a trace where it has none."""
        ...

    def names(self) -> tuple[str, str]:
        """The id and the traceparent of a request that has neither."""
        ...
