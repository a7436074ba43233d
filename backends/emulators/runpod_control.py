"""RunPod's control plane for the one emulated endpoint: its settings for workers, and how many there are.

Must never know who asks: it is written from RunPod's documentation of its REST API v2. Unverified and chosen
here: the names within the answers, which are those of the requests, and that raising the least number starts
workers at once. Workers do not stay for the least number's sake: they idle out as others do.
"""

import json
from collections.abc import Iterable

from aiohttp import web

from backends.emulators.instance import Phase
from backends.emulators.server import EmulatorServer


class EmulatedControl:
    """`GET` and `PATCH {url}/v2/serverless/ID`, and `GET …/workers`."""

    def __init__(self, server: EmulatorServer, api_key: str = "rp-control") -> None:
        self.api_key = api_key
        self.least = 0
        self.most = server.fleet.options.cap
        self.changes: list[int] = []
        """Every least number that was set."""
        self._server = server

    def routes(self) -> Iterable[web.RouteDef]:
        """The control plane."""
        return [
            web.get("/v2/serverless/{id}", self._show),
            web.patch("/v2/serverless/{id}", self._change),
            web.get("/v2/serverless/{id}/workers", self._workers),
        ]

    def _let_in(self, request: web.Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if given != self.api_key:
            problem = json.dumps({"title": "Unauthorized", "status": 401})
            raise web.HTTPUnauthorized(text=problem, content_type="application/problem+json")

    async def _show(self, request: web.Request) -> web.Response:
        self._let_in(request)
        workers = {"min": self.least, "max": self.most}
        return web.json_response({"id": request.match_info["id"], "workers": workers})

    async def _change(self, request: web.Request) -> web.Response:
        self._let_in(request)
        wish = json.loads(await request.read()).get("workers", {})
        self.least = int(wish.get("min", self.least))
        self.most = int(wish.get("max", self.most))
        self.changes.append(self.least)
        fleet = self._server.fleet
        alive = sum(fleet.count(phase) for phase in (Phase.BOOTING, Phase.IDLE, Phase.BUSY))
        for _ in range(self.least - alive):
            self._server.spawn(fleet.start_one())
        return await self._show(request)

    async def _workers(self, request: web.Request) -> web.Response:
        self._let_in(request)
        count = self._server.fleet.count
        summary = {
            "idle": count(Phase.IDLE),
            "running": count(Phase.BUSY),
            "initializing": count(Phase.BOOTING),
            "throttled": 0,
            "unhealthy": 0,
        }
        return web.json_response({"workers": [], "summary": summary})
