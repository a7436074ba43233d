"""The bundled KServe v2 server as a function. Expected bodies were written by tritonserver 2.51 itself."""

import json
import struct
from typing import Any

import pytest

from backends.emulators.kserve import Tensor
from backends.emulators.tensors import pack
from tests.emulators.apps import models

X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.5, 2]}
LENGTH = "inference-header-content-length"


def ask(
    method: str, path: str, body: Any = b"", headers: dict[str, str] | None = None, *, app: Any = None
) -> tuple[int, dict[str, str], bytes]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, fields, answer = (app or models())(method, path, "", headers or {}, raw)
    return status, dict(fields), answer


def infer(
    document: Any, model: str = "double", blob: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    head = json.dumps(document).encode()
    headers = {} if blob is None else {"Inference-Header-Content-Length": str(len(head))}
    return ask("POST", f"/v2/models/{model}/infer", head + (blob or b""), headers)


def error(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/v2/health/live", 200, b""),
        ("GET", "/v2/health/ready", 200, b""),
        ("HEAD", "/v2/health/ready", 405, b'{"error":"Method Not Allowed"}'),
        ("GET", "/v2/health/other", 404, b'{"error":"Not Found"}'),
        ("GET", "/v2/", 404, b'{"error":"Not Found"}'),
        ("GET", "/", 404, b'{"error":"Not Found"}'),
        ("GET", "/v2/models/double/ready", 200, b""),
        ("GET", "/v2/models/nope/ready", 400, b'{"error":"Model version not ready"}'),
        ("GET", "/v2/models/double/versions/9/ready", 400, b'{"error":"Model version not ready"}'),
        ("GET", "/v2/models/double/versions/x/ready", 404, b'{"error":"Not Found"}'),
        ("GET", "/v2/models/nope", 404, b"{\"error\":\"Request for unknown model: 'nope' is not found\"}"),
        (
            "GET", "/v2/models/double/versions/9", 404,
            b"{\"error\":\"Request for unknown model: 'double' version 9 is not found\"}",
        ),
        ("GET", "/v2/models/nope/stats", 400, b"{\"error\":\"requested model 'nope' is not available\"}"),
        (
            "GET", "/v2/models/double/versions/9/stats", 400,
            b"{\"error\":\"requested model version is not available for model 'double'\"}",
        ),
        (
            "GET", "/v2/models/double", 200,
            b'{"name":"double","versions":["1","2"],"platform":"python",'
            b'"inputs":[{"name":"x","datatype":"FP32","shape":[-1,-1]}],'
            b'"outputs":[{"name":"y","datatype":"FP32","shape":[-1,-1]}]}',
        ),
        ("POST", "/v2/models/double", 405, b'{"error":"Method Not Allowed"}'),
        ("GET", "/v2/models/double/infer", 405, b'{"error":"Method Not Allowed"}'),
        ("POST", "/v2/models/double/infer/", 404, b'{"error":"Not Found"}'),
    ],
)  # fmt: skip
def test_questions_are_answered_as_triton_does(method: str, path: str, status: int, body: bytes) -> None:
    found, _, answer = ask(method, path)
    assert (found, answer) == (status, body)


def test_server_that_is_not_ready_says_so_with_400() -> None:
    app = models()
    app.ready = False
    assert ask("GET", "/v2/health/ready", app=app)[0] == 400
    assert ask("GET", "/v2/health/live", app=app)[0] == 200
    app.ready = True
    app.unready.add("double")
    assert ask("GET", "/v2/models/double/ready", app=app)[0] == 400
    assert ask("GET", "/v2/models/same/ready", app=app)[0] == 200


def test_json_answer_has_tritons_bytes() -> None:
    assert infer({"inputs": [X]})[2] == (
        b'{"model_name":"double","model_version":"2",'
        b'"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[3.0,4.0]}]}'
    )
    assert infer({"id": "abc", "inputs": [X]})[2].startswith(b'{"id":"abc","model_name":"double",')


def test_explicit_version_is_the_one_that_answers() -> None:
    answer = ask("POST", "/v2/models/double/versions/1/infer", {"inputs": [X]})[2]
    assert json.loads(answer)["model_version"] == "1"


def test_nested_data_is_flattened() -> None:
    assert json.loads(infer({"inputs": [X | {"data": [[1, 2]]}]})[2])["outputs"][0]["data"] == [2, 4]


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
    ],
)
def test_binary_answer_follows_its_json_part(more: dict[str, Any]) -> None:
    status, fields, answer = infer({"inputs": [X], **more})
    head = (
        b'{"model_name":"double","model_version":"2",'
        b'"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}'
    )
    assert (status, fields["content-type"], fields[LENGTH]) == (
        200,
        "application/octet-stream",
        str(len(head)),
    )
    assert answer == head + struct.pack("<2f", 3, 4)


def test_named_output_is_json_even_when_binary_is_asked_for_everything_else() -> None:
    _, fields, _ = infer(
        {"inputs": [X], "outputs": [{"name": "y"}], "parameters": {"binary_data_output": True}}
    )
    assert LENGTH not in fields


def test_binary_input_and_raw_input() -> None:
    blob = struct.pack("<2f", 1.5, 2)
    entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    assert json.loads(infer({"inputs": [entry]}, blob=blob)[2])["outputs"][0]["data"] == [3.0, 4.0]
    _, fields, answer = ask("POST", "/v2/models/double/infer", blob, {LENGTH: "0"})
    assert answer[int(fields[LENGTH]) :] == struct.pack("<2f", 3, 4)


def test_classification_extension() -> None:
    answer = infer({"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 2}}]})[2]
    assert json.loads(answer)["outputs"] == [
        {"name": "y", "datatype": "BYTES", "shape": [1, 2], "data": ["4.000000:1", "3.000000:0"]}
    ]


MISSING = (
    "[request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 'double'. Got input(s) [], but"
    " missing required input(s) ['x']. Please provide all required input(s)."
)
NO_MEMBER = "Unable to parse '{0}': attempt to access non-existing object member '{0}'"


@pytest.mark.parametrize(
    ("document", "status", "text"),
    [
        ({}, 500, NO_MEMBER.format("inputs")),
        ([], 500, NO_MEMBER.format("inputs")),
        ({"inputs": {}}, 500, "Unable to parse 'inputs': attempt to access JSON non-array as array"),
        ({"inputs": []}, 400, MISSING),
        ({"inputs": [X | {"name": "z"}]}, 400, "unexpected inference input 'z' for model 'double'"),
        ({"inputs": [X, X]}, 400, "[request id: <id_unknown>] input 'x' already exists in request"),
        (
            {"inputs": [X], "outputs": [{"name": "nope"}]}, 400,
            "unexpected inference output 'nope' for model 'double'",
        ),
        ({"inputs": [X | {"datatype": "FOO"}]}, 400, "invalid datatype for input x"),
        (
            {"id": "q7", "inputs": [X | {"datatype": "INT32", "data": [1, 2]}]}, 400,
            "[request id: q7] inference input 'x' data-type is 'INT32', but model 'double' expects 'FP32'",
        ),
        (
            {"inputs": [X | {"datatype": "INT32"}]}, 500,
            "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer",
        ),
        (
            {"inputs": [X | {"data": ["a", "b"]}]}, 500,
            "Unable to parse 'data': attempt to access JSON non-number as double",
        ),
        (
            {"inputs": [X | {"data": "ab"}]}, 500,
            "Unable to parse 'data': attempt to access JSON non-array as array",
        ),
        (
            {"inputs": [X | {"shape": [1, 3]}]}, 500,
            "Unable to parse 'data': Shape does not match true shape of 'data' field",
        ),
        (
            {"inputs": [X | {"shape": [1, -2]}]}, 500,
            "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        (
            {"inputs": [X | {"shape": [9, 1], "data": [1] * 9}]}, 400,
            "[request id: <id_unknown>] inference request batch-size must be <= 8 for 'double'",
        ),
        (
            {"inputs": [X | {"shape": [0, 2], "data": []}]}, 400,
            "[request id: <id_unknown>] input byte size mismatch for input 'x' for model 'double'."
            " Expected 8, got 0",
        ),
        (
            {"inputs": [X | {"shape": [], "data": []}]}, 400,
            "[request id: <id_unknown>] input 'x' has no shape but model requires batch dimension for 'double'",
        ),
        (
            {"inputs": [X], "parameters": 1}, 500,
            "Unable to parse 'parameters': attempt to access JSON non-object as object",
        ),
        ({"inputs": [1]}, 500, NO_MEMBER.format("name")),
        ({"id": 7, "inputs": [X]}, 500, "Unable to parse 'id': attempt to access JSON non-string as string"),
        (
            {"inputs": [X], "parameters": {"timeout": "x"}}, 500,
            "Unable to parse 'timeout': attempt to access JSON non-unsigned-integer as unsigned-integer",
        ),
        *(
            ({"inputs": [{k: v for k, v in X.items() if k != key}]}, 500, NO_MEMBER.format(key))
            for key in ("name", "shape", "datatype")
        ),
    ],
)  # fmt: skip
def test_mistakes_get_tritons_status_and_words(document: Any, status: int, text: str) -> None:
    assert error(infer(document)) == (status, text)


def test_wrong_rank_is_explained_with_the_batch_dimension() -> None:
    status, text = error(infer({"inputs": [X | {"shape": [2]}]}))
    assert status == 400
    assert text.startswith(
        "[request id: <id_unknown>] unexpected shape for input 'x' for model 'double'. Expected [-1,-1], got"
        " [2]. NOTE: Setting a non-zero max_batch_size"
    )


@pytest.mark.parametrize(
    ("size", "blob", "text"),
    [
        (8, b"\0" * 4, "unexpected size for input 'x', expecting 4 additional bytes for model 'double'"),
        (8, b"\0" * 12, "unexpected additional input data for model 'double'"),
        (
            4, b"\0" * 4,
            "[request id: <id_unknown>] input byte size mismatch for input 'x' for model 'double'."
            " Expected 8, got 4",
        ),
    ],
)  # fmt: skip
def test_binary_sizes_that_do_not_fit(size: int, blob: bytes, text: str) -> None:
    entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    assert error(infer({"inputs": [entry]}, blob=blob)) == (400, text)


def test_header_length_beyond_the_body_is_refused() -> None:
    answer = ask("POST", "/v2/models/double/infer", b"{}", {LENGTH: "99"})
    assert error(answer) == (400, "inference header size should be in range (0, 2), got: 99")


def test_malformed_json_is_a_500_as_with_triton() -> None:
    answer = ask("POST", "/v2/models/double/infer", b"{bad")
    expected = "failed to parse the request JSON buffer: Missing a name for object member. at 1"
    assert error(answer) == (500, expected)


def test_half_precision_does_not_travel_as_json() -> None:
    entry = {"name": "fp16", "shape": [1], "datatype": "FP16", "data": [1.0]}
    text = "receiving FP16 data via JSON is not supported. Please use the binary data format for input fp16"
    assert error(infer({"inputs": [entry]}, "same")) == (400, text)


def test_model_that_raises_is_a_500_and_counts_as_failed() -> None:
    app = models()
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
    status, text = error(ask("POST", "/v2/models/fragile/infer", body, app=app))
    assert (status, "ValueError: glass" in text) == (500, True)
    stats = json.loads(ask("GET", "/v2/models/fragile/stats", app=app)[2])["model_stats"][0]
    assert stats["inference_stats"]["fail"]["count"] == 1


def test_statistics_count_what_was_inferred() -> None:
    app = models()
    for _ in range(3):
        ask("POST", "/v2/models/double/infer", {"inputs": [X]}, app=app)
    (stats,) = json.loads(ask("GET", "/v2/models/double/stats", app=app)[2])["model_stats"]
    assert (stats["name"], stats["inference_count"], stats["execution_count"]) == ("double", 3, 3)
    assert stats["inference_stats"]["success"]["count"] == 3
    everything = json.loads(ask("GET", "/v2/models/stats", app=app)[2])["model_stats"]
    assert [each["name"] for each in everything] == ["double", "echo", "fragile", "same", "writer"]


def test_configuration_names_types_and_batching() -> None:
    config = json.loads(ask("GET", "/v2/models/same/config")[2])
    assert config["max_batch_size"] == 0
    assert {each["data_type"] for each in config["input"]} >= {"TYPE_STRING", "TYPE_FP16", "TYPE_BOOL"}


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"x": 1}, b'{"model_name":"double","model_version":"2","y":2.0}'),
        ({"x": [1, 2]}, b'{"model_name":"double","model_version":"2","y":[2.0,4.0]}'),
        ({"id": "q", "x": 1, "z": 1}, b'{"id":"q","model_name":"double","model_version":"2","y":2.0}'),
        ({"parameters": {"x": 1}}, b'{"model_name":"double","model_version":"2","y":2.0}'),
    ],
)
def test_generate_maps_keys_to_tensors(body: Any, answer: bytes) -> None:
    assert ask("POST", "/v2/models/double/generate", body)[2] == answer


@pytest.mark.parametrize(
    ("model", "body", "status", "text"),
    [
        ("double", {}, 400, MISSING),
        ("double", {"x": "a"}, 500, "Unable to parse 'data': attempt to access JSON non-number as double"),
        (
            "double", {"x": [[1]]}, 500,
            "Unable to parse 'data': Shape does not match true shape of 'data' field",
        ),
        ("double", [1], 500, "attempt to get members for non-object"),
        (
            "double", {"id": "q", "x": 1, "parameters": {"x": 2}}, 400,
            "Converting keyword: 'parameters': [request id: q] input 'x' already exists in request",
        ),
        (
            "fragile", {"x": [1, 2]}, 400,
            "The schema can not convert input 'x' to tensor with proper shape",
        ),
        ("nope", {"x": 1}, 404, "Request for unknown model: 'nope' is not found"),
    ],
)  # fmt: skip
def test_generate_mistakes(model: str, body: Any, status: int, text: str) -> None:
    assert error(ask("POST", f"/v2/models/{model}/generate", body)) == (status, text)


def test_generate_stream_is_one_event_per_answer() -> None:
    status, fields, body = ask("POST", "/v2/models/writer/generate_stream", {"text_input": "a b"})
    assert (status, fields["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert body == (
        b'data: {"model_name":"writer","model_version":"1","text_output":"a"}\n\n'
        b'data: {"model_name":"writer","model_version":"1","text_output":"b"}\n\n'
    )


def test_error_within_a_stream_is_an_event_under_status_200() -> None:
    status, _, body = ask("POST", "/v2/models/writer/generate_stream", {"text_input": "a stop"})
    last = body.split(b"\n\n")[-2]
    assert (status, json.loads(last.removeprefix(b"data: ")).keys()) == (200, {"error"})


def test_generate_on_a_model_of_many_answers_is_200_with_an_error() -> None:
    status, text = error(ask("POST", "/v2/models/writer/generate", {"text_input": "a b"}))
    assert status == 200
    assert text.startswith("generate expects model to produce exactly 1 response")


def test_infer_on_a_decoupled_model_is_501() -> None:
    assert infer({"inputs": []}, "writer")[0] == 501


def test_values_out_of_range_wrap_or_overflow_as_in_c() -> None:
    assert Tensor.of("UINT8", (2,), [1, 300]).values() == [1, 44]
    assert Tensor.of("INT8", (1,), [200]).values() == [-56]
    assert Tensor.of("FP32", (1,), [1e39]).values() == [float("inf")]
    assert Tensor.of("FP32", (1,), [10**39]).values() == [float("inf")]


def test_brain_floats_round_to_nearest_even() -> None:
    assert Tensor.of("BF16", (3,), [1.0, -2.5, 3.0e38]).values() == pytest.approx(
        [1.0, -2.5, 3.0e38], rel=0.01
    )
    assert pack("BF16", [1.00390625]) == b"\x80\x3f"  # a tie, and even lies below
    assert pack("BF16", [1.01171875]) == b"\x82\x3f"  # a tie, and even lies above


def text_input(size: int) -> dict[str, Any]:
    return {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}


def test_bytes_that_are_not_utf8_pass_through_json() -> None:
    answer = infer({"inputs": [text_input(6)]}, "echo", b"\x02\0\0\0\xff\xfe")[2]
    assert answer.endswith(b'"data":["\xff\xfe"]}]}')


def test_raw_text_is_one_element() -> None:
    _, fields, answer = ask("POST", "/v2/models/echo/infer", b"xyz", {LENGTH: "0"})
    assert answer[int(fields[LENGTH]) :] == b"\x03\0\0\0xyz"


def test_string_that_breaks_off_is_refused() -> None:
    assert error(infer({"inputs": [text_input(6)]}, "echo", b"\x07\0\0\0ab")) == (
        400,
        "incomplete string data for inference input 'text', expecting string of length 7 but only 2 bytes"
        " available",
    )


def test_raw_mode_needs_a_model_of_one_input_and_a_whole_number_of_elements() -> None:
    status, text = error(ask("POST", "/v2/models/same/infer", b"xxxx", {LENGTH: "0"}))
    assert (status, "Raw request must only have 1 input" in text) == (400, True)
    status, text = error(ask("POST", "/v2/models/double/infer", b"12345", {LENGTH: "0"}))
    assert (status, text.endswith("'raw_input' for model 'double'. Expected 4, got 5")) == (400, True)
