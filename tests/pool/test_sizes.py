"""How much a call asks for, in one number, by what its route declares."""

import pytest

from gateway.sizes import FEATURES, SEARCHED_BYTES, measure
from gateway.vocab import Call
from tests.pool.parts import call

TENSORS = b"""{"inputs": [
    {"name": "a", "shape": [1, 3, 224, 224], "datatype": "FP32", "data": []},
    {"name": "b", "shape" : [ 16 ], "datatype": "INT64", "data": []}
]}"""


def asked(body: bytes = b"", tokens: int | None = None) -> Call:
    made = call(body=body)
    made.max_tokens = tokens
    return made


class Unfinished:
    """A body whose end has not come, and whose length nobody has said."""

    length = None

    def whole(self) -> bytes | None:
        return None


def size(weights: dict[str, float], made: Call) -> float | None:
    measured = measure(weights)
    assert measured is not None
    return measured(made)


def test_each_feature_is_what_it_says() -> None:
    assert size({"body_bytes": 1.0}, asked(b"x" * 70)) == 70.0
    assert size({"max_tokens": 1.0}, asked(tokens=256)) == 256.0
    assert size({"tensor_elements": 1.0}, asked(TENSORS)) == 3 * 224 * 224 + 16
    assert set(FEATURES) == {"body_bytes", "max_tokens", "tensor_elements"}


def test_features_add_up_each_times_its_weight() -> None:
    assert size({"body_bytes": 0.25, "max_tokens": 10.0}, asked(b"x" * 100, tokens=8)) == 25.0 + 80.0


def test_what_is_not_known_of_a_call_is_left_out_and_nothing_known_is_no_size() -> None:
    weights = {"body_bytes": 1.0, "max_tokens": 10.0}
    assert size(weights, asked(b"x" * 100)) == 100.0
    assert size({"max_tokens": 1.0}, asked(b"x" * 100)) is None
    assert size({"tensor_elements": 1.0}, asked(b'{"inputs": []}')) is None


def test_zero_is_a_size() -> None:
    assert size({"max_tokens": 1.0}, asked(tokens=0)) == 0.0
    assert size({"tensor_elements": 1.0}, asked(b'{"shape": [0, 4]}')) == 0.0


@pytest.mark.parametrize("weights", [{}, {"body_bytes": 0.0}, {"body_bytes": 0.0, "max_tokens": 0.0}])
def test_without_a_declared_feature_nothing_is_measured(weights: dict[str, float]) -> None:
    assert measure(weights) is None


def test_a_body_that_is_not_here_yet_has_no_tensors_and_perhaps_no_length() -> None:
    made = asked(tokens=5)
    made.body = Unfinished()  # type: ignore[assignment]  # nothing else of it is looked at
    assert size({"body_bytes": 1.0, "tensor_elements": 1.0}, made) is None
    assert size({"body_bytes": 1.0, "max_tokens": 1.0}, made) == 5.0


def test_shapes_are_looked_for_in_the_first_bytes_only() -> None:
    far = b" " * SEARCHED_BYTES + b'{"shape": [8]}'
    assert size({"tensor_elements": 1.0}, asked(far)) is None
    assert size({"tensor_elements": 1.0}, asked(far[5:])) is None, "a shape that is cut off is none"
    assert size({"tensor_elements": 1.0}, asked(far[len(b'{"shape": [8]}') :])) == 8.0


@pytest.mark.parametrize(
    "body", [b'{"shape": "large"}', b'{"shape": []}', b'{"shape": [-1, 3]}', b"\xff\x00", b'{"shape": [1.5]}']
)
def test_what_is_no_shape_is_not_counted(body: bytes) -> None:
    assert size({"tensor_elements": 1.0}, asked(body)) is None


def test_a_shape_of_commas_is_not_worth_an_error() -> None:
    assert size({"tensor_elements": 1.0}, asked(b'{"shape": [2,,3,]}')) == 6.0
