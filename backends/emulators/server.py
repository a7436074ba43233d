"""What every emulated provider's server shares: a port, the fleet behind it, and the admin paths.

Must never know a provider's API. The admin paths are not part of any: `GET /__emulator/bill` and
`/__emulator/state`, `POST /__emulator/fail {"kind", "n", "after_s", "status"}`, `POST /__emulator/release`.
"""

import asyncio
import json
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final

from aiohttp import web

from backends.emulators.cues import FLEET_CUES, FRONT_CUES, Cues
from backends.emulators.fleet import ServerlessFleet
from backends.emulators.instance import FleetOptions, MakeHandler
from backends.emulators.tariff import Bill, Tariff
from gateway.clock import Clock, SystemClock

Sleep = Callable[[float], Awaitable[None]]
Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]

IN_HEAD: Final = web.ResponseKey("instance_in_head", str)
IN_BODY: Final = web.ResponseKey("instance_in_body", str)
"""Keys of an answer under which a provider notes the instance that it tells of, and where it does so."""

CROSSING_S = 0.1
"""A client that hangs up so soon after a word was sent to it may have done so before the word arrived."""
_HUNG_UP: Final = web.RequestKey("hung_up", bool)


class RateLimit:
    """At most `most` within the last `window_s` seconds."""

    def __init__(self, most: int, window_s: float, clock: Clock) -> None:
        self.most = most
        self.window_s = window_s
        self._clock = clock
        self._times: deque[float] = deque()

    def allows(self) -> bool:
        """True, and counted, if one more is within the limit."""
        now = self._clock.now()
        while self._times and self._times[0] <= now - self.window_s:
            self._times.popleft()
        if len(self._times) >= self.most:
            return False
        self._times.append(now)
        return True


class EmulatorServer(ABC):
    """A provider on a local port. Construct anywhere, start and stop on a running loop.

    make_handler:  called per instance with its id, returns what serves the requests
    seed:          of every draw: boot times, ids
    """

    PROVIDER_CUES: ClassVar[Iterable[str]] = ()
    """Failures beyond those that every emulator knows."""

    HANDLER_CANCELLATION: ClassVar[bool] = False
    """Whether a client's hang-up is noticed."""

    def __init__(
        self,
        make_handler: MakeHandler,
        tariff: Tariff,
        *,
        options: FleetOptions,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        clock: Clock | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.clock = clock or SystemClock()
        self.chance = random.Random(seed)  # noqa: S311 - a seeded draw is the point
        self.sleep = sleep
        self.cues = Cues({*FLEET_CUES, *FRONT_CUES, *self.PROVIDER_CUES})
        self._threads = ThreadPoolExecutor(max(4, 2 * options.cap), thread_name_prefix="emulated")
        self.fleet = ServerlessFleet(
            make_handler,
            tariff,
            options=options,
            clock=self.clock,
            chance=random.Random(self.chance.getrandbits(64)),  # noqa: S311
            sleep=sleep,
            threads=self._threads,
            cues=self.cues,
        )
        self._host, self._port = host, port
        self._runner: web.AppRunner | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @abstractmethod
    def routes(self) -> Iterable[web.RouteDef]:
        """The provider's API."""

    @property
    def port(self) -> int:
        """The port; known once started."""
        return self._port

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end."""
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        """Listen."""
        application = web.Application(client_max_size=1 << 30, middlewares=[self._deliver])
        application.router.add_routes(self._admin_routes())
        application.router.add_routes(self.routes())
        self._runner = web.AppRunner(
            application, access_log=None, handler_cancellation=self.HANDLER_CANCELLATION, shutdown_timeout=1.0
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the port and end every instance's work."""
        self.cues.clear()
        await self.fleet.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __aenter__(self) -> "EmulatorServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def bill(self) -> Bill:
        """What the provider would bill up to now."""
        return self.fleet.bill()

    def fail_next(self, n: int, kind: str, *, after_s: float = 0.0, status: int = 503) -> None:
        """The next `n` requests that could meet this failure do (see `cues.py`)."""
        self.cues.add(kind, n, after_s=after_s, status=status)

    def release(self) -> None:
        """Let everything that stalls go on."""
        self.cues.release()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Work that outlives the request that began it; ended by `stop`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def new_uuid(self) -> str:
        """A random UUID (version 4) from the seed."""
        bits = self.chance.getrandbits(128)
        bits = bits & ~(0xF << 76) & ~(0x3 << 62) | 0x4 << 76 | 0x2 << 62
        text = f"{bits:032x}"
        return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))

    def front_failure(self, request: web.Request) -> web.Response | None:
        """The answer that a `status` or `drop` cue makes of this request."""
        if self.cues.take("drop"):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        if (cue := self.cues.take("status")) is not None:
            return web.Response(status=cue.status, text="on demand")
        return None

    @web.middleware
    async def _deliver(self, request: web.Request, handler: Answering) -> web.StreamResponse:
        """The answer as it goes out, or cut off on cue. Noted is which instance its client hears of."""
        response = await handler(request)
        transport = request.transport
        if not isinstance(response, web.Response) or transport is None or transport.is_closing():
            return response
        body = response.body if isinstance(response.body, bytes) else b""
        cut = response.status == 200 and len(body) > 1 and self._cuts(request)
        name = response.get(IN_HEAD) or (None if cut else response.get(IN_BODY))
        if name is not None:
            self.tell(name, self.stays(request))
        if not cut:
            return response
        broken = web.StreamResponse(status=200, headers=response.headers)
        broken.content_length = len(body)
        await broken.prepare(request)
        await broken.write(body[: len(body) // 2])
        self.hang_up(request)
        return broken

    def stays(self, request: web.Request) -> asyncio.Task[bool]:
        """Whether this client, to whom a word goes out now, is certain to hear it."""
        return self.spawn(self._stays(request, request.transport))

    async def _stays(self, request: web.Request, transport: asyncio.Transport | None) -> bool:
        await self.sleep(CROSSING_S)
        left = transport is None or transport.is_closing()
        return not left or request.get(_HUNG_UP, False)

    def tell(self, instance: str, stays: asyncio.Task[bool]) -> None:
        """A client is told of this instance."""
        self.fleet.met(instance)
        self.spawn(self._doubt_unless(instance, stays))

    async def _doubt_unless(self, instance: str, stays: asyncio.Task[bool]) -> None:
        if not await stays:
            self.fleet.doubt(instance)

    @staticmethod
    def hang_up(request: web.Request) -> None:
        """End the connection from this side, once everything before is written."""
        if request.transport is not None and not request.transport.is_closing():
            request[_HUNG_UP] = True
            request.transport.close()

    @staticmethod
    def _gone(request: web.Request) -> bool:
        return request.transport is None or request.transport.is_closing()

    async def _sends(self, request: web.Request, response: web.StreamResponse, data: bytes) -> bool:
        """Whether it went out. A client that leaves meanwhile ends nothing here: its work runs on, and
        what it had heard of until then stays heard.
        """
        if self._gone(request):
            return False
        try:
            await response.write(data)
        except ConnectionError:
            return False
        return True

    def _cuts(self, request: web.Request) -> bool:
        return not request.path.startswith("/__emulator/") and self.cues.take("cut") is not None

    def _admin_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/__emulator/bill", self._show_bill),
            web.get("/__emulator/state", self._show_state),
            web.post("/__emulator/fail", self._take_cue),
            web.post("/__emulator/release", self._let_go),
        ]

    async def _show_bill(self, request: web.Request) -> web.Response:
        return web.json_response(self.bill()._asdict())

    async def _show_state(self, request: web.Request) -> web.Response:
        return web.json_response(self.fleet.state())

    async def _take_cue(self, request: web.Request) -> web.Response:
        try:
            wish = json.loads(await request.read())
            self.cues.add(
                str(wish["kind"]),
                int(wish.get("n", 1)),
                after_s=float(wish.get("after_s", 0.0)),
                status=int(wish.get("status", 503)),
            )
        except (ValueError, TypeError, KeyError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response(self.fleet.state())

    async def _let_go(self, request: web.Request) -> web.Response:
        self.release()
        return web.json_response(self.fleet.state())
