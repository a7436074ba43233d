"""Over real sockets: the faster one's bytes arrive, the loser's connection is closed, its cost is a hedge's."""

import asyncio
from collections.abc import Callable

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.vocab import Reason
from tests.support.gateways import port_of, running
from tests.support.upstream import Answerer, Received, upstream
from tests.support.wire import eventually

CONFIG = """
backends:
  first: {{{first}, max_in_flight: 2}}
  other: {{{other}, max_in_flight: 2}}
routes:
  one:
    match: {{model: one}}
    policy: spill_when_full
    hedge: {{after: 50ms, share: 100%}}
    tiers: [{{backend: first, when_full: spill}}, {{backend: other, when_full: shed}}]
"""
OWNED = "type: triton, replicas: ['{0.url}'], price: {{usd_per_replica_hour: 3600}}"
RENTED = "type: modal, url: '{0.url}', price: {{usd_per_second: 0.01}}, cold_start: {{expect: 1s, idle_after: 200ms}}"
BODY = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}'


def answering(text: bytes, after: float | None) -> Answerer:
    """Answers calls with `text` after so many seconds, or never; is ready all the time."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        content = b"{}"
        if received.line.startswith(b"POST"):
            if after is None:
                assert await received.reader.read(1) == b"", "the gateway hangs up"
                raise ConnectionResetError
            await asyncio.sleep(after)
            content = text
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(content), content)
        )

    return answer


async def ask(gateway: Gateway) -> tuple[bytes, str, str]:
    url = f"http://127.0.0.1:{port_of(gateway)}/v2/models/one/infer"
    async with aiohttp.ClientSession() as session, session.post(url, data=BODY) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.read(), reply.headers["x-overspill-backend"], reply.headers["x-overspill-reason"]


def kinds(gateway: Gateway, backend: str) -> dict[str, float]:
    return {kind: usd for kind, usd in gateway.ledger.lanes["one", backend].usd.items() if usd}


def dropped(gateway: Gateway, backend: str) -> Callable[[], bool]:
    return lambda: gateway.capacities[backend].in_flight == 0


async def test_the_second_s_bytes_arrive_and_the_first_connection_is_closed() -> None:
    async with upstream(answering(b'"first"', None)) as slow, upstream(answering(b'"other"', 0.0)) as fast:
        async with running(CONFIG.format(first=OWNED.format(slow), other=OWNED.format(fast))) as gateway:
            for _ in range(3):
                assert await ask(gateway) == (b'"other"', "other", "hedge")
            await eventually(lambda: slow.ended.count("reset") == 3, "the loser's connections are closed")
            await eventually(dropped(gateway, "first"), "its slots are back")
            assert gateway.ledger.routes["one"].hedges == {"won": 3, "lost": 0}
            assert set(kinds(gateway, "first")) == {"hedge"}
            assert set(kinds(gateway, "other")) == {"fleet"}
            assert kinds(gateway, "first")["hedge"] >= 3 * 0.05 * 1.0 / 2  # a slot is half a replica
            assert gateway.capacities["first"].blocked is None


async def test_the_first_s_bytes_arrive_and_the_second_connection_is_closed() -> None:
    async with upstream(answering(b'"first"', 0.3)) as slow, upstream(answering(b'"other"', None)) as never:
        async with running(CONFIG.format(first=OWNED.format(slow), other=RENTED.format(never))) as gateway:
            assert await ask(gateway) == (b'"first"', "first", str(Reason.WARM))
            await eventually(lambda: never.ended == ["reset"], "the loser's connection is closed")
            await eventually(dropped(gateway, "other"), "its slot is back")
            assert gateway.ledger.routes["one"].hedges == {"won": 0, "lost": 1}
            assert set(kinds(gateway, "first")) == {"fleet"}
            await asyncio.sleep(1.4)  # what was made to start comes up, idles, and is gone
            gateway.settle(gateway.clock.now())
            charged = kinds(gateway, "other")
            assert set(charged) == {"hedge"}
            assert charged["hedge"] >= (0.2 + 0.2) * 0.01


async def test_a_first_that_was_rented_and_lost_is_charged_as_a_hedge_too() -> None:
    async with upstream(answering(b'"first"', None)) as never, upstream(answering(b'"other"', 0.0)) as fast:
        async with running(CONFIG.format(first=RENTED.format(never), other=OWNED.format(fast))) as gateway:
            assert await ask(gateway) == (b'"other"', "other", "hedge")
            await eventually(lambda: never.ended == ["reset"], "the loser's connection is closed")
            await asyncio.sleep(1.4)  # what was made to start comes up, idles, and is gone
            gateway.settle(gateway.clock.now())
            assert set(kinds(gateway, "first")) == {"hedge"}
            assert kinds(gateway, "first")["hedge"] == pytest.approx((1.0 + 0.2) * 0.01, rel=0.1)


async def test_one_connection_carries_on_after_hedges() -> None:
    """The task of a connection answers one call after the other: no cancellation may be left over in it."""
    async with upstream(answering(b'"first"', None)) as slow, upstream(answering(b'"other"', 0.0)) as fast:
        async with running(CONFIG.format(first=OWNED.format(slow), other=OWNED.format(fast))) as gateway:
            url = f"http://127.0.0.1:{port_of(gateway)}/v2/models/one/infer"
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
                for _ in range(5):
                    async with session.post(url, data=BODY) as reply:
                        assert await reply.read() == b'"other"'
            assert gateway.ledger.routes["one"].hedges == {"won": 5, "lost": 0}
