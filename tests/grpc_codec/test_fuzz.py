"""Hostile bytes: only the errors that are promised come out, soon, and without much memory."""

import json
import random
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from backends.grpc_codec import JSON_SIZE, error_message, from_grpc, from_http, to_grpc, to_http
from gateway.errors import BackendBroke, BadCall
from tests.grpc_codec.support import as_request, random_tensor

INFER = b"/v2/models/m/infer"


@cache
def message(seed: int) -> bytes:
    source = random.Random(seed)
    tensors = [random_tensor(source, f"t{place}") for place in range(3)]
    typed = seed % 2 == 0
    if typed:
        tensors = [t for t in tensors if t.datatype not in ("FP16", "BF16")]
    request = as_request([t for t in tensors if len(t.raw) < 500], typed=typed, id="7")
    request.parameters["sequence_id"].int64_param = 3
    request.outputs.add(name="y").parameters["classification"].int64_param = 1
    raw: bytes = request.SerializeToString()
    return raw


def spoilt(source: random.Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    for _ in range(source.randint(1, 3)):
        place = source.randrange(len(data) + 1)
        match source.randrange(6):
            case 0:
                data[place:place] = source.randbytes(source.randint(1, 4))
            case 1:
                del data[place : place + source.randint(1, 8)]
            case 2:
                data[place : place + 1] = source.choice((b"\xff", b"\x00", b"\x80", b"\x7f"))
            case 3:
                piece = data[place : place + source.randint(1, 30)]
                data[place:place] = piece
            case _ if place < len(data):
                data[place] ^= 1 << source.randrange(8)
    return bytes(data)


def test_spoilt_messages() -> None:
    source = random.Random(1)
    kept = refused = 0
    for _ in range(4000):
        raw = spoilt(source, message(source.randrange(50)))
        try:
            target, headers, body = to_http(raw)
            size = int(dict(headers)[JSON_SIZE])
            assert json.loads(body[:size])["inputs"] is not None
            assert target.startswith(b"/v2/models/")
            kept += 1
        except BadCall:
            refused += 1
        with suppress(BackendBroke, BadCall):
            from_grpc(raw, binary=source.choice((True, False)))
    assert min(kept, refused) > 200


def test_spoilt_answers() -> None:
    source = random.Random(2)
    kept = refused = 0
    for _ in range(4000):
        _, headers, body = to_http(message(source.randrange(50)))
        body = body.replace(b'"outputs"', b'"others_"', 1).replace(b'"inputs"', b'"outputs"', 1)
        size = int(dict(headers)[JSON_SIZE]) + 1
        body = spoilt(source, body[:size]) + body[size:] if source.random() < 0.8 else spoilt(source, body)
        try:
            pb.ModelInferResponse.FromString(from_http([(JSON_SIZE, b"%d" % size)], body))
            kept += 1
        except BackendBroke:
            refused += 1
        with suppress(BadCall):
            to_grpc(INFER, [(JSON_SIZE, b"%d" % size)], body)
        assert len(error_message(body)) <= 2000
    assert min(kept, refused) > 200


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(raw: bytes) -> None:
    with suppress(BadCall):
        to_http(raw)
    with suppress(BackendBroke):
        from_http([], raw)
    with suppress(BackendBroke, BadCall):
        from_grpc(raw, binary=False)
    with suppress(BadCall):
        to_grpc(INFER, [], raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["name", "datatype", "shape", "parameters", "data", "binary_data_size"]), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(st.fixed_dictionaries({"name": JSON, "shape": JSON, "data": JSON, "parameters": JSON})), JSON)
def test_any_json(entries: list[dict[str, Any]], more: Any) -> None:
    for entry, datatype in zip(entries, ("FP32", "BYTES", "BOOL", "BF16"), strict=False):
        entry["datatype"] = datatype
    body = json.dumps({"inputs": entries, "outputs": entries, "parameters": more, "id": more}).encode()
    with suppress(BackendBroke):
        from_http([], body)
    with suppress(BadCall):
        to_grpc(INFER, [], body)


MANY = 1 << 16


def field(number: int, content: bytes) -> bytes:
    size = len(content)
    length = b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def typed(datatype: bytes, contents: bytes) -> bytes:
    return field(1, b"m") + field(5, field(2, datatype) + field(5, contents))


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"\x3a\x00" * MANY,  # raw contents of no bytes
        lambda: b"\x2a\x00" * MANY,  # inputs with nothing inside
        lambda: b"\x32\x00" * MANY,
        lambda: b"\x22\x00" * MANY,
        lambda: b"\x0b" * MANY,  # groups in groups
        lambda: b"\x0b\x0c" * MANY,
        lambda: b"\xff" * MANY,
        lambda: b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        lambda: field(5, field(3, b"\x01" * MANY)),
        lambda: field(5, b"\x18\x01" * MANY),
        lambda: typed(b"BYTES", b"\x42\x00" * MANY),  # strings of no bytes
        lambda: typed(b"BOOL", field(1, b"\x01" * MANY)),
        lambda: typed(b"UINT64", field(5, b"\x80\x01" * MANY)),
        lambda: typed(b"INT8", b"\x10\x01" * MANY),
        lambda: typed(b"FP32", b"\x35\0\0\0\0" * (MANY)),
        lambda: field(1, b"m") + field(5, field(2, b"BOOL") + b"\x2a\x02\x08\x01" * MANY),  # in pieces
    ],
)
def test_small_parts_in_great_number(make: Callable[[], bytes]) -> None:
    """Time goes with the size; at most sixty bytes of memory for each byte of the message."""
    raw = make()
    began = time.process_time()
    with suppress(BadCall):
        to_http(raw)
    assert time.process_time() - began < 2
    tracemalloc.start()
    try:
        with suppress(BadCall):
            to_http(raw)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 60 * len(raw) + 1_000_000
