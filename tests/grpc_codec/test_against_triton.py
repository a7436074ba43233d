"""The real Triton over gRPC, and over HTTP by way of the codec: the same bytes come back.

A model of Triton's Python backend, in the server that the nvidia-pytriton wheel brings, returns its inputs.
"""

import json
import random
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from backends.emulators import triton_json
from backends.grpc_codec import HttpInfer, error_message, from_grpc, from_http, to_grpc, to_http
from gateway.demo.triton_process import why_not
from gateway.vocab import Headers
from tests.grpc_codec.support import DATATYPES, Tensor, as_request, random_tensor
from tests.support.own_models import Addresses, own_models

pytestmark = [
    pytest.mark.real_triton,
    pytest.mark.skipif(why_not() is not None, reason=f"no real Triton here: {why_not()}"),
]

MODEL = """
import sys

sys.path.insert(0, "@site-packages@")  # the server starts its interpreter without ours

import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([same(tensor) for tensor in request.inputs()]) for request in requests]

def same(tensor):
    if tensor.name() == "bf16":
        return pb_utils.Tensor.from_dlpack(tensor.name(), tensor.to_dlpack())
    return pb_utils.Tensor(tensor.name(), tensor.as_numpy())
"""


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    repository = tmp_path_factory.mktemp("repository")
    model = repository / "identity"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(MODEL.replace("@site-packages@", sysconfig.get_path("purelib")))
    (model / "config.pbtxt").write_text(configuration())
    with own_models(repository, tmp_path_factory.mktemp("backends")) as addresses:
        yield addresses


def configuration() -> str:
    def side(kind: str, more: str) -> str:
        entries = [
            f'{{name: "{name.lower()}", data_type: TYPE_{"STRING" if name == "BYTES" else name}, dims: [-1]{more}}}'
            for name in DATATYPES
        ]
        return f"{kind} [{', '.join(entries)}]\n"

    return 'backend: "python"\n' + side("input", ", optional: true") + side("output", "")


def post(triton: Addresses, request: HttpInfer) -> tuple[int, Headers, bytes]:
    fields = {name.decode(): value.decode() for name, value in request.headers}
    asked = urllib.request.Request(triton.http + request.target.decode(), request.body, fields, method="POST")
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            headers = [(k.lower().encode(), v.encode()) for k, v in answer.headers.items()]
            return answer.status, headers, answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, [], refusal.read()


@pytest.fixture(scope="module")
def stub(triton: Addresses) -> Iterator[Any]:
    with grpc.insecure_channel(triton.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def batches(count: int) -> Iterator[list[Tensor]]:
    """Vectors, of some datatypes each time: what the model takes."""
    source = random.Random(8)
    yield [Tensor(datatype.lower(), datatype, (0,), b"") for datatype in DATATYPES]
    for _ in range(count):
        found: dict[str, Tensor] = {}
        while len(found) < 5:
            tensor = random_tensor(source, "")
            found[tensor.datatype] = tensor._replace(name=tensor.datatype.lower(), shape=(tensor.elements(),))
        yield list(found.values())


def contents(response: Any) -> list[tuple[str, str, list[int], bytes]]:
    """In the order of the names: the server's own order is of no meaning."""
    raw = response.raw_output_contents
    found = [(o.name, o.datatype, list(o.shape), r) for o, r in zip(response.outputs, raw, strict=True)]
    return sorted(found)


def test_the_codec_answers_what_the_server_answers_over_grpc(triton: Addresses, stub: Any) -> None:
    for tensors in batches(200):
        request = as_request(tensors, id="7", outputs=[{"name": tensor.name} for tensor in tensors])
        request.parameters["mine"].string_param = "x"
        theirs = stub.ModelInfer(request, timeout=20)
        assert contents(theirs) == sorted((t.name, t.datatype, list(t.shape), t.raw) for t in tensors)
        asked = to_http(request.SerializeToString())
        status, headers, body = post(triton, asked)
        assert status == 200, body
        ours = pb.ModelInferResponse.FromString(from_http(headers, body))
        assert contents(ours) == contents(theirs)
        named = ("model_name", "model_version", "id")
        assert [getattr(ours, name) for name in named] == [getattr(theirs, name) for name in named]
        assert ours.parameters == theirs.parameters
        assert (asked.headers[0] in headers) == any(tensor.raw for tensor in tensors)
        # The other way round: what the HTTP client would have got, from the gRPC answer.
        back = to_grpc(*asked)
        answer = stub.ModelInfer(pb.ModelInferRequest.FromString(back.message), timeout=20)
        found_headers, found = from_grpc(answer.SerializeToString(), binary=back.binary)
        assert sorted(found_headers) == sorted(h for h in headers if h[0] in dict(found_headers))
        assert found == body


def test_typed_contents_are_read_as_the_server_reads_them(triton: Addresses, stub: Any) -> None:
    """Also numbers that are outside their datatype."""
    cases: list[tuple[str, str, list[Any]]] = [
        ("BOOL", "bool_contents", [True, False]), ("INT8", "int_contents", [-1, 300, 2**31 - 1]),
        ("INT16", "int_contents", [-1, 70000]), ("INT32", "int_contents", [-(2**31), 7]),
        ("INT64", "int64_contents", [-(2**63), 7]), ("UINT8", "uint_contents", [255, 256, 2**32 - 1]),
        ("UINT16", "uint_contents", [65535, 65536]), ("UINT32", "uint_contents", [2**32 - 1]),
        ("UINT64", "uint64_contents", [2**64 - 1]), ("FP32", "fp32_contents", [1.5, float("inf")]),
        ("FP64", "fp64_contents", [1e-300]), ("BYTES", "bytes_contents", [b"", bytes(range(256))]),
    ]  # fmt: skip
    for datatype, kind, values in cases:
        name = datatype.lower()
        request = pb.ModelInferRequest(model_name="identity", outputs=[{"name": name}])
        request.inputs.add(name=name, datatype=datatype, shape=[len(values)], contents={kind: values})
        _, headers, body = post(triton, to_http(request.SerializeToString()))
        ours = pb.ModelInferResponse.FromString(from_http(headers, body))
        assert contents(ours) == contents(stub.ModelInfer(request, timeout=20)), datatype


def test_refusals_say_the_same(triton: Addresses, stub: Any) -> None:
    one = Tensor("fp32", "FP32", (1,), b"1234")
    unknown = as_request([one])
    unknown.model_name = "nope"
    for request in (
        unknown,
        as_request([one], model_version="9"),
        as_request([one._replace(shape=(2,))]),
        as_request([one._replace(datatype="INT32")]),
        as_request([one._replace(name="x")]),
        as_request([one], outputs=[{"name": "x"}]),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request, timeout=20)
        status, _, body = post(triton, to_http(request.SerializeToString()))
        assert status >= 400
        assert error_message(body) == refused.value.details()


def numbers(count: int) -> Iterator[str]:
    """As clients may write them: more digits than a double has, zeros in front and behind, any power."""
    source = random.Random(9)
    for _ in range(count):
        whole = str(source.choice((0, source.randint(1, 9), source.randint(1, 10 ** source.randint(1, 18)))))
        fraction = "0" * source.choice((0, 0, 3)) + str(source.randint(0, 10 ** source.randint(1, 22)))
        power = source.choice(("", "", f"e{source.randint(-280, 270)}", f"E+{source.randint(0, 20)}"))
        yield source.choice(("", "-")) + f"{whole}.{fraction}{power}"


def test_numbers_in_json_are_read_as_the_server_reads_them(triton: Addresses) -> None:
    data = [*numbers(3000), "1e-320", "1e-400", "-0.0", "5e-324", "2.2250738585072014e-308"]
    body = (
        '{"inputs":[{"name":"fp64","datatype":"FP64","shape":[%d],"data":[%s]}],"outputs":[{"name":"fp64"}]}'
    )
    text = (body % (len(data), ",".join(data))).encode()
    status, _, answer = post(triton, HttpInfer(b"/v2/models/identity/infer", [], text))
    assert status == 200
    theirs = json.loads(answer, parse_float=str)["outputs"][0]["data"]
    ours = [triton_json.number(float(number)) for number in triton_json.parse(text)["inputs"][0]["data"]]
    wrong = [triple for triple in zip(data, ours, theirs, strict=True) if triple[1] != triple[2]]
    assert wrong == []
