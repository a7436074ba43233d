"""The digits model's requests and answers as KServe v2 bodies, in JSON and with binary tensors.

Pure, and the client's side only: images in, a body out, and an answer's body back into arrays. Must
never know how the bytes travel.

The wire is Triton's protocol extension_binary_data: the JSON part's size stands in a header, and
the tensors follow it in the order of the JSON, little-endian.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gateway.demo.models import Answer, Floats

JSON_SIZE = "inference-header-content-length"
"""Header that tells how many bytes of the body are JSON."""

_TYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8")}


class Message(NamedTuple):
    """A body and the header fields that describe it."""

    headers: dict[str, str]
    body: bytes


class BadTensors(ValueError):
    """The body is not an answer of the digits model; the message says why."""


def encode_request(pixels: Floats, *, binary: bool) -> Message:
    """Ask for the digits of N images; with `binary` both the pixels and the answer are raw bytes."""
    tensor: dict[str, Any] = {"name": "pixels", "shape": list(pixels.shape), "datatype": "FP32"}
    if not binary:
        return _message({"inputs": [{**tensor, "data": pixels.ravel().tolist()}]}, b"")
    raw = pixels.astype("<f4").tobytes()
    tensor["parameters"] = {"binary_data_size": len(raw)}
    return _message({"inputs": [tensor], "parameters": {"binary_data_output": True}}, raw)


def decode_answer(headers: Mapping[str, str], body: bytes) -> Answer:
    """Read an infer answer. `headers` in lower case. Raises BadTensors."""
    try:
        reply, raw = _split(headers, body)
        tensors = _arrays(reply["outputs"], raw)
        return Answer(tensors["probabilities"].astype(np.float32), tensors["digit"].astype(np.int64))
    except BadTensors:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadTensors(f"cannot read the answer: {error!r}") from None


def same(left: Answer, right: Answer) -> bool:
    """The same digits, and probabilities equal up to what JSON's decimal digits may lose."""
    return (
        left.digit.shape == right.digit.shape
        and left.probabilities.shape == right.probabilities.shape
        and bool((left.digit == right.digit).all())
        and bool(np.allclose(left.probabilities, right.probabilities, rtol=1e-4, atol=1e-5))
    )


def _message(document: Mapping[str, Any], raw: bytes) -> Message:
    text = json.dumps(document, separators=(",", ":")).encode()
    if not raw:
        return Message({"content-type": "application/json"}, text)
    return Message({"content-type": "application/octet-stream", JSON_SIZE: str(len(text))}, text + raw)


def _split(headers: Mapping[str, str], body: bytes) -> tuple[dict[str, Any], bytes]:
    size = int(headers.get(JSON_SIZE, len(body)))
    if not 0 <= size <= len(body):
        raise BadTensors(f"{JSON_SIZE} says {size} bytes, the body has {len(body)}")
    document = json.loads(body[:size])
    if not isinstance(document, dict):
        raise BadTensors("the body is not a JSON object")
    return document, body[size:]


def _arrays(tensors: list[dict[str, Any]], raw: bytes) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    used = 0
    for tensor in tensors:
        kind = _TYPES.get(tensor["datatype"])
        if kind is None:
            raise BadTensors(f"datatype {tensor['datatype']!r} is not one of {', '.join(_TYPES)}")
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = np.asarray(tensor["data"], dtype=kind)
        else:
            values = np.frombuffer(raw[used : used + size], dtype=kind)
            used += size
        arrays[tensor["name"]] = values.reshape(tensor["shape"])
    if used != len(raw):
        raise BadTensors(f"{len(raw)} bytes of tensors, {used} expected")
    return arrays
