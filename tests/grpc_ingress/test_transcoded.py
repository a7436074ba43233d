"""A gRPC call on backends that speak HTTP only: transcoded there and back, never noticed by its client."""

import json
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.grpc_ingress.support import SHED, SPILL, failure, fields, file, fleet, front, replica, request
from tests.support.provider import Received, Wire, providing

QUEUE = "[{backend: fleet, when_full: {queue: 2s, then: spill}}, {backend: burst, when_full: shed}]"
FULL = "Exceeds maximum queue size"
TENSOR = np.arange(6, dtype=np.float32)


def infer_request(**more: Any) -> bytes:
    message = pb.ModelInferRequest(model_name="m", id="i-1", raw_input_contents=[TENSOR.tobytes()], **more)
    message.inputs.add(name="x", datatype="FP32", shape=[2, 3])
    data: bytes = message.SerializeToString()
    return data


async def doubling(received: Received, wire: Wire) -> None:
    """A KServe v2 server over HTTP with the binary tensor extension, for one model."""
    if received.method == "GET":
        await wire.answer(200)
        return
    size = int(received.fields["inference-header-content-length"])
    document = json.loads(received.body[:size])
    (given,) = document["inputs"]
    values = np.frombuffer(received.body[size:], np.float32) * 2
    output = {
        "name": "y", "datatype": "FP32", "shape": given["shape"],
        "parameters": {"binary_data_size": values.nbytes},
    }  # fmt: skip
    head = json.dumps(
        {"model_name": "m", "model_version": "1", "id": document["id"], "outputs": [output]}
    ).encode()
    told = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    await wire.answer(200, head + values.tobytes(), told)


def plain(url: str) -> str:
    return f'{{type: triton, replicas: ["{url}"], max_in_flight: 4}}'


def check_doubled(message: bytes) -> None:
    answer = pb.ModelInferResponse.FromString(message)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "i-1")
    assert answer.outputs[0].shape == [2, 3]
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == (TENSOR * 2).tolist()


async def test_a_call_spills_to_a_server_that_speaks_http_only() -> None:
    async def full(message: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, FULL)
        raise AssertionError

    async with replica(full) as one, providing(doubling) as http:
        async with front(file({"fleet": fleet(one), "burst": plain(http.url)}, SPILL)) as gate:
            call = gate.infer(infer_request(), metadata=(("x-custom", "1"), ("some-bin", b"\xff")))
            check_doubled(await call)
            assert fields(await call.trailing_metadata())["x-overspill-backend"] == "burst"
        asked = http.seen[-1]
    assert asked.target == "/v2/models/m/infer"
    assert asked.fields["x-custom"] == "1"
    assert "some-bin" not in asked.fields


async def test_a_fleet_without_grpc_addresses_is_asked_over_http() -> None:
    async with providing(doubling) as http:
        async with front(file({"fleet": plain(http.url)}, SHED)) as gate:
            check_doubled(await gate.infer(infer_request()))
            question = await failure(gate.unary("ModelMetadata", b"\x0a\x01m"))
            assert question.code() is grpc.StatusCode.UNIMPLEMENTED
            stream = gate.open_stream()
            await stream.write(infer_request())
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stream.read()
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_stream_waits_for_the_fleet_rather_than_go_where_it_cannot_be_carried() -> None:
    rented = "{type: loopback_rented, max_in_flight: 4, price: {usd_per_second: 0.001}}"
    async with replica() as one:
        async with front(file({"fleet": fleet(one, slots=1), "burst": rented}, QUEUE)) as gate:
            first, second = gate.open_stream(), gate.open_stream()
            await first.write(infer_request())
            await first.read()
            await second.write(infer_request())
            await first.done_writing()
            await second.read()
            assert fields(await second.initial_metadata())["x-overspill-reason"] == "warm_queued"
            await second.done_writing()
            assert await second.read() is grpc.aio.EOF


async def test_its_errors_come_as_statuses() -> None:
    status, text = 400, "unexpected shape for input 'x'"

    async def answering(received: Received, wire: Wire) -> None:
        if received.method == "GET":
            await wire.answer(200)
        else:
            await wire.json(status, {"error": text})

    async with providing(answering) as http:
        async with front(file({"fleet": plain(http.url)}, SHED)) as gate:
            error = await failure(gate.infer(infer_request()))
            assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, text)
            status, text = 503, FULL
            error = await failure(gate.infer(infer_request()))
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            status, text = 500, "onnx runtime error"
            error = await failure(gate.infer(infer_request()))
            assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, text)
            mismatch = await failure(gate.infer(request(raw_input_contents=[b"1234"])))
            assert mismatch.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_answer_that_is_none_is_a_failure() -> None:
    async def nonsense(received: Received, wire: Wire) -> None:
        await wire.answer(200, b"" if received.method == "GET" else b"<html>")

    async with providing(nonsense) as http:
        async with front(file({"fleet": plain(http.url)}, SHED)) as gate:
            error = await failure(gate.infer(infer_request()))
    assert error.code() is grpc.StatusCode.INTERNAL


async def test_a_call_that_a_rented_backend_cannot_take_is_not_sent_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEY", "sk-never")
    rented = (
        "{type: http, url: 'http://127.0.0.1:9', max_in_flight: 4, max_body: 1KiB, price: {usd_per_second: 0.0001},"
        " cold_start: {expect: 1s, idle_after: 10s}}"
    )

    async def full(message: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE, FULL)
        raise AssertionError

    large = request(raw_input_contents=[bytes(4096)])
    async with replica(full) as one:
        async with front(file({"fleet": fleet(one), "burst": rented}, SPILL)) as gate:
            error = await failure(gate.infer(large))
    assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
