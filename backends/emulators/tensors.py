"""Tensors as bytes: KServe v2 datatypes, their little-endian form, and their form in JSON.

Must never know HTTP or models, and needs no numpy: a model that brings it can read `Tensor.raw` with
`numpy.frombuffer`. Datatypes and the layout of BYTES (4-byte little-endian length before each element):
Triton's protocol/extension_binary_data. Error texts and statuses as tritonserver 2.51 gives them.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

_CODES = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h",
    "INT32": "i", "INT64": "q", "FP16": "e", "BF16": "H", "FP32": "f", "FP64": "d",
}  # fmt: skip
_SIZES = {name: struct.calcsize(code) for name, code in _CODES.items()}
DATATYPES = frozenset(_CODES) | {"BYTES"}
"""Every datatype of the protocol."""


class TritonError(Exception):
    """An error answer: `{"error": text}`.

    status:  HTTP status, as Triton maps its error codes
    plain:   True where Triton labels the answer text/plain (it does for errors found before the model)
    """

    def __init__(self, status: int, text: str, *, plain: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.plain = plain


class Tensor(NamedTuple):
    """One tensor: `raw` is little-endian, row-major, BYTES elements with their length before them."""

    datatype: str
    shape: tuple[int, ...]
    raw: bytes

    @classmethod
    def of(cls, datatype: str, shape: Iterable[int], values: Sequence[Any]) -> "Tensor":
        """From flat Python values. BYTES takes str or bytes; integers wrap, floats overflow to infinity."""
        return cls(datatype, tuple(shape), pack(datatype, values))

    def values(self) -> list[Any]:
        """Flat Python values; BYTES elements are bytes."""
        if self.datatype == "BYTES":
            return list(elements(self.raw))
        count = len(self.raw) // _SIZES[self.datatype]
        found = list(struct.unpack(f"<{count}{_CODES[self.datatype]}", self.raw))
        if self.datatype == "BF16":
            wide = struct.pack(f"<{count}I", *(half << 16 for half in found))
            return list(struct.unpack(f"<{count}f", wide))
        return found


def byte_size(datatype: str, shape: Sequence[int]) -> int | None:
    """Bytes that a tensor of this shape has; None for BYTES, whose elements vary."""
    size = _SIZES.get(datatype)
    return None if size is None else size * math.prod(shape)


def elements(raw: bytes) -> Iterator[bytes]:
    """The elements of a BYTES tensor. Raises ValueError(length, left) where it breaks off."""
    place = 0
    while place < len(raw):
        if len(raw) - place < 4:
            raise ValueError(4, len(raw) - place)
        (length,) = struct.unpack_from("<I", raw, place)
        place += 4
        if length > len(raw) - place:
            raise ValueError(length, len(raw) - place)
        yield raw[place : place + length]
        place += length


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    """Flat values to little-endian bytes."""
    if datatype == "BYTES":
        raws = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
        return b"".join(struct.pack("<I", len(raw)) + raw for raw in raws)
    if datatype == "BF16":
        values = [_bfloat(value) for value in values]
    try:
        return struct.pack(f"<{len(values)}{_CODES[datatype]}", *values)
    except (struct.error, OverflowError):
        return struct.pack(f"<{len(values)}{_CODES[datatype]}", *(_fit(datatype, item) for item in values))


def _fit(datatype: str, value: Any) -> Any:
    """What a C cast makes of a value that is out of range."""
    if isinstance(value, float):
        try:
            struct.pack("<" + _CODES[datatype], value)
        except OverflowError:
            return math.copysign(math.inf, value)
        return value
    if datatype in ("FP16", "FP32", "FP64"):
        return _fit(datatype, float(value))
    bits = 8 * _SIZES[datatype]
    wrapped = value & ((1 << bits) - 1)
    signed = datatype.startswith("INT") and wrapped >> (bits - 1)
    return wrapped - (1 << bits) if signed else wrapped


def _bfloat(value: float) -> int:
    """The upper half of a float, rounded to nearest even."""
    (bits,) = struct.unpack("<I", pack("FP32", [value]))
    return int(min((bits + 0x7FFF + (bits >> 16 & 1)) >> 16, 0xFFFF))


def from_json(datatype: str, shape: Sequence[int], data: object) -> bytes:
    """A JSON `data` field (flat or nested) to bytes. Raises TritonError with Triton's words.

    Triton's own parser may be one unit off in the last place of a double; this one is exact.
    """
    if not isinstance(data, list):
        raise TritonError(500, "Unable to parse 'data': attempt to access JSON non-array as array")
    flat = list(_flat(data))
    if len(flat) != (math.prod(shape) if shape else 0):
        raise TritonError(500, "Unable to parse 'data': Shape does not match true shape of 'data' field")
    for value in flat:
        if (wrong := _mistake(datatype, value)) is not None:
            raise TritonError(500, wrong)
    return pack(datatype, flat)


def _flat(data: list[Any]) -> Iterator[Any]:
    for item in data:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item


def _mistake(datatype: str, value: object) -> str | None:
    """What Triton says of a JSON value that cannot be of this datatype."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if datatype == "BYTES":
        if isinstance(value, str):
            return None
        return "Unable to parse JSON bytes array: attempt to access JSON non-string as string"
    if datatype == "BOOL":
        ok, kind = isinstance(value, bool), "boolean as boolean"
    elif datatype.startswith("UINT"):
        ok = whole and 0 <= int(value) < 1 << 64  # type: ignore[call-overload]
        kind = "unsigned-integer as unsigned-integer"
    elif datatype.startswith("INT"):
        ok = whole and -(1 << 63) <= int(value) < 1 << 63  # type: ignore[call-overload]
        kind = "signed-integer as signed-integer"
    else:
        ok, kind = number, "number as double"
    return None if ok else f"Unable to parse 'data': attempt to access JSON non-{kind}"
