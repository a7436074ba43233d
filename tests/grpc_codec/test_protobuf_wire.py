"""The reader and writer of protocol-buffer bytes."""

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import protobuf_wire as wire
from backends.protobuf_wire import Malformed


def read(raw: bytes) -> list[tuple[int, int, int, bytes]]:
    return [(f.number, f.wire, f.value, bytes(f.data)) for f in wire.fields(memoryview(raw), "it")]


@settings(deadline=None)
@given(st.integers(-(2**63), 2**64 - 1))
def test_a_number_is_read_as_it_was_written(number: int) -> None:
    raw = wire.key(1, wire.VARINT) + wire.varint(number)
    ((_, _, value, _),) = read(raw)
    assert value == number % 2**64
    assert number >= 2**63 or wire.signed(value) == number


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1)), st.sampled_from([1, 2, 4, 8]))
def test_packed_numbers_and_their_low_bytes(numbers: list[int], size: int) -> None:
    found = array("Q")
    wire.add_varints(memoryview(b"".join(map(wire.varint, numbers))), found, "it")
    assert found.tolist() == numbers
    expected = b"".join((n % 256**size).to_bytes(size, "little") for n in numbers)
    assert wire.low_bytes(found, size) == expected


def test_fields_come_in_their_order_and_groups_are_skipped() -> None:
    group = (
        b"\x1b" + b"\x08\x01" + b"\x12\x01x" + b"\x19" + bytes(8) + b"\x1d" + bytes(4) + b"\x13\x14" + b"\x1c"
    )
    raw = b"\x08\x96\x01" + group + b"\x12\x02hi" + b"\x19" + bytes(range(8)) + b"\x25" + bytes(range(4))
    assert read(raw) == [
        (1, 0, 150, b""),
        (2, 2, 0, b"hi"),
        (3, 1, 0, bytes(range(8))),
        (4, 5, 0, bytes(range(4))),
    ]


def test_bits_beyond_the_64th_are_dropped() -> None:
    assert read(b"\x08" + b"\xff" * 9 + b"\x7f") == [(1, 0, 2**64 - 1, b"")]
    found = array("Q")
    wire.add_varints(memoryview(b"\xff" * 9 + b"\x7f"), found, "it")
    assert found.tolist() == [2**64 - 1]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\x08", "it is cut off at its byte 1"),
        (b"\x08\x80\x80", "it is cut off at its byte 3"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "more than 10 bytes"),
        (b"\x12\x05abc", "5 bytes announced at its byte 2, 3 are there"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "announced"),
        (b"\x19abc", "8 bytes announced"),
        (b"\x1dabc", "4 bytes announced"),
        (b"\x00\x01", "number 0"),
        (b"\x0e", "wire type 6"),
        (b"\x0f", "wire type 7"),
        (b"\x0c", "wire type 4"),
        (b"\x80\x80\x80\x80\x10\x01", "no field"),
        (b"\x0b", "cut off"),
        (b"\x0b\x14", "wire type 4"),
        (b"\x0b" * 1000, "nested deeper"),
    ],
)
def test_what_is_no_message_is_said_where(raw: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        read(raw)


@pytest.mark.parametrize("raw", [b"\x80", b"\x01\x80", b"\x80" * 10 + b"\x01"])
def test_packed_numbers_that_are_none(raw: bytes) -> None:
    with pytest.raises(Malformed, match="it"):
        wire.add_varints(memoryview(raw), array("Q"), "it")


def test_text_has_to_be_utf8() -> None:
    assert wire.text(memoryview("grün".encode()), "it") == "grün"
    with pytest.raises(Malformed, match="it is not UTF-8 at its byte 1"):
        wire.text(memoryview(b"a\xff"), "it")
    with pytest.raises(Malformed, match="UTF-8"):
        wire.string(1, "\ud800")
