"""A gRPC call as one HTTP attempt: what it is answered when it cannot be one, and who waits meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tritonclient.grpc import service_pb2 as pb

from backends.emulators.kserve import KServeApp
from backends.grpc_transcoded import MOST_IN_PLACE, TranscodedAttempt
from gateway.vocab import Call, Reply, WholeBody
from tests.grpc_codec.support import Identity, Tensor, as_request, post


def a_call(message: bytes) -> Call:
    return Call(
        protocol="grpc",
        operation="infer",
        method=b"POST",
        target=b"/inference.GRPCInferenceService/ModelInfer",
        headers=[],
        body=WholeBody(message),
        model="identity",
    )


@asynccontextmanager
async def nowhere(call: Call) -> AsyncIterator[Reply]:
    assert not call, "it was sent"
    yield Reply(200, [])


async def test_shared_memory_is_not_implemented_rather_than_invalid() -> None:
    asked = pb.ModelInferRequest(model_name="m")
    entry = asked.inputs.add(name="x", datatype="FP32", shape=[1])
    entry.parameters["shared_memory_region"].string_param = "r"
    async with TranscodedAttempt(a_call(asked.SerializeToString()), nowhere) as reply:
        assert (reply.status, reply.headers) == (501, [(b"grpc-status", b"12")])
        assert b"shared memory" in (reply.body or b"")


async def test_what_is_no_message_is_invalid() -> None:
    async with TranscodedAttempt(a_call(b"\xff"), nowhere) as reply:
        assert (reply.status, reply.headers) == (400, [(b"grpc-status", b"3")])


@pytest.mark.parametrize(
    ("size", "apart"), [(MOST_IN_PLACE // 2, False), (MOST_IN_PLACE, True), (2**20, True)]
)
async def test_other_calls_go_on_while_a_large_message_is_transcoded(size: int, apart: bool) -> None:
    tensor = Tensor("x", "UINT8", (size,), bytes(size))
    others: list[str] = []
    loop = asyncio.get_running_loop()

    @asynccontextmanager
    async def send(call: Call) -> AsyncIterator[Reply]:
        assert bool(others) is apart, "on the way there"
        others.clear()
        loop.call_soon(others.append, "another call")
        body = await call.body.read(2**24)
        status, headers, answer = post(KServeApp([Identity([tensor])]), call.target, call.headers, body)
        yield Reply(status, headers, answer)

    loop.call_soon(others.append, "another call")
    message = as_request([tensor], typed=True).SerializeToString()
    async with TranscodedAttempt(a_call(message), send) as reply:
        assert bool(others) is apart, "on the way back"
        assert reply.status == 200
        answer = pb.ModelInferResponse.FromString(reply.body)
    assert answer.raw_output_contents == [tensor.raw]
