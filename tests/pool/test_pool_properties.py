"""Whatever happens, in whatever order: no slot is lost, no call is lost, nobody waits beside a free slot."""

import asyncio
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.capacity import Capacity
from gateway.errors import BackendBroke, BackendFull, ClientGone, Contended, DeadlinePassed, NoCapacity
from gateway.pool import Pool
from gateway.vocab import Call
from policies.base import Hold, PolicyOptions, PoolView, Take
from policies.spill_when_full import SpillWhenFull
from tests.pool.parts import Attempt, Rig, call, holding
from tests.support.timers import CountedTimers
from tests.support.virtual_time import LoopClock, VirtualLoop

ENDINGS: tuple[type[Exception] | None, ...] = (None, BackendBroke, BackendFull, ClientGone, KeyError)
NOWHERE: tuple[tuple[str, int], ...] = ()

arrivals = st.tuples(
    st.just("arrive"),
    st.integers(0, 1),  # which pool
    st.sampled_from([5.0, 5.0, 0.3, 0.02, 0.0]),  # seconds until its deadline
    st.sampled_from([0.01, 0.2, 3.0, 0.0]),  # seconds it runs
    st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 4]),  # how it ends
    st.sampled_from([NOWHERE] * 6 + [(("fleet", 0),), (("fleet", 0), ("fleet", 1)), (("burst", 0),)]),
    st.sampled_from([True] * 9 + [False]),  # inference
)
crowds = st.tuples(st.just("crowd"), st.integers(1, 12), arrivals)
steps = st.one_of(
    arrivals,
    crowds,
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("cut"), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("lose")),
    st.tuples(st.just("recover")),
    st.tuples(st.just("probe"), st.integers(0, 1), st.booleans()),
    st.tuples(st.just("tick"), st.integers(1, 3)),
    st.tuples(st.just("pass"), st.sampled_from([0.01, 0.005, 0.04, 0.2, 1.1])),
    st.tuples(st.just("pass"), st.sampled_from([0.01, 0.005, 0.04, 0.2, 1.1])),
    st.tuples(st.just("stall"), st.sampled_from([0.01, 0.1])),
)
patience = st.sampled_from(
    [{"queue": "1s"}, {"queue": "40ms", "then": "shed"}, {"queue": "10ms"}, {"queue": "1m"}, "spill", "shed"]
)


class _Watched(SpillWhenFull):
    """The policy, checked against the plain statement of its rule for freed slots."""

    def slot_freed(self, backend: str, pool: PoolView, now: float, chance: Random) -> Take | None:
        take = super().slot_freed(backend, pool, now, chance)
        if take is not None:
            ahead = [r for r in pool.waiting if r.deadline < take.request.deadline]
            for earlier in ahead:
                alone: Any = _Alone(pool, earlier)
                assert super().slot_freed(backend, alone, now, chance) is None, "served out of order"
        return take


class _Alone:
    def __init__(self, pool: PoolView, request: Any) -> None:
        self.tiers = pool.tiers
        self.waiting = (request,)
        self.in_time = 1
        self.work = request.work
        self.reference = pool.reference
        self.caution = pool.caution


class _World:
    """Two pools on two backends, and everything that happened to the calls."""

    def __init__(self, fleet_full: object, burst_full: object) -> None:
        self.timers = CountedTimers(asyncio.get_running_loop())
        self.rig = Rig(
            fleet_slots=1, fleet_replicas=2, burst_slots=2, fleet_full=fleet_full, burst_full=burst_full,
            rule=_Watched(PolicyOptions()), clock=LoopClock(), timers=self.timers,
        )  # fmt: skip
        self.pools = [self.rig.pool, self.rig.another("chat", _Watched(PolicyOptions()))]
        self.running: dict[tuple[str, int], int] = {}
        self.tasks: list[asyncio.Task[str]] = []
        self.task_of: dict[Call, asyncio.Task[str]] = {}
        self.holding: list[asyncio.Event] = []

    async def live(self, pool: Pool, made: Call, attempt: Attempt, seconds: float, ending: int) -> str:
        """One call from start to end; the word for how it ended."""
        try:
            async with holding(pool.slot(made, attempt)) as slot:
                assert LoopClock().now() < made.deadline, "served after its deadline"
                place = (slot.backend.name, slot.replica)
                assert place not in attempt.tried
                if made.inference:
                    self.count(place, +1)
                try:
                    await self.work(seconds)
                    slot.answered(LoopClock().now())
                    error = ENDINGS[ending]
                    if error is not None:
                        raise error("as planned")
                finally:
                    if made.inference:
                        self.count(place, -1)
        except (Contended, NoCapacity, DeadlinePassed) as shed:
            return shed.word
        except (BackendBroke, BackendFull, ClientGone, KeyError):
            return "failed"
        return "ok"

    async def work(self, seconds: float) -> None:
        """Run for so long, or until the world says that it is done."""
        done = asyncio.Event()
        self.holding.append(done)
        try:
            async with asyncio.timeout(seconds):
                await done.wait()
        except TimeoutError:
            pass
        finally:
            self.holding.remove(done)

    def count(self, place: tuple[str, int], change: int) -> None:
        self.running[place] = self.running.get(place, 0) + change
        assert 0 <= self.running[place] <= (1 if place[0] == "fleet" else 2), "more calls than slots"

    def check(self) -> None:
        """What must hold whenever nothing is about to happen."""
        now = LoopClock().now()
        for supply in (self.rig.fleet, self.rig.burst):
            self.check_counts(supply)
            if not supply.free():
                continue
            for pool in self.pools:
                freed = pool.policy.slot_freed(supply.name, pool, now, self.rig.chance)
                assert freed is None, f"{supply!r} is idle beside {pool!r}"
        for pool in self.pools:
            for lease in pool.waiting:
                answer = pool.policy.recheck(lease, pool, now, self.rig.chance)
                assert isinstance(answer, Hold), f"a call waits that need not: {answer}"
                assert lease.wake_at <= answer.until
            order = [lease.deadline for lease in pool.waiting]
            assert order == sorted(order)

    def check_counts(self, supply: Capacity) -> None:
        """The running totals say what the replicas say."""
        now = LoopClock().now()
        assert 0 <= supply.in_flight <= supply.capacity
        assert (
            sum(pool.in_flight for pool in self.pools) == self.rig.fleet.in_flight + self.rig.burst.in_flight
        )
        room = 0
        for replica in supply.replicas:
            usable = replica.ready is not False and replica.breaker.allows(now)
            here = replica.slots.free if usable else 0
            room += here if replica.breaker.closed else min(1, here)
        assert supply.free() == room
        assert (supply.blocked is None) is any(
            replica.ready is not False and replica.breaker.allows(now) for replica in supply.replicas
        )

    async def settle(self) -> None:
        """Let everything run that can run now."""
        for _ in range(12):
            await asyncio.sleep(0)

    def arrive(
        self, which: int, until: float, seconds: float, ending: int, tried: Any, inference: bool
    ) -> None:
        made = call(deadline=LoopClock().now() + until, inference=inference)
        attempt = Attempt(1 if tried else 0, frozenset(tried))
        work = self.live(self.pools[which], made, attempt, seconds, ending)
        self.task_of[made] = task = asyncio.get_running_loop().create_task(work)
        self.tasks.append(task)

    async def cut(self, which: int, late: bool) -> None:
        """A call ends, and a call that waits is cancelled in the tick in which it is served, or wakes late."""
        waiting = [lease for pool in self.pools for lease in pool.waiting]
        if not waiting or not self.holding:
            return
        self.holding[which % len(self.holding)].set()
        await asyncio.sleep(0)
        served = [lease for lease in waiting if lease.slot]
        if late:
            self.stall(0.5)
            return
        self.task_of[(served or waiting)[0].call].cancel()

    def stall(self, seconds: float) -> None:
        """The loop is busy with something else: every timer is late."""
        asyncio.get_running_loop()._jumping.now += seconds  # type: ignore[attr-defined]

    async def do(self, step: tuple[Any, ...]) -> None:
        kind, *rest = step
        if kind == "arrive":
            self.arrive(*rest)
        elif kind == "crowd":
            for _ in range(rest[0]):
                self.arrive(*rest[1][1:])
        elif kind == "cancel" and self.tasks:
            self.tasks[rest[0] % len(self.tasks)].cancel()
        elif kind == "cut":
            await self.cut(*rest)
        elif kind == "lose":
            self.rig.unready(self.rig.fleet)
        elif kind == "recover":
            for index in (0, 1):
                self.rig.fleet.note_ready(index, True, LoopClock().now())
        elif kind == "probe":
            self.rig.fleet.note_ready(rest[0], rest[1], LoopClock().now())
        elif kind == "tick":
            for _ in range(rest[0]):
                await asyncio.sleep(0)
        elif kind == "stall":
            self.stall(rest[0])
        elif kind == "pass":
            await asyncio.sleep(rest[0])
            await self.settle()
            self.check()


async def _history(script: list[tuple[Any, ...]], fleet_full: object, burst_full: object) -> None:
    world = _World(fleet_full, burst_full)
    for step in script:
        await world.do(step)
    ends = await asyncio.gather(*world.tasks, return_exceptions=True)
    for end in ends:
        assert isinstance(end, str | asyncio.CancelledError), end
    for pool in world.pools:
        assert (pool.in_flight, pool.queue_depth) == (0, 0)
    for supply in (world.rig.fleet, world.rig.burst):
        assert supply.in_flight == 0
        world.check_counts(supply)
        supply.close()
    assert not world.timers.live, "a timer is left"
    assert not any(world.running.values())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(steps, min_size=8, max_size=60), fleet_full=patience, burst_full=patience)
def test_slots_calls_and_timers_add_up_whatever_happens(
    script: list[tuple[Any, ...]], fleet_full: object, burst_full: object
) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(_history(script, fleet_full, burst_full))
