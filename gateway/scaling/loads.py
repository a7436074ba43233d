"""What one process says of the load of its owned backends, and what several say of it together.

Reads the ledger and the gauges, changes nothing, and never judges what it reads. A route's spill counts for
the first owned backend among its tiers: that is who would have carried it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.ledger import Ledger
from gateway.metrics import CapacityView, QueueView
from gateway.scaling.rule import Load
from gateway.tallies import NONE, OTHER

_OPEN = "open"


def loads(
    ledger: Ledger, capacities: Mapping[str, CapacityView], pools: Mapping[str, QueueView], now: float
) -> dict[str, Load]:
    """By the name of each owned backend."""
    routes = _routes(ledger)
    held = ledger.slots_held()
    found = {}
    for name, capacity in capacities.items():
        facts = ledger.backends.get(name)
        if not capacity.backend.owned or facts is None:
            continue
        view = capacity.view(now)
        standing = [each for each in view["replicas"] if not each["leaving"]]
        mine = routes.get(name, frozenset())
        found[name] = Load(
            replicas=len(standing),
            ready=sum(each["ready"] is not False and each["breaker"] != _OPEN for each in standing),
            slots=max(1, int(facts.slots_per_replica)),
            in_flight=view["in_flight"],
            queued=sum(pools[route].queue_depth for route in mine if route in pools),
            spilled=sum(
                count
                for (route, backend), count in held.items()
                if route in mine and _rented(ledger, backend)
            ),
            spill_usd=_spill_usd(ledger, mine),
            replica_usd_per_hour=facts.usd_per_replica_hour,
        )
    return found


def _routes(ledger: Ledger) -> dict[str, frozenset[str]]:
    """The routes of which each owned backend comes first."""
    found: dict[str, set[str]] = {}
    for name, route in ledger.routes.items():
        if name == OTHER:
            continue
        for backend in route.facts.backends:
            facts = ledger.backends.get(backend)
            if facts is not None and facts.owned:
                found.setdefault(backend, set()).add(name)
                break
    return {name: frozenset(several) for name, several in found.items()}


def _rented(ledger: Ledger, backend: str) -> bool:
    facts = ledger.backends.get(backend)
    return facts is not None and not facts.owned


def _spill_usd(ledger: Ledger, routes: frozenset[str]) -> float | None:
    """Dollars that these routes cost on rented backends; None once some of it is not known."""
    total = 0.0
    for (route, backend), lane in ledger.lanes.items():
        if route not in routes or backend == NONE or lane.owned:
            continue
        if not lane.cost_known and (lane.duration.count > 0 or any(lane.usd.values())):
            return None
        total += sum(lane.usd.values())
    return total


def merged(several: Sequence[Mapping[str, Load]]) -> dict[str, Load]:
    """The loads of processes that share the replicas, as one: each has calls of its own."""
    found: dict[str, Load] = {}
    for each in several:
        for name, load in each.items():
            other = found.get(name)
            if other is None:
                found[name] = load
                continue
            both = (other.spill_usd, load.spill_usd)
            found[name] = Load(
                replicas=max(other.replicas, load.replicas),
                ready=max(other.ready, load.ready),
                slots=max(other.slots, load.slots),
                in_flight=other.in_flight + load.in_flight,
                queued=other.queued + load.queued,
                spilled=other.spilled + load.spilled,
                spill_usd=None if None in both else sum(usd for usd in both if usd is not None),
                replica_usd_per_hour=load.replica_usd_per_hour,
            )
    return found


class Workers:
    """The loads of several workers. One that ended counts on with what it had spent: sums must not fall."""

    def __init__(self, count: int) -> None:
        self._last: list[tuple[int, dict[str, Load]] | None] = [None] * count
        self._ended: dict[str, Load] = {}

    def told(self, answers: Sequence[Mapping[str, Any] | None]) -> dict[str, Load]:
        """What they say, each `{"pid": …, "loads": {BACKEND: [fields of a Load]}}`; None: it does not."""
        alive: list[dict[str, Load]] = []
        silent: list[dict[str, Load]] = []
        for worker, answer in enumerate(answers):
            last = self._last[worker]
            if answer is None:
                silent += [] if last is None else [_spent_only(last[1])]
                continue
            said = {name: Load(*fields) for name, fields in answer["loads"].items()}
            if last is not None and last[0] != answer["pid"]:
                self._ended = merged([self._ended, _spent_only(last[1])])
            self._last[worker] = (answer["pid"], said)
            alive.append(said)
        now = merged(alive)
        whole = merged([*alive, *silent, self._ended])
        return {name: whole[name]._replace(**_standing(load)) for name, load in now.items()}


def _standing(load: Load) -> dict[str, Any]:
    names = ("replicas", "ready", "slots", "replica_usd_per_hour")
    return {name: getattr(load, name) for name in names}


def _spent_only(loads: Mapping[str, Load]) -> dict[str, Load]:
    """What is left of the loads of a process that has ended: its money."""
    return {name: load._replace(in_flight=0, queued=0, spilled=0) for name, load in loads.items()}
