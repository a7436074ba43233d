"""What the listener promises on the wire, seen from a raw socket."""

import asyncio

import pytest

from gateway.body import IncomingBody
from gateway.connection import ListenerLimits
from gateway.errors import ClientGone
from gateway.exchange import Exchange
from tests.support.wire import Peer, eventually, listening

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, extra: bytes = b"") -> bytes:
    return b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (len(body), extra, body)


async def test_a_connection_carries_one_request_after_another() -> None:
    async with listening() as (port, handler, _):
        peer = await Peer.connect(port)
        for number in range(3):
            peer.send(post(b"%d" % number))
            assert await peer.answer() == (
                200,
                {b"content-type": b"text/plain", b"content-length": b"9"},
                b"POST /p %d" % number,
            )
        assert len(handler.seen) == 3


async def test_pipelined_requests_are_answered_in_order_even_if_later_ones_are_quicker() -> None:
    async def slower_first(exchange: Exchange) -> None:
        await exchange.body.read(100)
        for _ in range(50 if exchange.target == b"/1" else 0):
            await asyncio.sleep(0)
        exchange.send(200, [], b"", exchange.target)

    async with listening(slower_first) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(1, 9)))
        assert [(await peer.answer())[2] for _ in range(8)] == [b"/%d" % n for n in range(1, 9)]


async def test_more_pipelined_requests_than_allowed_wait_in_the_kernel_and_are_all_answered() -> None:
    async with listening(limits=ListenerLimits(pipelined=2)) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"".join(post(b"%03d" % n) for n in range(100)))
        bodies = [(await peer.answer())[2] for _ in range(100)]
        assert bodies == [b"POST /p %03d" % n for n in range(100)]


async def test_a_request_may_come_byte_by_byte() -> None:
    async with listening() as (port, _, _):
        peer = await Peer.connect(port)
        for byte in post(b"slow"):
            peer.send(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        assert (await peer.answer())[2] == b"POST /p slow"


async def test_chunked_bodies_are_decoded_and_their_trailers_dropped() -> None:
    async with listening() as (port, handler, _):
        peer = await Peer.connect(port)
        peer.send(
            b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\nA;ext=1\r\n0123456789\r\n0\r\nX-Evil: 1\r\n\r\n"
        )
        assert (await peer.answer())[2] == b"POST /p abc0123456789"
        assert all(name != b"x-evil" for name, _ in handler.seen[0].headers)


async def test_expect_100_is_answered_only_once_the_body_is_wanted() -> None:
    async with listening() as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await peer.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"hi")
        assert (await peer.answer())[2] == b"POST /p hi"


async def test_expect_100_is_not_answered_when_the_head_is_refused() -> None:
    async def refuse(exchange: Exchange) -> None:
        exchange.send(404, [], b"", b"no")

    async with listening(refuse) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b"connection: close" in answer


async def test_head_has_the_length_of_get_and_no_body() -> None:
    async with listening() as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        head = await peer.head()
        assert b"content-length: 8\r\n" in head
        assert (await peer.answer())[2] == b"GET /a "


async def test_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    async def stream(exchange: Exchange) -> None:
        exchange.begin(200, [], b"", None)
        exchange.write(b"one ")
        exchange.write(b"two")
        exchange.end()

    async with listening(stream) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = await peer.rest()
        assert answer.endswith(b"\r\n\r\none two")
        assert b"chunked" not in answer
        assert b"connection: close" in answer


async def test_connection_close_is_honoured() -> None:
    async with listening() as (port, _, listener):
        peer = await Peer.connect(port)
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"connection: close" in await peer.rest()
        await eventually(lambda: listener.connections == 0, "the connection is gone")


SMUGGLING = {
    "both lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, other order": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
    "two different lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "length list": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2, 2\r\n\r\nhi",
    "length with sign": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\nhi",
    "length in hex": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x2\r\n\r\nhi",
    "length negative": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\nhi",
    "length empty": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n\r\nhi",
    "length overflow": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nhi",
    "bare LF in the head": b"GET / HTTP/1.1\nHost: x\n\n",
    "bare LF after a field": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "bare CR in a field": b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
    "obs-fold": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "space before colon": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "vertical tab in coding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "coding after chunked": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
    "coding in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size not hex": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk size 0x": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n",
    "chunk size overflow": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "chunk longer than said": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhix\r\n0\r\n\r\n",
    "chunk line with bare LF": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\nhi\r\n0\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "NUL in a field": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "unknown version": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "expectation unknown": b"POST / HTTP/1.1\r\nHost: x\r\nExpect: a-pony\r\nContent-Length: 2\r\n\r\nhi",
}


@pytest.mark.parametrize("case", SMUGGLING)
async def test_ambiguous_framing_is_refused_and_the_connection_closed(case: str) -> None:
    async with listening() as (port, handler, _):
        peer = await Peer.connect(port)
        peer.send(SMUGGLING[case])
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert answer.count(b"\r\n\r\n") == 1
        assert b"connection: close" in answer
        assert len(handler.refused) == 1


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"identity", b"gzip"])
async def test_a_transfer_coding_other_than_chunked_is_not_offered(coding: bytes) -> None:
    async with listening() as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding)
        assert (await peer.rest()).startswith(b"HTTP/1.1 501 ")


async def test_a_good_request_before_a_bad_one_is_answered_first() -> None:
    async with listening() as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(GET + SMUGGLING["bare LF in the head"])
        assert (await peer.answer())[0] == 200
        assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")


LIMITS = ListenerLimits(head=512, fields=8, target=64, body=1000, body_buffer=100)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 65), 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: %b\r\n\r\n" % (b"a" * 600), 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 5000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 9 + b"\r\n", 431),
        (post(b"a" * 1001), 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n"
            + b"a" * 1001
            + b"\r\n0\r\n\r\n",
            413,
        ),
    ],
)
async def test_sizes_over_the_limit_get_their_own_status(request_bytes: bytes, status: int) -> None:
    async with listening(limits=LIMITS) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(request_bytes)
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 %d " % status), answer
        assert answer.count(b"\r\n\r\n") == 1


async def test_a_chunked_body_that_is_mostly_framing_is_refused() -> None:
    async with listening() as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(200):
            peer.send(b"1;" + b"x" * 1000 + b"\r\na\r\n")
        assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")


QUICK = ListenerLimits(head_timeout=0.2, body_timeout=0.2, idle_timeout=0.2)


async def test_a_head_that_does_not_arrive_in_time_is_408() -> None:
    async with listening(limits=QUICK) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"GET / HTTP/1.1\r\nHost")
        assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_stops_arriving_is_408() -> None:
    async with listening(limits=QUICK) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")


async def test_silent_and_idle_connections_are_closed_without_a_word() -> None:
    async with listening(limits=QUICK) as (port, _, listener):
        silent = await Peer.connect(port)
        idle = await Peer.connect(port)
        idle.send(GET)
        assert (await idle.answer())[0] == 200
        assert await silent.rest() == b""
        assert await idle.rest() == b""
        assert listener.connections == 0


async def test_a_client_that_hangs_up_cancels_the_work_for_it() -> None:
    async def never(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with listening(never) as (port, handler, _):
        for leave in (Peer.close, Peer.reset):
            handler.cancelled = 0
            handler.seen.clear()
            peer = await Peer.connect(port)
            peer.send(GET)
            await eventually(lambda: bool(handler.seen), "the request arrives")
            leave(peer)
            await eventually(lambda: handler.cancelled == 1, "the handler is cancelled")


async def test_a_client_that_leaves_in_mid_body_fails_the_body() -> None:
    errors: list[BaseException] = []

    async def read(exchange: Exchange) -> None:
        try:
            await exchange.body.read(1000)
        except BaseException as error:
            errors.append(error)
            raise

    async with listening(read) as (port, handler, _):
        peer = await Peer.connect(port)
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        await eventually(lambda: bool(handler.seen), "the request arrives")
        peer.reset()
        await eventually(lambda: bool(errors), "the reader is told")
        assert isinstance(errors[0], ClientGone | asyncio.CancelledError)


async def test_a_slow_reader_makes_the_writer_wait_instead_of_growing_memory() -> None:
    written = 0
    total = 64 * 1024 * 1024
    piece = b"x" * 65536

    async def flood(exchange: Exchange) -> None:
        nonlocal written
        exchange.begin(200, [], b"", total)
        while written < total:
            exchange.write(piece)
            written += len(piece)
            if exchange.congested:
                await exchange.drain()
        exchange.end()

    async with listening(flood) as (port, _, _):
        peer = await Peer.connect(port)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        peer.send(GET)
        await eventually(lambda: written > 0, "the first bytes")
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.05)
        assert written < 16 * 1024 * 1024  # the sockets' buffers, not the gateway's memory
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.head()
        assert len(await peer.exactly(total)) == total


async def test_a_large_upload_waits_for_its_reader_instead_of_growing_memory() -> None:
    go = asyncio.Event()
    sizes: list[int] = []

    async def lazy(exchange: Exchange) -> None:
        await go.wait()
        async for chunk in exchange.body.chunks():
            sizes.append(len(chunk))
        exchange.send(200, [], b"", b"%d" % sum(sizes))

    limits = ListenerLimits(body_buffer=64 * 1024)
    async with listening(lazy, limits=limits) as (port, handler, _):
        peer = await Peer.connect(port)
        size = 32 * 1024 * 1024
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        sending = asyncio.get_running_loop().create_task(asyncio.to_thread(lambda: None))
        await sending
        peer.send(b"y" * size)
        await eventually(lambda: bool(handler.seen), "the request starts before its body is here")
        await asyncio.sleep(0.1)
        arriving = handler.seen[0].body
        assert isinstance(arriving, IncomingBody)
        assert arriving._held <= 64 * 1024 + 256 * 1024  # the buffer and one read
        go.set()
        assert (await peer.answer())[2] == b"%d" % size
        assert max(sizes) <= 64 * 1024 + 256 * 1024


async def test_an_early_answer_reaches_a_client_that_is_still_uploading() -> None:
    async def refuse(exchange: Exchange) -> None:
        exchange.send(413, [], b"", b"too much")

    async with listening(refuse) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"z" * 500_000)
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b"too much")


async def test_an_upgrade_is_ignored_and_the_connection_closed_after_the_answer() -> None:
    async with listening() as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n")
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer


async def test_draining_finishes_what_is_in_flight_and_closes_the_rest() -> None:
    release = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        exchange.send(200, [], b"", b"done")

    async with listening(wait) as (port, handler, listener):
        busy, idle = await Peer.connect(port), await Peer.connect(port)
        busy.send(GET)
        await eventually(lambda: bool(handler.seen) and listener.connections == 2, "both are known")
        draining = asyncio.get_running_loop().create_task(listener.drain(5))
        assert await idle.rest() == b""
        release.set()
        answer = await busy.rest()
        assert answer.endswith(b"done")
        assert b"connection: close" in answer
        await draining
        with pytest.raises(OSError):
            await Peer.connect(port)


async def test_request_ids_and_traces_are_kept_if_sane_and_replaced_if_not() -> None:
    async with listening() as (port, handler, _):
        peer = await Peer.connect(port)
        trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: abc-1\r\nTraceparent: %b\r\n\r\n" % trace)
        await peer.answer()
        peer.send(b'GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: a"b\r\nTraceparent: junk\r\n\r\n')
        await peer.answer()
        good, bad = handler.seen
        assert (good.request_id, good.traceparent.encode()) == ("abc-1", trace)
        assert bad.request_id
        assert '"' not in bad.request_id
        assert len(bad.traceparent) == 55


async def test_connections_over_the_limit_are_turned_away() -> None:
    async with listening(limits=ListenerLimits(connections=1)) as (port, _, listener):
        first = await Peer.connect(port)
        await eventually(lambda: listener.connections == 1, "the first is in")
        second = await Peer.connect(port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            assert await second.rest() == b""
            raise ConnectionError
        first.send(GET)
        assert (await first.answer())[0] == 200


async def test_a_handler_that_fails_breaks_the_connection_instead_of_leaving_it_hanging() -> None:
    async def silent(exchange: Exchange) -> None:
        return None

    async with listening(silent) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(GET)
        assert await peer.rest() == b""


async def test_a_head_seen_before_is_recognised_and_means_the_same() -> None:
    async with listening() as (port, handler, listener):
        peer = await Peer.connect(port)
        other = await Peer.connect(port)
        for client, body in ((peer, b"one"), (peer, b"two"), (other, b"six"), (peer, b"longer")):
            client.send(post(body))
            assert (await client.answer())[2] == b"POST /p " + body
        assert len(listener.heads) == 1  # the other length came once
        peer.send(post(b"larger"))
        await peer.answer()
        assert len(listener.heads) == 2
        ids = [exchange.request_id for exchange in handler.seen]
        traces = [exchange.traceparent for exchange in handler.seen]
        assert len(set(ids)) == len(set(traces)) == 5
        assert handler.seen[0].headers == handler.seen[1].headers


async def test_a_known_head_with_less_or_more_than_its_body_is_parsed_as_ever() -> None:
    async with listening() as (port, _, listener):
        peer = await Peer.connect(port)
        for _ in range(2):
            peer.send(post(b"abc"))
            await peer.answer()
        assert len(listener.heads) == 1
        whole = post(b"xyz")
        peer.send(whole[:-1])
        await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        peer.send(whole[-1:])
        assert (await peer.answer())[2] == b"POST /p xyz"
        peer.send(whole + post(b"123"))
        assert [(await peer.answer())[2] for _ in range(2)] == [b"POST /p xyz", b"POST /p 123"]
        peer.send(whole + b"\x00\x01")
        assert (await peer.answer())[2] == b"POST /p xyz"
        assert (await peer.rest()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "extra", [b"X-Request-Id: a\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n"]
)
async def test_heads_that_are_one_of_a_kind_are_not_kept(extra: bytes) -> None:
    async with listening() as (port, _, listener):
        for _ in range(2):
            peer = await Peer.connect(port)
            peer.send(post(b"abc", extra))
            await peer.head()
        assert len(listener.heads) == 0


async def test_the_table_of_known_heads_is_bounded() -> None:
    async with listening() as (port, _, listener):
        peer = await Peer.connect(port)
        for number in range(1100):
            for _ in range(2):
                peer.send(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
                assert (await peer.answer())[0] == 200
        size = len(listener.heads)
        assert 0 < size <= 1024
        for _ in range(2):
            peer.send(b"GET /big HTTP/1.1\r\nHost: x\r\nA: %b\r\n\r\n" % (b"a" * 4000))
            assert (await peer.answer())[0] == 200
        assert len(listener.heads) == size


async def test_a_client_that_hangs_up_between_requests_leaves_nothing_behind() -> None:
    async with listening() as (port, _, listener):
        for _ in range(20):
            peer = await Peer.connect(port)
            peer.send(GET)
            await peer.answer()
            peer.reset()
        await eventually(lambda: listener.connections == 0, "all are gone")
        await eventually(lambda: len(asyncio.all_tasks()) <= 3, "and their tasks too")
