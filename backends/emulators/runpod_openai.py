"""The OpenAI route of a RunPod queue endpoint, beside its queue API, on a local port.

Must never know a gateway or its client: it is written from RunPod's documentation of its vLLM worker. The
handler gets `openai_route` and `openai_input` as the input of a job; what it yields (bytes) is passed on as
server-sent events, what it returns as JSON. Unverified and chosen here: the body of an error of RunPod's own,
and that a job goes on when its client leaves.
"""

import json
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from backends.emulators.instance import FleetFull, Handler, MakeHandler
from backends.emulators.running import Running, Sink, written
from backends.emulators.runpod import RunPodEmulator


class RunPodOpenAiEmulator(RunPodEmulator):
    """One endpoint under `{url}/v2/{endpoint_id}`, its OpenAI route under `…/openai/v1`."""

    def __init__(self, make_handler: MakeHandler, **server: Any) -> None:
        super().__init__(lambda name: _with_sink(make_handler(name)), **server)

    def routes(self) -> Iterable[web.RouteDef]:
        """The queue API, and the OpenAI route."""
        path = "/v2/{endpoint}/openai/{path:v1/.*}"
        return [*super().routes(), web.route("*", path, self._guard("openai", self._openai))]

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            asked = json.loads(body) if body else None
        except ValueError:
            return _error(400, "request body is not valid JSON")
        if self.cues.take("throttle") is not None:
            return _error(429, "too many requests")
        job = {"openai_route": "/" + request.match_info["path"], "openai_input": asked}
        running = Running(lambda sink: self._serve({"id": self.new_uuid(), "input": job}, sink), self.spawn)
        try:
            await running.begun()
        except FleetFull:
            return _error(429, "too many requests")
        except Exception as error:
            return _error(500, str(error))
        if not running.streamed:
            return web.json_response(await running.task)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        async for piece in running.pieces():
            await response.write(piece)
        if running.task.exception() is not None and request.transport is not None:
            request.transport.close()
            return response
        await response.write_eof()
        return response

    async def _serve(self, event: Any, sink: Sink) -> Any:
        async with self.fleet.slot() as slot:
            return await slot.run((event, sink))


def _with_sink(handler: Handler) -> Handler:
    def serve(event: Any) -> Any:
        if isinstance(event, tuple):
            return written(handler(event[0]), event[1])
        return handler(event)

    return serve


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
