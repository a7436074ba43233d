"""`ModelStreamInfer` through the whole gateway: one stream, one slot, one replica."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tritonclient.grpc import service_pb2 as pb

from gateway.errors import ClientGone
from gateway.grpc_exchange import GrpcStream
from gateway.grpc_head import RpcHead
from gateway.message_stream import MessageStream
from tests.grpc_ingress.support import (
    SHED,
    SPILL,
    failure,
    fields,
    file,
    fleet,
    front,
    logged,
    replica,
    request,
)
from tests.support.wire import eventually


def token(text: str, final: bool = False) -> bytes:
    answer = pb.ModelInferResponse(model_name="m", id=text)
    answer.parameters["triton_final_response"].bool_param = final
    message: bytes = pb.ModelStreamInferResponse(infer_response=answer).SerializeToString()
    return message


def in_band(text: str) -> bytes:
    message: bytes = pb.ModelStreamInferResponse(error_message=text).SerializeToString()
    return message


def decoupled(count: int) -> Any:
    """So many responses for each request, and an empty final one."""

    async def answer(messages: AsyncIterator[bytes], context: Any) -> None:
        async for _ in messages:
            for number in range(count):
                await context.write(token(str(number)))
            await context.write(token("", final=True))

    return answer


def saying(text: str) -> Any:
    async def answer(messages: AsyncIterator[bytes], context: Any) -> None:
        async for _ in messages:
            await context.write(in_band(text))

    return answer


async def read_all(call: Any) -> list[bytes]:
    return [message async for message in call]


async def test_many_responses_for_one_request_and_a_final_one(tmp_path: Path) -> None:
    top = f"access_log: {{path: {tmp_path / 'log'}}}"
    async with replica(stream=decoupled(50)) as one:
        async with front(file({"fleet": fleet(one)}, SHED, top=top)) as gate:
            call = gate.open_stream(metadata=(("x-request-id", "s-1"), ("triton_grpc_error", "true")))
            for _ in range(2):
                await call.write(request())
            await call.done_writing()
            assert await read_all(call) == [*(token(str(n)) for n in range(50)), token("", final=True)] * 2
            for told in (await call.initial_metadata(), await call.trailing_metadata()):
                assert fields(told)["x-request-id"] == "s-1"
                assert fields(told)["x-overspill-backend"] == "fleet"
        assert one.seen[0][2]["triton_grpc_error"] == "true"
    (line,) = logged(tmp_path / "log")
    assert (line["operation"], line["outcome"]) == ("stream_infer", "ok")


async def test_a_stream_holds_one_slot_for_as_long_as_it_lives() -> None:
    async with replica() as one, replica() as two:
        async with front(file({"fleet": fleet(one, two, slots=1)}, SHED)) as gate:
            streams = [gate.open_stream() for _ in range(2)]
            assert gate.in_flight == 0
            for number, stream in enumerate(streams):
                await stream.write(request(id=str(number)))
                await stream.read()
            assert gate.in_flight == 2
            assert (one.running, two.running) == (1, 1)
            await streams[0].write(request(id="again"))
            answer = pb.ModelStreamInferResponse.FromString(await streams[0].read())
            assert answer.infer_response.id == "again"
            waiting = asyncio.ensure_future(gate.infer(request()))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await streams[0].done_writing()
            assert await streams[0].read() is grpc.aio.EOF
            assert await waiting == b"echo:" + request()
            streams[1].cancel()
            await eventually(lambda: gate.in_flight == 0, "the cancelled stream's slot came back")


async def test_a_stream_without_a_message_is_no_call(tmp_path: Path) -> None:
    top = f"access_log: {{path: {tmp_path / 'log'}}}"
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED, top=top)) as gate:
        call = gate.open_stream()
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert not one.seen
    assert logged(tmp_path / "log") == []


async def test_errors_inside_the_stream_pass_as_they_are() -> None:
    async with (
        replica(stream=saying("unexpected shape")) as one,
        front(file({"fleet": fleet(one)}, SHED)) as gate,
    ):
        call = gate.open_stream()
        for _ in range(2):
            await call.write(request())
            assert await call.read() == in_band("unexpected shape")
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_a_full_replica_is_left_before_its_stream_began() -> None:
    for text in ("[request id: 1] Exceeds maximum queue size", "Request for unknown model: 'm' is not found"):
        async with replica(stream=saying(text)) as one, replica() as two:
            async with front(file({"fleet": fleet(one), "burst": fleet(two)}, SPILL)) as gate:
                call = gate.open_stream()
                await call.write(request(id="1"))
                assert pb.ModelStreamInferResponse.FromString(await call.read()).infer_response.id == "1"
                assert fields(await call.initial_metadata())["x-overspill-backend"] == "burst"
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF
            assert one.running == 0


async def test_once_it_began_a_full_replica_is_the_clients_to_know() -> None:
    async def later_full(messages: AsyncIterator[bytes], context: Any) -> None:
        first = True
        async for _ in messages:
            await context.write(token("ok") if first else in_band("Exceeds maximum queue size"))
            first = False

    async with replica(stream=later_full) as one, replica() as two:
        async with front(file({"fleet": fleet(one), "burst": fleet(two)}, SPILL)) as gate:
            call = gate.open_stream()
            await call.write(request())
            assert await call.read() == token("ok")
            await call.write(request())
            assert await call.read() == in_band("Exceeds maximum queue size")
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        assert not two.seen


async def test_a_replica_that_dies_mid_stream_ends_it_with_an_error(tmp_path: Path) -> None:
    async def endless(messages: AsyncIterator[bytes], context: Any) -> None:
        await context.write(token("0"))
        await asyncio.sleep(60)

    top = f"access_log: {{path: {tmp_path / 'log'}}}"
    async with replica(stream=endless) as one, replica() as two:
        async with front(file({"fleet": fleet(one), "burst": fleet(two)}, SPILL, top=top)) as gate:
            call = gate.open_stream()
            await call.write(request())
            assert await call.read() == token("0")
            await one.server.stop(None)
            broken = await failure(read_to_the_end(call))
            assert broken.code() is grpc.StatusCode.INTERNAL
            assert "broke off" in broken.details()
            await eventually(lambda: gate.in_flight == 0, "the slot came back")
        assert not two.seen
    (line,) = logged(tmp_path / "log")
    assert line["outcome"] == "truncated"


async def test_a_cancelled_stream_is_cancelled_upstream() -> None:
    async def endless(messages: AsyncIterator[bytes], context: Any) -> None:
        await context.write(token("0"))
        await asyncio.sleep(60)

    async with replica(stream=endless) as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        call = gate.open_stream()
        await call.write(request())
        await call.read()
        call.cancel()
        await eventually(lambda: one.cancelled == 1, "the replica heard of it")
        await eventually(lambda: gate.in_flight == 0, "the slot came back")


async def test_a_stream_is_for_one_model() -> None:
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        call = gate.open_stream()
        await call.write(request())
        await call.read()
        await call.write(request("other"))
        refused = await failure(call.read())
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "one stream per model" in refused.details()
        await eventually(lambda: one.running == 0, "the replica's stream ended too")


async def test_a_stream_waits_for_its_client_but_not_for_a_silent_replica() -> None:
    async def deaf_to_the_second(messages: AsyncIterator[bytes], context: Any) -> None:
        await anext(aiter(messages))
        await context.write(token("0"))
        await asyncio.sleep(60)

    route = "stall_timeout: 1500ms"
    async with replica(stream=deaf_to_the_second) as one:
        async with front(file({"fleet": fleet(one)}, SHED, route)) as gate:
            call = gate.open_stream()
            await call.write(request())
            await call.read()
            reading = asyncio.ensure_future(call.read())
            await asyncio.sleep(2.5)  # longer than the limit: it is the client's turn
            assert not reading.done()
            await call.write(request())
            stalled = await failure(asyncio.wait_for(reading, 5))
            assert stalled.code() is grpc.StatusCode.INTERNAL
            assert "sent nothing" in stalled.details()


async def test_a_slow_reader_holds_the_replica_back() -> None:
    written = 0

    async def flood(messages: AsyncIterator[bytes], context: Any) -> None:
        nonlocal written
        block = pb.ModelInferResponse(raw_output_contents=[bytes(2**20)])
        message = pb.ModelStreamInferResponse(infer_response=block).SerializeToString()
        for _ in range(192):
            await context.write(message)
            written += 1

    async with replica(stream=flood) as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        call = gate.open_stream()
        await call.write(request())
        await call.done_writing()
        await call.read()
        seen = -1
        while seen < written:  # HTTP/2's windows grow with what goes through them, and fill
            seen = written
            await asyncio.sleep(0.5)
        assert written < 150
        assert len(await read_to_the_end(call)) == 191
    assert written == 192


async def test_a_client_that_leaves_while_its_stream_is_written_is_no_fault_of_the_gateway(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def flood(messages: AsyncIterator[bytes], context: Any) -> None:
        block = pb.ModelInferResponse(raw_output_contents=[bytes(2**20)])
        message = pb.ModelStreamInferResponse(infer_response=block).SerializeToString()
        while True:
            await context.write(message)

    top = f"access_log: {{path: {tmp_path / 'log'}}}"
    async with replica(stream=flood) as one:
        async with front(file({"fleet": fleet(one)}, SHED, top=top)) as gate:
            call = gate.open_stream()
            await call.write(request())
            await call.read()
            await gate.channel.close(None)
            await eventually(lambda: gate.in_flight == 0, "the slot came back")
            await eventually(lambda: one.running == 0, "the replica heard of it")
    (line,) = logged(tmp_path / "log")
    assert line["outcome"] == "client_gone"
    assert not [record for record in caplog.records if record.name == "overspill.pipeline"]


class Departed:
    """A stream whose client has gone: what is written to it goes nowhere."""

    waiting, peer, scheme, certificate, remaining = 0, b"127.0.0.1", b"http", None, None

    def send_fields(self, section: bytes, *, last: bool = False) -> None: ...

    def send(self, data: bytes, *, last: bool = False) -> None: ...

    def answer(self, section: bytes, data: bytes, trailers: bytes) -> None: ...

    async def drained(self) -> bool:
        return False


async def test_writing_to_a_client_that_has_gone_says_so() -> None:
    stream = GrpcStream(
        Departed(), RpcHead(), body=MessageStream(b"", buffer=1), arrived=0.0, max_body=1, task=None
    )
    stream.write(b"a part")
    with pytest.raises(ClientGone):
        await stream.drain()


async def read_to_the_end(call: Any) -> list[bytes]:
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages
