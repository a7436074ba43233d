"""A fleet that scales from zero: the part that every emulated serverless provider has in common.

Instances start on demand and take a boot time drawn from two modes, serve one request at a time, stay
idle for a while and are then gone; the bill is kept as the provider keeps it. Must never know HTTP or
which provider it plays. Time, sleep and chance come from outside, so it runs on virtual time; idle
instances end by arithmetic when somebody looks, not by timers.
"""

import asyncio
import inspect
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from backends.emulators.cues import FLEET_CUES, Cues
from backends.emulators.instance import (
    BootFailed,
    FleetFull,
    FleetOptions,
    Handler,
    Instance,
    InstanceDied,
    MakeHandler,
    OnCue,
    Phase,
    RanOut,
)
from backends.emulators.tariff import Bill, Tariff
from gateway.clock import Clock


class Slot:
    """One request's hold on one instance."""

    def __init__(self, fleet: "ServerlessFleet", instance: Instance, init_s: float) -> None:
        self.instance = instance
        self.init_s = init_s
        """Start-up that belongs to this request: the instance's boot for its first one, else 0."""
        self.run_s = 0.0
        """Time in the handler, once it has ended in any way."""
        self.billed_s = 0.0
        """What this invocation alone is billed, once it has ended; 0 where instances' lives are billed."""
        self._fleet = fleet

    @property
    def cold(self) -> bool:
        """True for the first request that its instance serves."""
        return self.init_s > 0

    async def run(self, event: Any, *, timeout_s: float | None = None) -> Any:
        """The handler's answer.

        Raises what the handler raises, InstanceDied, or RanOut after `timeout_s`, at which the
        provider kills the instance.
        """
        began = self._fleet.clock.now()
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                return await self._fleet.execute(self.instance, event)
        except InstanceDied:
            self._fleet.end(self.instance)
            raise
        except TimeoutError:
            if not limit.expired():
                raise
            self._fleet.end(self.instance)
            raise RanOut from None
        finally:
            self.run_s = self._fleet.clock.now() - began
            self.billed_s = self._fleet.charge(self.init_s, self.run_s)

    def retire(self) -> None:
        """The instance is not used again after this request."""
        self._fleet.end(self.instance)


class ServerlessFleet:
    """Instances, the queue for them, and the bill.

    threads: runs handlers and their construction that block; None runs them in place (virtual time)
    """

    def __init__(
        self,
        make_handler: MakeHandler,
        tariff: Tariff,
        *,
        options: FleetOptions,
        clock: Clock,
        chance: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        threads: Executor | None = None,
        cues: Cues | None = None,
    ) -> None:
        self.options = options
        self.clock = clock
        self.cues = cues or Cues(FLEET_CUES)
        self.instances: list[Instance] = []
        """Every instance that is not gone."""
        self._make_handler = make_handler
        self._tariff = tariff
        self._chance = chance
        self._sleep = sleep
        self._threads = threads
        self._waiting: deque[asyncio.Future[Instance]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._past_s = 0.0
        self._requests = 0
        self._cold_starts = 0
        self._gone = 0
        self._met: Counter[str] = Counter()
        self._doubted: Counter[str] = Counter()
        self.unmet_s = 0.0
        """Billed seconds of those that are gone without any client having been told of them for certain."""

    async def close(self) -> None:
        """Cancel every start-up and forget the queue."""
        for future in self._waiting:
            future.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def slot(self, *, wait: bool = True) -> AsyncIterator[Slot]:
        """Hold an instance for one request.

        With `wait` requests queue, and whichever instance is free first takes the oldest (RunPod,
        Modal). Without, a request takes an idle instance or starts one for itself (Lambda). Raises
        FleetFull, or BootFailed where the start was for this request.
        """
        instance = self._idle_one() or await self._wait_for_one(queue=wait)
        init_s = instance.boot_s if instance.served == 0 else 0.0
        instance.served += 1
        try:
            yield Slot(self, instance, init_s)
        finally:
            self._give_back(instance)

    def bill(self) -> Bill:
        """Everything up to now; instances that live are billed as if they ended now."""
        self.reap()
        now = self.clock.now()
        seconds = self._past_s + sum(self._tariff.life_s(now - each.began) for each in self.instances)
        usd = self._tariff.usd(seconds, self._requests)
        return Bill(seconds, self._tariff.gb_seconds(seconds), self._requests, self._cold_starts, usd)

    def met(self, instance: str) -> None:
        """A client was told of this instance: that it exists, or that it has just been started."""
        self._met[instance] += 1

    def doubt(self, instance: str) -> None:
        """Of those whom `met` was said of, one may have left before the word reached it."""
        self._doubted[instance] += 1

    @property
    def unmet(self) -> int:
        """Cold starts of which no client was ever told: of a start-up that failed, of an instance that found
        nothing to do, of one whose every client had left or got no whole answer.
        """
        return self._cold_starts - len(self._met)

    @property
    def doubtful(self) -> int:
        """Cold starts of which clients were told, every one of whom left in that moment: whether any of them
        has heard it, nobody at this end can know.
        """
        return sum(not self._certain(instance) for instance in self._met)

    def count(self, phase: Phase) -> int:
        """Instances in this phase now."""
        self.reap()
        return self._gone if phase is Phase.GONE else sum(each.phase is phase for each in self.instances)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def state(self) -> dict[str, Any]:
        """What there is now, for people and tests."""
        self.reap()
        now = self.clock.now()
        return {
            "instances": [
                {
                    "id": each.id,
                    "phase": each.phase.value,
                    "age_s": now - each.began,
                    "boot_s": each.boot_s,
                    "served": each.served,
                }
                for each in self.instances
            ],
            "gone": self._gone,
            "waiting": len(self._waiting),
            "cues": dict(self.cues.report()),
        }

    def reap(self) -> None:
        """Idle instances whose time is over have ended, at the moment when it was over."""
        now = self.clock.now()
        for instance in list(self.instances):
            over = instance.idle_since + self.options.idle_after_s
            if instance.phase is Phase.IDLE and over <= now:
                self._finish(instance, over)

    async def start_one(self) -> None:
        """Start an instance that no request asked for; return when it is up."""
        if len(self.instances) < self.options.cap:
            future: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
            self._start().reserved = future
            self._offer(await future)

    def end(self, instance: Instance) -> None:
        """The instance dies now; waiting requests get others."""
        if instance.phase is not Phase.GONE:
            self._finish(instance, self.clock.now())
            self._scale()

    def charge(self, init_s: float, run_s: float) -> float:
        """Put one invocation on the bill; its billed seconds."""
        billed_s = self._tariff.invocation_s(init_s, run_s)
        self._past_s += billed_s
        self._requests += 1
        return billed_s

    async def execute(self, instance: Instance, event: Any) -> Any:
        """Run the instance's handler, with whatever is to go wrong."""
        began = self.clock.now()
        if self.cues.take("stall"):
            await self.cues.stalled()
        if (kill := self.cues.take("kill")) is not None:
            await self._sleep(kill.after_s)
            raise InstanceDied(instance.id)
        if self.cues.take("error"):
            raise OnCue("failure on demand")
        assert instance.handler is not None
        result = await self._call(instance, instance.handler, event)
        left = self.options.pace_s - (self.clock.now() - began)
        if left > 0:
            await self._sleep(left)
        return result

    async def _call(self, instance: Instance, handler: Handler, event: Any) -> Any:
        if inspect.iscoroutinefunction(handler):
            return await handler(event)
        if self._threads is None:
            return handler(event)
        work = asyncio.get_running_loop().run_in_executor(self._threads, handler, event)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # A thread cannot be stopped: the instance stays busy until it is through.
            if not work.done():
                instance.lingering = work
            raise

    def _idle_one(self) -> Instance | None:
        """The idle instance used last, so that the others may end; it is busy from here on."""
        self.reap()
        idle = [each for each in self.instances if each.phase is Phase.IDLE]
        if not idle or self._waiting:
            return None
        instance = max(idle, key=lambda each: each.idle_since)
        instance.phase = Phase.BUSY
        return instance

    async def _wait_for_one(self, *, queue: bool) -> Instance:
        future: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()
        if not queue:
            if len(self.instances) >= self.options.cap:
                raise FleetFull
            self._start().reserved = future
        else:
            limit = self.options.queue_limit
            if limit is not None and len(self._waiting) >= limit:
                raise FleetFull
            self._waiting.append(future)
            self._scale()
        try:
            return await future
        except asyncio.CancelledError:
            if future in self._waiting:
                self._waiting.remove(future)
            elif future.done() and not future.cancelled() and future.exception() is None:
                # It was given an instance in the moment in which it was given up.
                self._offer(future.result())
            raise

    def _scale(self) -> None:
        """One start-up per waiting request, up to the cap."""
        booting = sum(each.phase is Phase.BOOTING for each in self.instances)
        while booting < len(self._waiting) and len(self.instances) < self.options.cap:
            self._start()
            booting += 1

    def _start(self) -> Instance:
        name = f"{self._chance.getrandbits(56):014x}"
        instance = Instance(name, self.clock.now(), self.options.boot.draw(self._chance))
        self.instances.append(instance)
        self._cold_starts += 1
        self._background(self._boot(instance))
        return instance

    async def _boot(self, instance: Instance) -> None:
        failing = self.cues.take("boot") is not None
        try:
            handler = await self._made(instance.id)
        except Exception:
            # After the usual time all the same: a start that fails at once would be tried in a tight loop.
            failing, handler = True, None
        await self._sleep(max(0.0, instance.began + instance.boot_s - self.clock.now()))
        # Making the handler may have taken longer than the draw.
        instance.boot_s = self.clock.now() - instance.began
        if failing:
            if instance.reserved is not None and not instance.reserved.done():
                instance.reserved.set_exception(BootFailed(instance.id, instance.boot_s))
            self.end(instance)
            return
        instance.handler = handler
        self._offer(instance)

    async def _made(self, name: str) -> Handler:
        if self._threads is None:
            return self._make_handler(name)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._make_handler, name)

    def _offer(self, instance: Instance) -> None:
        """A live instance has nothing to do: whoever waits for it gets it, else it is idle."""
        takers = [instance.reserved] if instance.reserved is not None else []
        instance.reserved = None
        while takers or self._waiting:
            taker = takers.pop() if takers else self._waiting.popleft()
            if not taker.done():
                instance.phase = Phase.BUSY
                taker.set_result(instance)
                return
        instance.phase = Phase.IDLE
        instance.idle_since = self.clock.now()

    def _give_back(self, instance: Instance) -> None:
        if instance.phase is Phase.GONE:
            return
        if instance.lingering is not None:
            lingering, instance.lingering = instance.lingering, None
            lingering.add_done_callback(lambda _: self._give_back(instance))
            return
        self._offer(instance)

    def _finish(self, instance: Instance, ended: float) -> None:
        instance.phase = Phase.GONE
        instance.ended = ended
        self.instances.remove(instance)
        self._gone += 1
        life_s = self._tariff.life_s(ended - instance.began)
        self._past_s += life_s
        if not self._certain(instance.id):
            self.unmet_s += life_s

    def _certain(self, instance: str) -> bool:
        return self._met[instance] > self._doubted[instance]

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
