"""/admin/explain on the wire."""

from typing import Any

import aiohttp

from gateway.app import Gateway
from tests.support.gateways import port_of, running

ROUTE = """
backends:
  fleet: {type: loopback, max_in_flight: 2, latency: 10ms}
  burst: {type: loopback_rented, max_in_flight: 2, boot: 1s, price: {usd_per_second: 0.001}}
routes:
  echo:
    latency_budget: {within: 250ms, objective: 99%}
    tiers: [{backend: fleet, when_full: spill}, {backend: burst, when_full: shed}]
"""


class Client:
    def __init__(self, session: aiohttp.ClientSession, gateway: Gateway) -> None:
        self.session = session
        self.data = f"http://127.0.0.1:{port_of(gateway)}"
        self.admin = f"http://{gateway.admin_address}"

    async def explain(self, question: Any, status: int = 200) -> Any:
        async with self.session.post(self.admin + "/admin/explain", json=question) as response:
            assert response.status == status
            return await response.json()


async def test_explain_now_and_afterwards() -> None:
    async with running(ROUTE) as gateway, aiohttp.ClientSession() as session:
        client = Client(session, gateway)
        secret = "do-not-show-me"
        async with session.post(
            client.data + "/invoke/echo/x", data=secret, headers={"x-key": secret}
        ) as answer:
            assert answer.status == 200
            request_id = answer.headers["x-request-id"]
        before = gateway.pools["echo"]._chance.getstate()
        now = await client.explain({"route": "echo", "size": 3, "priority": "critical"})
        assert gateway.pools["echo"]._chance.getstate() == before
        assert gateway.capacities["fleet"].in_flight == 0
        assert now["action"] == {"do": "run", "backend": "fleet", "reason": "warm"}
        assert {line["backend"] for line in now["candidates"]} == {"fleet", "burst"}
        was = await client.explain({"request_id": request_id})
        (decision,) = was["decisions"]
        assert decision["action"] == now["action"]
        assert decision["route"] == "echo"
        assert [line["backend"] for line in decision["candidates"] if line["chosen"]] == ["fleet"]
        assert secret not in str(was)


async def test_wrong_questions_are_told_what_is_wrong() -> None:
    async with running(ROUTE) as gateway, aiohttp.ClientSession() as session:
        client = Client(session, gateway)
        assert "there are echo" in (await client.explain({"route": "nope"}, 404))["error"]
        unknown = await client.explain({"request_id": "nope"}, 404)
        assert unknown["error"].startswith("nothing is known of request 'nope'")
        questions: tuple[Any, ...] = (
            {},
            [],
            {"rout": "echo"},
            {"route": 1},
            {"route": "echo", "priority": "high"},
        )
        for question in questions:
            assert "usage" in await client.explain(question, 400)
        assert "not both" in (await client.explain({"route": "echo", "request_id": "a"}, 400))["error"]
        assert "at least 0" in (await client.explain({"route": "echo", "size": -1}, 400))["error"]
        async with session.post(client.admin + "/admin/explain", data=b"\xff{") as response:
            assert response.status == 400
        async with session.get(client.admin + "/admin/explain") as response:
            assert "POST" in (await response.json())["usage"]
