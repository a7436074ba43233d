"""What the admin port says at one moment, as plain values. Pure: knows the shape of its answers, no socket.

Answers are read with care: of another version something may be missing, and what is missing is unknown.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

_WANTED = (
    "overspill_cost_usd_total",
    "overspill_spill_budget_remaining_usd",
    "overspill_spill_budget_limit_usd",
    "overspill_spill_budget_refused_total",
    "overspill_spill_budget_overrun_total",
)


class RouteState(NamedTuple):
    """One route. Counts are since the gateway started; None: not known."""

    name: str
    ready: bool
    queue: int
    placed: Mapping[str, int]
    requests: int
    outcomes: Mapping[str, int]
    warm: int
    cold: int
    p50_s: float | None
    p95_s: float | None
    within_s: float | None
    attained: float | None
    objective: float | None
    usd_per_1k: float | None
    limit_usd: float | None
    left_usd: float | None
    refused: int
    """Attempts that the spill budget did not grant."""
    overrun: int
    """Attempts that were granted beyond it."""


class BackendState(NamedTuple):
    """One backend. `usd` is what it has cost since the gateway started; None: not known."""

    name: str
    owned: bool
    ready: bool
    blocked: str | None
    breaker: str
    replicas: int
    replicas_ready: int
    in_flight: int
    capacity: int
    free: int
    idle: int | None
    opening: int | None
    usd: float | None


class Snapshot(NamedTuple):
    """All of it. `at` is monotonic, `wall` for people."""

    at: float
    wall: float
    routes: tuple[RouteState, ...]
    backends: tuple[BackendState, ...]
    revision: str
    rejected_at: str | None
    problems: tuple[str, ...]


class Missing(NamedTuple):
    """There was no answer, or none that can be used; `why` in words."""

    at: float
    wall: float
    why: str


def snapshot(
    routes: Mapping[str, Any],
    backends: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: str,
    *,
    at: float,
    wall: float,
) -> Snapshot:
    """Of the answers to the four questions. ValueError where they cannot be used."""
    money = _Money(metrics)
    try:
        rejected = config.get("rejected")
        return Snapshot(
            at,
            wall,
            tuple(_route(entry, money) for entry in routes["routes"]),
            tuple(_backend(entry, money) for entry in backends["backends"]),
            str((config.get("running") or {}).get("revision", "")),
            None if rejected is None else str(rejected.get("at", "")),
            () if rejected is None else tuple(map(_problem, rejected.get("problems", ()))),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"the answer is not an admin port's of this version: {error!r}") from None


class _Money:
    """The few metrics that the JSON answers do not have."""

    def __init__(self, text: str) -> None:
        lines = (line for line in text.splitlines(keepends=True) if line.startswith(_WANTED))
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = {name: [] for name in _WANTED}
        for family in text_string_to_metric_families("".join(lines)):
            for sample in family.samples:
                if sample.name in self._samples:
                    self._samples[sample.name].append((sample.labels, sample.value))

    def cost(self, backend: str) -> float:
        return sum(usd for labels, usd in self._samples[_WANTED[0]] if labels.get("backend") == backend)

    def left(self, route: str) -> float | None:
        return self._of(_WANTED[1], route)

    def limit(self, route: str) -> float | None:
        return self._of(_WANTED[2], route)

    def refused(self, route: str) -> int:
        return int(self._of(_WANTED[3], route) or 0)

    def overrun(self, route: str) -> int:
        return int(self._of(_WANTED[4], route) or 0)

    def _of(self, name: str, route: str) -> float | None:
        return next((usd for labels, usd in self._samples[name] if labels.get("route") == route), None)


def _route(entry: Mapping[str, Any], money: _Money) -> RouteState:
    latency, start = entry.get("latency_s") or {}, entry.get("start") or {}
    budget = entry.get("latency_budget") or {}
    name = entry["name"]
    return RouteState(
        name=name,
        ready=bool(entry["ready"]),
        queue=entry["queue_depth"],
        placed=entry["requests_by_backend"],
        requests=entry["requests"],
        outcomes=entry["outcomes"],
        warm=start.get("warm", 0),
        cold=start.get("cold", 0),
        p50_s=latency.get("p50"),
        p95_s=latency.get("p95"),
        within_s=budget.get("within_s"),
        attained=budget.get("attained"),
        objective=budget.get("objective"),
        usd_per_1k=entry.get("cost_per_1k_requests_usd"),
        limit_usd=money.limit(name),
        left_usd=money.left(name),
        refused=money.refused(name),
        overrun=money.overrun(name),
    )


def _backend(entry: Mapping[str, Any], money: _Money) -> BackendState:
    replicas = [each for each in entry["replicas"] if not each.get("leaving")]
    instances = entry.get("instances") or {}
    known = bool(entry.get("price_known"))
    return BackendState(
        name=entry["name"],
        owned=bool(entry["owned"]),
        ready=bool(entry["ready"]),
        blocked=entry.get("blocked"),
        breaker=_worst(str(each.get("breaker", "closed")) for each in replicas),
        replicas=len(replicas),
        replicas_ready=sum(each.get("ready") is not False for each in replicas),
        in_flight=entry["in_flight"],
        capacity=entry["capacity"],
        free=entry["free"],
        idle=instances.get("idle"),
        opening=instances.get("opening"),
        usd=money.cost(entry["name"]) + (entry.get("idle_usd") or 0.0) if known else None,
    )


def _worst(states: Iterable[str]) -> str:
    order = ("closed", "half_open", "open")
    return max(states, key=lambda state: order.index(state) if state in order else 0, default="closed")


def _problem(problem: Mapping[str, Any]) -> str:
    place = ":".join(str(problem[word]) for word in ("file", "line", "column") if word in problem)
    return f"{place}: {problem.get('path', '')}: {problem.get('message', '')}"
