"""One inference on the wire: reads infer and generate requests into tensors, writes the answers.

Pure. Must never know sockets, URLs or how a model computes. Follows the KServe v2 REST protocol with
Triton's binary-tensor, classification and generate extensions; texts and statuses of errors are those of
tritonserver 2.51, its habit of answering 500 to malformed JSON included.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from backends.emulators import triton_json
from backends.emulators.tensors import DATATYPES, Tensor, TritonError, byte_size, elements, from_json

Fields = list[tuple[str, str]]
"""Header fields, names in lower case."""

HEADER_LENGTH = "inference-header-content-length"
JSON_TYPE = "application/json"

_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended"
    " to each input shape. If you want to specify the full shape including the batch dim in your input dims"
    " config, try setting max_batch_size to zero. See the model configuration docs for more info on"
    " max_batch_size."
)
_ONE_FIELD = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters',"
    " 'shared_memory_region' in 'parameters'. But no field is set"
)


class TensorSpec(NamedTuple):
    """An input or output of a model; `shape` is without the batch dimension, -1 is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Model(ABC):
    """What the server serves. Subclass it, name its tensors, and compute.

    With `max_batch_size` over 0 every tensor has a batch dimension in front. A `decoupled` model answers
    through `stream`, any number of times, and only over generate_stream.
    """

    name: str
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    versions: Sequence[str] = ("1",)
    max_batch_size: int = 0
    decoupled: bool = False
    platform: ClassVar[str] = "python"

    @abstractmethod
    def infer(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Every output by its name. May block. An exception becomes Triton's 500."""

    def stream(self, inputs: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
        """The answers of a generate_stream, one at a time."""
        yield self.infer(inputs)


class Wanted(NamedTuple):
    """How the client wants one output."""

    binary: bool
    classes: int


class InferRequest(NamedTuple):
    """A request whose tensors fit the model. `wanted` is None where the client named no output."""

    id: str
    inputs: Mapping[str, Tensor]
    wanted: Mapping[str, Wanted] | None
    binary: bool


def read_infer(model: Model, fields: Mapping[str, str], body: bytes) -> InferRequest:
    """Raises TritonError for anything that Triton refuses."""
    header = fields.get(HEADER_LENGTH)
    if header is None:
        return _read_json(model, body, b"")
    size = _leading_integer(header)
    if size == 0:
        return _read_raw(model, body)
    if not 0 < size <= len(body):
        text = f"inference header size should be in range (0, {len(body)}), got: {header}"
        raise TritonError(400, text, plain=True)
    return _read_json(model, body[:size], body[size:])


def _leading_integer(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    digits = text.removeprefix("-")
    return sign * int(digits) if digits.isascii() and digits.isdigit() else 0


def _read_raw(model: Model, body: bytes) -> InferRequest:
    """Header length 0: the body is the one input, its shape is deduced."""
    if len(model.inputs) != 1:
        raise TritonError(
            400,
            "[request id: <id_unknown>] Raw request must only have 1 input (found 1) to be deduced but got"
            f" {len(model.inputs)} inputs in '{model.name}' model configuration",
        )
    spec = model.inputs[0]
    batch = (1,) if model.max_batch_size else ()
    if spec.datatype == "BYTES":
        inputs = {spec.name: Tensor.of("BYTES", (*batch, *(1 for _ in spec.shape)), [body])}
        return InferRequest("", inputs, None, binary=True)
    unit = byte_size(spec.datatype, [side for side in spec.shape if side >= 0]) or 1
    sides = [len(body) // unit if side < 0 else side for side in spec.shape]
    expected = byte_size(spec.datatype, sides)
    if expected != len(body):
        raise TritonError(
            400,
            "[request id: <id_unknown>] input byte size mismatch for input 'raw_input' for model"
            f" '{model.name}'. Expected {expected}, got {len(body)}",
        )
    return InferRequest("", {spec.name: Tensor(spec.datatype, (*batch, *sides), body)}, None, binary=True)


def _read_json(model: Model, head: bytes, blob: bytes) -> InferRequest:
    document = parse(head)
    request_id = _text(document, "id") if isinstance(document, dict) and "id" in document else ""
    parameters = _parameters(document)
    for name in ("priority", "timeout"):
        if not _is_unsigned(parameters.get(name, 0)):
            raise _wrong_kind(name, "unsigned-integer")
    inputs: dict[str, Tensor] = {}
    where = f"[request id: {request_id or '<id_unknown>'}]"
    left = memoryview(blob)
    for entry in _list(document, "inputs"):
        name, tensor, used = _read_input(model, entry, left)
        if name in inputs:
            raise TritonError(400, f"{where} input '{name}' already exists in request")
        inputs[name] = tensor
        left = left[used:]
    if left:
        raise TritonError(400, f"unexpected additional input data for model '{model.name}'")
    check_inputs(model, inputs, where)
    binary = parameters.get("binary_data_output") is True
    return InferRequest(request_id, inputs, _read_wanted(model, document), binary=binary)


def parse(raw: bytes) -> Any:
    """JSON, or Triton's 500."""
    try:
        return triton_json.parse(raw)
    except ValueError as error:
        raise TritonError(500, f"failed to parse the request JSON buffer: {error}") from None


def _read_input(model: Model, entry: Any, blob: memoryview) -> tuple[str, Tensor, int]:
    """Name, tensor, and how many bytes of the blob it took."""
    name = _text(entry, "name")
    size = _parameters(entry).get("binary_data_size")
    if size is None and "data" not in entry:
        raise TritonError(400, _ONE_FIELD)
    datatype = _text(entry, "datatype")
    if datatype not in DATATYPES:
        raise TritonError(400, f"invalid datatype for input {name}")
    shape = _list(entry, "shape")
    if not all(map(_is_unsigned, shape)):
        raise _wrong_kind("shape", "unsigned-integer")
    if size is not None:
        if not _is_unsigned(size):
            raise _wrong_kind("binary_data_size", "unsigned-integer")
        if size > len(blob):
            text = f"unexpected size for input '{name}', expecting {size - len(blob)} additional bytes"
            raise TritonError(400, f"{text} for model '{model.name}'")
        return name, Tensor(datatype, tuple(shape), bytes(blob[:size])), size
    if datatype in ("FP16", "BF16"):
        text = f"receiving {datatype} data via JSON is not supported. Please use the binary data format"
        raise TritonError(400, f"{text} for input {name}")
    return name, Tensor(datatype, tuple(shape), from_json(datatype, shape, entry["data"])), 0


def check_inputs(model: Model, inputs: Mapping[str, Tensor], where: str) -> None:
    """Do names, datatypes, shapes and sizes fit the model? Raises TritonError."""
    specs = {spec.name: spec for spec in model.inputs}
    if len(inputs) != len(specs):
        given = ",".join(f"'{name}'" for name in sorted(inputs, reverse=True))
        missing = ",".join(f"'{name}'" for name in specs if name not in inputs)
        raise TritonError(
            400,
            f"{where} expected {len(specs)} inputs but got {len(inputs)} inputs for model '{model.name}'."
            f" Got input(s) [{given}], but missing required input(s) {'[' + missing if missing else ''}]."
            " Please provide all required input(s).",
        )
    for name, tensor in inputs.items():
        if (spec := specs.get(name)) is None:
            raise TritonError(400, f"unexpected inference input '{name}' for model '{model.name}'")
        _check_input(model, spec, tensor, where)


def _check_input(model: Model, spec: TensorSpec, tensor: Tensor, where: str) -> None:
    name, shape = spec.name, tensor.shape
    if tensor.datatype != spec.datatype:
        text = f"inference input '{name}' data-type is '{tensor.datatype}', but model '{model.name}'"
        raise TritonError(400, f"{where} {text} expects '{spec.datatype}'")
    batched = model.max_batch_size > 0
    if batched and not shape:
        text = f"input '{name}' has no shape but model requires batch dimension for '{model.name}'"
        raise TritonError(400, f"{where} {text}")
    full = (-1, *spec.shape) if batched else spec.shape
    fits = len(full) == len(shape) and all(a in (-1, b) for a, b in zip(full, shape, strict=True))
    if batched and len(full) == len(shape) and shape[0] > model.max_batch_size:
        text = f"inference request batch-size must be <= {model.max_batch_size} for '{model.name}'"
        raise TritonError(400, f"{where} {text}")
    if not fits:
        sides = f"Expected [{_sides(full)}], got [{_sides(shape)}]. {_BATCH_NOTE if batched else ''}"
        text = f"unexpected shape for input '{name}' for model '{model.name}'. {sides}"
        raise TritonError(400, f"{where} {text}")
    # A batch of none counts as one here, so that it is refused.
    expected = byte_size(tensor.datatype, (max(1, shape[0]), *shape[1:]) if batched else shape)
    if expected is not None and expected != len(tensor.raw):
        text = f"input byte size mismatch for input '{name}' for model '{model.name}'."
        raise TritonError(400, f"{where} {text} Expected {expected}, got {len(tensor.raw)}")
    if expected is None:
        _check_elements(name, tensor)


def _check_elements(name: str, tensor: Tensor) -> None:
    try:
        found = sum(1 for _ in elements(tensor.raw))
    except ValueError as error:
        length, left = error.args
        text = f"incomplete string data for inference input '{name}', expecting string of length {length}"
        raise TritonError(400, f"{text} but only {left} bytes available", plain=True) from None
    expected = math.prod(tensor.shape)
    if found != expected:
        text = f"expected {expected} string elements for inference input '{name}', got {found}"
        raise TritonError(400, text, plain=True)


def _sides(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))


def _read_wanted(model: Model, document: Any) -> dict[str, Wanted] | None:
    wanted: dict[str, Wanted] = {}
    known = {spec.name for spec in model.outputs}
    for entry in _list(document, "outputs") if "outputs" in document else ():
        name = _text(entry, "name")
        if name not in known:
            raise TritonError(400, f"unexpected inference output '{name}' for model '{model.name}'")
        parameters = _parameters(entry)
        # Naming an output at all takes it out of the reach of `binary_data_output`.
        wanted[name] = Wanted(parameters.get("binary_data") is True, parameters.get("classification", 0))
    return wanted or None


def write_infer(
    model: Model, version: str, request: InferRequest, outputs: Mapping[str, Tensor]
) -> tuple[Fields, bytes]:
    """Header fields and body of the answer, in Triton's key order and spelling."""
    described: list[dict[str, Any]] = []
    blob = b""
    for spec in model.outputs:
        if request.wanted is not None and spec.name not in request.wanted:
            continue
        how = (request.wanted or {}).get(spec.name, Wanted(request.binary, 0))
        tensor = outputs[spec.name]
        if how.classes:
            tensor = _classify(model, tensor, how.classes)
        entry: dict[str, Any] = {"name": spec.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if how.binary:
            entry["parameters"] = {"binary_data_size": len(tensor.raw)}
            blob += tensor.raw
        else:
            entry["data"] = json_values(tensor)
        described.append(entry)
    named = {"id": request.id} if request.id else {}
    document = {**named, "model_name": model.name, "model_version": version, "outputs": described}
    head = triton_json.dump(document)
    if not blob:  # nothing binary to send, though it may have been asked for: Triton answers with JSON alone
        return [("content-type", JSON_TYPE)], head
    return [("content-type", "application/octet-stream"), (HEADER_LENGTH, str(len(head)))], head + blob


def json_values(tensor: Tensor) -> list[Any]:
    """Flat values for a JSON answer. Raises TritonError for the datatypes that JSON cannot carry."""
    if tensor.datatype in ("FP16", "BF16"):
        text = f"sending {tensor.datatype} data via JSON is not supported. Please use the binary data format"
        raise TritonError(400, f"{text} for output", plain=True)
    return tensor.values()


def _classify(model: Model, tensor: Tensor, classes: int) -> Tensor:
    """The classification extension: the best `classes` of each batch entry as `value:index`."""
    values = tensor.values()
    rows = tensor.shape[0] if model.max_batch_size else 1
    width = len(values) // rows
    found: list[str] = []
    for row in range(rows):
        scores = values[row * width : (row + 1) * width]
        best = sorted(range(width), key=lambda place: (-scores[place], place))[:classes]
        found += [f"{scores[place]:f}:{place}" for place in best]
    count = min(classes, width)
    return Tensor.of("BYTES", (rows, count) if model.max_batch_size else (count,), found)


def read_generate(model: Model, body: bytes) -> InferRequest:
    """The generate extension: every key that names an input is one, the rest are parameters."""
    document = parse(body)
    if not isinstance(document, dict):
        raise TritonError(500, "attempt to get members for non-object")
    request_id = _text(document, "id") if "id" in document else ""
    where = f"[request id: {request_id or '<id_unknown>'}]"
    named = {key: value for key, value in document.items() if key not in ("id", "parameters")}
    inside = _parameters(document)
    inputs: dict[str, Tensor] = {}
    for spec in model.inputs:
        if spec.name in named and spec.name in inside:
            text = f"{where} input '{spec.name}' already exists in request"
            raise TritonError(400, f"Converting keyword: 'parameters': {text}")
        if spec.name in named or spec.name in inside:
            inputs[spec.name] = _loose_tensor(model, spec, named.get(spec.name, inside.get(spec.name)))
    check_inputs(model, inputs, where)
    return InferRequest(request_id, inputs, None, binary=False)


def _loose_tensor(model: Model, spec: TensorSpec, value: object) -> Tensor:
    values = value if isinstance(value, list) else [value]
    if spec.datatype in ("FP16", "BF16"):
        text = f"receiving {spec.datatype} data via JSON is not supported."
        raise TritonError(400, f"{text} Please use the binary data format for input {spec.name}")
    if any(isinstance(item, list) for item in values):
        raise TritonError(500, "Unable to parse 'data': Shape does not match true shape of 'data' field")
    shape = _loose_shape(model, spec, len(values))
    return Tensor(spec.datatype, shape, from_json(spec.datatype, shape, values))


def _loose_shape(model: Model, spec: TensorSpec, count: int) -> tuple[int, ...]:
    """`count` elements in the model's own shape: they fill the free side, or else the batch."""
    unit = math.prod(side for side in spec.shape if side >= 0)
    times, rest = divmod(count, unit or 1)
    free = spec.shape.count(-1)
    if rest or free > 1 or (times != 1 and not free and not model.max_batch_size):
        text = f"The schema can not convert input '{spec.name}' to tensor with proper shape"
        raise TritonError(400, text)
    sides = tuple(times if side < 0 else side for side in spec.shape)
    if not model.max_batch_size:
        return sides
    return (1 if free else times, *sides)


def write_generate(model: Model, version: str, request_id: str, outputs: Mapping[str, Tensor]) -> bytes:
    """One generate response: outputs as plain keys, single values without their array."""
    document: dict[str, Any] = {"id": request_id} if request_id else {}
    document |= {"model_name": model.name, "model_version": version}
    for spec in model.outputs:
        if (tensor := outputs.get(spec.name)) is not None:
            values = json_values(tensor)
            document[spec.name] = values[0] if len(values) == 1 else values
    return triton_json.dump(document)


def _parameters(entry: Any) -> dict[str, Any]:
    found = entry.get("parameters", {}) if isinstance(entry, dict) else {}
    if not isinstance(found, dict):
        raise _wrong_kind("parameters", "object")
    return found


def _text(entry: Any, key: str) -> str:
    value = _member(entry, key)
    if not isinstance(value, str):
        raise _wrong_kind(key, "string")
    return value


def _list(entry: Any, key: str) -> list[Any]:
    value = _member(entry, key)
    if not isinstance(value, list):
        raise _wrong_kind(key, "array")
    return value


def _member(entry: Any, key: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise TritonError(
            500, f"Unable to parse '{key}': attempt to access non-existing object member '{key}'"
        )
    return entry[key]


def _is_unsigned(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _wrong_kind(key: str, kind: str) -> TritonError:
    return TritonError(500, f"Unable to parse '{key}': attempt to access JSON non-{kind} as {kind}")
