from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.admin import Admin
from gateway.errors import Contended
from gateway.vocab import Charge, Reason, Start, Usage
from tests.ledger.support import T0, State, answered, opened, parse_openmetrics


class Client:
    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    async def get(self, path: str, status: int = 200) -> Any:
        async with self.session.get(self.base + path) as response:
            assert response.status == status
            assert response.headers["cache-control"] == "no-store"
            return await response.json()


@asynccontextmanager
async def serving(state: State) -> AsyncIterator[Client]:
    admin = Admin(state)
    host, port = await admin.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(session, f"http://{host}:{port}")
    finally:
        await admin.stop()


async def test_alive_as_soon_as_it_answers() -> None:
    state = State()
    state.fleet.lose()
    state.burst.lose()
    async with serving(state) as client:
        assert await client.get("/livez") == {"status": "alive"}


async def test_ready_while_one_route_can_be_served() -> None:
    state = State()
    async with serving(state) as client:
        assert await client.get("/readyz") == {"status": "ready", "reasons": {}}
        state.fleet.lose()
        assert (await client.get("/readyz"))["status"] == "ready"
        state.burst.blocked = Reason.SPILL_BREAKER
        health = await client.get("/readyz", 503)
    reasons = {"embed": {"fleet": "spill_unhealthy", "burst": "spill_breaker"}}
    assert health == {"status": "not_ready", "reasons": reasons}


async def test_not_ready_while_draining() -> None:
    state = State()
    state.draining = True
    async with serving(state) as client:
        assert (await client.get("/readyz", 503))["status"] == "draining"
        assert (await client.get("/livez"))["status"] == "alive"


async def test_metrics_in_the_format_that_is_asked_for() -> None:
    state = State()
    answered(state.ledger)
    async with serving(state) as client:
        async with client.session.get(client.base + "/metrics") as response:
            assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            plain = {family.name for family in parse_text(await response.text())}
        accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
        async with client.session.get(client.base + "/metrics", headers=accept) as response:
            assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
            openmetrics = {family.name for family in parse_openmetrics(await response.text())}
    assert "overspill_requests" in plain
    assert openmetrics >= {"overspill_requests", "overspill_cost_usd", "overspill_request_duration_seconds"}


async def test_the_running_configuration_is_text() -> None:
    state = State()
    async with serving(state) as client, client.session.get(client.base + "/admin/config") as response:
        assert response.content_type == "text/plain"
        assert await response.text() == state.config.as_yaml()


async def test_routes_are_told_with_their_figures() -> None:
    state = State()
    book = state.ledger
    for _ in range(6):
        answered(book, seconds=0.09)
    for _ in range(3):
        answered(book, backend="burst", seconds=2.0, usage=Usage(2.0, 1.0, 0.001), start=Start.COLD)
    record = book.open("b", "", T0)
    record.route = "embed"
    record.fail(Contended("full"))
    book.close(record, T0)
    book.charge("burst", Charge("embed", "spill", 0.5))
    state.clock.advance(100.0)
    async with serving(state) as client:
        (route,) = (await client.get("/admin/routes"))["routes"]
    latency = route.pop("latency_s")
    assert 0.075 <= latency["p50"] <= 0.1
    assert 1.25 <= latency["p95"] <= latency["p99"] <= 2.5
    assert route.pop("cost_per_1k_requests_usd") == pytest.approx(1000 * (0.2 + 0.503) / 9)
    assert route == {
        "name": "embed", "match": "minilm", "backends": ["fleet", "burst"], "ready": True, "queue_depth": 3,
        "latency_budget": {"within_s": 0.25, "objective": 0.99, "calls": 10, "missed": 4, "attained": 0.6},
        "requests": 10, "requests_by_backend": {"fleet": 6, "burst": 3}, "outcomes": {"ok": 9, "shed": 1},
        "reasons": {"warm": 6, "spill_full": 3, "shed_full": 1}, "start": {"warm": 6, "cold": 3, "unknown": 0},
        "spill_share": pytest.approx(1 / 3),
    }  # fmt: skip


async def test_before_the_first_call_shares_are_null_not_zero() -> None:
    async with serving(State()) as client:
        (route,) = (await client.get("/admin/routes"))["routes"]
    assert route["requests"] == 0
    assert route["latency_s"] == {"p50": None, "p95": None, "p99": None}
    assert route["latency_budget"]["attained"] is None
    assert route["spill_share"] is None
    assert route["cost_per_1k_requests_usd"] is None


async def test_backends_are_told_with_replicas_and_instances() -> None:
    state = State()
    state.fleet.in_flight = 2
    opened(state.ledger)
    state.clock.advance(10.0)
    async with serving(state) as client:
        fleet, burst = (await client.get("/admin/backends"))["backends"]
    assert (fleet["name"], fleet["ready"], fleet["in_flight"]) == ("fleet", True, 2)
    assert [replica["name"] for replica in fleet["replicas"]] == ["fleet-0", "fleet-1"]
    assert fleet["instances"] == {}
    assert fleet["idle_usd"] == pytest.approx(10 * (0.002 - 0.00025))
    assert burst["instances"] == {"opening": 1, "busy": 2, "idle": 3}
    assert burst["idle_usd"] is None


async def test_wrong_paths_and_methods_are_told_in_json() -> None:
    async with serving(State()) as client:
        assert await client.get("/admin/secrets", 404) == {"error": "Not Found", "path": "/admin/secrets"}
        for method in ("POST", "PUT", "DELETE"):
            async with client.session.request(method, client.base + "/admin/config") as response:
                assert response.status == 405
                assert "GET" in response.headers["allow"]
                assert (await response.json())["error"] == "Method Not Allowed"


async def test_a_failure_inside_is_a_500_and_the_port_lives_on(caplog: pytest.LogCaptureFixture) -> None:
    state = State()
    state.fleet.breakers = ["no such state"] * 2
    async with serving(state) as client:
        assert (await client.get("/metrics", 500))["error"] == "Internal Server Error"
        assert (await client.get("/livez"))["status"] == "alive"
    assert "/metrics failed" in caplog.text


async def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    state = State()
    first, second = Admin(state), Admin(state)
    host, port = await first.start("127.0.0.1", 0)
    with pytest.raises(OSError):
        await second.start(host, port)
    await second.stop()
    await first.stop()
    await first.stop()
    again = Admin(state)
    assert await again.start(host, port) == (host, port)
    await again.stop()
