"""ModelInferRequest and ModelInferResponse of KServe v2 gRPC: their wire bytes to plain values and back.

Pure. Must never know HTTP, JSON or channels. Field numbers from the public grpc_service.proto (KServe's
and Triton's are the same here). Tensors are views of the message they came in and are not copied.
"""

import math
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from backends import protobuf_wire
from backends.kserve_tensors import MOST_DIMENSIONS, from_contents
from backends.protobuf_wire import (
    FIXED64,
    LENGTH,
    VARINT,
    Buffer,
    Malformed,
    add_varints,
    delimited,
    fields,
    head,
    key,
    signed,
    string,
    text,
    varint,
)

Value = bool | int | float | str
Parameters = dict[str, Value]
"""An InferParameter map. JSON does not tell int64 from uint64, nor do we: a number is one or the other."""

MOST_TENSORS = 4096
"""Inputs, outputs or raw contents in one message; a bound on what a small hostile one can cost."""

MOST_PARAMETERS = 1024
"""Parameters of one message or tensor."""

_INT64 = range(-(1 << 63), 1 << 63)
_UINT64 = range(1 << 64)


class Tensor(NamedTuple):
    """One tensor's description. `contents` is a serialized InferTensorContents, None where there is none."""

    name: str
    datatype: str
    shape: Sequence[int]
    parameters: Parameters
    contents: Buffer | None = None


class Wanted(NamedTuple):
    """An output that is asked for."""

    name: str
    parameters: Parameters


class Message(NamedTuple):
    """A request or a response: they differ in what the tensors are called. `data` are the tensors' bytes.

    wanted:  outputs asked for; empty in a response, and in a request that asks for all
    """

    model: str
    version: str
    id: str
    parameters: Parameters
    tensors: Sequence[Tensor]
    data: Sequence[Buffer]
    wanted: Sequence[Wanted] = ()


class Kind(NamedTuple):
    """Field numbers and words in which the two messages differ."""

    tensors: str
    raw: str
    raw_number: int
    wanted_number: int


REQUEST = Kind("inputs", "raw_input_contents", 7, 6)
RESPONSE = Kind("outputs", "raw_output_contents", 6, 0)


def read(message: Buffer, kind: Kind) -> Message:
    """Raises Malformed. Tensors in shared memory are described and have no data."""
    texts = {1: "", 2: "", 3: ""}
    parameters: Parameters = {}
    tensors: list[Tensor] = []
    wanted: list[Wanted] = []
    raw: list[Buffer] = []
    for field in fields(memoryview(message), "the message"):
        number, data = field.number, field.data
        if field.wire != LENGTH:
            continue
        if number <= 3:
            texts[number] = text(data, ("", "model_name", "model_version", "id")[number])
        elif number == 4:
            _add_parameter(parameters, data, "parameters")
        elif number == 5:
            tensors.append(_read_tensor(data, _next(tensors, kind.tensors)))
        elif number == kind.wanted_number:
            wanted.append(_read_wanted(data, _next(wanted, "outputs")))
        elif number == kind.raw_number:
            _next(raw, kind.raw)
            raw.append(data)
    found = _data_of(tensors, raw, kind)
    return Message(texts[1], texts[2], texts[3], parameters, tensors, found, wanted)


def write(message: Message, kind: Kind) -> bytes:
    """The wire bytes, tensors as raw contents. Raises Malformed for what has no form there."""
    parts: list[Buffer] = [string(1, message.model), string(2, message.version), string(3, message.id)]
    parts += _write_parameters(message.parameters, 4)
    for tensor in message.tensors:
        shape = b"".join(map(varint, tensor.shape))
        inside = [string(1, tensor.name), string(2, tensor.datatype)]
        inside += [delimited(3, shape) if shape else b"", *_write_parameters(tensor.parameters, 4)]
        parts.append(delimited(5, b"".join(inside)))
    for wanted in message.wanted:
        described = string(1, wanted.name) + b"".join(_write_parameters(wanted.parameters, 2))
        parts.append(delimited(kind.wanted_number, described))
    for data in message.data:
        parts += (head(kind.raw_number, len(data)), data)
    return b"".join(parts)


def in_shared_memory(parameters: Mapping[str, Value]) -> bool:
    """Does the tensor lie in memory that only processes of one machine share?"""
    return any(name.startswith("shared_memory_") for name in parameters)


def _next(items: Sequence[object], word: str) -> str:
    """The name of the next item, if there may be one more."""
    if len(items) >= MOST_TENSORS:
        raise Malformed(f"there are more than {MOST_TENSORS} {word}")
    return f"{word}[{len(items)}]"


def _data_of(tensors: Sequence[Tensor], raw: Sequence[Buffer], kind: Kind) -> list[Buffer]:
    """The bytes of each tensor. Raw contents are for all tensors or for none."""
    here = [tensor for tensor in tensors if not in_shared_memory(tensor.parameters)]
    if raw and len(raw) != len(here):
        raise Malformed(f"there are {len(raw)} {kind.raw} for {len(here)} {kind.tensors}")
    given = iter(raw)
    found: list[Buffer] = []
    for place, tensor in enumerate(tensors):
        where = f"{kind.tensors}[{place}]"
        if in_shared_memory(tensor.parameters):
            found.append(b"")
        elif raw:
            if tensor.contents:
                raise Malformed(f"{where} has contents, and there are {kind.raw} too: only one is possible")
            found.append(next(given))
        elif tensor.contents:
            found.append(from_contents(tensor.datatype, memoryview(tensor.contents), where))
        elif math.prod(tensor.shape):
            raise Malformed(f"{where} has no data: neither contents nor {kind.raw}")
        else:
            found.append(b"")
    return found


def _read_tensor(message: memoryview, where: str) -> Tensor:
    name = datatype = ""
    shape = array("Q")
    parameters: Parameters = {}
    contents: Buffer | None = None
    for field in fields(message, where):
        match field.number, field.wire:
            case 1, protobuf_wire.LENGTH:
                name = text(field.data, f"{where}.name")
            case 2, protobuf_wire.LENGTH:
                datatype = text(field.data, f"{where}.datatype")
            case 3, protobuf_wire.LENGTH:
                add_varints(field.data, shape, f"{where}.shape")
            case 3, protobuf_wire.VARINT:
                shape.append(field.value)
            case 4, protobuf_wire.LENGTH:
                _add_parameter(parameters, field.data, f"{where}.parameters")
            case 5, protobuf_wire.LENGTH:
                contents = _merged(contents, field.data)
        if len(shape) > MOST_DIMENSIONS:
            raise Malformed(f"{where}.shape has more than {MOST_DIMENSIONS} dimensions")
    return Tensor(name, datatype, tuple(map(signed, shape)), parameters, contents)


def _read_wanted(message: memoryview, where: str) -> Wanted:
    name = ""
    parameters: Parameters = {}
    for field in fields(message, where):
        if field.wire == LENGTH and field.number == 1:
            name = text(field.data, f"{where}.name")
        elif field.wire == LENGTH and field.number == 2:
            _add_parameter(parameters, field.data, f"{where}.parameters")
    return Wanted(name, parameters)


def _merged(before: Buffer | None, data: memoryview) -> Buffer:
    """A message that comes in several pieces is all of them (protobuf.dev, encoding guide: last one wins)."""
    if before is None:
        return data
    whole = before if isinstance(before, bytearray) else bytearray(before)
    whole += data
    return whole


def _add_parameter(parameters: Parameters, entry: memoryview, where: str) -> None:
    """One entry of the map: of the same name the last one counts."""
    name = ""
    value: Buffer | None = None
    for field in fields(entry, where):
        if field.wire == LENGTH and field.number == 1:
            name = text(field.data, f"a name in {where}")
        elif field.wire == LENGTH and field.number == 2:
            value = _merged(value, field.data)
    found = _read_value(memoryview(value or b""), where)
    if found is None:
        raise Malformed(f"{where} has one without a value: {name[:64]!r}")
    parameters[name] = found
    if len(parameters) > MOST_PARAMETERS:
        raise Malformed(f"{where} has more than {MOST_PARAMETERS} entries")


def _read_value(message: memoryview, where: str) -> Value | None:
    found: Value | None = None
    for field in fields(message, where):
        match field.number, field.wire:
            case 1, protobuf_wire.VARINT:
                found = bool(field.value)
            case 2, protobuf_wire.VARINT:
                found = signed(field.value)
            case 3, protobuf_wire.LENGTH:
                found = text(field.data, f"a value in {where}")
            case 4, protobuf_wire.FIXED64:
                (found,) = struct.unpack("<d", field.data)
            case 5, protobuf_wire.VARINT:
                found = field.value
    return found


def _write_parameters(parameters: Mapping[str, Value], number: int) -> Iterable[bytes]:
    for name, value in parameters.items():
        yield delimited(number, string(1, name) + delimited(2, _write_value(name, value)))


def _write_value(name: str, value: Value) -> bytes:
    """Written even where it is zero or empty: that is how one tells that it is set."""
    if isinstance(value, bool):
        return key(1, VARINT) + varint(value)
    if isinstance(value, str):
        return string(3, value) or head(3, 0)
    if isinstance(value, float):
        return key(4, FIXED64) + struct.pack("<d", value)
    if value in _INT64:
        return key(2, VARINT) + varint(value)
    if value in _UINT64:
        return key(5, VARINT) + varint(value)
    raise Malformed(f"the parameter {name[:64]!r} is a number of more than 64 bits")
