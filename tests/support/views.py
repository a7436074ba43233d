"""What a policy sees, as plain values: for tests of policies without a pool."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from gateway.vocab import Reason, Rent
from policies.base import ProviderQueueView, Queue, RequestView, TierOptions, TierView

NOW = 5_000.0


class Expected(NamedTuple):
    """An estimate, in seconds."""

    mean: float = 0.0
    deviation: float = 0.0
    tail: float = 0.0


UNKNOWN = Expected()


@dataclass
class Tier:
    options: TierOptions
    owned: bool = True
    blocked: Reason | None = None
    free: int = 0
    in_flight: int = 0
    capacity: int = 4
    rent: Rent | None = None
    warm: int = 0
    still_there: float = 1.0
    """The chance that what idles has not gone."""
    opening: tuple[float, ...] = ()
    room: int = 0
    claimants: int = 1
    provider_queue: ProviderQueueView | None = None
    calibration: float = 1.0
    overall: Expected = UNKNOWN
    cold: Expected = UNKNOWN
    services: tuple[Expected, ...] = ()
    """By bucket; `overall` where there are none."""
    first_byte: Expected | None = None
    """Of streams; the service where it is not given."""

    @property
    def name(self) -> str:
        return self.options.backend

    @property
    def idle(self) -> range:
        return range(self.warm)

    def alive(self, now: float) -> float:
        return self.still_there

    def up_by(self, until: float, now: float) -> float:
        slow = now + 0.5 * self.cold.deviation
        return sum(max(0.0, until - (up_at if up_at > now else slow)) for up_at in self.opening)

    def service(self, request: RequestView) -> Expected:
        return self.services[request.bucket] if self.services else self.overall

    def answer(self, request: RequestView) -> Expected:
        if request.stream and self.first_byte is not None:
            return self.first_byte
        return self.service(request)


@dataclass
class Request:
    since: float = NOW
    deadline: float = NOW + 60
    attempt: int = 0
    lot: float = 0.5
    refused: frozenset[str] = frozenset()
    """Backends it may not use."""
    missed: frozenset[str] = frozenset()
    """Backends whose free slots are all on replicas that failed it; none before the first attempt."""
    within: float | None = None
    """Its latency budget from `since`; None without one."""
    bucket: int = 0
    priority: str = "default"
    stream: bool = False
    work: float = 0.0
    late: bool = False
    fields: Mapping[bytes, bytes] = field(default_factory=dict)

    @property
    def due(self) -> float:
        return self.deadline if self.within is None else min(self.since + self.within, self.deadline)

    def may_use(self, backend: str) -> bool:
        return backend not in self.refused

    def free_on(self, tier: TierView) -> bool:
        return tier.free > 0 and tier.options.backend not in self.refused | self.missed

    def header(self, name: bytes) -> bytes | None:
        return self.fields.get(name)


@dataclass
class Pool:
    tiers: list[Tier]
    waiting: list[Request] = field(default_factory=list)
    caution: float = 2.0
    recent_load: float = 0.0
    in_flight: int = 0
    opening: int = 0
    may_be_late: float = 0.0

    def load(self, now: float) -> float:
        return self.recent_load

    @property
    def in_time(self) -> int:
        return sum(not request.late for request in self.waiting)

    @property
    def work(self) -> float:
        return sum(request.work for request in self.waiting if not request.late)

    def ahead(self, request: RequestView) -> float:
        work = 0.0
        for other in self.waiting:
            if other is request or other.late or order(other) > order(request):
                break
            work += other.work
        return work

    def spare(self, now: float) -> float:
        return self.may_be_late

    @property
    def reference(self) -> Tier:
        return next((tier for tier in self.tiers if tier.owned), self.tiers[0])


def order(request: RequestView) -> tuple[bool, bool, float]:
    """Its place in the queue: those in time before those that are late, by class, then what is due first."""
    return request.late, not request.late and request.priority != "critical", request.due


def tier(name: str, when_full: object = "spill", *, weight: float = 1.0, **state: Any) -> Tier:
    options = TierOptions.model_validate({"backend": name, "when_full": when_full, "weight": weight})
    return Tier(options, **state)


def queue(seconds: float, then: str = "spill") -> Queue:
    return Queue.model_validate({"queue": f"{round(seconds * 1000)}ms", "then": then})


def any_estimate(chance: Random, *means: float) -> Expected:
    """Any estimate there could be: nothing known, no spread, a wide one."""
    mean = chance.choice(means)
    deviation = mean * chance.choice([0.0, 0.4, 2.0])
    return Expected(mean, deviation, mean + 2.3 * deviation)


def any_tier(chance: Random, name: str) -> Tier:
    """Any tier there could be."""
    blocked = chance.choice([None, None, None, Reason.SPILL_UNHEALTHY, Reason.SPILL_BREAKER])
    when_full = chance.choice(
        ["spill", "shed", queue(chance.choice([0.01, 0.04, 1.0]), chance.choice(["spill", "shed"]))]
    )
    capacity = chance.randint(1, 8)
    free = 0 if blocked else chance.choice([0, 0, 1, capacity])
    owned = chance.random() < 0.5
    made = tier(
        name, when_full, weight=chance.choice([0.0, 0.1, 1.0, 5.0]), owned=owned,
        blocked=blocked, free=free, in_flight=capacity - free, capacity=capacity,
        claimants=chance.choice([1, 1, 3]), overall=any_estimate(chance, 0.0, 0.005, 0.2, 20.0),
    )  # fmt: skip
    if chance.random() < 0.5:
        made.services = tuple(any_estimate(chance, 0.0, 0.005, 0.2, 20.0) for _ in range(BUCKETS))
    if chance.random() < 0.5:
        made.first_byte = any_estimate(chance, 0.0, 0.001, 0.05)
    if not owned:
        _rent(made, chance)
    return made


def _rent(made: Tier, chance: Random) -> None:
    """What only a rented tier has: a price, instances that idle, boot, or could be opened."""
    price = chance.choice([None, 0.0, 1e-4, 1e-3])
    made.rent = Rent(
        price, chance.choice([0.0, 1e-6]), idle_s=chance.choice([0.0, 5.0, 300.0]),
        bills_boot=chance.random() < 0.5, bills_idle=chance.random() < 0.5,
    )  # fmt: skip
    made.cold = any_estimate(chance, 0.0, 0.5, 6.0, 90.0)
    made.warm = chance.choice([0, made.free, chance.randint(0, made.free)])
    if chance.random() < 0.7:  # else only a call can make an instance boot
        made.room = made.free - made.warm
        booting = chance.choice([0, 0, chance.randint(0, made.in_flight)])
        made.opening = tuple(NOW + chance.choice([-3.0, 0.0, 0.01, 4.0]) for _ in range(booting))


BUCKETS = 3


def any_request(chance: Random, names: list[str], *, waited: bool) -> Request:
    """Any call there could be, as far as it has not missed its deadline."""
    since = NOW - (chance.choice([0.0, 0.005, 0.01, 0.04, 0.05, 1.0, 2.0]) if waited else 0.0)
    attempt = chance.choice([0, 0, 0, 1, 2])
    made = Request(
        since=since,
        deadline=NOW + chance.choice([0.001, 0.02, 0.2, 5.0, float("inf")]),
        attempt=attempt,
        lot=chance.random(),
        refused=frozenset(name for name in names if chance.random() < 0.15),
        missed=frozenset(name for name in names if attempt and chance.random() < 0.3),
        within=chance.choice([None, 0.01, 0.25, 1.5, 8.0]),
        bucket=chance.randrange(BUCKETS),
        priority=chance.choice(["default", "default", "critical"]),
        stream=chance.random() < 0.3,
        late=waited and chance.random() < 0.2,
    )
    if chance.random() < 0.3:
        made.fields = {b"x-backend": chance.choice([*names, "unknown", "", "\xff"]).encode("latin-1")}
    return made


def any_pool(chance: Random) -> Pool:
    """Any pool there could be, its queue in order."""
    names = [f"tier-{n}" for n in range(chance.randint(1, 4))]
    pool = Pool(
        [any_tier(chance, name) for name in names],
        caution=chance.choice([0.0, 1.0, 2.3]),
        recent_load=chance.choice([0.0, 0.5, 3.0, 100.0]),
        may_be_late=chance.choice([-3.0, 0.0, 0.5, 20.0]),
    )
    pool.opening = chance.randint(0, sum(len(tier.opening) for tier in pool.tiers))
    pool.in_flight = chance.randint(0, sum(tier.in_flight - len(tier.opening) for tier in pool.tiers))
    for _ in range(chance.randint(0, 6)):
        enqueue(pool, any_request(chance, names, waited=True))
    return pool


def enqueue(pool: Pool, request: Request) -> None:
    """Put a call where it belongs."""
    request.work = pool.reference.service(request).mean
    pool.waiting.append(request)
    pool.waiting.sort(key=order)
