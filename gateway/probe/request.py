"""The request that a probe sends, again and again: given as a file, or made for the protocol.

Pure. It must never know a backend; the metadata that a KServe request is made from is handed in.

Source of the tensor forms: the KServe v2 REST protocol and Triton's binary tensor data extension (FP16 and
BF16 have no JSON form).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from gateway.vocab import Call, Headers, WholeBody

ProtocolName = Literal["kserve", "openai", "raw"]

MOST_ELEMENTS = 1_000_000
"""Largest tensor that is made up: what needs more should be measured with a real request."""

_JSON = (b"content-type", b"application/json")
_ZEROS: dict[str, Any] = {
    "BOOL": False, "BYTES": "",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"), 0),
    **dict.fromkeys(("FP32", "FP64"), 0.0),
}  # fmt: skip
_BINARY_BYTES = {"FP16": 2, "BF16": 2}
_OPERATIONS = {
    "/infer": "infer", "/generate": "generate", "/generate_stream": "generate_stream",
    "/chat/completions": "chat", "/completions": "completions", "/embeddings": "embeddings",
    "/responses": "responses",
}  # fmt: skip


class BadRequest(ValueError):
    """No request can be made of what was given; the text says what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One request, of which every call is a copy.

    route:   the route whose calls it stands for, "" for none
    body:    exactly these bytes, each time
    """

    protocol: ProtocolName
    route: str
    model: str
    path: str
    body: bytes
    method: str = "POST"
    headers: tuple[tuple[bytes, bytes], ...] = (_JSON,)

    @property
    def inference(self) -> bool:
        """False for a question about a model."""
        return self.method != "GET"

    @property
    def stream(self) -> bool:
        """Whether the answer comes in pieces, as far as the request says so."""
        if self.path.endswith("/generate_stream"):
            return True
        try:
            document = msgspec.json.decode(self.body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        return isinstance(document, dict) and document.get("stream") is True

    def call(self, number: int) -> Call:
        """Copy `number`, with an id of its own."""
        path = self.path.partition("?")[0]
        call = Call(
            protocol=self.protocol,
            operation=next((word for end, word in _OPERATIONS.items() if path.endswith(end)), "invoke"),
            method=self.method.encode("ascii"),
            target=self.path.encode("ascii"),
            headers=list(self.headers),
            body=WholeBody(self.body),
            model=self.model,
            inference=self.inference,
            stream=self.stream,
            request_id=f"overspill-probe-{number}",
        )
        call.route = self.route
        return call


def given(protocol: ProtocolName, route: str, model: str, path: str | None, body: bytes) -> Template:
    """A request from a file. Raises BadRequest."""
    if path is None:
        path = default_path(protocol, model)
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise BadRequest(f"--path is {path!r}; it is the path of a URL, like /v2/models/minilm/infer")
    return Template(protocol=protocol, route=route, model=model, path=path, body=body)


def default_path(protocol: ProtocolName, model: str) -> str:
    """Where a request of the protocol goes. Raises BadRequest where that depends on a model's name."""
    if protocol == "kserve":
        return f"/v2/models/{_named(model)}/infer"
    return "/v1/chat/completions" if protocol == "openai" else "/"


def chat(route: str, model: str) -> Template:
    """The least that an OpenAI chat can be: one word asked, a few tokens answered."""
    body = msgspec.json.encode(
        {
            "model": model or "default",
            "messages": [{"role": "user", "content": "Say hello."}],
            "max_tokens": 16,
            "temperature": 0,
        }
    )
    return given("openai", route, model, None, body)


def metadata_question(route: str, model: str) -> Template:
    """The question what a model's tensors are."""
    path = f"/v2/models/{_named(model)}"
    return Template(
        protocol="kserve", route=route, model=model, path=path, body=b"", method="GET", headers=()
    )


def zeros(route: str, model: str, metadata: bytes) -> Template:
    """An inference on zero tensors of the model's own shapes, free dimensions being 1. Raises BadRequest."""
    try:
        document = msgspec.json.decode(metadata)
        inputs = [(str(each["name"]), str(each["datatype"]), each["shape"]) for each in document["inputs"]]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError):
        raise BadRequest(
            f"the metadata of {model} does not name its inputs; give a request with --request"
        ) from None
    tensors, parts = [], []
    for name, datatype, shape in inputs:
        tensor, part = _zero(name, datatype, shape)
        tensors.append(tensor)
        parts.append(part)
    asked: dict[str, Any] = {"inputs": tensors}
    if any(datatype in _BINARY_BYTES for datatype in _output_types(document)):
        asked["parameters"] = {"binary_data_output": True}
    head = msgspec.json.encode(asked)
    headers: Headers = [_JSON]
    if any(parts):
        length = str(len(head)).encode("ascii")
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"inference-header-content-length", length),
        ]
    return Template(
        protocol="kserve",
        route=route,
        model=model,
        path=default_path("kserve", model),
        body=head + b"".join(parts),
        headers=tuple(headers),
    )


def _output_types(document: Any) -> Iterator[str]:
    outputs = document.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict):
            yield str(output.get("datatype"))


def _zero(name: str, datatype: str, shape: Any) -> tuple[dict[str, Any], bytes]:
    if not isinstance(shape, Sequence) or not all(isinstance(size, int | str) for size in shape):
        raise BadRequest(f"input {name} has no shape; give a request with --request")
    try:
        fixed = [max(1, int(size)) if int(size) != 0 else 0 for size in shape]
    except ValueError:
        raise BadRequest(f"input {name} has no shape; give a request with --request") from None
    count = math.prod(fixed)
    if count > MOST_ELEMENTS:
        raise BadRequest(f"input {name} has {count:,} elements; give a request with --request")
    tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": fixed}
    if datatype in _BINARY_BYTES:
        part = bytes(count * _BINARY_BYTES[datatype])
        return {**tensor, "parameters": {"binary_data_size": len(part)}}, part
    if datatype not in _ZEROS:
        raise BadRequest(
            f"input {name} is of type {datatype}, which has no zero; give a request with --request"
        )
    return {**tensor, "data": [_ZEROS[datatype]] * count}, b""


def _named(model: str) -> str:
    if not model:
        raise BadRequest("which model? Name it with --model, or give a route that has one with --route")
    return quote(model, safe="")
