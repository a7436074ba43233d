"""No limit that nobody has set: more streams at once than a client library's pool would ever open."""

import asyncio
import resource

import pytest

from tests.support.gateways import port_of, running
from tests.support.upstream import Received, upstream
from tests.support.wire import Peer, eventually

STREAMS = 1_100
EVENT = b'data: {"text_output":"a"}\n\n'

FILE = """
backends: {{fleet: {{type: triton, replicas: ["{url}"], max_in_flight: 2000, probe_every: 60s}}}}
routes: {{m: {{match: {{model: m}}, policy: spill_when_full, tiers: [{{backend: fleet, when_full: shed}}]}}}}
"""


async def test_more_than_a_thousand_streams_run_at_once_and_all_end_well() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 5 * STREAMS:
        pytest.skip(f"takes {5 * STREAMS} open files, {soft} are allowed here")
    go = asyncio.Event()
    asked = 0

    async def stream(request: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        if b"/ready" in request.line:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        asked += 1
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
        await go.wait()
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENT), EVENT))

    async with upstream(stream) as replica, running(FILE.format(url=replica.url)) as gateway:
        peers = []
        for _ in range(STREAMS):
            peer = await Peer.connect(port_of(gateway))
            peer.send(
                b"POST /v2/models/m/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: 18\r\n\r\n"
                b'{"text_input":"a"}'
            )
            peers.append(peer)
        await eventually(lambda: asked == STREAMS, "every call has reached the server")
        assert gateway.capacities["fleet"].in_flight == STREAMS
        go.set()
        answers = await asyncio.gather(*(peer.answer() for peer in peers))
        assert {(status, body) for status, _, body in answers} == {(200, 2 * EVENT)}
        await eventually(lambda: gateway.capacities["fleet"].in_flight == 0, "every slot is free")
