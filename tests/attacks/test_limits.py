"""Clients that are slow on purpose: they hold little, and not for long."""

import asyncio

import pytest

from gateway.exchange import Exchange
from gateway.listener_limits import ListenerLimits
from tests.support.wire import Peer, eventually, listening

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
PIECE = b"x" * 65536
QUICK = ListenerLimits(head_timeout=0.3, body_timeout=0.3, idle_timeout=30.0, write_timeout=0.3)


async def deaf(port: int) -> Peer:
    """A client that reads nothing."""
    peer = await Peer.connect(port)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    return peer


async def test_a_client_that_never_reads_a_stream_is_cut_off() -> None:
    written = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal written
        exchange.begin(200, [], b"", None)
        while True:
            exchange.write(PIECE)
            written += len(PIECE)
            if exchange.congested:
                await exchange.drain()

    async with listening(flood, limits=QUICK) as (port, handler, listener):
        (await deaf(port)).send(GET)
        await eventually(lambda: listener.connections == 1, "it is in")
        await eventually(lambda: listener.connections == 0, "it is cut off")
        assert written < 16 * 2**20
        assert handler.cancelled == 1


async def test_a_client_that_asks_and_asks_and_never_reads_holds_little_and_is_cut_off() -> None:
    async def large(exchange: Exchange) -> None:
        exchange.send(200, [], b"", PIECE)

    async with listening(large, limits=QUICK) as (port, handler, listener):
        (await deaf(port)).send(GET * 5000)
        await eventually(lambda: bool(handler.seen), "it is in")
        await eventually(lambda: listener.connections == 0, "it is cut off")
        assert len(handler.seen) < 256  # what fits into the buffers of two sockets: not 5000 answers


async def test_an_answer_that_waits_for_its_client_does_not_keep_a_closed_connection() -> None:
    async def last(exchange: Exchange) -> None:
        exchange.keep_alive = False
        exchange.send(200, [], b"", PIECE * 256)

    async with listening(last, limits=QUICK) as (port, _, listener):
        (await deaf(port)).send(GET)
        await eventually(lambda: listener.connections == 1, "it is in")
        await eventually(lambda: listener.connections == 0, "it is cut off")


async def test_a_client_that_reads_slowly_but_reads_gets_all_of_it() -> None:
    size = 256 * len(PIECE)

    async def large(exchange: Exchange) -> None:
        exchange.send(200, [], b"", PIECE * 256)

    async with listening(large, limits=QUICK) as (port, _, _):
        peer = await deaf(port)
        peer.send(GET)
        transport = peer.writer.transport
        received = 0
        for _ in range(10):  # longer than the limit in all, and each pause shorter
            await asyncio.sleep(0.08)
            transport.resume_reading()  # type: ignore[attr-defined]
            received += len(await peer.reader.readexactly(size // 10))
            transport.pause_reading()  # type: ignore[attr-defined]
        transport.resume_reading()  # type: ignore[attr-defined]
        received += len(await peer.reader.readexactly(size - 10 * (size // 10)))
        assert received == size


async def test_a_head_that_dribbles_in_is_refused_in_time_though_it_never_stops() -> None:
    async with listening(limits=QUICK) as (port, handler, _):
        peer = await Peer.connect(port)
        answer = asyncio.ensure_future(peer.rest())
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 200:
            if answer.done():
                break
            peer.send(bytes([byte]))
            await asyncio.sleep(0.02)
        assert (await answer).startswith(b"HTTP/1.1 408 ")
        assert not handler.seen


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_a_body_that_stops_in_the_middle_is_refused(framing: bytes) -> None:
    async with listening(limits=QUICK) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n5\r\nab" % framing)
        assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")
