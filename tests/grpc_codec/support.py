"""Random tensors, and a model that returns what it is given, for any datatypes and shapes."""

import random
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import triton_to_np_dtype

from backends.emulators.kserve import KServeApp, Model, TensorSpec
from backends.emulators.kserve import Tensor as ModelTensor
from gateway.vocab import Headers

SIZES = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8,
    "FP16": 2, "BF16": 2, "FP32": 4, "FP64": 8,
}  # fmt: skip
DATATYPES = (*SIZES, "BYTES")
EVERY_BYTE = bytes(range(256))

TYPED_FIELDS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


class Tensor(NamedTuple):
    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes

    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def values(self) -> list[Any]:
        """Flat values, of BYTES the elements."""
        if self.datatype == "BYTES":
            return strings(self.raw)
        code = {"BOOL": "?", "FP16": "e", "FP32": "f", "FP64": "d"}.get(self.datatype)
        if code is None:
            code = {1: "b", 2: "h", 4: "i", 8: "q"}[SIZES[self.datatype]]
            code = code.upper() if self.datatype.startswith("U") else code
        return list(struct.unpack(f"<{self.elements()}{code}", self.raw))

    def array(self) -> Any:
        """As the client library wants it: for BF16 some versions take float32, later ones ml_dtypes."""
        if self.datatype == "BYTES":
            return np.array(self.values(), dtype=np.object_).reshape(self.shape)
        if self.datatype == "BF16":
            bfloat = np.dtype(triton_to_np_dtype("BF16"))
            if bfloat.itemsize == 2:
                return np.frombuffer(self.raw, bfloat).reshape(self.shape)
            wide = np.frombuffer(self.raw, "<u2").astype("<u4") << 16
            return wide.view("<f4").reshape(self.shape)
        kinds = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
        kind = kinds.get(self.datatype, f"<{self.datatype[0].lower()}{SIZES[self.datatype]}")
        return np.frombuffer(self.raw, kind).reshape(self.shape)


def strings(raw: bytes) -> list[bytes]:
    found, place = [], 0
    while place < len(raw):
        (size,) = struct.unpack_from("<I", raw, place)
        found.append(raw[place + 4 : place + 4 + size])
        place += 4 + size
    return found


def with_lengths(elements: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def random_tensor(source: random.Random, name: str) -> Tensor:
    """Any datatype; one in ten is empty, one in fifty large; numbers have every bit pattern."""
    datatype = source.choice(DATATYPES)
    dice = source.random()
    shape = tuple(source.randint(1, 5) for _ in range(source.randint(0, 4)))
    if dice < 0.1:
        shape = (*shape, 0)
    elif dice < 0.12:
        shape = (1000, source.randint(10, 20))
    count = int(np.prod(shape, dtype=np.int64))
    if datatype == "BYTES":
        elements = [
            source.choice((EVERY_BYTE, b"", source.randbytes(source.randint(1, 40)))) for _ in range(count)
        ]
        return Tensor(name, datatype, shape, with_lengths(elements))
    raw = source.randbytes(count * SIZES[datatype])
    if datatype == "BOOL":
        raw = bytes(byte & 1 for byte in raw)
    if datatype == "BF16":
        # Some versions of the client library compute with them, which makes every NaN a quiet one.
        halves = np.frombuffer(raw, "<u2").copy()
        halves[(halves & 0x7F80) == 0x7F80] |= 0x40
        raw = halves.tobytes()
    return Tensor(name, datatype, shape, raw)


def as_request(tensors: Sequence[Tensor], *, typed: bool = False, **more: Any) -> Any:
    """The official message."""
    request = pb.ModelInferRequest(model_name="identity", **more)
    for tensor in tensors:
        entry = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if typed:
            getattr(entry.contents, TYPED_FIELDS[tensor.datatype]).extend(tensor.values())
        else:
            request.raw_input_contents.append(tensor.raw)
    return request


class Identity(Model):
    """Returns its inputs, whatever they are."""

    name = "identity"

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.inputs = self.outputs = tuple(TensorSpec(t.name, t.datatype, t.shape) for t in tensors)

    def infer(self, inputs: Mapping[str, ModelTensor]) -> Mapping[str, ModelTensor]:
        return inputs


def post(app: KServeApp, target: bytes, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
    """One request to the app, as a server would hand it over."""
    fields = {name.decode(): value.decode() for name, value in headers}
    status, answer_fields, answer = app("POST", target.decode(), "", fields, body)
    return status, [(name.encode(), value.encode()) for name, value in answer_fields], answer
