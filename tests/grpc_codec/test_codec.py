"""What else is in a message: parameters, ids, wanted outputs, names, and what cannot be carried."""

import json
import math
from typing import Any

import pytest
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2 as pb

from backends.emulators.kserve import KServeApp
from backends.grpc_codec import JSON_SIZE, error_message, from_grpc, from_http, to_grpc, to_http
from gateway.errors import BackendBroke, BadCall, NotOffered
from gateway.vocab import Headers
from tests.grpc_codec.support import Identity, Tensor, as_request, post

ONE = Tensor("x", "INT32", (2,), b"\x01\0\0\0\xff\xff\xff\xff")
INFER = b"/v2/models/m/infer"


def document(request: Any) -> Any:
    found = to_http(request.SerializeToString())
    return json.loads(found.body[: int(dict(found.headers)[JSON_SIZE])])


def answer(document: Any, blob: bytes = b"") -> Any:
    head = json.dumps(document).encode()
    return pb.ModelInferResponse.FromString(from_http([(JSON_SIZE, b"%d" % len(head))], head + blob))


def test_every_kind_of_parameter_there_and_back() -> None:
    request = as_request([ONE], id="id-7")
    given: dict[str, tuple[str, Any]] = {
        "yes": ("bool_param", True), "no": ("bool_param", False), "low": ("int64_param", -(2**63)),
        "zero": ("int64_param", 0), "text": ("string_param", 'a"\n☃'), "none": ("string_param", ""),
        "half": ("double_param", 0.5), "whole": ("double_param", 3.0), "tiny": ("double_param", 5e-324),
        "minus": ("double_param", -0.0), "most": ("uint64_param", 2**64 - 1),
    }  # fmt: skip
    for name, (kind, value) in given.items():
        for place in (
            request,
            request.inputs[0],
            request.outputs.add() if not request.outputs else request.outputs[0],
        ):
            setattr(place.parameters[name], kind, value)
    found = document(request)
    expected = {name: value for name, (_, value) in given.items()}
    assert found["id"] == "id-7"
    assert found["parameters"] == expected | {"binary_data_output": True}
    assert found["inputs"][0]["parameters"] == expected | {"binary_data_size": 8}
    assert found["outputs"][0]["parameters"] == expected | {"binary_data": True}
    assert isinstance(found["parameters"]["whole"], float)
    assert isinstance(found["parameters"]["yes"], bool)

    output = {
        "name": "y",
        "datatype": "UINT8",
        "shape": [1],
        "parameters": expected | {"binary_data_size": 1},
    }
    response = answer({"model_name": "m", "id": "id-7", "parameters": expected, "outputs": [output]}, b"\x07")
    for place in (response, response.outputs[0]):
        kinds = {n: (p.WhichOneof("parameter_choice"), p) for n, p in place.parameters.items()}
        assert {n: (kind, getattr(p, kind)) for n, (kind, p) in kinds.items()} == given
    assert response.id == "id-7"


def test_parameters_that_are_no_json_numbers_are_written_as_triton_reads_them() -> None:
    request = as_request([ONE])
    request.parameters["far"].double_param = -math.inf
    assert b'"far":-Infinity' in to_http(request.SerializeToString()).body
    assert (
        answer({"parameters": {"far": -math.inf}, "outputs": []}).parameters["far"].double_param == -math.inf
    )


def test_a_sequence_request_is_the_one_that_the_http_client_makes() -> None:
    request = as_request([ONE], id="a")
    request.parameters["sequence_id"].int64_param = 42
    request.parameters["sequence_start"].bool_param = True
    request.parameters["sequence_end"].bool_param = False
    request.parameters["priority"].uint64_param = 3
    request.parameters["timeout"].int64_param = 1000
    entry = triton_http.InferInput("x", [2], "INT32")
    entry.set_data_from_numpy(ONE.array())
    body, size = triton_http.InferenceServerClient.generate_request_body(
        [entry],
        request_id="a",
        sequence_id=42,
        sequence_start=True,
        sequence_end=False,
        priority=3,
        timeout=1000,
    )
    assert document(request) == json.loads(body[:size])


def test_wanted_outputs_are_those_that_the_http_client_asks_for() -> None:
    request = as_request([ONE])
    request.outputs.add(name="all")
    request.outputs.add(name="best").parameters["classification"].int64_param = 3
    entry = triton_http.InferInput("x", [2], "INT32")
    entry.set_data_from_numpy(ONE.array())
    outputs = [
        triton_http.InferRequestedOutput("all", binary_data=True),
        triton_http.InferRequestedOutput("best", binary_data=True, class_count=3),
    ]
    body, size = triton_http.InferenceServerClient.generate_request_body([entry], outputs=outputs)
    ours, theirs = document(request), json.loads(body[:size])
    assert ours == theirs | {"parameters": {"binary_data_output": True}}


def test_classes_come_back_as_strings() -> None:
    scores = Tensor("x", "FP32", (3,), b"\0\0\x80\x3f" + b"\0\0\0\x40" + b"\0\0\0\0")
    request = as_request([scores])
    request.outputs.add(name="x").parameters["classification"].int64_param = 2
    status, headers, body = post(KServeApp([Identity([scores])]), *to_http(request.SerializeToString()))
    assert status == 200
    response = pb.ModelInferResponse.FromString(from_http(headers, body))
    assert [(o.datatype, list(o.shape)) for o in response.outputs] == [("BYTES", [2])]
    (raw,) = response.raw_output_contents
    assert raw == b"\x0a\0\0\0" + b"2.000000:1" + b"\x0a\0\0\0" + b"1.000000:0"


@pytest.mark.parametrize(
    ("name", "version", "target"),
    [
        ("m", "", b"/v2/models/m/infer"),
        ("m", "3", b"/v2/models/m/versions/3/infer"),
        ("a b/c?d#e%", "", b"/v2/models/a%20b%2Fc%3Fd%23e%25/infer"),
        ("grün..", "v/1", b"/v2/models/gr%C3%BCn../versions/v%2F1/infer"),
    ],
)
def test_the_name_of_the_model_is_quoted_and_read_again(name: str, version: str, target: bytes) -> None:
    request = pb.ModelInferRequest(model_name=name, model_version=version)
    found = to_http(request.SerializeToString())
    assert found.target == target
    back = pb.ModelInferRequest.FromString(to_grpc(*found).message)
    assert (back.model_name, back.model_version) == (name, version)


def test_numbers_outside_their_datatype_keep_their_low_bytes_as_in_triton() -> None:
    request = pb.ModelInferRequest(model_name="m")
    for datatype in ("INT8", "INT16"):
        request.inputs.add(name="x", datatype=datatype, shape=[2], contents={"int_contents": [-1, 0x12345]})
    assert to_http(request.SerializeToString()).body.endswith(b"\xff\x45" + b"\xff\xff\x45\x23")


def test_typed_contents_may_be_unpacked() -> None:
    inside = b"\x08\x05" + b"\x08\x00" + b"\x0a\x01\x01"  # two fields of one number each, and a packed one
    entry = b"\x0a\x01x" + b"\x12\x04BOOL" + b"\x18\x03" + b"\x2a" + bytes([len(inside)]) + inside
    found = to_http(b"\x0a\x01m" + b"\x2a" + bytes([len(entry)]) + entry)
    assert b'"shape":[3]' in found.body
    assert found.body.endswith(b"\x01\x00\x01")


def entry(**more: Any) -> Any:
    return pb.ModelInferRequest(model_name="m", inputs=[{"name": "x", "shape": [1], **more}])


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (pb.ModelInferRequest(), "model_name is missing"),
        (pb.ModelInferRequest(model_name=".."), "model_name is '..', which no path can hold"),
        (pb.ModelInferRequest(model_name="m", model_version="."), "model_version is '.'"),
        (entry(datatype="FP16", contents={"fp32_contents": [1]}), r"inputs\[0\]: there are no typed contents of .*'FP16'"),
        (entry(datatype="BF16", contents={"fp32_contents": [1]}), "send raw contents"),
        (entry(datatype="FLOAT", contents={"fp32_contents": [1]}), "known are BF16, BOOL"),
        (entry(datatype="FP32", contents={"fp64_contents": [1]}), "has fp64_contents, this datatype needs fp32_contents"),
        (entry(datatype="FP32"), r"inputs\[0\] has no data"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_is_refused_with_its_place(message: Any, words: str) -> None:
    with pytest.raises(BadCall, match="malformed ModelInferRequest: .*" + words):
        to_http(message.SerializeToString())


def test_shared_memory_stays_on_its_machine() -> None:
    for request in (entry(datatype="FP32"), as_request([ONE])):
        place = request.inputs[0] if not request.raw_input_contents else request.outputs.add(name="y")
        place.parameters["shared_memory_region"].string_param = "region"
        place.parameters["shared_memory_byte_size"].int64_param = 4
        with pytest.raises(NotOffered, match=r"\[0\] lies in shared memory"):
            to_http(request.SerializeToString())


OUTPUT = {"name": "y", "datatype": "FP32", "shape": [2]}


@pytest.mark.parametrize(
    ("found", "blob", "words"),
    [
        ([], b"", "no object"),
        ({}, b"", "outputs is missing"),
        ({"outputs": [1]}, b"", "no array of objects"),
        ({"outputs": [OUTPUT]}, b"", r"outputs\[0\].data is missing"),
        ({"outputs": [OUTPUT | {"data": [1]}]}, b"", "has 1 elements, its shape needs 2"),
        ({"outputs": [OUTPUT | {"data": [1, "a"]}]}, b"", "no FP32"),
        ({"outputs": [OUTPUT | {"data": [1, 1e40]}]}, b"", "no FP32"),
        ({"outputs": [OUTPUT | {"datatype": "INT8", "data": [1, 128]}]}, b"", "no INT8"),
        ({"outputs": [OUTPUT | {"datatype": "BOOL", "data": [1, 2]}]}, b"", "no BOOL"),
        ({"outputs": [OUTPUT | {"datatype": "BYTES", "data": ["a", 2]}]}, b"", "no BYTES"),
        ({"outputs": [OUTPUT | {"datatype": "FLOAT"}]}, b"", "datatype is none of"),
        ({"outputs": [OUTPUT | {"shape": [-1]}]}, b"", "no array of sizes"),
        ({"outputs": [OUTPUT | {"shape": [1] * 300}]}, b"", "more than 256 dimensions"),
        ({"outputs": [OUTPUT | {"name": 1}]}, b"", "name of outputs"),
        ({"outputs": [OUTPUT | {"parameters": 1}]}, b"", "are no object"),
        ({"outputs": [OUTPUT | {"parameters": {"binary_data_size": True}}]}, b"", "no size"),
        ({"outputs": [OUTPUT | {"parameters": {"binary_data_size": 8}}]}, b"1234", "8 bytes in binary, 4 are left"),
        ({"outputs": [OUTPUT | {"parameters": {"binary_data_size": 4}}]}, b"1234", "need 8"),
        ({"outputs": [OUTPUT | {"parameters": {"binary_data_size": 8}}]}, bytes(9), "1 bytes are left behind"),
        ({"outputs": [], "parameters": {"n": 2**64}}, b"", "more than 64 bits"),
        ({"outputs": [], "id": 7}, b"", "id of the answer is no string"),
        ({"outputs": [], "id": "\ud800"}, b"", "no UTF-8 form"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_the_backends_fault(found: Any, blob: bytes, words: str) -> None:
    with pytest.raises(BackendBroke, match=words):
        answer(found, blob)


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        ([], b"<html>", "Expecting value at character 0 of its JSON"),
        ([], b"", "of its JSON"),
        ([], b"[" * 100_000, "nested too deep"),
        ([], b'{"outputs":[],"parameters":{"n":' + b"9" * 5000 + b"}}", "too long"),
        ([(JSON_SIZE, b"0")], b"{}", "no number from 1 to 2"),
        ([(JSON_SIZE, b"3")], b"{}", "no number from 1 to 2"),
        ([(JSON_SIZE, b"-1")], b"{}", "no number"),
        ([(JSON_SIZE, b"9" * 5000)], b"{}", "no number"),
        ([(JSON_SIZE, b"1"), (JSON_SIZE, b"2")], b"{}", "several"),
        ([(b"content-encoding", b"gzip")], b"{}", "compressed"),
    ],
)
def test_a_body_that_is_none_is_the_backends_fault(headers: Headers, body: bytes, words: str) -> None:
    with pytest.raises(BackendBroke, match=words):
        from_http(headers, body)


def test_an_answer_of_other_servers_is_understood() -> None:
    """Nested data, numbers for booleans, nulls, parameters that are objects, halves in JSON."""
    outputs = [
        {
            "name": "a",
            "datatype": "INT64",
            "shape": [2, 2],
            "data": [[1, 2], [2**53 + 1, -4]],
            "parameters": None,
        },
        {"name": "b", "datatype": "BOOL", "shape": [2], "data": [0, 1]},
        {"name": "c", "datatype": "FP16", "shape": [2], "data": [1.5, math.inf]},
        {"name": "d", "datatype": "BF16", "shape": [3], "data": [1.0, 3.0000001, math.nan]},
        {
            "name": "e",
            "datatype": "BYTES",
            "shape": [1],
            "data": ["grün"],
            "parameters": {"content_type": "str"},
        },
    ]
    response = answer(
        {
            "model_name": "m",
            "model_version": None,
            "parameters": {"h": {"a": [1]}, "n": None},
            "outputs": outputs,
        }
    )
    assert list(response.raw_output_contents) == [
        b"".join(n.to_bytes(8, "little", signed=True) for n in (1, 2, 2**53 + 1, -4)),
        b"\0\x01",
        b"\0\x3e\0\x7c",
        b"\x80\x3f\x40\x40\xc0\x7f",
        b"\x05\0\0\0gr\xc3\xbcn",
    ]
    assert {name: p.string_param for name, p in response.parameters.items()} == {"h": '{"a": [1]}'}
    assert response.outputs[4].parameters["content_type"].string_param == "str"


def test_strings_in_json_that_are_not_utf8_keep_their_bytes() -> None:
    body = b'{"outputs":[{"name":"y","datatype":"BYTES","shape":[1],"data":["a\xff\\n"]}]}'
    response = pb.ModelInferResponse.FromString(from_http([], body))
    assert list(response.raw_output_contents) == [b"\x03\0\0\0a\xff\n"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":"Request for unknown model"}', "Request for unknown model"),
        (b'{"detail":"bad\\nbody"}', "bad body"),
        (b'{"error":7,"message":"no"}', "no"),
        (b'{"error":""}', '{"error":""}'),
        (b"upstream\r\n  down\x00\xff", "upstream down \ufffd"),
        (b"[" * 10_000, "[" * 2000),
        (b"", "the backend gave no reason"),
    ],
)
def test_the_text_of_an_error(body: bytes, words: str) -> None:
    assert error_message(body) == words


def test_wanted_outputs_of_an_http_request_and_which_of_them_in_binary() -> None:
    inputs = [{"name": "x", "datatype": "UINT8", "shape": [2], "data": [1, 2]}]
    outputs = [{"name": "a", "parameters": {"binary_data": True, "classification": 2}}, {"name": "b"}]
    body = json.dumps({"id": "7", "inputs": inputs, "outputs": outputs, "parameters": {"p": 1}}).encode()
    asked = to_grpc(INFER + b"?a=b", [], body)
    assert asked.binary == {"a"}
    request = pb.ModelInferRequest.FromString(asked.message)
    assert (request.id, list(request.raw_input_contents)) == ("7", [b"\x01\x02"])
    assert {name: p.int64_param for name, p in request.parameters.items()} == {"p": 1}
    assert {name: p.int64_param for name, p in request.outputs[0].parameters.items()} == {"classification": 2}
    assert not request.outputs[1].parameters

    response = pb.ModelInferResponse(
        model_name="m", model_version="1", parameters={"q": {"bool_param": True}}
    )
    for name in ("a", "b"):
        response.outputs.add(name=name, datatype="UINT8", shape=[2])
        response.raw_output_contents.append(b"\x01\x02")
    headers, found = from_grpc(response.SerializeToString(), binary=asked.binary)
    head = (
        b'{"model_name":"m","model_version":"1","parameters":{"q":true},"outputs":['
        b'{"name":"a","datatype":"UINT8","shape":[2],"parameters":{"binary_data_size":2}},'
        b'{"name":"b","datatype":"UINT8","shape":[2],"data":[1,2]}]}'
    )
    assert headers == [(b"content-type", b"application/octet-stream"), (JSON_SIZE, b"%d" % len(head))]
    assert found == head + b"\x01\x02"


@pytest.mark.parametrize(
    ("target", "headers", "body", "kind", "words"),
    [
        (b"/v2/models/m", [], b"{}", BadCall, "the path is not"),
        (b"/v2/models/%ff/infer", [], b"{}", BadCall, "not UTF-8"),
        (INFER, [], b"{", BadCall, "malformed inference request: .* character 1"),
        (INFER, [], b"{}", BadCall, "inputs is missing"),
        (INFER, [(JSON_SIZE, b"0")], b"xx", NotOffered, "cannot be sent on as gRPC"),
        (INFER, [], b'{"inputs":[],"outputs":[{"name":"y","parameters":{"shared_memory_region":"r"}}]}', NotOffered, "shared"),
    ],
)  # fmt: skip
def test_http_requests_that_have_no_grpc_form(
    target: bytes, headers: Headers, body: bytes, kind: type[BadCall], words: str
) -> None:
    with pytest.raises(kind, match=words):
        to_grpc(target, headers, body)


def test_halves_have_no_json_form() -> None:
    response = pb.ModelInferResponse(
        outputs=[{"name": "y", "datatype": "FP16", "shape": [1]}], raw_output_contents=[b"ab"]
    )
    with pytest.raises(BadCall, match="output 'y' is FP16, which has no JSON form"):
        from_grpc(response.SerializeToString(), binary=False)
    assert from_grpc(response.SerializeToString(), binary={"y"})[1].endswith(b"ab")


@pytest.mark.parametrize("raw", [b"abc", b"\x09\0\0\0abc"])
def test_an_answer_whose_bytes_are_no_tensor_is_the_backends_fault(raw: bytes) -> None:
    for datatype in ("FP32", "BYTES", "NONE"):
        response = pb.ModelInferResponse(outputs=[{"name": "y", "datatype": datatype, "shape": [1]}])
        response.raw_output_contents.append(raw)
        with pytest.raises(BackendBroke, match="malformed ModelInferResponse: output 'y'"):
            from_grpc(response.SerializeToString(), binary=False)
