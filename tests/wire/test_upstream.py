"""What the warm path promises towards a replica, against servers that answer with every byte chosen."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from random import Random

import pytest

from backends.base import Kit
from backends.triton import Triton, TritonOptions
from gateway.background import Background
from gateway.clock import SystemClock
from gateway.errors import (
    AnswerTruncated,
    BackendBroke,
    BackendDown,
    BackendError,
    BackendFull,
    BackendUnready,
    SlowRequest,
)
from gateway.vocab import Body, Call, Poured, Reply, Start, Verdict, WholeBody, Work
from tests.support.upstream import Answerer, Received, Upstream, upstream
from tests.support.wire import dead_port, eventually


def call(body: Body | bytes = b"{}", *, method: bytes = b"POST", version: str = "") -> Call:
    return Call(
        protocol="kserve",
        operation="infer",
        method=method,
        target=b"/v2/models/m/infer?a=1",
        headers=[(b"content-type", b"application/json"), (b"x-custom", b"1")],
        body=WholeBody(body) if isinstance(body, bytes) else body,
        model="m",
        version=version,
        request_id="r-1",
        traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
    )


def triton(url: str, **options: object) -> Triton:
    kit = Kit(SystemClock(), Random(1), Background().spawn)
    settings = TritonOptions.model_validate(
        {"type": "triton", "replicas": [url], "max_in_flight": 8, "connect_timeout": "500ms", **options}
    )
    return Triton("fleet", settings, kit)


@asynccontextmanager
async def fleet(answer: Answerer | None = None, **options: object) -> AsyncIterator[tuple[Triton, Upstream]]:
    async with upstream(*([answer] if answer else [])) as server:
        backend = triton(server.url, **options)
        try:
            yield backend, server
        finally:
            await backend.close()


async def body_of(reply: Reply) -> bytes:
    if reply.body is not None:
        return reply.body
    assert reply.stream is not None
    return b"".join([part async for part in reply.stream])


async def ask(backend: Triton, request: Call | None = None) -> tuple[int, bytes]:
    async with backend.send(request or call(), 0) as reply:
        return reply.status, await body_of(reply)


def answering(data: bytes, *, then_close: bool = False) -> Answerer:
    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if then_close:
            await writer.drain()
            writer.close()

    return answer


async def test_the_request_goes_out_as_it_came_with_the_gateways_own_fields() -> None:
    async with fleet(headers={"X-Key": "abc"}) as (backend, server):
        assert await ask(backend, call(b'{"x":1}')) == (200, b"ok")
        seen = server.received[0]
        assert seen.line == b"POST /v2/models/m/infer?a=1 HTTP/1.1"
        assert seen.body == b'{"x":1}'
        assert seen.field(b"host") == [b"127.0.0.1:%d" % server.port]
        assert seen.field(b"x-custom") == [b"1"]
        assert seen.field(b"x-key") == [b"abc"]
        assert seen.field(b"x-request-id") == [b"r-1"]
        assert seen.field(b"traceparent") == [b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"]
        assert seen.field(b"accept-encoding") == [b"identity"]
        assert seen.field(b"content-length") == [b"7"]


async def test_one_connection_serves_calls_one_after_another_and_several_serve_them_at_once() -> None:
    async with fleet() as (backend, server):
        for _ in range(5):
            await ask(backend)
        assert server.connections == 1
        await asyncio.gather(*(ask(backend) for _ in range(4)))
        assert 2 <= server.connections <= 4


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nT: x\r\n\r\n", b"abc"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)  # fmt: skip
async def test_every_framing_of_an_answer_is_understood_and_the_connection_kept(
    wire: bytes, body: bytes
) -> None:
    async with fleet(answering(wire)) as (backend, server):
        for _ in range(2):
            assert (await ask(backend))[1] == body
        assert server.connections == 1


async def test_an_answer_that_ends_with_its_connection_is_complete() -> None:
    async with fleet(answering(b"HTTP/1.0 200 OK\r\n\r\nabc", then_close=True)) as (backend, _):
        assert await ask(backend) == (200, b"abc")


async def test_a_large_answer_is_streamed_and_a_slow_reader_holds_its_sender_back() -> None:
    size = 64 * 1024 * 1024
    sent = 0

    async def flood(_: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with fleet(flood) as (backend, _):
        async with backend.send(call(), 0) as reply:
            assert (reply.body, reply.length) == (None, size)
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.05)
            assert sent < 16 * 1024 * 1024
            assert len(await body_of(reply)) == size


async def test_a_stream_arrives_piece_by_piece() -> None:
    step = asyncio.Event()

    async def drip(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await step.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async with fleet(drip) as (backend, _):
        async with backend.send(call(), 0) as reply:
            assert reply.stream is not None
            stream = aiter(reply.stream)
            assert await anext(stream) == b"one"
            step.set()
            assert [part async for part in stream] == [b"two"]


class Arriving:
    """A body that the test hands out."""

    def __init__(self, parts: list[bytes | Exception], length: int | None) -> None:
        self.parts, self.length, self.repeatable = parts, length, True

    def whole(self) -> bytes | None:
        return None

    async def settle(self) -> None: ...
    async def prefix(self, size: int) -> bytes:
        return b""

    async def read(self, limit: int) -> bytes:
        raise NotImplementedError

    async def chunks(self) -> AsyncIterator[bytes]:
        self.repeatable = False
        for part in self.parts:
            await asyncio.sleep(0)
            if isinstance(part, Exception):
                raise part
            yield part


@pytest.mark.parametrize("length", [6, None])
async def test_a_body_that_still_arrives_is_passed_on_as_it_comes(length: int | None) -> None:
    async with fleet() as (backend, server):
        for _ in range(2):
            assert await ask(backend, call(Arriving([b"abc", b"def"], length))) == (200, b"ok")
        assert [r.body for r in server.received] == [b"abcdef"] * 2
        assert server.connections == 1


async def test_a_body_that_breaks_off_never_looks_complete_to_the_replica() -> None:
    async with fleet() as (backend, server):
        with pytest.raises(SlowRequest):
            await ask(backend, call(Arriving([b"abc", SlowRequest("stopped")], None)))
        await eventually(lambda: bool(server.ended), "the replica sees the end")
        assert not server.received


async def test_an_answer_before_the_whole_body_was_sent_is_taken() -> None:
    gate = asyncio.Event()

    class Slow(Arriving):
        async def chunks(self) -> AsyncIterator[bytes]:
            self.repeatable = False
            yield b"ab"
            await gate.wait()
            yield b"c"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    backend = triton(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server:
        assert await ask(backend, call(Slow([], 3))) == (413, b"no")
        await backend.close()


async def test_a_refused_connection_is_down_and_nothing_was_started() -> None:
    backend = triton(f"http://127.0.0.1:{await dead_port()}")
    with pytest.raises(BackendDown) as caught:
        await ask(backend)
    assert caught.value.work is Work.NOT_STARTED
    assert await backend.probe(0) is False


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"what is this?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
    ],
)
async def test_an_answer_that_makes_no_sense_or_breaks_off_may_have_been_worked_on(wire: bytes) -> None:
    async with fleet(answering(wire, then_close=True)) as (backend, _):
        request = call()
        request.idempotent = False
        with pytest.raises(BackendBroke) as caught:
            await ask(backend, request)
        assert caught.value.work is Work.MAYBE


async def test_a_stream_cut_in_the_middle_is_never_taken_for_complete() -> None:
    for wire in (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nabc",
    ):
        async with fleet(answering(wire, then_close=True)) as (backend, _):
            with pytest.raises((AnswerTruncated, BackendBroke)):
                await ask(backend)


async def test_a_kept_connection_that_the_server_had_closed_costs_a_retry_and_no_error() -> None:
    answers = 0

    async def close_after_first(_: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal answers
        answers += 1
        if answers == 2:
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with fleet(close_after_first) as (backend, server):
        assert await ask(backend) == (200, b"ok")
        assert await ask(backend) == (200, b"ok")
        assert (server.connections, len(server.received)) == (2, 3)


async def test_a_call_that_is_not_idempotent_is_not_sent_again_on_a_closed_connection() -> None:
    answers = 0

    async def close_on_second(_: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal answers
        answers += 1
        if answers == 2:
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with fleet(close_on_second) as (backend, server):
        await ask(backend)
        once = call()
        once.idempotent = False
        with pytest.raises(BackendBroke):
            await ask(backend, once)
        assert len(server.received) == 2


async def test_a_cancelled_call_closes_its_connection() -> None:
    async def never(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with fleet(never) as (backend, server):
        task = asyncio.get_running_loop().create_task(ask(backend))
        await eventually(lambda: bool(server.received), "the request arrives")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: backend._replicas[0].idle == 0, "nothing is kept")


def error(status: int, text: str) -> bytes:
    body = b'{"error":"%s"}' % text.encode()
    return b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize(
    ("wire", "kind", "work", "verdict"),
    [
        (error(503, "[request id: 1] Exceeds maximum queue size"), BackendFull, Work.NOT_STARTED, Verdict.NEUTRAL),
        (error(503, "Request timeout expired"), BackendFull, Work.NOT_STARTED, Verdict.NEUTRAL),
        (error(429, "slow down"), BackendFull, Work.NOT_STARTED, Verdict.NEUTRAL),
        (error(503, "Server not ready"), BackendUnready, Work.NOT_STARTED, Verdict.FAILURE),
        (error(503, "Server exiting"), BackendUnready, Work.NOT_STARTED, Verdict.FAILURE),
        (error(404, "Request for unknown model: 'm' is not found"), BackendUnready, Work.NOT_STARTED, Verdict.FAILURE),
        (error(500, "it broke"), BackendBroke, Work.MAYBE, Verdict.FAILURE),
        (error(502, "bad gateway"), BackendBroke, Work.MAYBE, Verdict.FAILURE),
    ],
)  # fmt: skip
async def test_each_failure_status_says_what_another_attempt_may_do(
    wire: bytes, kind: type[BackendError], work: Work, verdict: Verdict
) -> None:
    async with fleet(answering(wire)) as (backend, server):
        for _ in range(2):
            with pytest.raises(kind) as caught:
                await ask(backend)
            assert (caught.value.work, caught.value.verdict) == (work, verdict)
            assert caught.value.answer is not None
            assert caught.value.answer.body
        assert server.connections == 1


@pytest.mark.parametrize("status", [400, 404, 413, 501])
async def test_a_status_that_blames_the_request_is_the_clients_answer(status: int) -> None:
    async with fleet(answering(error(status, "your tensor has the wrong shape"))) as (backend, _):
        assert (await ask(backend))[0] == status


async def test_an_unknown_version_is_the_clients_mistake_and_not_tried_elsewhere() -> None:
    text = "Request for unknown model: 'm' version 9 is not found"
    async with fleet(answering(error(404, text))) as (backend, _):
        assert (await ask(backend, call(version="9")))[0] == 404


async def test_warm_is_what_the_fleet_is() -> None:
    async with fleet() as (backend, _):
        async with backend.send(call(), 0) as reply:
            assert reply.start is Start.WARM


async def test_head_keeps_its_length_and_has_no_body() -> None:
    async with fleet(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n")) as (backend, _):
        async with backend.send(call(b"", method=b"HEAD"), 0) as reply:
            assert (reply.body, reply.length) == (b"", 7)


async def test_a_probe_is_true_only_for_200() -> None:
    for status, ready in ((200, True), (400, False), (503, False)):
        async with fleet(answering(error(status, "x"))) as (backend, server):
            assert await backend.probe(0) is ready
            assert server.received[0].line == b"GET /v2/health/ready HTTP/1.1"


async def test_an_answer_without_content_has_none_however_often_it_comes_with_a_length() -> None:
    async with fleet(answering(b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc")) as (backend, _):
        for _ in range(4):
            async with backend.send(call(), 0) as reply:
                assert (reply.status, reply.body) == (204, b"")


async def test_an_answers_head_seen_before_is_recognised_and_means_the_same() -> None:
    answered = (b"one", b"two", b"longer", b"second", b"six", b"end")
    bodies = iter(answered)

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        body = next(bodies)
        writer.write(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: %d\r\n\r\n" % len(body))
        if body == b"six":  # the known head, and its body later
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(body)

    async with fleet(answer) as (backend, server):
        for expected in answered:
            async with backend.send(call(), 0) as reply:
                assert (reply.status, reply.headers, reply.body) == (200, [(b"x-a", b"1")], expected)
        assert server.connections == 1
        assert len(backend._replicas[0]._known) == 2, "each length came twice, and is kept since"


class Glass:
    """Takes what is poured. `holds`: parts after which it is full, each time anew."""

    def __init__(self, holds: int = 1 << 30) -> None:
        self.parts: list[bytes] = []
        self._holds = holds

    def take(self, data: bytes) -> bool:
        self.parts.append(data)
        return len(self.parts) % self._holds != 0


def _poured(reply: Reply) -> Poured:
    assert isinstance(reply.stream, Poured)
    return reply.stream


async def test_a_stream_is_handed_over_as_it_comes_and_wakes_nobody_for_it() -> None:
    steps = [asyncio.Event() for _ in range(3)]

    async def drip(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        for step, more in zip(steps, (b"3\r\ntwo\r\n", b"5\r\nthree\r\n", b"0\r\n\r\n"), strict=True):
            await step.wait()
            writer.write(more)

    glass = Glass()
    async with fleet(drip) as (backend, server):
        async with backend.send(call(), 0) as reply:
            pouring = asyncio.get_running_loop().create_task(_awaited(_poured(reply).pour(glass.take)))
            for count, step in enumerate(steps, 1):
                await eventually(lambda count=count: len(glass.parts) == count, "a part comes")  # type: ignore[misc]
                assert not pouring.done()
                step.set()
            assert await pouring
        async with backend.send(call(), 0):
            pass
        assert server.connections == 1, "it can be used again"
    assert glass.parts == [b"one", b"two", b"three"]


async def _awaited(pouring: Awaitable[bool]) -> bool:
    return await pouring


@pytest.mark.parametrize("size", [100, 100_000])
async def test_who_wants_no_more_for_now_gets_the_rest_later_in_order(size: int) -> None:
    pieces = [bytes([65 + place]) * size for place in range(20)]

    async def flood(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    glass, times = Glass(holds=1), 0
    async with fleet(flood) as (backend, _), backend.send(call(), 0) as reply:
        while not await _poured(reply).pour(glass.take):
            times += 1
            await asyncio.sleep(0.002)
    assert b"".join(glass.parts) == b"".join(pieces)
    assert times == len(glass.parts)


async def test_what_comes_while_nobody_takes_it_makes_the_replica_wait() -> None:
    sent = 0

    async def flood(_: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _piece in range(400):
            writer.write(b"%x\r\n%b\r\n" % (1 << 16, b"x" * (1 << 16)))
            await writer.drain()
            sent += 1 << 16
        writer.write(b"0\r\n\r\n")

    glass = Glass(holds=1)
    async with fleet(flood) as (backend, _), backend.send(call(), 0) as reply:
        assert not await _poured(reply).pour(glass.take)
        await asyncio.sleep(0.3)
        assert sent < 400 << 16, "the sockets are full"
        while not await _poured(reply).pour(glass.take):
            pass
    assert sum(map(len, glass.parts)) == 400 << 16


async def test_a_stream_that_is_cut_off_is_not_taken_for_complete_when_it_is_handed_over() -> None:
    async def cut(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"5\r\ntw")
        await writer.drain()
        writer.close()

    glass = Glass()
    async with fleet(cut) as (backend, _), backend.send(call(), 0) as reply:
        with pytest.raises(AnswerTruncated):
            await _poured(reply).pour(glass.take)
    assert b"".join(glass.parts) == b"onetw"


@pytest.mark.parametrize("error", [SlowRequest("no"), ValueError("no")], ids=["ours", "any"])
async def test_what_the_taker_raises_is_raised_where_it_is_waited_for_and_nothing_more_is_given(
    error: Exception,
) -> None:
    async def drip(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        for _part in range(20):
            await asyncio.sleep(0.01)
            writer.write(b"3\r\ntwo\r\n")

    taken: list[bytes] = []

    def take(data: bytes) -> bool:
        taken.append(data)
        if len(taken) == 3:
            raise error
        return True

    async with fleet(drip) as (backend, server):
        async with backend.send(call(), 0) as reply:
            with pytest.raises(type(error), match="no"):
                await _poured(reply).pour(take)
            await asyncio.sleep(0.05)
        assert len(taken) == 3
        async with backend.send(call(), 0):
            assert server.connections == 2, "what is left of the answer is not read by the next call"


async def test_who_is_cancelled_is_given_nothing_more() -> None:
    async def drip(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"3\r\none\r\n")
            await asyncio.sleep(0.005)

    glass = Glass()
    async with fleet(drip) as (backend, _), backend.send(call(), 0) as reply:
        pouring = asyncio.get_running_loop().create_task(_awaited(_poured(reply).pour(glass.take)))
        await eventually(lambda: len(glass.parts) > 2, "parts come")
        pouring.cancel()
        taken = len(glass.parts)
        with pytest.raises(asyncio.CancelledError):
            await pouring
        await asyncio.sleep(0.05)
    assert len(glass.parts) == taken
