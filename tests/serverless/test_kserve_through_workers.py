"""A thousand random tensors, spilled through each worker kit: the answers are the warm server's bytes.

As the gRPC call that was put into HTTP words, as the HTTP client library sends them, and with JSON answers.
The warm server is the bundled KServe app; the same app runs behind the kit.
"""

import json
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2 as pb

from backends.base import Backend
from backends.emulators.aws_lambda import LambdaEmulator
from backends.emulators.instance import BootTimes, FleetOptions
from backends.emulators.kserve import KServeApp
from backends.emulators.modal import ModalEmulator
from backends.emulators.runpod import RunPodEmulator
from backends.emulators.server import EmulatorServer
from backends.grpc_codec import JSON_SIZE, HttpInfer, from_grpc, from_http, to_grpc, to_http
from backends.workers import kit, lambda_handler, modal_app, runpod_handler
from gateway.vocab import Headers
from tests.grpc_codec.support import Identity, Tensor, as_request, post, random_tensor
from tests.serverless.test_against_emulators import _secrets as _secrets
from tests.serverless.test_against_emulators import section
from tests.support.provider import a_call, built

THOUSAND = 1000
BATCH = 20

OPTIONS = FleetOptions(cap=1, idle_after_s=60.0, boot=BootTimes(fast_s=0.0, slow_s=0.0, spread=0.0))


def runpod(app: KServeApp) -> EmulatorServer:
    return RunPodEmulator(lambda _: runpod_handler.make_handler(kit.Worker(app, kit.Boot())), options=OPTIONS)


def modal(app: KServeApp) -> EmulatorServer:
    return ModalEmulator(lambda _: modal_app.make_asgi(app), options=OPTIONS)


def aws_lambda(app: KServeApp) -> EmulatorServer:
    return LambdaEmulator(lambda _: lambda_handler.make_handler(kit.Worker(app, kit.Boot())), options=OPTIONS)


class Batch(Identity):
    """One of many models of one server."""

    def __init__(self, place: int, tensors: Sequence[Tensor]) -> None:
        super().__init__(tensors)
        self.name = f"batch-{place}"


def batches() -> list[list[Tensor]]:
    source = random.Random(7)
    return [[random_tensor(source, f"t{place}") for place in range(BATCH)] for _ in range(THOUSAND // BATCH)]


async def spill(backend: Backend, request: HttpInfer) -> tuple[int, Headers, bytes]:
    async with backend.send(a_call(request.body, target=request.target, headers=request.headers), 0) as reply:
        body = reply.body
        if body is None:
            assert reply.stream is not None
            body = b"".join([chunk async for chunk in reply.stream])
        return reply.status, about_the_body(reply.headers), body


def about_the_body(headers: Headers) -> Headers:
    """What says how to read the body; the rest is the connection's."""
    return sorted(field for field in headers if field[0] in (b"content-type", b"content-encoding", JSON_SIZE))


def warm(app: KServeApp, request: HttpInfer) -> tuple[int, Headers, bytes]:
    status, headers, body = post(app, *request)
    return status, about_the_body(headers), body


def official(target: bytes, tensors: Sequence[Tensor], *, binary: bool) -> HttpInfer:
    """As tritonclient.http asks for it."""
    inputs = []
    for tensor in tensors:
        entry = triton_http.InferInput(tensor.name, list(tensor.shape), tensor.datatype)
        entry.set_data_from_numpy(tensor.array(), binary_data=True)
        inputs.append(entry)
    outputs = [triton_http.InferRequestedOutput(tensor.name, binary_data=binary) for tensor in tensors]
    body, size = triton_http.InferenceServerClient.generate_request_body(inputs, outputs=outputs)
    kind = (b"content-type", b"application/octet-stream")
    return HttpInfer(target, [kind, (JSON_SIZE, b"%d" % size)], body)


def in_json(target: bytes, tensors: Sequence[Tensor]) -> HttpInfer:
    """Those that JSON can carry, in JSON both ways."""
    inputs = []
    for tensor in tensors:
        values = tensor.values()
        if tensor.datatype == "BYTES":
            values = [value.decode("latin-1") for value in values]
        inputs.append(
            {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape, "data": values}
        )
    return HttpInfer(
        target, [(b"content-type", b"application/json")], json.dumps({"inputs": inputs}).encode()
    )


def fits_json(tensor: Tensor) -> bool:
    if tensor.datatype in ("FP16", "BF16") or not tensor.shape:
        return False
    return not tensor.datatype.startswith("FP") or all(value == value for value in tensor.values())


@pytest.mark.parametrize("provider", [runpod, modal, aws_lambda])
async def test_a_thousand_tensors_come_back_as_from_the_warm_server(provider: Any) -> None:
    every = batches()
    for_json = [[tensor for tensor in batch if fits_json(tensor)] for batch in every]
    assert sum(map(len, for_json)) > THOUSAND / 2
    models = [Batch(place, tensors) for place, tensors in enumerate([*every, *for_json])]
    app = KServeApp(models)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(provider(app))
        backend, _ = await stack.enter_async_context(built(*section(server)))
        for place, tensors in enumerate(every):
            name = f"batch-{place}"
            message = as_request(tensors)
            message.model_name = name
            asked = to_http(message.SerializeToString())
            status, headers, body = await spill(backend, asked)
            assert (status, headers, body) == warm(app, asked)
            response = from_http(headers, body)
            found = pb.ModelInferResponse.FromString(response)
            assert [(o.name, o.datatype, tuple(o.shape)) for o in found.outputs] == [t[:3] for t in tensors]
            assert list(found.raw_output_contents) == [t.raw for t in tensors]
            # The HTTP client's own request, and what a server that speaks gRPC only would be asked and answer.
            theirs = official(asked.target, tensors, binary=True)
            assert await spill(backend, theirs) == warm(app, theirs) == (status, headers, body)
            over_grpc = to_grpc(*theirs)
            assert list(pb.ModelInferRequest.FromString(over_grpc.message).raw_input_contents) == [
                t.raw for t in tensors
            ]
            assert from_grpc(response, binary=over_grpc.binary)[1] == body
        for place, tensors in enumerate(for_json, len(every)):
            target = b"/v2/models/batch-%d/infer" % place
            for request in (in_json(target, tensors), official(target, tensors, binary=False)):
                status, headers, body = await spill(backend, request)
                assert (status, headers) == (200, [(b"content-type", b"application/json")])
                assert (status, headers, body) == warm(app, request)
