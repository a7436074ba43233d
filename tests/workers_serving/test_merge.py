"""What several workers say of themselves, said as one."""

from typing import Any

from gateway.workers.merge import fold, merge_backends, merge_health, merge_metrics, merge_routes


def report(
    calls: int, *, running: int = 1, remaining: float = 2.0, usd: float | None = 1.0, slow: int = 0
) -> dict[str, Any]:
    """A worker that answered `calls`, `slow` of them after more than a second."""

    def family(name: str, kind: str, *samples: tuple[str, dict[str, str], float]) -> dict[str, Any]:
        return {
            "name": name,
            "type": kind,
            "help": "What it is.",
            "samples": [list(each) for each in samples],
        }

    route = {"route": "r"}
    return {
        "pid": 1,
        "health": {"status": "ready", "reasons": {}},
        "metrics": [
            family("overspill_requests", "counter", ("overspill_requests_total", route, float(calls))),
            family("overspill_in_flight", "gauge", ("overspill_in_flight", {"backend": "b"}, float(running))),
            family("overspill_capacity", "gauge", ("overspill_capacity", {"backend": "b"}, 8.0)),
            family(
                "overspill_spill_budget_remaining_usd", "gauge",
                ("overspill_spill_budget_remaining_usd", route, remaining),
            ),
            family(
                "overspill_cost_per_1k_requests_usd", "gauge",
                ("overspill_cost_per_1k_requests_usd", route, 77.0),
            ),
            family(
                "overspill_request_duration_seconds", "histogram",
                ("overspill_request_duration_seconds_bucket", {**route, "le": "1.0"}, float(calls - slow)),
                ("overspill_request_duration_seconds_bucket", {**route, "le": "+Inf"}, float(calls)),
            ),
        ],
        "routes": [
            {
                "name": "r", "match": "*", "backends": ["b"], "ready": True, "queue_depth": 2,
                "latency_budget": {"within_s": 1.0, "objective": 0.9, "calls": calls, "missed": slow, "attained": 0},
                "latency_s": {}, "cost_per_1k_requests_usd": 0, "requests": calls,
                "requests_by_backend": {"b": calls}, "outcomes": {"ok": calls}, "reasons": {"warm": calls},
                "start": {"warm": calls}, "spill_share": slow / calls if calls else None,
            }
        ],
        "sums": {
            "r": {
                "usd": usd, "served": calls, "edges": [1.0, 2.0], "counts": [calls - slow, slow, 0], "total": 0.5,
            }
        },
        "backends": [
            {
                "name": "b", "ready": True, "backend": "b", "owned": True, "blocked": None, "capacity": 8,
                "in_flight": running, "free": 8 - running, "held_s": 0.5, "instances": {"busy": running},
                "idle_usd": 0.25, "price_known": True,
                "replicas": [
                    {
                        "name": "x", "ready": None, "breaker": "closed", "in_flight": running, "capacity": 8,
                        "latency_s": 0.5, "leaving": False, "load": None,
                    }
                ],
            }
        ],
    }  # fmt: skip


def values(reports: list[dict[str, Any]], gone: list[dict[str, Any]]) -> dict[str, float]:
    return {
        sample.name + sample.labels.get("le", ""): sample.value
        for family in merge_metrics(reports, gone)
        for sample in family.samples
    }


def test_counters_and_histograms_are_added_and_gauges_are_what_they_mean() -> None:
    seen = values([report(30, running=3, slow=2), report(10, running=4, remaining=1.5, usd=3.0)], [])
    assert seen == {
        "overspill_requests_total": 40,
        "overspill_in_flight": 7,
        "overspill_capacity": 8,
        "overspill_spill_budget_remaining_usd": 1.5,
        "overspill_cost_per_1k_requests_usd": 100.0,
        "overspill_request_duration_seconds_bucket1.0": 38,
        "overspill_request_duration_seconds_bucket+Inf": 40,
    }


def test_ended_workers_count_for_what_they_did_and_not_for_what_they_had() -> None:
    gone: list[Any] = []
    for _ in range(5):
        gone = fold(gone, report(7, running=9))
    assert len(gone) == 1
    seen = values([report(30, running=3)], gone)
    assert seen["overspill_requests_total"] == 65
    assert seen["overspill_request_duration_seconds_bucket+Inf"] == 65
    assert seen["overspill_in_flight"] == 3
    (route,) = merge_routes([report(30)], gone)
    assert (route["requests"], route["queue_depth"]) == (65, 2)
    assert route["outcomes"] == {"ok": 65}
    assert route["cost_per_1k_requests_usd"] == 6000.0 / 65
    (backend,) = merge_backends([report(30, running=3)], gone)
    assert (backend["in_flight"], backend["free"], backend["idle_usd"]) == (3, 5, 1.5)


def test_a_route_of_several_workers_is_what_one_would_have_said_of_all_calls() -> None:
    (route,) = merge_routes([report(30, slow=30), report(10)])
    assert route["latency_budget"] == {
        "within_s": 1.0, "objective": 0.9, "calls": 40, "missed": 30, "attained": 0.25,
    }  # fmt: skip
    assert route["spill_share"] == 0.75
    assert route["latency_s"]["p50"] == 1.0 + 10 / 30
    assert merge_routes([report(1), report(1, usd=None)])[0]["cost_per_1k_requests_usd"] is None


def test_a_replica_is_as_broken_as_the_worst_worker_says_and_as_busy_as_all() -> None:
    worse = report(1, running=2)
    worse["backends"][0]["replicas"][0].update(breaker="open", ready=True, latency_s=None)
    worse["backends"][0].update(blocked="spill_breaker", free=0)
    (backend,) = merge_backends([report(1), worse])
    assert backend["blocked"] is None
    assert backend["replicas"][0]["breaker"] == "open"
    assert backend["replicas"][0]["ready"] is True
    assert backend["replicas"][0]["in_flight"] == 3
    assert backend["replicas"][0]["latency_s"] == 0.5
    assert merge_backends([worse])[0]["blocked"] == "spill_breaker"


def test_it_is_ready_while_one_worker_is() -> None:
    ready, lame, leaving = report(1), report(1), report(1)
    lame["health"] = {"status": "not_ready", "reasons": {"r": {"b": "spill_breaker"}, "s": {"b": "x"}}}
    leaving["health"] = {"status": "draining", "reasons": {"r": {"b": "spill_unhealthy"}}}
    assert merge_health([lame, ready]) == ("ready", {})
    assert merge_health([lame, leaving]) == ("draining", {"r": {"b": "spill_breaker"}})
    assert merge_health([lame])[0] == "not_ready"
    assert merge_health([]) == ("not_ready", {})
    assert merge_routes([]) == merge_backends([]) == []


def test_slots_by_state_add_up_to_the_capacity_that_all_workers_share() -> None:
    def worker(**states: float) -> dict[str, Any]:
        samples = [["overspill_slots", {"backend": "b", "state": state}, n] for state, n in states.items()]
        family = {"name": "overspill_slots", "type": "gauge", "help": "Slots.", "samples": samples}
        return {**report(1), "metrics": [family]}

    def merged(*workers: dict[str, Any]) -> dict[str, float]:
        (family,) = merge_metrics(workers)
        return {sample.labels["state"]: sample.value for sample in family.samples}

    assert merged(worker(busy=3, idle=5, gone=0), worker(busy=2, idle=6, gone=0)) == {
        "busy": 5, "idle": 3, "gone": 0,
    }  # fmt: skip
    assert merged(worker(busy=3, idle=1, gone=4), worker(busy=1, idle=3, gone=4)) == {
        "busy": 4, "idle": 0, "gone": 4,
    }  # fmt: skip
    assert merged(
        worker(opening=1, busy=2, idle=3, closed=4), worker(opening=0, busy=1, idle=0, closed=9)
    ) == {"opening": 1, "busy": 3, "idle": 3, "closed": 3}  # fmt: skip


def test_of_several_exemplars_the_newest_is_kept() -> None:
    name = "overspill_request_duration_seconds"

    def worker(*exemplar: Any) -> dict[str, Any]:
        sample = [f"{name}_bucket", {"route": "r", "le": "1.0"}, 2.0, *exemplar]
        return {
            **report(1),
            "metrics": [{"name": name, "type": "histogram", "help": "It.", "samples": [sample]}],
        }

    def exemplar(trace: str, seen: float) -> list[Any]:
        return [{"trace_id": trace}, 0.25, seen]

    reports = [worker(exemplar("a", 10.0)), worker(exemplar("b", 30.0)), worker()]
    for alive, gone in ((reports, ()), (reports[1:], [reports[0]])):
        (family,) = merge_metrics(alive, gone)
        (sample,) = family.samples
        assert sample.value == 6.0
        assert sample.exemplar is not None
        assert (sample.exemplar.labels, sample.exemplar.timestamp) == ({"trace_id": "b"}, 30.0)
    (family,) = merge_metrics([worker()])
    assert family.samples[0].exemplar is None
