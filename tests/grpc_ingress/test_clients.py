"""NVIDIA's own gRPC clients, unchanged: synchronous, asynchronous and streaming, against a played replica."""

import asyncio
import queue
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from tests.grpc_ingress.support import SHED, file, fleet, front, replica

VALUES = np.arange(8, dtype=np.float32).reshape(2, 4)


def doubled(message: bytes) -> pb.ModelInferResponse:
    asked = pb.ModelInferRequest.FromString(message)
    values = np.frombuffer(asked.raw_input_contents[0], np.float32) * 2
    answer = pb.ModelInferResponse(
        model_name=asked.model_name, id=asked.id, raw_output_contents=[values.tobytes()]
    )
    answer.outputs.add(name="y", datatype="FP32", shape=asked.inputs[0].shape)
    return answer


async def infer(message: bytes, context: Any) -> bytes:
    data: bytes = doubled(message).SerializeToString()
    return data


async def stream(messages: AsyncIterator[bytes], context: Any) -> None:
    """Two responses for each request, then an empty final one."""
    async for message in messages:
        for _ in range(2):
            answer = pb.ModelStreamInferResponse(infer_response=doubled(message))
            await context.write(answer.SerializeToString())
        final = pb.ModelInferResponse(model_name="m")
        final.parameters["triton_final_response"].bool_param = True
        await context.write(pb.ModelStreamInferResponse(infer_response=final).SerializeToString())


def given(package: Any) -> list[Any]:
    tensor = package.InferInput("x", VALUES.shape, "FP32")
    tensor.set_data_from_numpy(VALUES)
    return [tensor]


def use_synchronous_client(address: str) -> None:
    with triton_grpc.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("m")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata().name == "overspill"
        for _ in range(3):
            answer = client.infer("m", given(triton_grpc), client_timeout=5, headers={"x-mine": "1"})
            assert answer.as_numpy("y").tolist() == (VALUES * 2).tolist()
        with pytest.raises(InferenceServerException, match="nobody") as unknown:
            client.infer("nobody", given(triton_grpc))
        assert unknown.value.status() == "StatusCode.NOT_FOUND"
        with pytest.raises(InferenceServerException, match="shared memory"):
            client.register_system_shared_memory("a", "/a", 64)
        with pytest.raises(InferenceServerException, match="repository control"):
            client.load_model("m")


def use_streaming_client(address: str) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: heard.put((result, error)))
        for number in range(3):
            client.async_stream_infer(
                "m", given(triton_grpc), request_id=str(number), enable_empty_final_response=True
            )
        for number in range(3):
            for _ in range(2):
                result, error = heard.get(timeout=5)
                assert error is None
                assert result.get_response().id == str(number)
                assert result.as_numpy("y").tolist() == (VALUES * 2).tolist()
            result, error = heard.get(timeout=5)
            assert result.get_response().parameters["triton_final_response"].bool_param
        client.stop_stream()
        assert heard.empty()


async def test_the_synchronous_client() -> None:
    async with replica(infer) as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        await asyncio.to_thread(use_synchronous_client, gate.address)


async def test_the_streaming_client() -> None:
    async with replica(stream=stream) as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        await asyncio.to_thread(use_streaming_client, gate.address)


async def test_the_asynchronous_client() -> None:
    async with replica(infer, stream) as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        async with triton_aio.InferenceServerClient(gate.address) as client:
            answers = await asyncio.gather(*(client.infer("m", given(triton_aio)) for _ in range(20)))
            assert all(answer.as_numpy("y").tolist() == (VALUES * 2).tolist() for answer in answers)

            async def asked() -> AsyncIterator[dict[str, Any]]:
                for number in range(4):
                    yield {"model_name": "m", "inputs": given(triton_aio), "request_id": str(number)}

            heard = [pair async for pair in client.stream_infer(asked())]
        assert all(error is None for _, error in heard)
        ids = [result.get_response().id for result, _ in heard if result.get_response().outputs]
        assert ids == [str(number) for number in range(4) for _ in range(2)]
