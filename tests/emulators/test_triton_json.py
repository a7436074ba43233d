"""JSON in Triton's spelling. Expected texts were printed by tritonserver 2.51 itself."""

import json
import math
import struct
from random import Random

import pytest

from backends.emulators import triton_json


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (3.0, "3.0"),
        (0.1, "0.1"),
        (1e300, "1e300"),
        (123456789.25, "123456789.25"),
        (33554432.0, "33554432.0"),
        (2e10, "20000000000.0"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
        (5e-324, "5e-324"),
    ],
)
def test_doubles(value: float, text: str) -> None:
    assert triton_json.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0.20000000298023225"),
        (2e-7, "2.0000000233721949e-7"),  # one digit more than the shortest form
        (2 / 3, "0.6666666865348816"),
        (2e20, "200000004008175470000.0"),
        (2e21, "2.0000000400817548e21"),
        (0.002, "0.0020000000949949028"),
    ],
)
def test_single_floats_are_printed_as_doubles(value: float, text: str) -> None:
    (single,) = struct.unpack("<f", struct.pack("<f", value))
    assert triton_json.number(single) == text


def test_every_double_reads_back_as_itself() -> None:
    chance = Random(1)
    for _ in range(5_000):
        (value,) = struct.unpack("<d", chance.randbytes(8))
        if math.isfinite(value):
            assert float(triton_json.number(value)) == value


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("4.437836319806497e-184", "4.4378363198064969e-184"),
        ("2.5", "2.5"),
        ("-0.1e1", "-1.0"),
        ("-0.0", "-0.0"),
        ("1e-320", "1e-320"),
        ("123456789012345678901.5", "123456789012345680000.0"),
    ],
)
def test_numbers_are_read_for_speed(asked: str, text: str) -> None:
    """The first is not the double that is nearest, and comes back as what was read."""
    assert triton_json.number(triton_json.parse(asked.encode())) == text


def test_numbers_are_read_to_within_a_few_units_of_the_last_place() -> None:
    chance = Random(2)
    off = 0
    for _ in range(5_000):
        (value,) = struct.unpack("<d", chance.randbytes(8))
        if math.isfinite(value):
            read = triton_json.double(repr(value))
            assert abs(read - value) <= 4 * math.ulp(value)
            off += read != value
    assert off > 100
    for value in (chance.randint(1, 10**15 - 1) / 10**15 for _ in range(1_000)):
        assert triton_json.double(f"{value:.14f}") == float(f"{value:.14f}")


def test_strings_are_bytes_with_rapidjsons_escapes() -> None:
    assert triton_json.string('hé"\\/\n\u2028'.encode()) == '"hé\\"\\\\/\\n\u2028"'.encode()
    assert triton_json.string(b"a\x00\x1f\x7f\b\f\t\r") == b'"a\\u0000\\u001F\x7f\\b\\f\\t\\r"'
    assert triton_json.string(b"\xff\xfe") == b'"\xff\xfe"'


def test_documents_are_compact_and_keep_their_order() -> None:
    document = {"b": [1, True, None], "a": {"x": 1.5, "y": "z"}}
    assert triton_json.dump(document) == b'{"b":[1,true,null],"a":{"x":1.5,"y":"z"}}'
    assert json.loads(triton_json.dump(document)) == document


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", "The document is empty. at 0"),
        (b" ", "The document is empty. at 1"),
        (b"{bad", "Missing a name for object member. at 1"),
        (b'{"a":1,}', "Missing a name for object member. at 7"),
        (b'{"a":1, }', "Missing a name for object member. at 8"),
        (b"[1,]", "Invalid value. at 3"),
        (b'{"a":1 "b"}', "Missing a comma or '}' after an object member. at 7"),
        (b'{"a" 1}', "Missing a colon after a name of object member. at 5"),
        (b"[1 2]", "Missing a comma or ']' after an array element. at 3"),
        (b'{"a":}', "Invalid value. at 5"),
        (b'{"a":tru}', "Invalid value. at 8"),
        (b"nul", "Invalid value. at 3"),
        (b'{"a":"x', "Missing a closing quotation mark in string. at 7"),
        (b"{} {}", "The document root must not be followed by other values. at 3"),
        (b'{"a":01}', "Missing a comma or '}' after an object member. at 6"),
        (b'"\\x"', "Invalid escape character in string. at 1"),
        (b'{"inputs":[{"a":1}}', "Missing a comma or ']' after an array element. at 18"),
    ],
)
def test_parse_errors_have_rapidjsons_words(raw: bytes, text: str) -> None:
    with pytest.raises(ValueError) as caught:
        triton_json.parse(raw)
    assert str(caught.value) == text
