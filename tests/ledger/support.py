"""Ledgers with one route and two backends, and calls that went through them."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from random import Random

from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as _untyped

from backends.base import Backend, BackendOptions, Kit, SpillBudget
from gateway.access_log import AccessLog
from gateway.clock import FakeClock
from gateway.config.status import ConfigStatus
from gateway.ledger import Ledger
from gateway.record import Record
from gateway.reload import Reloader
from gateway.retry_budget import RetryBudgets
from gateway.spending import Budget, Spending
from gateway.tallies import BackendFacts, RouteFacts
from gateway.vocab import Call, Outcome, Reason, Reply, Start, Usage

FLEET = BackendFacts("fleet", owned=True, usd_per_replica_hour=3.6, replicas=2, slots_per_replica=4)
"""$0.001 per replica second, $0.00025 per slot second, $0.002 per second for all of it."""
BURST = BackendFacts("burst", owned=False, slots_per_replica=40)
EMBED = RouteFacts("embed", within=0.25, objective=0.99, backends=("fleet", "burst"), match="minilm")
T0 = 1_000.0

parse_openmetrics: Callable[[str], Iterable[Metric]] = _untyped


def ledger(
    *backends: BackendFacts, routes: tuple[RouteFacts, ...] = (EMBED,), log: AccessLog | None = None
) -> Ledger:
    return Ledger(routes=routes, backends=backends or (FLEET, BURST), now=T0, access_log=log)


def opened(
    book: Ledger,
    at: float = T0,
    *,
    route: str = "embed",
    backend: str = "fleet",
    held_from: float | None = None,
) -> Record:
    """A call that has a slot since `held_from` (its arrival when not given)."""
    record = book.open("req-1", "", at)
    record.protocol, record.operation, record.model, record.route = "kserve", "infer", "minilm", route
    reason = Reason.WARM if backend == "fleet" else Reason.SPILL_FULL
    record.took(backend, f"{backend}-0", reason, at if held_from is None else held_from)
    return record


def answered(
    book: Ledger,
    at: float = T0,
    *,
    seconds: float = 0.1,
    route: str = "embed",
    backend: str = "fleet",
    usage: Usage | None = None,
    start: Start = Start.WARM,
) -> Record:
    """A call that took `seconds`, all of them on its backend."""
    record = opened(book, at, route=route, backend=backend)
    record.outcome, record.status, record.start, record.usage = Outcome.OK, 200, start, usage
    record.head_at = record.first_byte_at = at + seconds
    record.upstream_s = seconds
    book.close(record, at + seconds)
    book.settle()
    return record


def usd_of(book: Ledger, backend: str) -> float:
    """All that calls were charged on a backend."""
    return sum(sum(lane.usd.values()) for (_, name), lane in book.lanes.items() if name == backend)


class Elastic(Backend):
    """A rented backend with nothing behind it."""

    def __init__(self, name: str, replicas: int = 1) -> None:
        options = BackendOptions(type="nothing", max_in_flight=4)
        super().__init__(name, options, Kit(FakeClock(), Random(1), _spawn))
        self._names = [f"{name}-{index}" for index in range(replicas)]

    @property
    def replicas(self) -> list[str]:
        return self._names

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        raise NotImplementedError

    def instances(self, now: float) -> dict[str, int]:
        return {"opening": 1, "busy": 2, "idle": 3}


class Owned(Elastic):
    """An owned one."""

    owned = True

    def instances(self, now: float) -> dict[str, int]:
        return {}


def _spawn(work: object, /, *, name: str) -> None:
    raise NotImplementedError


class Queue:
    """A pool, as far as it is shown."""

    def __init__(self, route: str, queue_depth: int = 0) -> None:
        self.route = route
        self.queue_depth = queue_depth


class Slots:
    """The slots of a backend, as far as they are shown; a test sets what it wants to see."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.in_flight = 0
        self.capacity = 4 * len(backend.replicas)
        self.blocked: Reason | None = None
        self.probed: list[bool | None] = [None] * len(backend.replicas)
        self.breakers = ["closed"] * len(backend.replicas)

    def ready(self, replica: int) -> bool | None:
        return self.probed[replica]

    def breaker_state(self, replica: int) -> str:
        return self.breakers[replica]

    def view(self, now: float) -> dict[str, object]:
        replicas = [
            {
                "name": name,
                "in_flight": 0,
                "capacity": 4,
                "ready": self.probed[index],
                "breaker": self.breakers[index],
                "load": None,
            }
            for index, name in enumerate(self.backend.replicas)
        ]
        return {"backend": self.backend.name, "in_flight": self.in_flight, "replicas": replicas}

    def lose(self) -> None:
        """No replica passes its probes."""
        self.probed = [False] * len(self.probed)
        self.blocked = Reason.SPILL_UNHEALTHY


class State:
    """A gateway, as far as its admin port looks at it."""

    def __init__(self, book: Ledger | None = None) -> None:
        self.clock = FakeClock(now=T0)
        self.ledger = book or ledger()
        self.draining = False
        self.fleet = Slots(Owned("fleet", 2))
        self.burst = Slots(Elastic("burst"))
        self.capacities = {"fleet": self.fleet, "burst": self.burst}
        self.pools = {"embed": Queue("embed", 3)}
        limits = SpillBudget(usd_per_hour=5)
        self.spending = Spending(
            routes={"embed": Budget("route embed", limits)},
            backends={"burst": Budget("backend burst", limits)},
        )
        self.retries = RetryBudgets(["embed"], share=0.2, floor_per_second=10.0, now=T0)
        text = "version: 1\nbackends:\n  burst:\n    api_key: {env: RUNPOD_API_KEY}\n"
        self.config = ConfigStatus(text, 1_700_000_000.0)
        self.reloader: Reloader | None = None
