"""Tensors of the KServe v2 protocol between their three forms: bytes, typed gRPC contents, JSON values.

Pure. Must never know messages, HTTP or a model. The bytes are those of the binary tensor extension and of
`raw_input_contents`: little-endian, row-major, each element of BYTES after its length in four bytes
(Triton's protocol/extension_binary_data). Which contents belong to which datatype is from the public
grpc_service.proto (InferTensorContents); FP16 and BF16 have none there, and no JSON form in Triton.
"""

import math
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from backends.protobuf_wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    Buffer,
    Malformed,
    add_varints,
    fields,
    low_bytes,
)

_CODES = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h",
    "INT32": "i", "INT64": "q", "FP16": "e", "BF16": "H", "FP32": "f", "FP64": "d",
}  # fmt: skip
_SIZES = {datatype: struct.calcsize("<" + code) for datatype, code in _CODES.items()}

DATATYPES = frozenset(_CODES) | {"BYTES"}
"""Every datatype of the protocol."""

MOST_DIMENSIONS = 256
"""A shape with more is refused: no model has it, and its product alone would be work."""

_BF16_NAN = 0x7FC0


class _Contents(NamedTuple):
    """Where InferTensorContents holds a datatype."""

    number: int
    wire: int


_CONTENTS = {
    "BOOL": _Contents(1, VARINT),
    "INT8": _Contents(2, VARINT),
    "INT16": _Contents(2, VARINT),
    "INT32": _Contents(2, VARINT),
    "INT64": _Contents(3, VARINT),
    "UINT8": _Contents(4, VARINT),
    "UINT16": _Contents(4, VARINT),
    "UINT32": _Contents(4, VARINT),
    "UINT64": _Contents(5, VARINT),
    "FP32": _Contents(6, FIXED32),
    "FP64": _Contents(7, FIXED64),
    "BYTES": _Contents(8, LENGTH),
}
_CONTENT_NAMES = {
    1: "bool_contents", 2: "int_contents", 3: "int64_contents", 4: "uint_contents", 5: "uint64_contents",
    6: "fp32_contents", 7: "fp64_contents", 8: "bytes_contents",
}  # fmt: skip


def byte_size(datatype: str, shape: Sequence[int]) -> int | None:
    """Bytes that a tensor of this shape has; None for BYTES, whose elements vary, and unknown datatypes."""
    size = _SIZES.get(datatype)
    return None if size is None else size * math.prod(shape)


def from_contents(datatype: str, contents: memoryview, where: str) -> Buffer:
    """The bytes of a tensor that came as InferTensorContents. Raises Malformed.

    A number outside its datatype's range keeps its low bytes, as in Triton, which takes them from the wider
    field. How many elements there must be is for the server to say: it knows the model.
    """
    kind = _CONTENTS.get(datatype)
    if kind is None:
        known = "send raw contents" if datatype in DATATYPES else f"known are {', '.join(sorted(DATATYPES))}"
        raise Malformed(f"{where}: there are no typed contents of datatype {datatype[:32]!r}; {known}")
    mine = _fields_of(kind, contents, where)
    if kind.wire == VARINT:
        return _from_varints(datatype, mine, where)
    out = bytearray()
    if kind.wire == LENGTH:
        for _, element in mine:
            out += struct.pack("<I", len(element))
            out += element
        return out
    size = _SIZES[datatype]
    for _, data in mine:
        if len(data) % size:
            name = _CONTENT_NAMES[kind.number]
            raise Malformed(f"{where}: {name} has {len(data)} bytes, no multiple of {size}")
        out += data
    return out


def _fields_of(kind: _Contents, contents: memoryview, where: str) -> Iterator[tuple[int, memoryview]]:
    """Value and data of the fields that hold this datatype, packed or not."""
    where = f"{where}.contents"
    for field in fields(contents, where):
        if field.number == kind.number:
            if field.wire in (kind.wire, LENGTH):
                yield (field.value if field.wire == VARINT else -1), field.data
        elif field.number in _CONTENT_NAMES and (field.data or field.wire == VARINT):
            expected, given = _CONTENT_NAMES[kind.number], _CONTENT_NAMES[field.number]
            raise Malformed(f"{where} has {given}, this datatype needs {expected}")


def _from_varints(datatype: str, mine: Iterator[tuple[int, memoryview]], where: str) -> bytes:
    numbers = array("Q")
    for value, packed in mine:
        if value < 0:
            add_varints(packed, numbers, f"{where}.contents")
        else:
            numbers.append(value)
    if datatype == "BOOL":
        return bytes(map(bool, numbers))
    return low_bytes(numbers, _SIZES[datatype])


def from_json(datatype: str, shape: Sequence[int], data: object, where: str) -> bytes:
    """The bytes of a JSON `data` field, flat or nested. Raises Malformed where a value does not fit.

    Text may hold bytes that are not UTF-8 as `surrogateescape` leaves them: they come out as they were.
    """
    if not isinstance(data, list):
        raise Malformed(f"{where}.data is missing or no array")
    flat = _flattened(data)
    if len(flat) != math.prod(shape):
        raise Malformed(f"{where}.data has {len(flat)} elements, its shape needs {math.prod(shape)}")
    try:
        if datatype == "BYTES":
            return b"".join(_with_length(item) for item in flat)
        if datatype == "BOOL" and any(item not in (0, 1) for item in flat):
            raise ValueError
        values = [_bfloat(item) for item in flat] if datatype == "BF16" else flat
        return struct.pack(f"<{len(values)}{_CODES[datatype]}", *values)
    except (struct.error, ValueError, TypeError, OverflowError, AttributeError):
        raise Malformed(f"{where}.data has an element that is no {datatype}") from None


def to_json(datatype: str, raw: Buffer, where: str) -> list[Any]:
    """Flat values for a JSON `data` field; BYTES elements are bytes. Raises Malformed."""
    if datatype == "BYTES":
        return list(_elements(raw, where))
    if datatype not in _CODES or datatype in ("FP16", "BF16"):
        raise Malformed(f"{where} is {datatype[:32]}, which has no JSON form: ask for it as binary data")
    count, rest = divmod(len(raw), _SIZES[datatype])
    if rest:
        raise Malformed(f"{where} has {len(raw)} bytes, no multiple of {_SIZES[datatype]}")
    return list(struct.unpack(f"<{count}{_CODES[datatype]}", raw))


def _elements(raw: Buffer, where: str) -> Iterator[bytes]:
    place = 0
    while place < len(raw):
        size = int.from_bytes(raw[place : place + 4], "little")
        place += 4
        if size > len(raw) - place:
            raise Malformed(f"{where}: its strings are cut off at byte {place}")
        yield bytes(raw[place : place + size])
        place += size


def _flattened(data: list[Any]) -> list[Any]:
    if not any(isinstance(item, list) for item in data):
        return data
    flat: list[Any] = []
    open_lists = [iter(data)]
    while open_lists:
        for item in open_lists[-1]:
            if isinstance(item, list):
                open_lists.append(iter(item))
                break
            flat.append(item)
        else:
            open_lists.pop()
    return flat


def _with_length(item: str) -> bytes:
    raw = item.encode("utf-8", "surrogateescape")
    return struct.pack("<I", len(raw)) + raw


def _bfloat(value: float) -> int:
    """The upper half of a float, rounded to nearest even."""
    if math.isnan(value):
        return _BF16_NAN
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return int((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)
