import asyncio
from collections import Counter
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from backends.base import Backend, backends
from backends.loopback import Loopback, LoopbackOptions
from gateway.errors import BackendBroke, BackendDown, BackendError, BackendFull
from gateway.vocab import Reply, Start
from tests.pool.parts import call, fleet, kit, rented
from tests.support.virtual_time import LoopClock


def here() -> dict[str, Any]:
    return {"clock": LoopClock(), "chance": Random(11)}


async def body_of(backend: Backend, body: bytes = b"") -> bytes | None:
    async with backend.send(call(body=body), 0) as reply:
        return reply.body


@pytest.mark.virtual_time
async def test_it_answers_with_the_request_body_after_its_latency() -> None:
    backend = fleet("fleet", latency="200ms", **here())
    assert await body_of(backend, b"ping") == b"ping"
    assert LoopClock().now() == pytest.approx(1_000.2)


@pytest.mark.virtual_time
async def test_it_answers_as_written() -> None:
    backend = fleet("fleet", answer="pong", status=418, **here())
    async with backend.send(call(), 0) as reply:
        assert (reply.status, reply.body) == (418, b"pong")


@pytest.mark.virtual_time
async def test_failures_come_in_their_shares_and_say_what_they_mean() -> None:
    backend = fleet("fleet", fail_share="20%", down_share="30%", full_share="10%", **here())
    ends: Counter[type] = Counter()
    for _ in range(2000):
        try:
            await body_of(backend)
            ends[Reply] += 1
        except BackendError as error:
            ends[type(error)] += 1
    expected = {BackendBroke: 400, BackendDown: 600, BackendFull: 200, Reply: 800}
    assert ends == pytest.approx(expected, rel=0.15)
    assert backend.running == [0]


@pytest.mark.virtual_time
async def test_a_script_comes_before_chance() -> None:
    backend = fleet("fleet", down_share="100%", **here())
    backend.script += [Reply(200, [], b"first"), BackendBroke("second")]
    assert await body_of(backend) == b"first"
    with pytest.raises(BackendBroke):
        await body_of(backend)
    with pytest.raises(BackendDown):
        await body_of(backend)


@pytest.mark.virtual_time
async def test_a_rented_one_boots_after_a_pause_and_bills_the_seconds() -> None:
    backend = rented(
        "burst",
        slots=4,
        boot="2s",
        latency="100ms",
        idle_after="10s",
        price={"usd_per_second": 0.5},
        **here(),
    )
    seen = []
    for pause in (0.0, 9.0, 11.0):
        await asyncio.sleep(pause)
        async with backend.send(call(), 0) as reply:
            assert reply.usage is not None
            assert reply.usage.usd is not None
            seen.append((reply.start, reply.usage.boot_s, round(reply.usage.usd, 6)))
    cold, warm = (Start.COLD, 2.0, 1.05), (Start.WARM, 0.0, 0.05)
    assert seen == [cold, warm, cold]


@pytest.mark.virtual_time
async def test_calls_that_come_while_it_boots_wait_only_for_the_rest() -> None:
    backend = rented("burst", slots=4, boot="2s", **here())
    async with asyncio.TaskGroup() as group:
        group.create_task(body_of(backend))
        await asyncio.sleep(1.5)
        async with backend.send(call(), 0) as reply:
            assert reply.start is Start.COLD
            assert reply.usage is not None
            assert (reply.usage.boot_s, reply.usage.usd) == (0.5, None)
        assert LoopClock().now() == 1_002.0


@pytest.mark.virtual_time
async def test_a_cancelled_call_is_not_running_any_more() -> None:
    backend = fleet("fleet", latency="1h", **here())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await body_of(backend)
    assert backend.running == [0]


@pytest.mark.virtual_time
async def test_probes_say_what_they_are_told_to_and_the_rented_one_has_none() -> None:
    backend = fleet("fleet", replicas=2, **here())
    backend.set_ready(1, False)
    assert [await backend.probe(0), await backend.probe(1)] == [True, False]
    assert await rented("burst", **here()).probe(0) is None


@pytest.mark.parametrize("name", ["loopback", "loopback_rented"])
def test_both_kinds_can_be_named_in_a_file(name: str) -> None:
    cls = backends.get(name)
    assert issubclass(cls, Loopback)
    built = cls("x", cls.Options.model_validate(dict(cls.EXAMPLE)), kit(LoopClock(), Random(1)))
    assert built.owned is (name == "loopback")


def test_shares_that_add_up_to_more_than_all_are_refused() -> None:
    with pytest.raises(ValidationError, match="more than 100%"):
        LoopbackOptions(type="loopback", max_in_flight=1, fail_share=0.6, full_share=0.6)
