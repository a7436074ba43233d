"""What a policy sees, as plain values: for tests of policies without a pool."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from gateway.vocab import Reason
from policies.base import Queue, TierOptions, TierView

NOW = 5_000.0


@dataclass
class Tier:
    options: TierOptions
    owned: bool = True
    blocked: Reason | None = None
    free: int = 0
    in_flight: int = 0
    capacity: int = 4


@dataclass
class Request:
    since: float = NOW
    deadline: float = NOW + 60
    attempt: int = 0
    lot: float = 0.5
    refused: frozenset[str] = frozenset()
    """Backends it may not use."""
    missed: frozenset[str] = frozenset()
    """Backends whose free slots are all on replicas that failed it."""

    def may_use(self, backend: str) -> bool:
        return backend not in self.refused

    def free_on(self, tier: TierView) -> bool:
        return tier.free > 0 and tier.options.backend not in self.refused | self.missed


@dataclass
class Pool:
    tiers: list[Tier]
    waiting: list[Request] = field(default_factory=list)


def tier(name: str, when_full: object = "spill", *, weight: float = 1.0, **state: Any) -> Tier:
    options = TierOptions.model_validate({"backend": name, "when_full": when_full, "weight": weight})
    return Tier(options, **state)


def queue(seconds: float, then: str = "spill") -> Queue:
    return Queue.model_validate({"queue": f"{round(seconds * 1000)}ms", "then": then})


def any_tier(chance: Random, name: str) -> Tier:
    """Any tier there could be."""
    blocked = chance.choice([None, None, None, Reason.SPILL_UNHEALTHY, Reason.SPILL_BREAKER])
    when_full = chance.choice(
        ["spill", "shed", queue(chance.choice([0.01, 0.04, 1.0]), chance.choice(["spill", "shed"]))]
    )
    capacity = chance.randint(1, 8)
    free = 0 if blocked else chance.choice([0, 0, 1, capacity])
    return tier(
        name, when_full, weight=chance.choice([0.0, 0.1, 1.0, 5.0]), owned=chance.random() < 0.5,
        blocked=blocked, free=free, in_flight=capacity - free, capacity=capacity,
    )  # fmt: skip


def any_request(chance: Random, names: list[str], *, waited: bool) -> Request:
    """Any call there could be, as far as it has not missed its deadline."""
    since = NOW - (chance.choice([0.0, 0.005, 0.01, 0.04, 0.05, 1.0, 2.0]) if waited else 0.0)
    return Request(
        since=since,
        deadline=NOW + chance.choice([0.001, 0.02, 0.2, 5.0, float("inf")]),
        attempt=chance.choice([0, 0, 0, 1, 2]),
        lot=chance.random(),
        refused=frozenset(name for name in names if chance.random() < 0.15),
        missed=frozenset(name for name in names if chance.random() < 0.15),
    )


def any_pool(chance: Random) -> Pool:
    """Any pool there could be, its queue in order."""
    names = [f"tier-{n}" for n in range(chance.randint(1, 4))]
    waiting = [any_request(chance, names, waited=True) for _ in range(chance.randint(0, 6))]
    waiting.sort(key=lambda request: request.deadline)
    return Pool([any_tier(chance, name) for name in names], waiting)
