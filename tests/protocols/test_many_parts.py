"""Bodies of very many small parts: reading them makes no object for each of the parts."""

import gc
import sys
from types import FrameType
from typing import Any

import pytest

from backends.sse import EventSplitter, EventTooLong
from gateway.errors import BadCall, Refused
from gateway.protocols.kserve import Kserve
from gateway.protocols.openai import OpenAI
from gateway.vocab import Call
from tests.support.requests import FakeFleet, FakeRequest

INFER, GENERATE = b"/v2/models/m/infer", b"/v2/models/m/generate"


async def steps(target: bytes, body: bytes) -> tuple[Call, int]:
    """The call, and how many functions, of Python and of C, were called to read it."""
    count = 0

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    request = FakeRequest(b"POST", target, body)
    gc.disable()  # what is called at a collection is not the reader's
    sys.setprofile(note)
    try:
        call = await Kserve(FakeFleet()).read(request)
    finally:
        sys.setprofile(None)
        gc.enable()
    assert isinstance(call, Call)
    return call, count


@pytest.mark.parametrize(
    ("target", "form", "part"),
    [
        (INFER, b'{"inputs":["%b"]}', b"\\u005f"),
        (INFER, b'{"inputs":[%b0]}', b"{},"),
        (GENERATE, b'{"text_input":"","max_tokens":[%b0]}', b"[],"),
    ],
)
async def test_ten_times_the_parts_are_no_more_steps(target: bytes, form: bytes, part: bytes) -> None:
    _, few = await steps(target, form % (part * 1000))
    _, many = await steps(target, form % (part * 10_000))
    assert many == few


@pytest.mark.parametrize(
    "key",
    [
        "shared_memory_region",
        "shared\\u005fmemory\\u005Fregion",
        "".join(f"\\u{ord(letter):04x}" for letter in "shared_memory_region"),
        "".join(f"\\u{ord(letter):04X}" for letter in "shared_memory_region"),
    ],
)
async def test_a_key_is_known_however_it_is_spelled(key: str) -> None:
    body = b'{"inputs":[{"name":"x","parameters":{"%b" : "r"}}]}' % key.encode()
    with pytest.raises(Refused):
        await Kserve(FakeFleet()).read(FakeRequest(b"POST", INFER, body))
    text = body.replace(b" : ", b",").replace(b'{"name":"x","parameters":{', b"").replace(b"}}]", b"]")
    assert isinstance(await Kserve(FakeFleet()).read(FakeRequest(b"POST", INFER, text)), Call)


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        (b"7", 7),
        (b" 12 ", 12),
        (b"0", None),
        (b"-3", None),
        (b"1.5", None),
        (b"[7]", None),
        (b"9" * 300, None),
    ],
)
async def test_a_limit_of_tokens_is_a_plain_number(said: bytes, limit: int | None) -> None:
    body = b'{"text_input":"","max_tokens":%b}' % said
    call = await Kserve(FakeFleet()).read(FakeRequest(b"POST", GENERATE, body))
    assert isinstance(call, Call)
    assert call.max_tokens == limit


async def test_a_number_that_no_float_can_hold_is_no_limit_of_tokens() -> None:
    body = b'{"model":"m","max_tokens":%b}' % (b"9" * 400)
    with pytest.raises(BadCall) as refused:
        await OpenAI(lambda: ["m"]).read(FakeRequest(b"POST", b"/v1/completions", body))
    assert refused.value.field == "max_tokens"


def test_an_event_is_bounded_however_it_comes() -> None:
    for pieces in ([b"x" * 300 + b"\n"], [b"x" * 150, b"x" * 150 + b"\n"], [b"data:\n" * 300]):
        splitter = EventSplitter(256)
        with pytest.raises(EventTooLong):
            for piece in pieces:
                splitter.feed(piece)
    assert EventSplitter(256).feed(b"data: a\n\n" * 300) == [b"a"] * 300
