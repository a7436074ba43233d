"""Rates are differences of two looks; what has become more of errors is told."""

import pytest

from gateway.top.snapshot import Missing, Snapshot, snapshot
from gateway.top.watch import View, Watch
from tests.top.answers import METRICS, RUNNING, backend, look, route


def seen(*looks: Snapshot | Missing) -> View:
    watch = Watch()
    for each in looks:
        watch.take(each)
    return watch.view


def test_a_snapshot_has_what_the_port_says() -> None:
    found = look()
    (state,) = found.routes
    assert (state.p50_s, state.p95_s, state.within_s, state.objective) == (0.12, 0.4, 0.5, 0.99)
    assert (state.limit_usd, state.left_usd, state.usd_per_1k) == (10.0, 7.5, 0.31)
    fleet, rented = found.backends
    assert fleet.usd == pytest.approx(1.75)
    assert rented.usd == pytest.approx(0.3 + 1.25)
    assert (fleet.replicas, fleet.replicas_ready, fleet.breaker) == (2, 2, "closed")


def test_an_unknown_price_is_unknown() -> None:
    (only,) = look(backends=[backend(price_known=False)]).backends
    assert only.usd is None


@pytest.mark.parametrize("routes", [{}, {"routes": [{}]}, {"routes": 3}, {"routes": [None]}])
def test_what_is_no_answer_of_an_admin_port_is_said(routes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not an admin port"):
        snapshot(routes, {"backends": []}, RUNNING, "", at=0.0, wall=0.0)


def test_one_look_has_no_rates() -> None:
    (row,) = seen(look()).routes
    assert (row.per_s, row.spill, row.cold) == (None, None, None)
    assert row.spent_usd == pytest.approx(2.5)


def test_rates_are_of_the_time_between_two_looks() -> None:
    more = route(
        requests=130, requests_by_backend={"fleet": 100, "rented": 30},
        start={"warm": 110, "cold": 20, "unknown": 0},
    )  # fmt: skip
    (row,) = seen(look(0.0), look(2.0, [more])).routes
    assert row.per_s == pytest.approx(15.0)
    assert row.spill == pytest.approx(20 / 30)
    assert row.cold == pytest.approx(0.5)


def test_a_spill_budget_that_is_used_up_is_told_when_it_begins() -> None:
    def refused(count: int, beyond: int = 0) -> str:
        return (
            f'overspill_spill_budget_refused_total{{route="chat"}} {count}.0\n'
            f'overspill_spill_budget_overrun_total{{route="chat"}} {beyond}.0\n'
        )

    watch = Watch()
    told = []
    for at, more in enumerate(
        (refused(7), refused(9), refused(12), refused(12), refused(13), refused(13, 4))
    ):
        view = watch.take(look(float(at), metrics=METRICS + more))
        (row,) = view.routes
        told.append((row.refused, row.overrun, len(view.events)))
    assert told == [(0, 0, 0), (2, 0, 1), (3, 0, 1), (0, 0, 1), (1, 0, 2), (0, 4, 2)]
    assert [event.text for event in view.events] == ["chat: its spill budget holds calls back"] * 2
    assert (row.state.refused, row.state.overrun) == (13, 4)
    (overspent,) = seen(look(0.0), look(1.0, metrics=METRICS + refused(0, 1))).events
    assert overspent.text == "chat: spends beyond its spill budget"


def test_without_calls_between_there_is_a_rate_and_no_share() -> None:
    (row,) = seen(look(0.0), look(1.0)).routes
    assert (row.per_s, row.spill, row.cold) == (0.0, None, None)


def test_after_a_restart_there_is_no_rate_until_the_next_look() -> None:
    fresh = route(requests=5, requests_by_backend={"fleet": 5}, outcomes={"ok": 4, "shed": 1})
    view = seen(look(0.0), look(1.0, [fresh]))
    assert view.routes[0].per_s is None
    assert view.events == ()
    again = seen(look(0.0), look(1.0, [fresh]), look(2.0, [fresh | {"requests": 7}]))
    assert again.routes[0].per_s == pytest.approx(2.0)


def test_what_does_not_answer_is_said_with_its_time_and_the_rest_stays() -> None:
    first = Missing(1.0, 1_800_000_001.0, "refused")
    view = seen(look(0.0), first, Missing(2.0, 1_800_000_002.0, "refused"))
    assert (view.missing_since, view.why) == (1_800_000_001.0, "refused")
    assert view.routes[0].state.name == "chat"
    assert [event.text for event in view.events] == ["not reachable: refused"]
    back = seen(look(0.0), first, look(3.0))
    assert back.missing_since is None
    assert back.routes[0].per_s is None, "nobody knows what was in between"


def test_errors_are_what_has_become_more() -> None:
    bad = route(requests=104, outcomes={"ok": 100, "backend_error": 3, "client_gone": 1})
    down = backend(ready=False, replicas=[{"name": "f", "ready": False, "breaker": "open"}])
    view = seen(look(0.0), look(1.0, [bad], [down]), look(2.0, [bad], [down]))
    assert sorted(event.text for event in view.events) == [
        "chat: 3 backend_error", "fleet: a breaker has opened", "fleet: not ready",
    ]  # fmt: skip


def test_a_rejected_configuration_is_told_with_its_problems() -> None:
    problem = {"file": "o.yaml", "line": 3, "column": 5, "path": "routes.x", "message": "is wrong"}
    config = RUNNING | {"rejected": {"at": "2026-01-01T00:00:00Z", "problems": [problem]}}
    view = seen(look(0.0), look(1.0, config=config), look(2.0, config=config))
    assert view.problems == ("o.yaml:3:5: routes.x: is wrong",)
    assert len(view.events) == 1
