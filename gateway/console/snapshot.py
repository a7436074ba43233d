"""One look at the gateway as the console shows it: plain values, a few kilobytes, no secret, header or body.

Puts figures, reports and history side by side. Pure; knows no HTTP and no page.
"""

from collections.abc import Mapping
from typing import Any

from gateway.config.status import ConfigStatus
from gateway.console.attention import CLOSED, attention
from gateway.console.figures import Figures, Money, spill_budget
from gateway.console.history import History
from gateway.console.lately import Lately
from gateway.console.one_more import Spilled, one_more
from gateway.glance import Glance

_OF_REPLICA = ("name", "ready", "breaker", "in_flight", "capacity")
MOST_PROBLEMS = 20
"""Of a rejected file."""
MOST_REPLICAS = 64
"""Of one backend."""


def snapshot(
    glance: Glance, config: ConfigStatus, history: History, lately: Lately, wall: float
) -> dict[str, Any]:
    """All that the page shows but the points of the past. `wall`: Unix time of the look."""
    figures = Figures(glance.metrics)
    money = Money(figures)
    backends = _backends(glance, figures, money, wall)
    status = config.as_dict()
    running, rejected = status["running"], status["rejected"]
    if rejected is not None:
        rejected = {**rejected, "problems": rejected["problems"][:MOST_PROBLEMS],
                    "count": len(rejected["problems"])}  # fmt: skip
    build = figures.of("build_info")
    return {
        "at": wall,
        "version": build[0][0]["version"] if build else "",
        "status": glance.status,
        "workers": figures.one("workers"),
        "attention": attention(glance, figures, lately, backends, rejected),
        "config": {"revision": running["revision"], "since": running["since"], "rejected": rejected},
        "total": _total(glance, figures, money),
        "routes": [_route(each, glance, figures, money, history) for each in glance.routes],
        "backends": backends,
        "decisions": glance.decisions,
    }


def _total(glance: Glance, figures: Figures, money: Money) -> dict[str, Any]:
    placed = sum(sum(each["requests_by_backend"].values()) for each in glance.routes)
    spilled = sum(
        (each["spill_share"] or 0.0) * sum(each["requests_by_backend"].values()) for each in glance.routes
    )
    calls = figures.total("latency_budget_requests_total")
    missed = figures.total("latency_budget_missed_total")
    objectives = [value for _, value in figures.of("latency_budget_objective")]
    return {
        "requests": figures.total("requests_total"),
        "in_flight": figures.total("in_flight"),
        "queued": figures.total("queue_depth"),
        "spill_share": spilled / placed if placed else None,
        "attained": 1.0 - missed / calls if calls else None,
        "objective": max(objectives, default=None),
        "start": {
            word: figures.total("starts_total", start=word) for word in ("warm", "cold", "unknown")
        },
        "usd_per_1k": money.per_thousand(),
        "usd": {
            "warm": money.usd(owned=True),
            "idle": money.idle_usd(),
            "spill": money.usd(owned=False),
        },
    }  # fmt: skip


def _route(
    each: Mapping[str, Any], glance: Glance, figures: Figures, money: Money, history: History
) -> dict[str, Any]:
    name = each["name"]
    point = history.last(name)
    words = ("name", "match", "backends", "ready", "queue_depth", "latency_budget", "latency_s", "requests",
             "requests_by_backend", "outcomes", "reasons", "start", "spill_share")  # fmt: skip
    return {
        **{word: each[word] for word in words},
        "blocked": {
            backend: CLOSED.get(why, why) for backend, why in glance.reasons.get(name, {}).items()
        },
        "now": None if point is None else point._asdict(),
        "usd_per_1k": money.per_thousand_of(name),
        "spill_budget": spill_budget(figures, "route", name),
    }  # fmt: skip


def _backends(glance: Glance, figures: Figures, money: Money, wall: float) -> list[dict[str, Any]]:
    started = figures.started()
    spilled = Spilled(None if started is None else wall - started, money.usd(owned=False))
    kinds = {said["backend"]: said["type"] for said, _ in figures.of("backend_info")}
    entries = []
    for each in glance.backends:
        name = each["name"]
        hourly = figures.one("replica_usd_per_hour", backend=name)
        entries.append(
            {
                **{word: each[word] for word in ("name", "owned", "ready", "in_flight", "capacity", "free",
                                                 "price_known", "idle_usd", "recommended_replicas")},
                "type": kinds.get(name, ""),
                "closed": None if each["blocked"] is None else CLOSED.get(each["blocked"], each["blocked"]),
                "slots": {
                    said["state"]: value for said, value in figures.of("slots", backend=name)
                },
                "breaker": int(figures.one("breaker_state", backend=name) or 0),
                "replicas": [
                    {word: replica.get(word) for word in _OF_REPLICA}
                    for replica in each["replicas"][:MOST_REPLICAS]
                ],
                "pushbacks": figures.total("pushbacks_total", backend=name),
                "usd_per_replica_hour": hourly,
                "usd": figures.total("cost_usd_total", backend=name) if each["price_known"] else None,
                "spill_budget": spill_budget(figures, "backend", name),
                "one_more": one_more(each, hourly, spilled),
            }
        )  # fmt: skip
    return entries
