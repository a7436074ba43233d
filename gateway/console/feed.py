"""Looks at the gateway once a second while somebody watches, and hands every watcher the newest look.

A watcher that is slow misses looks, never gets old ones, and holds nobody up. Knows the views of the admin
port and the event stream's text; no HTTP framework.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from msgspec import json

from gateway.background import Background
from gateway.clock import Clock
from gateway.config.status import ConfigStatus
from gateway.console.attention import counters
from gateway.console.history import History
from gateway.console.lately import Lately
from gateway.console.snapshot import snapshot
from gateway.glance import Glance

log = logging.getLogger("overspill.console")

EVERY_S = 1.0
UNWATCHED_S = 5.0
"""While nobody watches: so that whoever comes sees the minutes before."""
MOST_WATCHERS = 16
DECISIONS = 40


class Seen(Protocol):
    """What is looked at (`gateway.admin.Views`)."""

    @property
    def explains(self) -> bool: ...

    @property
    def config(self) -> ConfigStatus: ...

    async def glance(self, decisions: int) -> Glance: ...


class Full(Exception):
    """There are as many watchers as there may be."""


class Feed:
    """The looks, and who watches them."""

    def __init__(self, views: Seen, clock: Clock, *, most: int = MOST_WATCHERS) -> None:
        self._views = views
        self._clock = clock
        self._most = most
        self._watchers = 0
        self._came = asyncio.Event()
        self._looked = asyncio.Event()
        self._closed = False
        self._now: dict[str, Any] | None = None
        self._event = b""
        self._history = History()
        self._lately = Lately()
        self._background = Background()

    @property
    def watchers(self) -> int:
        """How many watch."""
        return self._watchers

    def start(self) -> None:
        """Begin to look."""
        self._background.spawn(self._run(), name="console")

    async def stop(self) -> None:
        """No more looks; everybody who watches is let go."""
        self._closed = True
        self._looked.set()
        await self._background.close(grace=0.0)

    async def watch(self) -> AsyncGenerator[bytes, None]:
        """The events, the first with the points of the past. Raises Full; ends when the feed stops.

        A watcher must close it (`aclosing`), or its place stays taken.
        """
        if self._watchers >= self._most:
            raise Full
        self._watchers += 1
        self._came.set()
        try:
            yield b"retry: 1000\n\n"
            first = True
            while not self._closed:
                if self._now is not None:
                    yield self._hello(self._now) if first else self._event
                    first = False
                await self._looked.wait()
        finally:
            self._watchers -= 1

    async def _run(self) -> None:
        while True:
            began = self._clock.now()
            try:
                await self._look()
            except Exception:
                log.exception("the console could not look at the gateway")
            await self._pause(began)

    async def _look(self) -> None:
        glance = await self._views.glance(DECISIONS if self._views.explains else 0)
        wall = self._clock.wall()
        self._history.note(wall, glance.sums)
        self._lately.note(wall, counters(glance.metrics))
        seen = snapshot(glance, self._views.config, self._history, self._lately, wall)
        self._now = {**seen, "explains": self._views.explains}
        if self._watchers:
            self._event = _event("now", self._now)
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()

    async def _pause(self, began: float) -> None:
        self._came.clear()
        if not self._watchers:
            try:
                async with asyncio.timeout(UNWATCHED_S):
                    await self._came.wait()
            except TimeoutError:
                pass
            return
        await asyncio.sleep(max(0.1, EVERY_S - (self._clock.now() - began)))

    def _hello(self, now: dict[str, Any]) -> bytes:
        past = {each["name"]: self._history.points(each["name"]) for each in now["routes"]}
        return _event("hello", {**now, "past": past})


def _event(kind: str, value: dict[str, Any]) -> bytes:
    # JSON has no line break of its own, so that one line holds it; what is not a number is null.
    return b"event: " + kind.encode() + b"\ndata: " + json.encode(value) + b"\n\n"
