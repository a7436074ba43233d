"""The console on the wire: the page, its files and its stream of events.

    /console           the page
    /console/FILE      its style, scripts and icon
    /console/events    server-sent events: `hello` with the last minutes, then `now` once a second

Nothing is loaded from anywhere else and nothing in the page is run but these scripts: the content security
policy forbids the rest, markup made from text included. Knows the web framework and the feed.
"""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from importlib.resources import files

from aiohttp import web

from gateway.clock import Clock
from gateway.console.feed import Feed, Full, Seen

_TYPES: Mapping[str, str] = {
    "page.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "draw.js": "text/javascript",
    "explain.js": "text/javascript",
    "page.svg": "image/svg+xml",
}
_SECURITY: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_PATIENCE_S = 10.0
"""A watcher that takes nothing for so long has gone."""


class Console:
    """The page of one admin port."""

    def __init__(self, views: Seen, clock: Clock) -> None:
        self.feed = Feed(views, clock)
        folder = files("gateway.console")
        self._files = {name: (folder / name).read_bytes() for name in _TYPES}

    def add_to(self, app: web.Application) -> None:
        """Serve it there. It looks at nothing before the application starts, nor after it stops."""
        app.router.add_get("/console", self._page)
        app.router.add_get("/console/", self._slash)
        app.router.add_get("/console/events", self._events)
        for name in _TYPES:
            app.router.add_get(f"/console/{name}", self._file)
        app.on_startup.append(self._start)
        app.on_shutdown.append(self._stop)

    async def _start(self, _: web.Application) -> None:
        self.feed.start()

    async def _stop(self, _: web.Application) -> None:
        await self.feed.stop()

    async def _page(self, _: web.Request) -> web.Response:
        return self._answer("page.html")

    async def _slash(self, _: web.Request) -> web.StreamResponse:
        # Relative, so that it holds behind a proxy that puts a path before it.
        return web.Response(status=308, headers={"location": "../console"})

    async def _file(self, request: web.Request) -> web.Response:
        return self._answer(request.path.rsplit("/", 1)[1])

    def _answer(self, name: str) -> web.Response:
        return web.Response(
            body=self._files[name], content_type=_TYPES[name], charset="utf-8", headers=_SECURITY
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        async with aclosing(self.feed.watch()) as events:
            try:
                first = await anext(events)
            except Full:
                text = '{"error":"as many pages are open as may be; close one"}'
                return web.Response(status=503, text=text, content_type="application/json")
            response = web.StreamResponse(headers={**_SECURITY, "x-accel-buffering": "no"})
            response.content_type = "text/event-stream"
            response.headers["cache-control"] = "no-store"
            await response.prepare(request)
            try:
                await response.write(first)
                async for event in events:
                    async with asyncio.timeout(_PATIENCE_S):
                        await response.write(event)
            except (ConnectionError, TimeoutError):
                pass  # who watched has gone
            return response
