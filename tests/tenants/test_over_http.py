"""A whole gateway with tenants: who is refused, what the answers say, and what is counted."""

import asyncio
import json
from pathlib import Path
from random import Random

import aiohttp
import pytest

from gateway.app import Gateway
from tests.auth.support import asked, calls, entry, fresh, guarded, key_file, request, until
from tests.support.gateways import port_of
from tests.support.wire import Peer
from tests.tenants.support import ask, begin, limited


async def test_the_answers_say_what_is_allowed_and_what_is_left() -> None:
    async with limited("{acme: {requests_per_minute: 3, max_concurrent: 5}}") as (gateway, replica):
        for left in (2, 1, 0):
            status, fields, _ = await ask(gateway)
            assert status == 200
            assert fields[b"ratelimit-policy"] == (
                b'"requests";q=3;w=60, "concurrency";q=5;qu="concurrent-requests"'
            )
            assert fields[b"ratelimit"] == b'"requests";r=%d;t=%d, "concurrency";r=4' % (left, 60 - 20 * left)
        status, fields, body = await ask(gateway)
        assert (status, replica.calls) == (429, 3)
        assert fields[b"ratelimit"].startswith(b'"requests";r=0;t=60, ')
        assert fields[b"x-overspill-reason"] == b"shed_full"
        assert 19 <= int(fields[b"retry-after"]) <= 20
        assert b"tenant acme may not use more than its rate of requests" in body
        assert gateway.ledger.ended[-1].error == "rate_limited"


async def test_a_burst_smaller_than_a_second_still_has_a_window_of_whole_seconds() -> None:
    async with limited("{acme: {requests_per_second: 10, burst: 5}}") as (gateway, _):
        _, fields, _ = await ask(gateway)
        assert fields[b"ratelimit-policy"] == b'"requests";q=10;w=1'
        assert fields[b"ratelimit"] == b'"requests";r=4;t=1'


async def test_a_tenant_without_limits_is_told_of_none() -> None:
    async with limited("{acme: {priority: default}}") as (gateway, _):
        status, fields, _ = await ask(gateway, "x-overspill-priority: critical\r\n")
        assert status == 200
        assert b"ratelimit" not in fields
        assert b"ratelimit-policy" not in fields


async def test_a_file_without_tenants_sends_no_call_there() -> None:
    async with limited("{}") as (gateway, _):
        assert (await ask(gateway))[0] == 200
        assert gateway.pipeline._tenants is None
        assert gateway.ledger.ended[-1].stay is None


async def test_places_are_held_until_the_last_byte() -> None:
    async with limited("{acme: {max_concurrent: 2}}") as (gateway, replica):
        replica.gate.clear()
        inside = [await begin(gateway, request()) for _ in range(2)]
        await until(lambda: replica.running == 2)
        status, fields, body = await ask(gateway)
        assert (status, int(fields[b"retry-after"])) == (429, 1)
        assert b"2 calls inside at once" in body
        assert fields[b"ratelimit"] == b'"concurrency";r=0'
        replica.gate.set()
        assert [(await each.answer())[0] for each in inside] == [200, 200]
        assert (await ask(gateway))[0] == 200


async def test_places_come_back_whatever_becomes_of_the_calls() -> None:
    chance = Random(11)
    async with limited("{acme: {max_concurrent: 8}}") as (gateway, replica):
        replica.seconds = 0.02
        statuses: list[int] = []

        async def client() -> None:
            for _ in range(12):
                peer = await Peer.connect(port_of(gateway))
                peer.send(request(model=chance.choice("mmmmx")))
                if chance.random() < 0.4:
                    await asyncio.sleep(chance.random() * 0.03)
                    peer.reset()
                    continue
                statuses.append((await peer.answer())[0])

        await asyncio.gather(*(client() for _ in range(16)))
        await until(lambda: gateway.ledger.open_records == 0)
        assert {200, 404, 429} == set(statuses)
        assert gateway.tenants.of("acme").meter.inside == 0
        assert replica.most <= 8 + 4  # the replica hears late that a client has left


async def test_tokens_are_set_aside_and_settled_by_what_the_model_says() -> None:
    async with limited("{acme: {tokens_per_minute: 600}}") as (gateway, replica):
        tenant = gateway.tenants.of("acme")
        body = json.dumps({"model": "m", "messages": [], "max_tokens": 500})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        replica.gate.clear()
        first = await begin(gateway, head.encode())
        await until(lambda: replica.running == 1)
        assert tenant.meter.left(tenant.rates, gateway.clock.now()).tokens == 600 - 500 - len(body) // 4
        status, fields, said = await asked(gateway, head.encode())
        assert status == 429
        assert b"600 tokens per minute" in said
        assert 40 < int(fields[b"retry-after"]) <= 60
        assert fields[b"ratelimit-policy"] == b'"tokens";q=600;w=60;qu="tokens"'
        replica.gate.set()
        assert (await ask(gateway))[0] == 200  # a call that is none of a language model
        assert (await first.answer())[0] == 200
        # Nobody told what it used, so what was set aside counts.
        assert tenant.meter.left(tenant.rates, gateway.clock.now()).tokens < 100


async def test_what_calls_cost_is_held_against_the_budget() -> None:
    limit = 0.001
    async with limited(f"{{acme: {{usd_per_hour: {limit}}}}}", price="360") as (gateway, replica):
        replica.seconds = 0.3  # of one of 64 slots, all of them at 0.1 dollars a second
        statuses, answer = [], await ask(gateway)
        while answer[0] == 200:
            statuses.append(200)
            assert gateway.ledger.ended[-1].usd == pytest.approx(0.3 * 0.1 / 64, rel=0.3)
            answer = await ask(gateway)
        assert 1 <= len(statuses) == replica.calls
        assert sum(each.usd or 0.0 for each in gateway.ledger.ended) <= limit
        status, fields, body = answer
        assert (status, fields[b"x-overspill-reason"]) == (429, b"shed_budget")
        assert 3000 < int(fields[b"retry-after"]) <= 3700
        assert b"ratelimit" not in fields
        assert b"the budget of tenant acme is used up" in body
        assert gateway.ledger.ended[-1].error == "tenant_budget"


async def test_a_budget_of_nothing_lets_nobody_in() -> None:
    async with limited("{acme: {usd_per_hour: 0}}") as (gateway, replica):
        assert ((await ask(gateway))[0], replica.calls) == (429, 0)


async def test_where_nobody_knows_a_price_a_limit_in_dollars_lets_nobody_in() -> None:
    async with limited("{acme: {usd_per_day: 1000}}", price="") as (gateway, _):
        status, _, body = await ask(gateway)
        assert status == 429
        assert b"nobody knows what a call of this route costs" in body


async def test_with_warn_calls_go_on() -> None:
    async with limited("{acme: {usd_per_hour: 1.0e-9, on_exhausted: warn}}") as (gateway, _):
        assert [(await ask(gateway))[0] for _ in range(3)] == [200] * 3


async def metrics(gateway: Gateway) -> dict[str, float]:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{gateway.admin_address}/metrics") as response:
            lines = (await response.text()).splitlines()
    samples = (line.rsplit(" ", 1) for line in lines if line.startswith("overspill_tenant"))
    return {name: float(value) for name, value in samples}


async def test_every_key_has_its_tenants_limits_and_strangers_share_the_default(tmp_path: Path) -> None:
    keys = {name: fresh(name) for name in ("a", "b", "c", "d")}
    file = key_file(
        tmp_path / "keys.yaml",
        entry("a", keys["a"], tenant="acme"),
        entry("b", keys["b"], tenant="beta"),
        entry("c", keys["c"], tenant="unheard-of"),
        entry("d", keys["d"]),
    )
    more = "tenants: {acme: {requests_per_minute: 1}, beta: {requests_per_minute: 2}, default: {requests_per_minute: 2}}"
    async with guarded(tmp_path, f"{{keys: {{file: {file}}}}}", more=more) as (gateway, replica):

        async def status(name: str) -> int:
            return (await asked(gateway, request(f"Bearer {keys[name]}")))[0]

        assert [await status(name) for name in "aabbbcdcd"] == [200, 429, 200, 200, 429, 200, 200, 429, 429]
        assert len(calls(replica)) == 5
        seen = await metrics(gateway)
        assert seen['overspill_tenant_requests_total{outcome="ok",tenant="acme"}'] == 1
        assert seen['overspill_tenant_requests_total{outcome="shed",tenant="beta"}'] == 1
        assert seen['overspill_tenant_requests_total{outcome="ok",tenant="other"}'] == 2
        assert seen['overspill_tenant_limited_total{limit="requests",tenant="other"}'] == 2
        assert 'overspill_tenant_cost_usd_total{tenant="acme"}' in seen
        assert not any("unheard-of" in name or "default" in name for name in seen)


async def test_a_reload_keeps_what_was_used(tmp_path: Path) -> None:
    first = "tenants: {acme: {requests_per_minute: 2, max_concurrent: 9}}"
    async with guarded(tmp_path, "{anonymous: {tenant: acme}}", more=first) as (gateway, _):
        path = tmp_path / "gateway.yaml"
        text = path.read_text()

        async def reload(tenants: str) -> None:
            path.write_text(text.replace(first, tenants))
            assert gateway.reloader is not None
            assert (await gateway.reloader.reload()).status == 200

        assert [(await ask(gateway))[0] for _ in range(3)] == [200, 200, 429]
        await reload("tenants: {acme: {requests_per_minute: 2, burst: 3, max_concurrent: 9}}")
        assert [(await ask(gateway))[0] for _ in range(2)] == [200, 429]
        await reload("")
        assert [(await ask(gateway))[0] for _ in range(3)] == [200] * 3
        assert gateway.pipeline._tenants is None
        await reload("tenants: {acme: {requests_per_minute: 1}}")
        assert (await ask(gateway))[0] == 429
