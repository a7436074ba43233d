"""The protocol-buffer wire format: reads a message field by field, writes fields. Nothing generated.

Pure. Must never know a message type or gRPC. The stubs that `protoc` generates would bring numpy and a
hundred milliseconds of imports for the few fields that a gateway looks at, and would copy every tensor.

Reading takes time and memory in proportion to the message, whatever is in it: `Malformed` comes out of
what is no message, and nothing is allocated because a length says so. Rules as in the encoding guide of
protobuf.dev: fields that are not known are skipped (groups too), of a single field the last one counts,
a repeated number may come packed or not, bits of a varint beyond the 64th are dropped.
"""

import sys
from array import array
from collections.abc import Iterator
from typing import Literal, NamedTuple

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
"""Wire types."""

_MASK = (1 << 64) - 1
_LONGEST_VARINT = 10
_LARGEST_KEY = (1 << 32) - 1
_DEEPEST_GROUP = 100
_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}
_ARRAY_CODES: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
_NO_BYTES = memoryview(b"")

Buffer = bytes | bytearray | memoryview


class Malformed(ValueError):
    """The bytes are not what they should be; the message says what is wrong and where."""


class Field(NamedTuple):
    """One field as it stands in a message.

    value:  of a varint, unsigned; 0 for other wire types
    data:   content of a length-delimited field, or the little-endian bytes of a fixed one; a view, no copy
    """

    number: int
    wire: int
    value: int
    data: memoryview


def fields(message: memoryview, where: str) -> Iterator[Field]:
    """The fields in the order of the wire, groups left out. `where` names the message in errors."""
    place, end = 0, len(message)
    while place < end:
        key = message[place]
        place += 1
        if key >= 0x80:  # else the number has one byte: here and below the usual case, written out for speed
            key, place = _read_varint(message, place - 1, where)
        number, wire = key >> 3, key & 7
        if not number or wire > FIXED32 or wire == END_GROUP or key > _LARGEST_KEY:
            raise _no_field(key, where, place)
        if wire == VARINT:
            value, place = _read_varint(message, place, where)
            yield Field(number, wire, value, _NO_BYTES)
        elif wire == LENGTH and place < end and message[place] < min(0x80, end - place):
            behind = place + 1 + message[place]
            yield Field(number, wire, 0, message[place + 1 : behind])
            place = behind
        elif wire == GROUP:
            place = _skip_group(message, place, number, where)
        else:
            size, place = _size_of(message, place, wire, where)
            yield Field(number, wire, 0, message[place : place + size])
            place += size


def text(data: memoryview, where: str) -> str:
    """A string field."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"{where} is not UTF-8 at its byte {error.start}") from None


def signed(value: int) -> int:
    """The varint of an int64 field as a number."""
    return value - (1 << 64) if value >> 63 else value


def add_varints(packed: memoryview, numbers: "array[int]", where: str) -> None:
    """Append the varints of a packed field to `numbers`, an array of code `Q`."""
    raw = bytes(packed)
    if raw.isascii():
        numbers.extend(raw)  # one byte each
        return
    if raw[-1] >= 0x80:
        raise Malformed(f"{where}: the last of its numbers is cut off")
    append = numbers.append
    value = shift = 0
    for byte in raw:
        if byte < 0x80:
            append((value | byte << shift) & _MASK)
            value = shift = 0
        else:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift == 7 * _LONGEST_VARINT:
                raise Malformed(f"{where}: a number has more than {_LONGEST_VARINT} bytes")


def low_bytes(numbers: "array[int]", size: int) -> bytes:
    """The lowest `size` bytes (1, 2, 4 or 8) of each number, little-endian, one after the other."""
    if sys.byteorder == "big":
        numbers = array("Q", numbers)
        numbers.byteswap()
    units = memoryview(numbers.tobytes()).cast(_ARRAY_CODES[size])
    return units[:: 8 // size].tobytes()


def varint(value: int) -> bytes:
    """A number from -2**63 up to 2**64 - 1; negative ones as int64 fields have them."""
    value &= _MASK
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def key(number: int, wire: int) -> bytes:
    """What stands before a field's content."""
    return varint(number << 3 | wire)


def head(number: int, size: int) -> bytes:
    """What stands before `size` bytes of a length-delimited field, which the caller puts behind it."""
    return key(number, LENGTH) + varint(size)


def delimited(number: int, content: bytes) -> bytes:
    """A length-delimited field: a string, bytes, a message or a packed field."""
    return head(number, len(content)) + content


def string(number: int, value: str) -> bytes:
    """A string field; nothing for an empty one, as proto3 has it. Raises Malformed for lone surrogates."""
    try:
        return delimited(number, value.encode()) if value else b""
    except UnicodeEncodeError:
        raise Malformed("a text has no UTF-8 form") from None


def _read_varint(message: memoryview, place: int, where: str) -> tuple[int, int]:
    """The number and the place behind it."""
    if place < len(message) and message[place] < 0x80:
        return message[place], place + 1
    value = shift = 0
    for byte in message[place : place + _LONGEST_VARINT]:
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value & _MASK, place
        shift += 7
    if place == len(message):
        raise Malformed(f"{where} is cut off at its byte {place}")
    raise Malformed(f"{where} has a number of more than {_LONGEST_VARINT} bytes at its byte {place}")


def _no_field(key: int, where: str, place: int) -> Malformed:
    return Malformed(f"{where} has no field at its byte {place} but number {key >> 3}, wire type {key & 7}")


def _size_of(message: memoryview, place: int, wire: int, where: str) -> tuple[int, int]:
    """Size of the content of a field, and where it begins."""
    if wire == LENGTH:
        size, place = _read_varint(message, place, where)
    else:
        size = _FIXED_SIZES[wire]
    if size > (left := len(message) - place):
        raise Malformed(f"{where} is cut off: {size} bytes announced at its byte {place}, {left} are there")
    return size, place


def _skip_group(message: memoryview, place: int, number: int, where: str) -> int:
    """The place behind a group. Groups are not used any more; a message may still have unknown ones."""
    nested = [number]
    while nested:
        key, place = _read_varint(message, place, where)
        if key & 7 == END_GROUP and key >> 3 == nested[-1]:
            nested.pop()
            continue
        number, wire = key >> 3, key & 7
        if not number or wire > FIXED32 or wire == END_GROUP or key > _LARGEST_KEY:
            raise _no_field(key, where, place)
        if wire == GROUP:
            nested.append(number)
            if len(nested) > _DEEPEST_GROUP:
                raise Malformed(f"{where} has groups nested deeper than {_DEEPEST_GROUP}")
        elif wire == VARINT:
            _, place = _read_varint(message, place, where)
        else:
            size, place = _size_of(message, place, wire, where)
            place += size
    return place
