"""A thousand random tensors in gRPC messages and HTTP bodies: every way gives the same bytes."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient.grpc import InferResult
from tritonclient.grpc import service_pb2 as pb

from backends.emulators.kserve import KServeApp
from backends.grpc_codec import JSON_SIZE, from_grpc, from_http, to_grpc, to_http
from gateway.vocab import Headers
from tests.grpc_codec.support import Identity, Tensor, as_request, post, random_tensor

THOUSAND = 1000


def batches(seed: int, count: int = THOUSAND) -> Iterator[list[Tensor]]:
    """So many tensors in all, one to five in each batch."""
    source = random.Random(seed)
    while count:
        size = min(count, source.randint(1, 5))
        count -= size
        yield [random_tensor(source, f't"{place}\n☃') for place in range(size)]


def check(response: Any, tensors: Sequence[Tensor]) -> None:
    assert (response.model_name, response.model_version) == ("identity", "1")
    found = [(o.name, o.datatype, tuple(o.shape)) for o in response.outputs]
    assert found == [(t.name, t.datatype, t.shape) for t in tensors]
    assert list(response.raw_output_contents) == [t.raw for t in tensors]


def official_request(tensors: Sequence[Tensor]) -> tuple[Headers, bytes]:
    """As tritonclient.http writes it."""
    inputs = []
    for tensor in tensors:
        entry = triton_http.InferInput(tensor.name, list(tensor.shape), tensor.datatype)
        entry.set_data_from_numpy(tensor.array(), binary_data=True)
        inputs.append(entry)
    body, size = triton_http.InferenceServerClient.generate_request_body(inputs)
    return [] if size is None else [(JSON_SIZE, b"%d" % size)], body


def test_grpc_by_way_of_http_is_what_the_http_client_gets() -> None:
    target = b"/v2/models/identity/infer"
    for tensors in batches(1):
        app = KServeApp([Identity(tensors)])
        request = to_http(as_request(tensors).SerializeToString())
        assert request.target == target
        answer = post(app, *request)
        assert answer[0] == 200
        response = pb.ModelInferResponse.FromString(from_http(*answer[1:]))
        check(response, tensors)
        official = post(app, target, *official_request(tensors))
        assert official == answer
        size = dict(official[1]).get(JSON_SIZE)  # an answer without a byte of tensors is JSON alone
        assert (size is None) == (not any(tensor.raw for tensor in tensors))
        theirs = triton_http.InferenceServerClient.parse_response_body(
            official[2], header_length=None if size is None else int(size)
        )
        ours = InferResult(response)
        for tensor in tensors:
            left, right = ours.as_numpy(tensor.name), theirs.as_numpy(tensor.name)
            assert left.dtype == right.dtype
            assert left.tolist() == right.tolist() or left.tobytes() == right.tobytes()


def test_the_request_is_the_one_that_the_http_client_makes() -> None:
    for tensors in batches(2, 100):
        ((_, size),), theirs = official_request(tensors)
        ours = to_http(as_request(tensors).SerializeToString())
        head = int(dict(ours.headers)[JSON_SIZE])
        assert ours.body[head:] == theirs[int(size) :]
        assert json.loads(ours.body[:head]) == json.loads(theirs[: int(size)])


def test_typed_contents_are_the_same_as_raw_ones() -> None:
    typed = 0
    for tensors in batches(3):
        tensors = [t for t in tensors if t.datatype not in ("FP16", "BF16") and not nan(t)]
        ours = to_http(as_request(tensors, typed=True).SerializeToString())
        assert ours == to_http(as_request(tensors).SerializeToString())
        typed += len(tensors)
    assert typed > THOUSAND / 2


def test_json_answers_are_the_same_as_binary_ones() -> None:
    seen = 0
    for tensors in batches(4):
        tensors = [
            t for t in tensors if t.datatype not in ("FP16", "BF16") and not nan(t) and t.elements() < 1000
        ]
        app = KServeApp([Identity(tensors)])
        request = to_http(as_request(tensors).SerializeToString())
        size = int(dict(request.headers)[JSON_SIZE])
        document = json.loads(request.body[:size])
        document["parameters"]["binary_data_output"] = False
        head = json.dumps(document).encode()
        fields: Headers = [(JSON_SIZE, b"%d" % len(head))]
        status, headers, body = post(app, request.target, fields, head + request.body[size:])
        assert (status, headers) == (200, [(b"content-type", b"application/json")])
        check(pb.ModelInferResponse.FromString(from_http(headers, body)), tensors)
        seen += len(tensors)
    assert seen > THOUSAND / 2


def test_http_by_way_of_grpc_is_what_the_http_server_answers() -> None:
    """The other direction: here the model behind is the message itself, answered as it came."""
    target = b"/v2/models/identity/versions/1/infer"
    for tensors in batches(5):
        app = KServeApp([Identity(tensors)])
        headers, body = official_request(tensors)
        asked = to_grpc(target, headers, body)
        assert asked.binary is True
        request = pb.ModelInferRequest.FromString(asked.message)
        assert (request.model_name, request.model_version) == ("identity", "1")
        response = pb.ModelInferResponse(
            model_name="identity",
            model_version="1",
            outputs=[{"name": i.name, "datatype": i.datatype, "shape": i.shape} for i in request.inputs],
            raw_output_contents=request.raw_input_contents,
        )
        found = from_grpc(response.SerializeToString(), binary=asked.binary)
        assert (200, *found) == post(app, target, headers, body)


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT64", "UINT8", "BOOL", "BYTES"])
def test_json_answers_by_way_of_grpc_are_spelled_as_the_server_spells_them(datatype: str) -> None:
    source = random.Random(6)
    tensors = [t for t in (random_tensor(source, "x") for _ in range(2000)) if t.datatype == datatype]
    for tensor in tensors[:100]:
        response = pb.ModelInferResponse(model_name="identity", model_version="1", id="7")
        response.outputs.add(name="x", datatype=datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.raw)
        found = from_grpc(response.SerializeToString(), binary=False)
        request = to_http(as_request([tensor], id="7").SerializeToString())
        size = int(dict(request.headers)[JSON_SIZE])
        document = json.loads(request.body[:size]) | {"parameters": {}}
        head = json.dumps(document).encode()
        fields: Headers = [(JSON_SIZE, b"%d" % len(head))]
        app = KServeApp([Identity([tensor])])
        assert (200, *found) == post(app, request.target, fields, head + request.body[size:])


def nan(tensor: Tensor) -> bool:
    """JSON and Python's floats have one NaN only."""
    return tensor.datatype.startswith("FP") and bool(np.isnan(tensor.array()).any())
