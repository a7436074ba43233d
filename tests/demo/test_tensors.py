"""The digits model's wire form: JSON and binary, and the same answer through both."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from gateway.demo.apps import WEIGHTS, digits_app, serve
from gateway.demo.models import DIGITS, Answer, Digits, train, write
from gateway.demo.tensors import JSON_SIZE, BadTensors, Message, decode_answer, encode_request, same

INFER = f"/v2/models/{DIGITS}/infer"


def small() -> Digits:
    chance = np.random.default_rng(5)
    return Digits(
        *(chance.normal(size=shape).astype(np.float32) for shape in ((64, 8), (8,), (8, 10), (10,)))
    )


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_an_answer_over_the_wire_is_the_models_own(binary: bool) -> None:
    model = small()
    pixels = np.arange(128, dtype=np.float32).reshape(2, 64) % 17
    message = encode_request(pixels, binary=binary)
    status, fields, body = serve(model)("POST", INFER, "", message.headers, message.body)
    assert status == 200, body
    assert (JSON_SIZE in dict(fields)) == binary
    assert same(decode_answer(dict(fields), body), model.answer(pixels))


def test_binary_tensors_follow_the_json_little_endian() -> None:
    message = encode_request(np.full((1, 64), 2.5, dtype=np.float32), binary=True)
    size = int(message.headers[JSON_SIZE])
    assert json.loads(message.body[:size])["inputs"][0]["parameters"] == {"binary_data_size": 256}
    assert message.body[size:] == struct.pack("<64f", *[2.5] * 64)


@pytest.mark.parametrize(
    "message",
    [
        Message({}, b"not json"),
        Message({}, b"[]"),
        Message({}, b"{}"),
        Message({}, b'{"outputs":[{"name":"digit","shape":[1,1],"datatype":"INT64","data":[1]}]}'),
        Message({}, b'{"outputs":[{"name":"digit","shape":[2,1],"datatype":"INT64","data":[1]}]}'),
        Message({}, b'{"outputs":[{"name":"digit","shape":[1],"datatype":"BF16","data":[]}]}'),
        Message({JSON_SIZE: "99"}, b"{}"),
        Message({JSON_SIZE: "many"}, b"{}"),
        Message({JSON_SIZE: "14"}, b'{"outputs":[]}surplus'),
    ],
    ids=lambda message: f"{message.headers} {message.body[:60].decode()}",
)
def test_a_body_that_is_no_answer_is_explained(message: Message) -> None:
    with pytest.raises(BadTensors, match=r"\w"):
        decode_answer(message.headers, message.body)


def test_another_digit_is_not_the_same_answer() -> None:
    answer = small().answer(np.ones((1, 64), dtype=np.float32))
    assert same(answer, answer)
    assert not same(answer, Answer(answer.probabilities, answer.digit + 1))
    assert not same(answer, Answer(answer.probabilities + 0.01, answer.digit))
    assert not same(answer, small().answer(np.ones((2, 64), dtype=np.float32)))


def test_training_is_repeatable_and_the_weights_survive_the_file(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    first, second = train(), train()
    assert first.accuracy > 0.9
    first.model.save(tmp_path / "digits.npz")
    loaded = Digits.load(tmp_path / "digits.npz")
    for model in (second.model, loaded):
        assert (
            model.answer(first.images).probabilities == first.model.answer(first.images).probabilities
        ).all()


def test_the_worker_finds_its_weights_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small()
    model.save(tmp_path / "digits.npz")
    monkeypatch.setenv(WEIGHTS, str(tmp_path / "digits.npz"))
    pixels = np.ones((1, 64), dtype=np.float32)
    status, fields, body = digits_app("POST", INFER, "", *encode_request(pixels, binary=True))
    assert status == 200
    assert same(decode_answer(dict(fields), body), model.answer(pixels))


def test_the_writer_is_a_function_of_its_prompt() -> None:
    assert write("one two", 3) == ["eno ", "owt ", "eno "]
    assert write("", 1) == ["gnihton "]
    assert write("one", 0) == []
