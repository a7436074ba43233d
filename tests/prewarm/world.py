"""A pool in whole seconds: fleet slots, one rented backend, a controller that ticks. Nothing opens by itself."""

from collections.abc import Iterable
from math import exp
from random import Random

from gateway.config.schema import Prewarm
from gateway.prewarm import Controller, Plan, State
from gateway.vocab import Rent
from gateway.warmth import Idle

START = 1_000.0
RENT = Rent(usd_per_second=0.0003, idle_s=5.0)
ALLOWED = Prewarm(max_instances=4, usd_per_hour=100.0, miss_usd=0.001)


def state(**changes: object) -> State:
    """Two fleet slots, calls of 0.5 s that must be answered in 2 s, cold starts of 6 s."""
    usual = State(
        backend="burst",
        fleet_slots=2,
        fleet_busy=0,
        opening=0,
        serving=0,
        idle=(),
        queued=0,
        room=100,
        rent=RENT,
        cold_mean_s=6.0,
        cold_tail_s=12.0,
        service_mean_s=0.5,
        service_tail_s=1.0,
        budget_s=2.0,
    )
    return usual._replace(**changes)  # type: ignore[arg-type]


def poisson(rate: float, chance: Random) -> int:
    """One Poisson count (Knuth)."""
    limit, product, count = exp(-rate), chance.random(), 0
    while product > limit:
        product *= chance.random()
        count += 1
    return count


class Life:
    """One instance of the world."""

    def __init__(self, ready: float) -> None:
        self.ready = ready
        self.used = self.touched = ready


class World:
    """Runs counts per second through a controller and carries out its plans."""

    def __init__(self, options: Prewarm | None = ALLOWED, **changes: object) -> None:
        self.now = START
        self.controller = Controller("embed", options, now=START)
        self.usual = state(**changes)
        self.alive: list[Life] = []
        self.plans: list[tuple[float, Plan]] = []
        self.most = 0

    @property
    def opened(self) -> list[float]:
        """When instances were opened, one entry each."""
        return [when - START for when, plan in self.plans for _ in range(plan.open)]

    @property
    def pinged(self) -> list[float]:
        """When instances were pinged."""
        return [when - START for when, plan in self.plans for _ in range(plan.ping)]

    def run(self, counts: Iterable[int]) -> "World":
        """One second for each count."""
        for count in counts:
            for place in range(count):
                self.controller.arrived(self.now + place / count)
            self.now += 1.0
            self._serve(count)
            self._tick(count)
        return self

    def _serve(self, count: int) -> None:
        rent = self.usual.rent
        idle_s = rent.idle_s if rent is not None else 0.0
        self.alive = [life for life in self.alive if self.now < life.touched + idle_s]
        needed = count * self.usual.service_mean_s - self.usual.fleet_slots
        ready = [life for life in self.alive if life.ready <= self.now]
        for place, life in enumerate(sorted(ready, key=lambda life: -life.used)):
            if place < needed:
                self.controller.gap(max(0.0, self.now - life.used), self.now)
                life.used = life.touched = self.now

    def _tick(self, count: int) -> None:
        up = [life for life in self.alive if life.ready <= self.now]
        now = self.now
        shown = self.usual._replace(
            opening=len(self.alive) - len(up),
            idle=tuple(Idle(now - life.touched, now - life.used) for life in up),
            fleet_busy=min(self.usual.fleet_slots, int(count * self.usual.service_mean_s)),
        )
        plan = self.controller.tick(now, shown)
        self.plans.append((now, plan))
        for life in sorted(up, key=lambda life: life.touched)[: plan.ping]:
            life.touched = now
        self.alive += [Life(now + self.usual.cold_mean_s) for _ in range(plan.open)]
        self.most = max(self.most, len(self.alive))
