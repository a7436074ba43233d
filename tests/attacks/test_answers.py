"""Replicas that answer with evil intent: their clients get one answer, well framed, or see that it is none."""

import asyncio

import h11
import pytest

from tests.attacks.table import get
from tests.attacks.test_others import FILE
from tests.support.gateways import port_of, running
from tests.support.upstream import Received, upstream
from tests.support.wire import Peer

HEAD = b"HTTP/1.1 200 OK\r\n"
EVIL = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL"
GOOD = HEAD + b"content-length: 4\r\n\r\ngood"

REFUSED = {
    "length and chunks": HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"content-length: 4\r\ncontent-length: 5\r\n\r\ngood",
    "list of lengths": HEAD + b"content-length: 4, 4\r\n\r\ngood",
    "signed length": HEAD + b"content-length: +4\r\n\r\ngood",
    "obs-fold": HEAD + b"a: b\r\n c\r\ncontent-length: 4\r\n\r\ngood",
    "bare LF": b"HTTP/1.1 200 OK\ncontent-length: 4\n\ngood",
    "bare CR in a value": HEAD + b"a: b\rset-cookie: c\r\ncontent-length: 4\r\n\r\ngood",
    "NUL in a value": HEAD + b"a: b\0c\r\ncontent-length: 4\r\n\r\ngood",
    "blank before the colon": HEAD + b"content-length : 4\r\n\r\ngood",
    "no colon": HEAD + b"abc\r\ncontent-length: 4\r\n\r\ngood",
    "status of two digits": b"HTTP/1.1 20 OK\r\ncontent-length: 4\r\n\r\ngood",
    "status 600": b"HTTP/1.1 600 OK\r\ncontent-length: 4\r\n\r\ngood",
    "status 999": b"HTTP/1.1 999 OK\r\ncontent-length: 4\r\n\r\ngood",
    "status 099": b"HTTP/1.1 099 OK\r\ncontent-length: 4\r\n\r\ngood",
    "status 099 with a body, and a good answer": b"HTTP/1.1 099 OK\r\ncontent-length: 4\r\n\r\nEVIL" + GOOD,
    "another protocol": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n" + EVIL,
    "frames of HTTP/2": b"\0\0\0\x04\0\0\0\0\0",
    "no HTTP at all": b"+PONG\r\n",
    "endless head": HEAD + b"a: " + b"b" * 200_000 + b"\r\ncontent-length: 4\r\n\r\ngood",
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
    "shorter than it says": HEAD + b"content-length: 40\r\n\r\ngood",
}


async def answers(port: int, requests: list[bytes]) -> list[tuple[int, bytes]]:
    """What an independent, strict client makes of it: one connection, one request after the other."""
    peer = await Peer.connect(port)
    client = h11.Connection(h11.CLIENT)
    told = []
    for target in requests:
        peer.send(client.send(h11.Request(method="GET", target=target, headers=[("Host", "x")])) or b"")
        client.send(h11.EndOfMessage())
        status, body = 0, b""
        while True:
            event = client.next_event()
            if event is h11.NEED_DATA:
                client.receive_data(await asyncio.wait_for(peer.reader.read(65536), 5))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                assert isinstance(event, h11.InformationalResponse), event
        told.append((status, body))
        if client.our_state is not h11.DONE or client.their_state is not h11.DONE:
            break
        client.start_next_cycle()
    return told


async def through(wire: bytes, count: int = 1, *, closes: bool = True) -> list[tuple[int, bytes]]:
    """A replica says `wire` to the first question, and something good to those that follow."""
    said: list[Received] = []

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        if b"/x" not in received.line or said:
            writer.write(GOOD)
            return
        said.append(received)
        writer.write(wire)
        if closes:
            await writer.drain()
            writer.close()

    async with upstream(answer) as replica, running(FILE.format(url=replica.url)) as gateway:
        return await answers(port_of(gateway), [b"/invoke/r/x"] * count)


@pytest.mark.parametrize("name", REFUSED)
async def test_an_answer_that_cannot_be_trusted_becomes_502(name: str) -> None:
    (status, body), *_ = await through(REFUSED[name])
    assert status in {502, 503}, (status, body)
    assert b"EVIL" not in body


@pytest.mark.parametrize(
    ("wire", "status", "body"),
    [
        (HEAD + b"content-length: 0\r\n\r\n" + EVIL, 200, b""),
        (GOOD + EVIL, 200, b"good"),
        (b"HTTP/1.1 204 No Content\r\n\r\n" + EVIL, 204, b""),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nEVIL", 204, b""),
        (b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nEVIL\r\n0\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nEVIL", 304, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\na: b\r\n\r\n" + GOOD, 200, b"good"),
        (
            HEAD + b"transfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\nset-cookie: 9\r\nevil: 1\r\n\r\n",
            200,
            b"good",
        ),
        (
            HEAD + b"x-overspill-cost-usd: 0\r\nconnection: content-length\r\ncontent-length: 4\r\n\r\ngood",
            200,
            b"good",
        ),
    ],
)
async def test_what_follows_an_answer_is_never_taken_for_the_next(
    wire: bytes, status: int, body: bytes
) -> None:
    first, *rest = await through(wire, 3, closes=False)
    assert first == (status, body)
    assert rest == [(200, b"good")] * len(rest)
    assert rest


async def test_a_trailer_that_would_frame_breaks_the_answer_off() -> None:
    wire = HEAD + b"transfer-encoding: chunked\r\n\r\n4\r\ngood\r\n0\r\ncontent-length: 9\r\n\r\n"
    with pytest.raises(h11.RemoteProtocolError, match="without sending complete"):
        await through(wire)


async def test_an_error_answer_without_end_is_not_held() -> None:
    wire = b"HTTP/1.1 500 Broken\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 8_000_000
    (status, body), *_ = await through(wire)
    assert status == 502
    assert len(body) < 1000


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_answer_that_ends_with_its_connection_is_whole(version: bytes) -> None:
    wire = b"HTTP/%b 200 OK\r\nconnection: close\r\n\r\ngood" % version
    assert await through(wire, 2) == [(200, b"good"), (200, b"good")]


async def test_what_a_client_sends_is_not_reflected_into_the_head_of_its_answer() -> None:
    async with upstream() as replica, running(FILE.format(url=replica.url)) as gateway:
        for field in (b"X-Request-Id: a\x7fb", b"X-Request-Id: a b", b"Traceparent: %0d%0aEvil: 1"):
            peer = await Peer.connect(port_of(gateway))
            peer.send(
                get(b"/invoke/r/x%0d%0aEvil:%201", field)
                + get(b"/invoke/%0d%0aEvil:%201", b"Connection: close")
            )
            answer = await peer.rest()
            assert b"\r\nEvil" not in answer
            assert b"\nevil" not in answer.lower()
