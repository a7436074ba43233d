"""Calls that end badly are forgotten at once: what they held is not kept until somebody looks for cycles.

A body of megabytes in a cycle stays for minutes, since little else makes the interpreter look.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from tritonclient.grpc import service_pb2 as pb

from gateway.app import Gateway
from tests.grpc_ingress import support
from tests.grpc_ingress.support import file, fleet, front, replica
from tests.support.cycles import no_cycles
from tests.support.gateways import port_of, running
from tests.support.upstream import Answerer, Received, Upstream, upstream
from tests.support.wire import Peer, eventually

PATH = b"/v2/models/m/infer"
BODY = b'{"inputs":[{"name":"x","datatype":"INT32","shape":[1],"data":[1]}]}'
SMALL = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (PATH, len(BODY), BODY)
TENSOR = b'{"inputs":[{"name":"x","datatype":"UINT8","shape":[2000000],"parameters":{"binary_data_size":2000000}}]}'
LARGE = (
    b"POST %b HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n%b%b"
    % (PATH, len(TENSOR), len(TENSOR) + 2_000_000, TENSOR, bytes(600_000))
)


def one_fleet(url: str) -> str:
    return f"""
backends:
  fleet: {{type: triton, replicas: ["{url}"], max_in_flight: 8, price: {{usd_per_replica_hour: 1.0}}}}
routes:
  m:
    match: {{model: m}}
    policy: spill_when_full
    tiers: [{{backend: fleet, when_full: {{queue: 5s, then: shed}}}}]
"""


async def silent(received: Received, writer: asyncio.StreamWriter) -> None:
    if b"/infer" not in received.line:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        return
    await asyncio.sleep(60)


async def endless(received: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n")
    if b"/infer" not in received.line:
        writer.write(b"0\r\n\r\n")
        return
    for _ in range(6000):
        writer.write(b"5\r\nhello\r\n")
        await asyncio.sleep(0.01)


async def broken(received: Received, writer: asyncio.StreamWriter) -> None:
    if b"/infer" not in received.line:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        return
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\nhello")
    await writer.drain()
    writer.transport.abort()


@asynccontextmanager
async def behind(answer: Answerer) -> AsyncIterator[tuple[Gateway, Upstream]]:
    async with upstream(answer) as server, running(one_fleet(server.url)) as gateway:
        await eventually(lambda: server.open > 0 or bool(server.received), "the replica was looked at")
        yield gateway, server


def asked(server: Upstream) -> int:
    return sum(b"/infer" in received.line for received in server.received)


async def over(gateway: Gateway, calls: int) -> None:
    await eventually(
        lambda: gateway.ledger.closed >= calls and not gateway.ledger.open_records, "calls ended"
    )
    await asyncio.sleep(0.1)  # tasks and transports that were told to end have their turns


async def test_of_clients_that_leave_while_they_wait_nothing_stays() -> None:
    async with behind(silent) as (gateway, server):
        with no_cycles():
            for number in range(1, 4):
                peer = await Peer.connect(port_of(gateway))
                peer.send(SMALL)
                await eventually(lambda number=number: asked(server) == number, "the replica was asked")  # type: ignore[misc]
                peer.reset()
                await over(gateway, number)
            Peer.connected.clear()
            del peer


async def test_of_clients_that_leave_in_their_body_nothing_stays() -> None:
    async with behind(silent) as (gateway, _):
        with no_cycles():
            for number in range(1, 4):
                peer = await Peer.connect(port_of(gateway))
                peer.send(LARGE)
                await eventually(lambda: gateway.ledger.open_records == 1, "the call has begun")
                await asyncio.sleep(0.05)
                peer.reset()
                await over(gateway, number)
            Peer.connected.clear()
            del peer


async def test_of_clients_that_leave_their_answer_nothing_stays() -> None:
    async with behind(endless) as (gateway, _):
        with no_cycles():
            for number in range(1, 4):
                peer = await Peer.connect(port_of(gateway))
                peer.send(SMALL)
                assert await peer.head()
                peer.reset()
                await over(gateway, number)
            Peer.connected.clear()
            del peer


@pytest.mark.parametrize("request_", [SMALL, b"GET / HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n"])
async def test_of_answers_that_break_off_and_of_refusals_nothing_stays(request_: bytes) -> None:
    async with behind(broken) as (gateway, _):
        with no_cycles():
            for number in range(1, 4):
                peer = await Peer.connect(port_of(gateway))
                peer.send(request_)
                await peer.rest()
                peer.reset()
                await over(gateway, number)
            Peer.connected.clear()
            del peer


def question(size: int = 0) -> bytes:
    data: bytes = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(size)]).SerializeToString()
    return data


async def test_of_rpcs_that_are_cancelled_and_channels_that_close_nothing_stays() -> None:
    async def forever(message: bytes, context: object) -> bytes:
        await asyncio.sleep(60)
        return b""

    async def endless_stream(messages: AsyncIterator[bytes], context: object) -> None:
        while True:
            token = pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(model_name="m"))
            await context.write(token.SerializeToString())  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)

    async with (
        replica(forever, endless_stream) as one,
        front(file({"fleet": fleet(one)}, support.SHED)) as gate,
    ):
        with no_cycles():
            for number in range(1, 4):
                call = gate.infer(question(300_000))
                await eventually(lambda: one.running == 1, "the replica was asked")
                call.cancel()
                await over(gate.gateway, 2 * number - 1)
                stream = gate.open_stream()
                await stream.write(question())
                await stream.read()
                stream.cancel()
                await over(gate.gateway, 2 * number)
            await gate.channel.close()
            await asyncio.sleep(0.1)


async def failing(received: Received, writer: asyncio.StreamWriter) -> None:
    ready = b"/infer" not in received.line
    status = b"200 OK" if ready else b"500 Internal Server Error"
    writer.write(b'HTTP/1.1 %b\r\ncontent-length: 20\r\n\r\n{"error":"it broke"}' % status)


async def slow(received: Received, writer: asyncio.StreamWriter) -> None:
    if b"/infer" in received.line:
        await asyncio.sleep(0.3)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


ROUTE = "routes:\n  m: {{match: {{model: m}}, policy: spill_when_full, {more}}}\n"
OWNED = (
    "  {name}: {{type: triton, replicas: ['{url}'], max_in_flight: 1, price: {{usd_per_replica_hour: 1}}}}\n"
)
RENTED = (
    "  {name}: {{type: modal, url: '{url}', max_in_flight: 4, price: {{usd_per_second: 0.01}},"
    " cold_start: {{expect: 1s, idle_after: 2s}}}}\n"
)
SHED = "tiers: [{backend: one, when_full: {queue: 50ms, then: shed}}]"
HEDGED = "hedge: {after: 50ms, share: 100%}, tiers: [{backend: one, when_full: spill}, {backend: two, when_full: shed}]"

CASES = {
    "shed by a queue": (OWNED, SHED, (slow,), "answer", 2),
    "refused by a replica": (OWNED, SHED, (failing,), "answer", 1),
    "failed by a rented endpoint": (RENTED, SHED, (failing,), "answer", 1),
    "broken off by a rented endpoint": (RENTED, SHED, (broken,), "answer", 1),
    "left at a rented endpoint": (RENTED, SHED, (silent,), "leave", 1),
    "left in its answer by a rented endpoint": (RENTED, SHED, (endless,), "leave", 1),
    "hedged, and won by the second": (OWNED, HEDGED, (silent, slow), "answer", 1),
    "hedged, and left": (OWNED, HEDGED, (silent, silent), "leave", 1),
    "hedged, and failed by both": (OWNED, HEDGED, (slow, failing), "answer", 1),
}


@pytest.mark.parametrize("case", CASES)
async def test_of_calls_that_are_nothing_stays(case: str) -> None:
    backend, route, answers, way, at_once = CASES[case]
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(upstream(answer)) for answer in answers]
        backends = "".join(
            backend.format(name=name, url=each.url)
            for name, each in zip(("one", "two"), servers, strict=False)
        )
        text = f"backends:\n{backends}{ROUTE.format(more=route)}"
        gateway = await stack.enter_async_context(running(text))
        await asyncio.sleep(0.2)  # the first looks at the replicas
        with no_cycles():
            for number in range(1, 3):
                peers = [await Peer.connect(port_of(gateway)) for _ in range(at_once)]
                for peer in peers:
                    peer.send(SMALL)
                if way == "leave":
                    await asyncio.sleep(0.15)  # longer than the hedge waits
                for peer in peers:
                    if way == "answer":
                        await peer.head()
                    peer.reset()
                await over(gateway, number * at_once)
            Peer.connected.clear()
            del peer, peers
