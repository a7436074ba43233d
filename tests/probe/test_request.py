"""The request that a probe sends: made for the model, or the bytes of a file."""

import json
from typing import Any

import pytest

from backends.emulators.kserve_app import KServeApp
from gateway.probe.request import BadRequest, chat, given, metadata_question, zeros
from tests.emulators.apps import ALL_TYPES, Double, Echo, Same

APP = KServeApp([Double(), Same(), Echo()])


def asked(model: str) -> tuple[int, bytes]:
    """What a v2 server says to the request that was made from its own metadata."""
    question = metadata_question("r", model)
    status, _, metadata = APP(question.method, question.path, "", {}, question.body)
    assert status == 200
    request = zeros("r", model, metadata)
    fields = {name.decode(): value.decode() for name, value in request.headers}
    status, _, body = APP(request.method, request.path, "", fields, request.body)
    return status, body


@pytest.mark.parametrize("model", ["double", "same", "echo"])
def test_a_request_made_from_the_metadata_is_one_that_the_model_takes(model: str) -> None:
    status, body = asked(model)
    assert status == 200, body


def test_the_types_without_json_form_go_as_binary() -> None:
    inputs = [{"name": name, "datatype": name, "shape": [-1, 3]} for name in (*ALL_TYPES, "BF16")]
    request = zeros("r", "m", json.dumps({"inputs": inputs}).encode())
    fields = dict(request.headers)
    length = int(fields[b"inference-header-content-length"])
    assert len(request.body) - length == 2 * 3 * 2  # FP16 and BF16, three elements each
    made = json.loads(request.body[:length])["inputs"]
    assert all(tensor["shape"] == [1, 3] for tensor in made)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (b"not json", "does not name its inputs"),
        (b'{"inputs": [{"name": "x"}]}', "does not name its inputs"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": "a"}]}', "has no shape"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [9999, 9999]}]}', "99,980,001 elements"),
        (b'{"inputs": [{"name": "x", "datatype": "COMPLEX", "shape": [1]}]}', "has no zero"),
    ],
)
def test_metadata_that_gives_no_request_says_what_to_do(metadata: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        zeros("r", "m", metadata)
    assert "--request" in str(caught.value)


def test_a_chat_is_small_and_named_after_the_model() -> None:
    call = chat("r", "llama").call(3)
    document = json.loads(call.body.whole() or b"")
    assert (call.protocol, call.operation, call.target) == ("openai", "chat", b"/v1/chat/completions")
    assert (document["model"], document["max_tokens"]) == ("llama", 16)
    assert (call.route, call.model, call.stream, call.request_id) == (
        "r",
        "llama",
        False,
        "overspill-probe-3",
    )


@pytest.mark.parametrize(
    ("body", "path", "stream"),
    [
        (b'{"stream": true}', "/v1/chat/completions", True),
        (b"{}", "/v2/models/m/generate_stream", True),
        (b"\x00\x01", "/anything", False),
    ],
)
def test_a_file_is_sent_as_it_is(body: bytes, path: str, stream: bool) -> None:
    call = given("raw", "r", "m", path, body).call(0)
    assert (call.body.whole(), call.target, call.stream) == (body, path.encode(), stream)


@pytest.mark.parametrize("path", ["v2/models", "/a b", "/ä", "/a\r\nhost: x"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(BadRequest, match="--path"):
        given("raw", "", "", path, b"")


def test_without_a_model_it_asks_for_one() -> None:
    with pytest.raises(BadRequest, match="--model"):
        metadata_question("", "")
    arguments: Any = ("kserve", "", "", None, b"{}")
    with pytest.raises(BadRequest, match="--model"):
        given(*arguments)
