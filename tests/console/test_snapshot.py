"""What the console says is what the gateway says elsewhere; the rest of it is arithmetic on plain values."""

from typing import Any

import pytest

from gateway.clock import FakeClock
from gateway.console.history import KEPT_S, WINDOW_S, History
from gateway.console.one_more import Spilled, one_more, span
from gateway.explain.recent import merge_recent, recent
from gateway.explain.ring import Ring
from tests.console.support import SECRET, watched

EDGES = [0.1, 0.2, 0.4]


def counted(*counts: int, edges: list[float] = EDGES) -> dict[str, dict[str, Any]]:
    return {"embed": {"edges": edges, "counts": list(counts), "usd": 0.0, "served": 0, "total": 0.0}}


def test_a_point_is_of_the_calls_of_its_window_only() -> None:
    history = History()
    history.note(0.0, counted(100, 0, 0, 0))
    assert history.last("embed") == (0.0, None, None, 0.0)
    history.note(5.0, counted(100, 10, 0, 0))
    point = history.last("embed")
    assert point is not None
    assert point.p50 == pytest.approx(0.15)
    assert point.per_s == 2.0
    history.note(5.0 + WINDOW_S, counted(100, 10, 0, 0))
    last = history.last("embed")
    assert last is not None
    assert (last.p50, last.per_s) == (None, 0.0)


def test_a_histogram_that_began_anew_is_not_subtracted_from() -> None:
    history = History()
    history.note(0.0, counted(5, 0, 0, 0))
    for at, sums in ((1.0, counted(1, 0, 0, 0)), (2.0, counted(1, 0, edges=[1.0]))):
        history.note(at, sums)
        assert history.last("embed") == (at, None, None, 0.0)


def test_old_points_and_routes_that_are_gone_are_forgotten() -> None:
    history = History()
    for second in range(2 * int(KEPT_S)):
        history.note(float(second), counted(second, 0, 0, 0))
    assert len(history.points("embed")) == KEPT_S + 1
    history.note(1e6, {})
    assert history.points("embed") == []


SIMULATED = {
    "replicas": 2, "calls": 1200, "seconds": 3600.0, "usd": 3.0, "usd_with": 2.5, "attained": 0.97,
    "attained_with": 0.995,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, "saves", "one more would have saved $0.5"),
        ({"usd_with": 3.5}, "buys", "one more would have cost $0.5"),
        ({"usd_with": 3.5, "attained_with": 0.97}, "costs", "$3.50 with 3"),
        ({"usd_with": 3.0}, "equal", "as much as it saved"),
    ],
)
def test_what_was_simulated_is_said_with_its_dollars(
    change: dict[str, float], verdict: str, words: str
) -> None:
    said = one_more({"owned": True, "one_more_replica": SIMULATED | change}, 1.0, Spilled(None, None))
    assert said is not None
    assert said["verdict"] == verdict
    assert words in said["says"]
    assert said["usd"] == 3.0 - (SIMULATED | change)["usd_with"]


@pytest.mark.parametrize(
    ("hourly", "spilled", "verdict", "words"),
    [
        (None, Spilled(60.0, 1.0), "unknown", "usd_per_replica_hour"),
        (1.0, Spilled(60.0, None), "unknown", "price that is not known"),
        (1.0, Spilled(1.0, 0.0), "unknown", "Not known yet"),
        (1.0, Spilled(1800.0, 0.0), "costs", "nothing was spilled"),
        (1.0, Spilled(1800.0, 0.2), "costs", "$0.3 more, at least"),
        (1.0, Spilled(1800.0, 0.7), "may_save", "$0.2 less, at best"),
    ],
)
def test_before_there_is_advice_only_bounds_are_told(
    hourly: float | None, spilled: Spilled, verdict: str, words: str
) -> None:
    said = one_more({"owned": True, "one_more_replica": None}, hourly, spilled)
    assert said is not None
    assert said["verdict"] == verdict
    assert words in said["says"]


def test_nobody_is_advised_to_own_what_is_rented() -> None:
    assert one_more({"owned": False}, 1.0, Spilled(60.0, 1.0)) is None


def test_spans_are_read_at_a_glance() -> None:
    seconds = (0.4, 42, 185, 3600, 7800, 356_400)
    assert [span(each) for each in seconds] == ["0 s", "42 s", "3 min 5 s", "1 h", "2 h 10 min", "4 d 3 h"]


def test_an_empty_ring_has_no_decisions() -> None:
    assert recent(Ring(), (), FakeClock(), 40) == []


def test_decisions_of_several_are_in_the_order_of_time() -> None:
    one, other = [{"at": 3.0}, {"at": 1.0}], [{"at": 2.0}]
    assert [each["at"] for each in merge_recent([one, other])] == [3.0, 2.0, 1.0]


async def test_unusual_decisions_are_not_lost_among_the_usual() -> None:
    async with watched() as clients:
        await clients.call()
        clients.ready(False)
        _, spilled = await clients.call()
        clients.ready(True)
        for _ in range(9):
            await clients.call()
        found = clients.gateway.explaining.recent(3)
        assert [each["reason"] for each in found] == ["warm", "warm", "warm", "spill_unhealthy"]
        assert found[-1]["request_id"] == spilled
        assert found[-1]["backend"] == "runpod"
        assert found[-1]["ended"]["usd"] > 0
        assert SECRET not in str(found)
        assert clients.gateway.explaining.recent(0) == []
