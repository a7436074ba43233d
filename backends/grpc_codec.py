"""KServe v2 inference between gRPC messages and HTTP: the same call and the same bytes of its tensors.

Pure. Must never know channels, connections or which backend answers. The HTTP side is the REST protocol
with Triton's binary tensor extension (protocol/extension_binary_data), and every output is asked for in
binary: JSON would lose what FP16 and BF16 hold, strings that are not UTF-8, and the kinds of NaN.

What the server can judge is left to it (names, shapes, sizes): its error is then the one that the client
would have had from it directly. Answers are judged here, because nobody behind us would.

Not the same on both sides: a request parameter of int64 and one of uint64 are one kind of number in JSON;
NaN and infinities as *parameters* are written as RapidJSON reads them, and lose the bits of the NaN.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from backends import grpc_messages
from backends.emulators import triton_json
from backends.grpc_messages import MOST_TENSORS, REQUEST, RESPONSE, Message, Parameters, Tensor, Wanted
from backends.kserve_tensors import DATATYPES, MOST_DIMENSIONS, byte_size, from_json, to_json
from backends.protobuf_wire import Buffer, Malformed
from gateway.errors import BackendBroke, BadCall, NotOffered
from gateway.vocab import Headers

JSON_SIZE = b"inference-header-content-length"
"""Says how many bytes of the body are JSON; the tensors follow."""

_TARGET = re.compile(rb"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/infer(?:\?.*)?", re.DOTALL)
_MOST_ERROR_BYTES = 64 * 1024
_LONGEST_ERROR = 2000
_LARGEST_SIDE = 2**63 - 1


class HttpInfer(NamedTuple):
    """A POST that asks the same as a gRPC message."""

    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


class GrpcInfer(NamedTuple):
    """A message that asks the same as an HTTP request.

    binary:  outputs that the client wants in binary: by name, or True for all
    """

    message: bytes
    binary: Collection[str] | bool


def to_http(message: bytes) -> HttpInfer:
    """A serialized ModelInferRequest as an HTTP request. `content-length` is left to who sends it.

    Raw contents are copied once, as they are: tens of microseconds and a memcpy. Typed contents are read one
    by one, up to a microsecond for each byte: large ones are for a thread.

    Raises BadCall for what is no such message, NotOffered (a BadCall) for tensors in shared memory.
    """
    try:
        request = grpc_messages.read(message, REQUEST)
        _refuse_shared_memory(request)
        target = _target(request.model, request.version)
    except Malformed as error:
        raise BadCall(f"malformed ModelInferRequest: {error}") from None
    inputs = [
        {
            "name": tensor.name,
            "shape": tensor.shape,
            "datatype": tensor.datatype,
            "parameters": tensor.parameters | {"binary_data_size": len(data)},
        }
        for tensor, data in zip(request.tensors, request.data, strict=True)
    ]
    document: dict[str, Any] = {"id": request.id} if request.id else {}
    # Both for the request and for each output: servers differ in which of the two they look at.
    document |= {"parameters": request.parameters | {"binary_data_output": True}, "inputs": inputs}
    if request.wanted:
        document["outputs"] = [
            {"name": wanted.name, "parameters": wanted.parameters | {"binary_data": True}}
            for wanted in request.wanted
        ]
    head = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    return HttpInfer(target, _binary_fields(head), b"".join((head, *request.data)))


def from_http(headers: Headers, body: bytes) -> bytes:
    """The body of a 200 answer as a serialized ModelInferResponse. Raises BackendBroke for anything else."""
    try:
        document, blob = _split(headers, body)
        outputs, data = _read_tensors(document, blob, "outputs")
        response = Message(
            _text(document, "model_name", "the answer"),
            _text(document, "model_version", "the answer"),
            _text(document, "id", "the answer"),
            _read_parameters(document, "the answer"),
            outputs,
            data,
        )
        return grpc_messages.write(response, RESPONSE)
    except Malformed as error:
        raise BackendBroke(f"the backend's answer is no inference response: {error}") from None


def error_message(body: bytes) -> str:
    """What an answer that is not 200 says, for the details of a gRPC status: one line of text."""
    said = body[:_MOST_ERROR_BYTES].decode("utf-8", "replace")
    try:
        document = json.loads(said)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        texts = (document.get(name) for name in ("error", "detail", "message"))
        said = next((text for text in texts if isinstance(text, str) and text), said)
    line = " ".join("".join(c if c.isprintable() else " " for c in said[: 2 * _LONGEST_ERROR]).split())
    return line[:_LONGEST_ERROR] or "the backend gave no reason"


def to_grpc(target: bytes, headers: Headers, body: bytes) -> GrpcInfer:
    """An HTTP inference request as a serialized ModelInferRequest.

    Raises BadCall for what is no such request; NotOffered for a body that is one tensor and nothing else
    (only the model's configuration says which), and for tensors in shared memory.
    """
    match = _TARGET.fullmatch(target)
    if match is None:
        raise BadCall("the path is not /v2/models/NAME/infer or /v2/models/NAME/versions/VERSION/infer")
    if any(name == JSON_SIZE and value.strip() == b"0" for name, value in headers):
        raise NotOffered(f"{JSON_SIZE.decode()}: 0 (a body without JSON) cannot be sent on as gRPC")
    try:
        model, version = (unquote(part.decode("latin-1"), errors="strict") for part in match.groups(b""))
        document, blob = _split(headers, body)
        inputs, data = _read_tensors(document, blob, "inputs")
        parameters = _read_parameters(document, "the request")
        every = parameters.pop("binary_data_output", False) is True
        wanted, by_name = _read_wanted(document)
        identifier = _text(document, "id", "the request")
        request = Message(model, version, identifier, parameters, inputs, data, wanted)
        _refuse_shared_memory(request)
        # Naming any output takes all of them out of the reach of `binary_data_output`, in Triton.
        return GrpcInfer(grpc_messages.write(request, REQUEST), by_name if wanted else every)
    except Malformed as error:
        raise BadCall(f"malformed inference request: {error}") from None
    except UnicodeDecodeError:
        raise BadCall("the model's name in the path is not UTF-8") from None


def from_grpc(message: bytes, *, binary: Collection[str] | bool) -> tuple[Headers, bytes]:
    """A serialized ModelInferResponse as the fields and the body of an HTTP answer, spelled as Triton does.

    binary:  outputs that go into the body as they are: by name, or True for all (see GrpcInfer)

    Raises BackendBroke for what is no such message, BadCall for an output that has no JSON form.
    """
    try:
        response = grpc_messages.read(message, RESPONSE)
    except Malformed as error:
        raise BackendBroke(f"malformed ModelInferResponse: {error}") from None
    described: list[dict[str, Any]] = []
    blob: list[Buffer] = []
    for tensor, data in zip(response.tensors, response.data, strict=True):
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if binary is True or (binary and tensor.name in binary):
            entry["parameters"] = tensor.parameters | {"binary_data_size": len(data)}
            blob.append(data)
        else:
            entry |= {"parameters": tensor.parameters} if tensor.parameters else {}
            entry["data"] = _values(tensor, data)
        described.append(entry)
    document: dict[str, Any] = {"id": response.id} if response.id else {}
    document |= {"model_name": response.model, "model_version": response.version}
    document |= {"parameters": response.parameters} if response.parameters else {}
    head = triton_json.dump(document | {"outputs": described})
    if not any(map(len, blob)):  # Triton goes by the bytes, not by what was asked
        return [(b"content-type", b"application/json")], head
    return _binary_fields(head), b"".join((head, *blob))


def _values(tensor: Tensor, data: Buffer) -> list[Any]:
    where = f"output {tensor.name[:64]!r}"
    if tensor.datatype in ("FP16", "BF16"):
        raise BadCall(f"{where} is {tensor.datatype}, which has no JSON form: ask for it with binary_data")
    try:
        return to_json(tensor.datatype, data, where)
    except Malformed as error:
        raise BackendBroke(f"malformed ModelInferResponse: {error}") from None


def _target(model: str, version: str) -> bytes:
    for word, name in (("model_name", model), ("model_version", version)):
        if name in (".", ".."):  # a path would lose them
            raise Malformed(f"{word} is {name!r}, which no path can hold")
    if not model:
        raise Malformed("model_name is missing")
    versions = f"/versions/{quote(version, safe='')}" if version else ""
    return f"/v2/models/{quote(model, safe='')}{versions}/infer".encode()


def _binary_fields(head: bytes) -> Headers:
    return [(b"content-type", b"application/octet-stream"), (JSON_SIZE, b"%d" % len(head))]


def _refuse_shared_memory(request: Message) -> None:
    words = [(f"inputs[{place}]", tensor.parameters) for place, tensor in enumerate(request.tensors)]
    words += [(f"outputs[{place}]", wanted.parameters) for place, wanted in enumerate(request.wanted)]
    for where, parameters in words:
        if grpc_messages.in_shared_memory(parameters):
            raise NotOffered(f"{where} lies in shared memory, which another machine cannot see")


def _split(headers: Headers, body: bytes) -> tuple[Mapping[str, Any], memoryview]:
    """The JSON and the bytes behind it."""
    encoding = _field(headers, b"content-encoding") or b"identity"
    if encoding.lower() != b"identity":
        raise Malformed("it is compressed (content-encoding), and has to be decoded first")
    said = _field(headers, JSON_SIZE)
    size = len(body)
    if said is not None:
        size = int(said) if said.isdigit() and len(said) < 20 else -1
        if not 0 < size <= len(body):
            raise Malformed(f"{JSON_SIZE.decode()} is no number from 1 to {len(body)}, the body's size")
    try:
        # Triton writes strings as the bytes they are: surrogateescape keeps those that are not UTF-8.
        document = json.loads(body[:size].decode("utf-8", "surrogateescape"))
    except json.JSONDecodeError as error:
        raise Malformed(f"{error.msg} at character {error.pos} of its JSON") from None
    except (ValueError, RecursionError):
        raise Malformed("its JSON has a number too long or is nested too deep") from None
    if not isinstance(document, dict):
        raise Malformed("its JSON is no object")
    return document, memoryview(body)[size:]


def _field(headers: Headers, wanted: bytes) -> bytes | None:
    values = {value.strip() for name, value in headers if name == wanted}
    if len(values) > 1:
        raise Malformed(f"there are several {wanted.decode()} that differ")
    return values.pop() if values else None


def _read_tensors(
    document: Mapping[str, Any], blob: memoryview, key: str
) -> tuple[Sequence[Tensor], Sequence[Buffer]]:
    """The tensors and their bytes; those in binary are cut off the blob in their order."""
    tensors: list[Tensor] = []
    found: list[Buffer] = []
    for place, entry in enumerate(_entries(document, key)):
        where = f"{key}[{place}]"
        tensor, size = _read_tensor(entry, where)
        if grpc_messages.in_shared_memory(tensor.parameters):
            data: Buffer = b""
        elif size is None:
            data = from_json(tensor.datatype, tensor.shape, entry.get("data"), where)
        elif size > len(blob):
            raise Malformed(f"{where} has {size} bytes in binary, {len(blob)} are left")
        else:
            data, blob = blob[:size], blob[size:]
            expected = byte_size(tensor.datatype, tensor.shape)
            if expected not in (None, size):
                raise Malformed(f"{where} has {size} bytes, its shape and datatype need {expected}")
        tensors.append(tensor)
        found.append(data)
    if blob:
        raise Malformed(f"{len(blob)} bytes are left behind the last of its {key}")
    return tensors, found


def _read_tensor(entry: Mapping[str, Any], where: str) -> tuple[Tensor, int | None]:
    """The description, and the size of its binary data if that is where it is."""
    datatype = _text(entry, "datatype", where)
    if datatype not in DATATYPES:
        raise Malformed(f"{where}.datatype is none of {', '.join(sorted(DATATYPES))}")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(_is_size(side) for side in shape):
        raise Malformed(f"{where}.shape is no array of sizes")
    if len(shape) > MOST_DIMENSIONS:
        raise Malformed(f"{where}.shape has more than {MOST_DIMENSIONS} dimensions")
    parameters = _read_parameters(entry, where)
    size = parameters.pop("binary_data_size", None)
    if size is None:
        return Tensor(_text(entry, "name", where), datatype, shape, parameters), None
    if not isinstance(size, int) or not _is_size(size):
        raise Malformed(f"{where}.parameters.binary_data_size is no size")
    return Tensor(_text(entry, "name", where), datatype, shape, parameters), size


def _read_wanted(document: Mapping[str, Any]) -> tuple[Sequence[Wanted], Collection[str]]:
    """The outputs that are asked for, and which of them in binary."""
    wanted: list[Wanted] = []
    binary: set[str] = set()
    for place, entry in enumerate(_entries(document, "outputs") if "outputs" in document else ()):
        where = f"outputs[{place}]"
        parameters = _read_parameters(entry, where)
        wanted.append(Wanted(_text(entry, "name", where), parameters))
        if parameters.pop("binary_data", False) is True:
            binary.add(wanted[-1].name)
    return wanted, binary


def _entries(document: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Malformed(f"{key} is missing or no array of objects")
    if len(entries) > MOST_TENSORS:
        raise Malformed(f"there are more than {MOST_TENSORS} {key}")
    return entries


def _read_parameters(entry: Mapping[str, Any], where: str) -> Parameters:
    """JSON parameters as an InferParameter map has them: what is null is left out, a list or an object,
    for which the map has no kind, becomes its JSON text.
    """
    found = entry.get("parameters")
    if not isinstance(found, dict | None):
        raise Malformed(f"the parameters of {where} are no object")
    try:
        return {
            name: json.dumps(value) if isinstance(value, list | dict) else value
            for name, value in (found or {}).items()
            if value is not None
        }
    except RecursionError:
        raise Malformed(f"the parameters of {where} are nested too deep") from None


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    """A string; "" for null and what is not there."""
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Malformed(f"{key} of {where} is no string")
    return value


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_SIDE
