"""The client's side: how a call ends, whatever the server does."""

import asyncio
from typing import Any

import pytest

from backends.grpc_client import GrpcClient, OutgoingRpc
from backends.reaching import Reach
from gateway.errors import BackendBroke, BackendDown, BackendError, BackendFull
from tests.http2.played import (
    DATA,
    RST_STREAM,
    Frame,
    PlayedTransport,
    frame,
    frames_in,
    goaway,
    head,
    reset,
    section,
    settings,
    until,
    window_update,
)

ANSWER = section((b":status", b"200"), (b"content-type", b"application/grpc"))
OK = section((b"grpc-status", b"0"))
MESSAGE = b"\0\0\0\0\2hi"


class Play:
    """A client and the server that the test plays."""

    def __init__(self, *values: tuple[int, int]) -> None:
        self.client = GrpcClient("there:1")
        self.transport = PlayedTransport()
        self.client.connection_made(self.transport)
        self.client.data_received(settings(values))
        self.transport.sent.clear()

    def hear(self, *pieces: bytes) -> list[Frame]:
        for piece in pieces:
            self.client.data_received(piece)
        sent = bytes(self.transport.sent)
        self.transport.sent.clear()
        return frames_in(sent)

    async def begin(self, message: bytes | None = b"ask") -> OutgoingRpc:
        return await self.client.begin(b"\x83", message)


async def ends(rpc: OutgoingRpc) -> tuple[int | None, bytes | None]:
    message = await asyncio.wait_for(rpc.end(), 5)
    return rpc.code, message


ENDS: dict[str, tuple[list[bytes], int, bytes | None]] = {
    "an answer": ([head(1, block=ANSWER), frame(DATA, 0, 1, MESSAGE), head(1, block=OK, last=True)], 0, b"hi"),
    "after informational ones": (
        [head(1, block=section((b":status", b"103"))), head(1, block=ANSWER), frame(DATA, 0, 1, MESSAGE),
         head(1, block=OK, last=True)], 0, b"hi",
    ),
    "trailers only": ([head(1, block=ANSWER + section((b"grpc-status", b"5")), last=True)], 5, None),
    "trailers without a status": ([head(1, block=ANSWER), head(1, block=section((b"x", b"y")), last=True)], 2, None),
    "an end without trailers": ([head(1, block=ANSWER), frame(DATA, 1, 1, MESSAGE)], 2, b"hi"),
    "HTTP 503": ([head(1, block=section((b":status", b"503")), last=True)], 14, None),
    "HTTP 404 with a body": ([head(1, block=section((b":status", b"404"))), frame(DATA, 1, 1, b"<html>")], 12, None),
    "HTTP 200 that is no gRPC": ([head(1, block=section((b":status", b"200")), last=True)], 2, None),
    "reset after the answer began": ([head(1, block=ANSWER), reset(1, 8)], 1, None),
    "reset in the middle of a message": ([head(1, block=ANSWER), frame(DATA, 0, 1, MESSAGE[:4]), reset(1, 2)], 13, None),
    "a message cut short by a good status": (
        [head(1, block=ANSWER), frame(DATA, 0, 1, MESSAGE[:-1]), head(1, block=OK, last=True)], 13, None,
    ),
    "a status that is no number": ([head(1, block=ANSWER + section((b"grpc-status", b"zero")), last=True)], 2, None),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
async def test_a_call_ends_with_a_status(name: str) -> None:
    pieces, code, message = ENDS[name]
    play = Play()
    rpc = await play.begin()
    play.hear(*pieces)
    assert await ends(rpc) == (code, message)
    assert not play.client.streams
    assert not play.transport.closing


BREAKS: dict[str, tuple[list[bytes], type[BackendError]]] = {
    "refused": ([reset(1, 7)], BackendFull),
    "above the last of a GOAWAY": ([goaway(0)], BackendDown),
    "a value with CRLF": ([head(1, block=ANSWER + section((b"x", b"a\r\nb: c")))], BackendBroke),
    "a name with capitals": ([head(1, block=ANSWER + section((b"Xy", b"z")))], BackendBroke),
    "no status of HTTP": ([head(1, block=section((b"x", b"y")))], BackendBroke),
    "a status of many digits": ([head(1, block=section((b":status", b"2" * 6000)))], BackendBroke),
    "messages before the head": ([frame(DATA, 0, 1, MESSAGE)], BackendBroke),
    "two messages": ([head(1, block=ANSWER), frame(DATA, 0, 1, MESSAGE * 2)], BackendBroke),
    "packed messages nobody asked for": (
        [head(1, block=ANSWER), frame(DATA, 0, 1, b"\1" + MESSAGE[1:])],
        BackendBroke,
    ),
    "an answer that ends before it begins": (
        [head(1, block=section((b":status", b"103")), last=True)],
        BackendBroke,
    ),
    "frames that are none": ([frame(DATA, 0, 1, size=2**24 - 1)], BackendBroke),
    "a stream of the server's": ([head(2, block=ANSWER)], BackendBroke),
    "a push": ([frame(5, 4, 1, bytes(9))], BackendBroke),
    "a window that overflows": ([window_update(0, 2**31 - 1)], BackendBroke),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_or_it_has_failed_and_whether_it_had_begun_is_known(name: str) -> None:
    pieces, error = BREAKS[name]
    play = Play()
    rpc = await play.begin()
    play.hear(*pieces)
    with pytest.raises(error) as failed:
        await ends(rpc)
    assert type(failed.value) is error
    assert not play.client.streams


async def test_a_server_may_end_before_it_has_heard_all() -> None:
    play = Play()
    rpc = await play.begin(None)
    rpc.send(bytes(100_000))
    said = play.hear(head(1, block=ANSWER + section((b"grpc-status", b"8")), last=True))
    assert (RST_STREAM, 8) in [(each.kind, each.number) for each in said]
    assert await rpc.next() is None
    assert rpc.code == 8
    assert not await rpc.write(b"more")
    assert not play.client.streams


async def test_calls_go_on_after_a_goaway_that_lets_them_and_no_other_begins() -> None:
    play = Play()
    first, second = await play.begin(), await play.begin()
    play.hear(goaway(1))
    assert not play.client.usable
    with pytest.raises(BackendDown):
        await ends(second)
    with pytest.raises(BackendDown):
        await play.begin()
    play.hear(head(1, block=ANSWER), frame(DATA, 0, 1, MESSAGE), head(1, block=OK, last=True))
    assert await ends(first) == (0, b"hi")
    assert play.transport.closing


async def test_no_more_streams_are_open_than_the_server_takes() -> None:
    play = Play((3, 1))
    first = await play.begin()
    waiting = [asyncio.ensure_future(play.begin()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    play.hear(head(1, block=ANSWER + OK, last=True))
    waiting[0].cancel()  # it was its turn, and nobody else was told
    assert await ends(first) == (0, None)
    await until(lambda: waiting[1].done(), "the next one begins")
    assert len(play.client.streams) == 1
    play.hear(settings([(3, 2)]))  # room without any stream's end
    await until(lambda: waiting[2].done(), "the last one begins")
    assert len(play.client.streams) == 2


async def test_a_server_that_takes_none_at_first() -> None:
    play = Play((3, 0))
    waiting = asyncio.ensure_future(play.begin())
    await asyncio.sleep(0)
    play.hear(settings([(3, 5)]))
    await until(waiting.done, "it begins")


async def test_a_connection_that_is_lost_ends_all_and_who_waits() -> None:
    play = Play((3, 1))
    rpc = await play.begin()
    waiting = asyncio.ensure_future(play.begin())
    await asyncio.sleep(0)
    play.client.connection_lost(ConnectionResetError("gone"))
    with pytest.raises(BackendBroke):
        await ends(rpc)
    with pytest.raises(BackendDown):
        await waiting


@pytest.mark.parametrize(
    "says",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00" * 50,
        b"SSH-2.0-x\r\n",
        b"",
        None,
        goaway(0),
        settings(flags=1),
    ],
)
async def test_a_server_that_is_no_http2_is_down_and_nothing_stays_open(says: bytes | None) -> None:
    left: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if says is not None:
            writer.write(says)
            if not says:
                writer.close()
        while await reader.read(1000):
            pass
        left.append(True)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reach = Reach("127.0.0.1", server.sockets[0].getsockname()[1], tls=None, timeout=0.3)
        with pytest.raises(BackendDown):
            await reach.connect(lambda: GrpcClient("there:1"), lambda client: client.settling)
        async with asyncio.timeout(5):
            while not left:
                await asyncio.sleep(0.01)
