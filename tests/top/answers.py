"""Answers of an admin port, as plain values."""

from typing import Any

from gateway.top.snapshot import Snapshot, snapshot


def route(name: str = "chat", **more: Any) -> dict[str, Any]:
    return {
        "name": name, "match": "", "backends": ["fleet", "rented"], "ready": True, "queue_depth": 0,
        "latency_budget": {
            "within_s": 0.5, "objective": 0.99, "calls": 100, "missed": 1, "attained": 0.99,
        },
        "latency_s": {"p50": 0.12, "p95": 0.4, "p99": 0.6},
        "cost_per_1k_requests_usd": 0.31, "requests": 100,
        "requests_by_backend": {"fleet": 90, "rented": 10},
        "outcomes": {"ok": 100}, "reasons": {}, "start": {"warm": 95, "cold": 5, "unknown": 0},
        "spill_share": 0.1,
    } | more  # fmt: skip


def backend(name: str = "fleet", **more: Any) -> dict[str, Any]:
    replica = {"name": f"{name}-0", "ready": True, "breaker": "closed", "leaving": False}
    return {
        "name": name, "owned": name == "fleet", "ready": True, "blocked": None, "in_flight": 3,
        "capacity": 8, "free": 5, "replicas": [replica, replica], "instances": {}, "price_known": True,
        "idle_usd": 1.25,
    } | more  # fmt: skip


METRICS = """
# TYPE overspill_cost_usd_total counter
overspill_cost_usd_total{route="chat",backend="fleet",kind="fleet"} 0.5
overspill_cost_usd_total{route="chat",backend="rented",kind="spill"} 0.25
overspill_cost_usd_total{route="chat",backend="rented",kind="retry"} 0.05
overspill_spill_budget_limit_usd{route="chat"} 10.0
overspill_spill_budget_remaining_usd{route="chat"} 7.5
overspill_request_duration_seconds_bucket{route="chat",le="1"} 7
"""
RUNNING: dict[str, Any] = {"running": {"revision": "abc123def456", "since": "", "text": ""}, "rejected": None}


def look(
    at: float = 0.0,
    routes: list[dict[str, Any]] | None = None,
    backends: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    metrics: str = METRICS,
) -> Snapshot:
    return snapshot(
        {"routes": [route()] if routes is None else routes},
        {"backends": [backend(), backend("rented")] if backends is None else backends},
        RUNNING if config is None else config,
        metrics,
        at=at,
        wall=1_800_000_000.0 + at,
    )
