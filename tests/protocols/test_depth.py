"""JSON that is nested more deeply than the file allows: refused before it is decoded."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadCall
from gateway.protocols.base import Answer
from gateway.protocols.depth import SHALLOWEST, deeper_than
from gateway.protocols.kserve import Kserve
from gateway.protocols.openai import OpenAI
from gateway.vocab import Call
from tests.support.requests import FakeFleet, FakeRequest


def levels(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(levels, value.values()), default=0)
    return 1 + max(map(levels, value), default=0) if isinstance(value, list) else 0


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"[" * (depth % 2) + b"]" * (depth % 2) + b"]}" * (depth // 2)


@pytest.mark.parametrize("limit", [16, 64, 65, 500])
def test_the_limit_is_exact(limit: int) -> None:
    assert not deeper_than(nested(limit), limit)
    assert deeper_than(nested(limit + 1), limit)


AWKWARD = st.text(alphabet='[]{}"\\a', max_size=30)
TREES = st.recursive(
    AWKWARD | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(AWKWARD, inner, max_size=4),
    max_leaves=40,
)


@given(TREES, st.integers(min_value=0, max_value=8))
def test_it_counts_as_a_decoder_does_whatever_the_strings_hold(tree: Any, limit: int) -> None:
    assert deeper_than(json.dumps(tree).encode(), limit) == (levels(tree) > limit)


async def read(protocol: Kserve | OpenAI, target: bytes, body: bytes, **more: Any) -> Call | Answer:
    return await protocol.read(FakeRequest(b"POST", target, body, **more))


@pytest.mark.parametrize("over", [False, True])
async def test_every_body_that_is_looked_at_is_bounded(over: bool) -> None:
    kserve, openai = Kserve(FakeFleet(), depth=lambda: 20), OpenAI(list, depth=lambda: 20)
    inner = nested(19 + over)
    infer = b'{"inputs":[' + nested(18 + over) + b"]}"
    tensor = b'{"inputs":[{"name":"x","y":' + nested(17 + over) + b"}]}"
    length = [(b"inference-header-content-length", b"%d" % len(tensor))]
    for protocol, target, body, headers in (
        (openai, b"/v1/chat/completions", b'{"model":"m","messages":' + inner + b"}", []),
        (openai, b"/v1/responses", b'{"model":"m","tools":' + inner + b"}", []),
        (kserve, b"/v2/models/m/infer", infer, []),
        (kserve, b"/v2/models/m/infer", tensor, length),
        (kserve, b"/v2/models/m/generate", b'{"text_input":' + inner + b"}", []),
    ):
        if over:
            with pytest.raises(BadCall, match="nested too deeply; the limit is 20 levels"):
                await read(protocol, target, body, headers=headers)
        else:
            assert isinstance(await read(protocol, target, body, headers=headers), Call)


async def test_the_bytes_of_tensors_are_not_taken_for_json() -> None:
    text = b'{"inputs":[{"name":"x","parameters":{"binary_data_size":1000}}]}'
    length = [(b"inference-header-content-length", b"%d" % len(text))]
    call = await read(
        Kserve(FakeFleet(), depth=lambda: 16), b"/v2/models/m/infer", text + b"[" * 1000, headers=length
    )
    assert isinstance(call, Call)


def test_what_the_file_may_say_is_what_is_looked_at() -> None:
    assert not deeper_than(b"[" * SHALLOWEST, SHALLOWEST)
