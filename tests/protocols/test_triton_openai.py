"""OpenAI's words in Triton's and back, as the real `openai` package reads them."""

import base64
import json
import struct
from itertools import pairwise
from typing import Any, Literal

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.sse import EventSplitter, EventTooLong
from backends.triton_openai import ChatTemplate, Plan, Untranslatable, answer, plan, refusal
from backends.triton_openai_stream import StreamTranslator
from tests.support.openai_client import client_that_gets

HI = [{"role": "user", "content": "hi"}]
CHAT = {"model": "m", "messages": HI}


def planned(operation: str, request: dict[str, Any], **options: Any) -> tuple[Plan, dict[str, Any]]:
    made = plan(operation, "m", json.dumps(request).encode(), **options)
    return made, json.loads(made.body)


# -- requests


@pytest.mark.parametrize(
    ("template", "messages", "text"),
    [
        ("plain", HI, "user: hi\nassistant:"),
        (
            "plain",
            [{"role": "system", "content": "be kind"}, *HI, {"role": "assistant", "content": None}],
            "system: be kind\nuser: hi\nassistant: \nassistant:",
        ),
        ("plain", [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
         "user: ab\nassistant:"),
        ("last_user", [*HI, {"role": "assistant", "content": "yo"}, {"role": "user", "content": "more"}], "more"),
        ("last_user", [*HI, {"role": "assistant", "content": "yo"}], "hi"),
    ],
)  # fmt: skip
def test_messages_become_one_text(template: ChatTemplate, messages: list[Any], text: str) -> None:
    made, body = planned("chat", {"messages": messages}, chat_template=template)
    assert body["text_input"] == text
    assert (made.target, made.streaming) == (b"/v2/models/m/generate", False)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {}),
        ({"max_tokens": 8, "temperature": 0.5, "seed": 7}, {"max_tokens": 8, "temperature": 0.5, "seed": 7}),
        ({"max_completion_tokens": 9, "max_tokens": 8}, {"max_tokens": 9}),
        ({"temperature": 1.0, "top_p": 0}, {"temperature": 1, "top_p": 0}),
        ({"stop": ["a"]}, {"stop": "a"}),
        ({"stop": "a"}, {"stop": "a"}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"frequency_penalty": 0.5, "user": "u", "metadata": {}}, {"frequency_penalty": 0.5}),
        (
            {"max_tokens": None, "n": 1, "tools": [], "logprobs": False, "response_format": {"type": "text"}},
            {},
        ),
    ],
)
def test_sampling_parameters_are_top_level_keys(asked: dict[str, Any], sent: dict[str, Any]) -> None:
    _, body = planned("chat", {**CHAT, **asked})
    assert {k: v for k, v in body.items() if k not in {"text_input", "exclude_input_in_output"}} == sent
    assert all(type(body[key]) is type(value) for key, value in sent.items())


def test_or_sampling_parameters_are_one_json_text() -> None:
    _, body = planned("chat", {**CHAT, "temperature": 0.5, "stop": ["a", "b"]}, sampling="json")
    assert json.loads(body["sampling_parameters"]) == {"temperature": 0.5, "stop": ["a", "b"]}
    _, body = planned("chat", CHAT, sampling="json")
    assert "sampling_parameters" not in body


def test_a_streamed_request_goes_to_generate_stream() -> None:
    made, body = planned("completions", {"prompt": "hi", "stream": True})
    assert (made.target, made.streaming, body["stream"]) == (b"/v2/models/m/generate_stream", True, True)
    assert body["text_input"] == "hi"


def test_a_models_name_is_one_path_segment() -> None:
    assert plan("completions", "org/m é", b'{"prompt":"x"}').target == b"/v2/models/org%2Fm%20%C3%A9/generate"


@pytest.mark.parametrize(
    ("operation", "request_body", "named"),
    [
        ("chat", {**CHAT, "n": 2}, "n other than 1"),
        ("chat", {**CHAT, "tools": [{"type": "function"}]}, "tools"),
        ("chat", {**CHAT, "functions": [{}]}, "tools"),
        ("chat", {**CHAT, "logprobs": True}, "logprobs"),
        ("chat", {**CHAT, "response_format": {"type": "json_object"}}, "response_format"),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ("chat", {"messages": []}, "empty"),
        ("chat", {}, "messages"),
        ("completions", {"prompt": ["a", "b"]}, "several"),
        ("completions", {"prompt": [1, 2]}, "prompt"),
        ("completions", {"prompt": "a", "echo": True}, "echo"),
        ("completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("completions", {"prompt": "a", "best_of": 3}, "best_of"),
        ("completions", {"prompt": "a", "logprobs": 5}, "logprobs"),
        ("embeddings", {"input": []}, "empty"),
        ("embeddings", {"input": [[1, 2]]}, "input"),
        ("embeddings", {"input": "a", "dimensions": 8}, "dimensions"),
        ("responses", {"input": "a"}, "responses"),
    ],
)
def test_what_cannot_be_said_to_triton_is_refused_by_name(
    operation: str, request_body: dict[str, Any], named: str
) -> None:
    with pytest.raises(Untranslatable, match=named) as caught:
        planned(operation, request_body)
    status, _, body = refusal(caught.value)
    assert status == 400
    with pytest.raises(openai.BadRequestError, match=named):
        client_that_gets(status, body).models.list()


@pytest.mark.parametrize("body", [b"", b"{", b'{"prompt":"\xff"}', b'{"x":' + b"[" * 100_000])
def test_a_body_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(Untranslatable):
        plan("completions", "m", body)


# -- answers


def answered(made: Plan, reply: object, status: int = 200) -> tuple[int, bytes]:
    body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    got, headers, out = answer(made, status, body, identifier="chatcmpl-1", created=1_800_000_000)
    assert headers == [(b"content-type", b"application/json")]
    return got, out


@pytest.mark.parametrize("text", ["hello é", ["hello é"]])
def test_a_chat_answer_is_a_chat_completion(text: object) -> None:
    made, _ = planned("chat", CHAT)
    status, body = answered(made, {"model_name": "x", "model_version": "1", "text_output": text})
    read = client_that_gets(status, body).chat.completions.create(model="m", messages=[])
    assert read.choices[0].message.content == "hello é"
    assert (read.choices[0].finish_reason, read.choices[0].message.role) == ("stop", "assistant")
    assert (read.id, read.created, read.model, read.object) == (
        "chatcmpl-1", 1_800_000_000, "m", "chat.completion",
    )  # fmt: skip
    assert read.usage is None


def test_a_completion_answer_is_a_text_completion() -> None:
    made, _ = planned("completions", {"prompt": "x"})
    status, body = answered(made, {"text_output": "hello"})
    read = client_that_gets(status, body).completions.create(model="m", prompt="x")
    assert (read.choices[0].text, read.object) == ("hello", "text_completion")


@pytest.mark.parametrize(
    ("status", "reply", "expected", "message"),
    [
        (200, {"error": "model is decoupled"}, 500, "model is decoupled"),
        (400, {"error": "bad shape"}, 400, "bad shape"),
        (503, {"error": "Exceeds maximum queue size"}, 503, "Exceeds maximum queue size"),
        (200, b"<html>", 502, "cannot be read"),
        (500, b"<html>", 500, "cannot be read"),
        (500, {}, 500, "failed"),
        (200, {"text_output": 5}, 502, "cannot be read"),
    ],
)
@pytest.mark.parametrize("operation", ["completions", "embeddings"])
def test_tritons_errors_become_openais(
    operation: str, status: int, reply: object, expected: int, message: str
) -> None:
    made, _ = planned(operation, {"prompt": "x", "input": "x"})
    got, body = answered(made, reply, status)
    assert got == expected
    with pytest.raises(openai.APIStatusError, match=message):
        client_that_gets(got, body).models.list()


def embedding_reply(shape: list[int], data: list[Any], datatype: str = "FP32") -> dict[str, Any]:
    ids = {"name": "ids", "datatype": "INT64", "shape": [1], "data": [1]}
    return {"outputs": [ids, {"name": "y", "datatype": datatype, "shape": shape, "data": data}]}


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_embeddings_are_rows_of_the_first_floating_point_output(
    encoding: Literal["float", "base64"], datatype: str
) -> None:
    made, sent = planned("embeddings", {"input": ["a", "b"], "encoding_format": encoding}, text_tensor="text")
    assert made.target == b"/v2/models/m/infer"
    assert sent["inputs"] == [{"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": ["a", "b"]}]
    status, body = answered(made, embedding_reply([2, 2], [0.5, 1, -2, 0.25], datatype))
    read = client_that_gets(status, body).embeddings.create(model="m", input="a", encoding_format=encoding)
    rows = [each.embedding for each in read.data]
    if encoding == "base64":  # what the caller asked for by name, the package leaves as it came
        rows = [list(struct.unpack("<2f", base64.b64decode(str(row)))) for row in rows]
    assert rows == [[0.5, 1.0], [-2.0, 0.25]]
    assert [each.index for each in read.data] == [0, 1]


def test_embeddings_asked_for_in_the_packages_own_way() -> None:
    made, _ = planned("embeddings", {"input": "a", "encoding_format": "base64"})
    status, body = answered(made, embedding_reply([1, 2], [0.5, 1]))
    read = client_that_gets(status, body).embeddings.create(model="m", input="a")
    assert list(read.data[0].embedding) == [0.5, 1.0]


@pytest.mark.parametrize(
    "reply",
    [
        {"outputs": []},
        embedding_reply([3], [1, 2, 3]),
        embedding_reply([2, 0], []),
        embedding_reply([2, 1], ["a", "b"]),
        embedding_reply([2, 1], [[1], [2]]),
        embedding_reply([2], [1, 2], "INT32"),
    ],
)
def test_an_output_that_is_no_matrix_of_numbers_is_502(reply: object) -> None:
    for encoding in ("float", "base64"):
        made, _ = planned("embeddings", {"input": ["a", "b"], "encoding_format": encoding})
        assert answered(made, reply)[0] == 502


def test_a_number_that_base64_cannot_hold_is_502() -> None:
    made, _ = planned("embeddings", {"input": "a", "encoding_format": "base64"})
    assert answered(made, embedding_reply([1, 1], [1e300], "FP64"))[0] == 502


# -- streams


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps({"model_name": "m", **fields}).encode() + b"\n\n"


STREAM = event(text_output="Hel") + event(text_output="lo é") + event(text_output="")


def translated(operation: str, pieces: list[bytes]) -> bytes:
    fields = {"prompt": "x", "messages": HI, "stream": True}
    made, _ = planned(operation, fields)
    translator = StreamTranslator(made, identifier="chatcmpl-1", created=1_800_000_000)
    return b"".join(translator.feed(piece) for piece in pieces) + translator.finish()


def test_a_chat_stream_is_what_the_openai_package_expects() -> None:
    out = translated("chat", [STREAM])
    assert out.endswith(b"data: [DONE]\n\n")
    chunks = list(
        client_that_gets(200, out, "text/event-stream").chat.completions.create(
            model="m", messages=[], stream=True
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello é"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {
        ("chatcmpl-1", 1_800_000_000, "m")
    }


def test_a_completion_stream_is_what_the_openai_package_expects() -> None:
    out = translated("completions", [STREAM])
    chunks = list(
        client_that_gets(200, out, "text/event-stream").completions.create(model="m", prompt="x", stream=True)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello é"
    assert chunks[-1].choices[0].finish_reason == "stop"


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.booleans())
def test_the_pieces_a_stream_arrives_in_make_no_difference(cuts: list[int], crlf: bool) -> None:
    stream = STREAM.replace(b"\n", b"\r\n") if crlf else STREAM
    bounds = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(bounds)]
    assert translated("chat", pieces) == translated("chat", [STREAM])


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (event(error="out of memory"), "out of memory"),
        (event(error="out of memory") + event(text_output="more"), "out of memory"),
        (b"data: {broken}\n\n", "cannot be read"),
        (b'data: {"text_output":"cut o', "cannot be read"),
        (b"data: " + b"x" * (9 * 2**20), "more than"),
    ],
)
def test_a_stream_that_fails_ends_with_an_error_and_without_done(tail: bytes, message: str) -> None:
    out = translated("chat", [event(text_output="Hel"), tail])
    assert b"[DONE]" not in out
    assert b"more" not in out.replace(b"more than", b"")
    stream = client_that_gets(200, out, "text/event-stream").chat.completions.create(
        model="m", messages=[], stream=True
    )
    with pytest.raises(openai.APIError, match=message):
        list(stream)


def test_a_last_event_without_its_blank_line_still_counts() -> None:
    assert translated("chat", [STREAM.rstrip(b"\n")]) == translated("chat", [STREAM])


def test_a_stream_of_nothing_is_an_empty_answer() -> None:
    chunks = translated("chat", []).count(b"chat.completion.chunk")
    assert chunks == 2  # the role, and the end


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"data: a\n\ndata:b\n\n", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": comment\nevent: x\nid: 1\ndata: a\nretry: 5\n\n\n\n", [b"a"]),
        (b"data\n\ndatax: 1\n\n", []),
        (b"data:  two spaces\r\n\r\n", [b" two spaces"]),
        (b"data: unfinished", []),
    ],
)
def test_events_are_split_as_the_standard_says(text: bytes, events: list[bytes]) -> None:
    assert EventSplitter().feed(text) == events


def test_an_event_of_many_small_lines_is_bounded_too() -> None:
    splitter = EventSplitter(limit=1000)
    with pytest.raises(EventTooLong):
        for _ in range(200):
            splitter.feed(b"data: 0123456789\n")
