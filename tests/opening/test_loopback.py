"""Opening the endpoint in memory without a call."""

import asyncio
from random import Random
from typing import Any

import pytest

from gateway.errors import BackendFull
from gateway.vocab import Charge, Start
from tests.pool.parts import call, rented
from tests.support.virtual_time import LoopClock

pytestmark = pytest.mark.virtual_time


def endpoint(**options: Any) -> Any:
    plan = {"slots": 4, "boot": "2s", "idle_after": "10s", "price": {"usd_per_second": 0.5}, **options}
    return rented("burst", clock=LoopClock(), chance=Random(11), **plan)


async def test_a_ping_boots_it_and_the_next_call_finds_it_warm() -> None:
    backend = endpoint()
    assert backend.can_open
    usage = await backend.ping(0, route="embed", kind="prewarm")
    assert (usage.boot_s, usage.usd) == (2.0, 1.0)
    assert backend.settle(LoopClock().now()) == [Charge("embed", "prewarm", 1.0)]
    async with backend.send(call(), 0) as reply:
        assert reply.start is Start.WARM
    assert (await backend.ping(0, route="embed", kind="prewarm")).boot_s == 0.0
    assert backend.settle(LoopClock().now()) == []


async def test_a_ping_fails_as_often_as_the_file_says_and_costs_what_it_took() -> None:
    backend = endpoint(full_share="100%")
    with pytest.raises(BackendFull):
        await backend.ping(0, route="embed", kind="spill")
    assert backend.running == [0]
    assert backend.settle(LoopClock().now()) == [Charge("embed", "spill", 1.0)]


async def test_a_ping_that_is_given_up_costs_its_seconds() -> None:
    backend = endpoint()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await backend.ping(0, route="embed", kind="spill")
    assert backend.running == [0]
    assert backend.settle(LoopClock().now()) == [Charge("embed", "spill", 0.25)]


def test_its_rent_is_what_the_file_says() -> None:
    rent = endpoint().rent
    assert (rent.usd_per_second, rent.boot_s, rent.idle_s) == (0.5, 2.0, 10.0)
    assert not rent.bills_idle
    assert endpoint(price=None).rent.usd_per_second is None
    assert not endpoint(late_binding="none").can_open
