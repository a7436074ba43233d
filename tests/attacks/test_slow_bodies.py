"""Over a socket: bodies that trickle in. They never fall silent, and still hold nothing for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.body import RATE_OVER_S
from gateway.clock import FakeClock
from gateway.errors import SlowRequest
from gateway.exchange import Exchange
from gateway.listener_limits import ListenerLimits
from tests.support.wire import Peer, eventually, listening

RATE = 1024
_PERIOD_S = 0.01
LIMITS = ListenerLimits(body_timeout=3.0, body_min_rate=RATE, write_timeout=4 * _PERIOD_S)  # looks that often
PLAIN = (b"Content-Length: 1000000", b"%b")
CHUNKED = (b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n")


class Upload:
    """Reads a body to its end or failure, and says how much has come."""

    def __init__(self) -> None:
        self.received = 0
        self.failed = False

    async def __call__(self, exchange: Exchange) -> None:
        try:
            async for chunk in exchange.body.chunks():
                self.received += len(chunk)
        except SlowRequest:
            self.failed = True
            raise
        exchange.send(200, [], b"", b"%d" % self.received)


@asynccontextmanager
async def uploading(limits: ListenerLimits, framing: bytes) -> AsyncIterator[tuple[Peer, Upload, FakeClock]]:
    clock, upload = FakeClock(), Upload()
    async with listening(upload, limits=limits, clock=clock) as (port, _, _):
        peer = await Peer.connect(port)
        peer.send(b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % framing)
        yield peer, upload, clock


async def send_for_a_second(peer: Peer, upload: Upload, clock: FakeClock, form: bytes, count: int) -> None:
    """The clock moves on when all has come, so that a busy machine makes no client slower than it is."""
    piece = b"x" * count
    come = upload.received + count
    peer.send(form % ((count, piece) if form.startswith(b"%x") else piece))
    await eventually(lambda: upload.received >= come or upload.failed, "it has come")
    clock.advance(1.0)
    await asyncio.sleep(_PERIOD_S)


@pytest.mark.parametrize(("framing", "form"), [PLAIN, CHUNKED])
async def test_a_body_that_trickles_is_refused_though_it_never_falls_silent(
    framing: bytes, form: bytes
) -> None:
    async with uploading(LIMITS, framing) as (peer, upload, clock):
        began = clock.now()
        while not upload.failed:
            assert clock.now() - began < 100 * RATE_OVER_S, "it never is"
            await send_for_a_second(peer, upload, clock, form, RATE // 2)
        assert clock.now() - began >= RATE_OVER_S
        assert (await peer.rest()).startswith(b"HTTP/1.1 408 ")  # and the connection is closed


@pytest.mark.parametrize(("framing", "form"), [PLAIN, CHUNKED])
@pytest.mark.parametrize(("limits", "rate"), [(LIMITS, 5 * RATE // 4), (LIMITS._replace(body_min_rate=0), 1)])
async def test_one_that_is_as_fast_as_asked_for_is_read_to_its_end(
    framing: bytes, form: bytes, limits: ListenerLimits, rate: int
) -> None:
    async with uploading(limits, framing.replace(b"1000000", b"%d" % (60 * rate))) as (peer, upload, clock):
        for _ in range(60):
            await send_for_a_second(peer, upload, clock, form, rate)
        if framing is CHUNKED[0]:
            peer.send(b"0\r\n\r\n")
        answer = await peer.exactly(12)
        assert answer == b"HTTP/1.1 200"
        assert upload.received == 60 * rate
