"""JSON that is nested more deeply than the file allows: refused before it is decoded."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadCall
from gateway.protocols import depth
from gateway.protocols.base import Answer
from gateway.protocols.depth import SHALLOWEST, SLICE, deeper_than, looks
from gateway.protocols.kserve import Kserve
from gateway.protocols.openai import OpenAI
from gateway.vocab import Call
from tests.support.requests import FakeFleet, FakeRequest


def levels(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(levels, value.values()), default=0)
    return 1 + max(map(levels, value), default=0) if isinstance(value, list) else 0


def nested(count: int) -> bytes:
    return b'{"a":[' * (count // 2) + b"[" * (count % 2) + b"]" * (count % 2) + b"]}" * (count // 2)


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


@given(TREES, st.integers(min_value=0, max_value=8), st.integers(min_value=1, max_value=9))
def test_and_wherever_it_is_cut_into_slices(tree: Any, limit: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth, "SLICE", size)
        assert deeper_than(json.dumps(tree).encode(), limit) == (levels(tree) > limit)


LONG = 16 * 2**20


def test_of_a_body_that_is_nothing_but_brackets_one_slice_is_looked_at() -> None:
    assert list(looks(b"[" * LONG, 500)) == [True]
    assert list(looks(b'{"a":' * (LONG // 5), 500)) == [True]


def test_one_that_is_too_deep_somewhere_is_not_read_beyond_that() -> None:
    before = b"[" + b"[1]," * (3 * SLICE // 4)
    assert list(looks(before + b"[" * 500 + b"[" * LONG, 499)) == [False] * 3 + [True]


@pytest.mark.parametrize("protocol", [Kserve(FakeFleet()), OpenAI(lambda: ["m"])])
async def test_a_long_body_is_refused_within_one_turn_of_the_loop(protocol: Kserve | OpenAI) -> None:
    path, begin = TARGETS[type(protocol)]
    turns = await turns_beside(read(protocol, path, begin + b"[" * LONG))
    assert turns <= 1


@pytest.mark.parametrize("protocol", [Kserve(FakeFleet()), OpenAI(lambda: ["m"])])
async def test_while_a_long_one_is_looked_at_others_have_their_turn(protocol: Kserve | OpenAI) -> None:
    path, begin = TARGETS[type(protocol)]
    chain = b"[" * 60 + b"]" * 60 + b","
    turns = await turns_beside(read(protocol, path, begin + b"[" + chain * (2**20 // len(chain)) + b"[" * 64))
    assert turns >= 2**20 // SLICE - 2


TARGETS = {
    Kserve: (b"/v2/models/m/infer", b'{"inputs":'),
    OpenAI: (b"/v1/chat/completions", b'{"model":"m","messages":'),
}


async def turns_beside(reading: Coroutine[Any, Any, Call | Answer]) -> int:
    """How often somebody else had a turn until this was refused."""
    turns = 0

    async def another() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    beside = asyncio.ensure_future(another())
    with pytest.raises(BadCall, match="nested too deeply"):
        await reading
    beside.cancel()
    return turns


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
