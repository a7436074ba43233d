"""The RunPod emulator with two bad habits, as a process: `python -m loadtests.chaos.runpod --config JSON`.

`POST /chaos {"late_s": 1.5}` has it say COMPLETED so much later than it is, `{"twice": true}` sends every
answer that says so a second time on the same connection, `{"idle_after_s": 0}` ends every worker after its
job. Must never know who asks.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any

import uvloop
from aiohttp import web

from backends.emulators.config import EmulatorConfig
from backends.emulators.runpod import RunPodEmulator, RunPodOptions
from backends.emulators.runpod_job import Job
from backends.workers import kit, runpod_handler
from loadtests.chaos.work import app


class Habits:
    """What it does wrong now."""

    late_s = 0.0
    twice = False
    met = 0


class BadRunPod(RunPodEmulator):
    """One endpoint, with habits."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.habits = Habits()

    def routes(self) -> Iterable[web.RouteDef]:
        """Also the one that changes the habits."""
        return [web.post("/chaos", self._obey), web.get("/chaos", self._tell), *super().routes()]

    async def _tell(self, request: web.Request) -> web.Response:
        return web.json_response({"met": self.habits.met})

    async def _obey(self, request: web.Request) -> web.Response:
        wish = json.loads(await request.read())
        self.habits.late_s = float(wish.get("late_s", self.habits.late_s))
        self.habits.twice = bool(wish.get("twice", self.habits.twice))
        if "idle_after_s" in wish:
            options = self.fleet.options._replace(idle_after_s=float(wish["idle_after_s"]))
            self.fleet.options = options
        return web.json_response({})

    async def _when_done(self, job: Job, request: web.Request) -> web.Response:
        return await self._repeated(request, await super()._when_done(job, request))

    async def _status(self, request: web.Request) -> web.StreamResponse:
        told = await super()._status(request)
        return await self._repeated(request, told) if isinstance(told, web.Response) else told

    def _finish(self, job: Job, status: str) -> None:
        late = self.habits.late_s
        if late and status == "COMPLETED":
            self.habits.met += 1
            self.spawn(self._finish_late(job, status, late))
        else:
            super()._finish(job, status)

    async def _finish_late(self, job: Job, status: str, late_s: float) -> None:
        await self.sleep(late_s)
        super()._finish(job, status)

    async def _repeated(self, request: web.Request, told: web.Response) -> web.Response:
        text = told.body if isinstance(told.body, bytes) else b""
        if self.habits.twice and b'"COMPLETED"' in text:
            self.habits.met += 1
            self.spawn(_say_again(request, text))
        return told


async def _say_again(request: web.Request, text: bytes) -> None:
    """Behind the answer itself, which is on its way."""
    await asyncio.sleep(0.005)
    if request.transport is not None and not request.transport.is_closing():
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        request.transport.write(head % len(text) + text)


async def _serve(config: EmulatorConfig) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    price = config.price.model_dump(exclude_none=True)
    emulator = BadRunPod(
        lambda _: runpod_handler.make_handler(kit.Worker(app, kit.Boot())),
        options=config.fleet(),
        endpoint=RunPodOptions(**config.runpod.model_dump(), **price),
        seed=config.seed,
    )
    async with emulator:
        sys.stdout.write(json.dumps({"url": emulator.url, "pid": os.getpid()}) + "\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> int:
    """Exit status 0 after SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.chaos.runpod")
    parser.add_argument("--config", required=True, help="JSON, as for backends.emulators")
    config = EmulatorConfig.model_validate_json(parser.parse_args().config)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
