"""What reading a small request may cost, counted in calls of Python functions, which no load can blur."""

import sys
from collections.abc import Generator
from types import FrameType
from typing import Any

import pytest

from gateway.protocols.base import Answer, Protocols
from gateway.protocols.kserve import Kserve
from gateway.protocols.openai import OpenAI
from gateway.protocols.raw import Raw
from gateway.vocab import Call, Headers
from tests.support.requests import FakeFleet, FakeRequest

HEADERS: Headers = [
    (b"host", b"gateway:8000"), (b"user-agent", b"x"), (b"accept", b"*/*"), (b"accept-encoding", b"gzip"),
    (b"connection", b"keep-alive"), (b"content-type", b"application/json"), (b"content-length", b"150"),
]  # fmt: skip


def calls_to_read(protocols: Protocols, request: FakeRequest) -> list[str]:
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)

    reading: Generator[Any, None, Call | Answer] | None = None
    sys.setprofile(note)
    try:
        reading = protocols.read(request).__await__()
        next(reading)
    except StopIteration:
        return called
    finally:
        sys.setprofile(None)
    raise AssertionError("reading a body that is here must not wait")


@pytest.mark.parametrize(
    ("method", "target", "body", "most"),
    [
        (b"POST", b"/v2/models/minilm/infer", b'{"inputs":[{"name":"x","data":[1]}]}', 7),
        (b"POST", b"/v1/chat/completions", b'{"model":"m","messages":[]}', 8),
        (b"POST", b"/invoke/r/x", b"", 6),
    ],
)
def test_a_small_request_is_read_in_a_handful_of_calls(
    method: bytes, target: bytes, body: bytes, most: int
) -> None:
    raw = Raw()
    protocols = Protocols([Kserve(FakeFleet()), OpenAI(lambda: ["m"]), raw], fallback=raw)
    first = calls_to_read(protocols, FakeRequest(method, target, body, HEADERS))
    again = calls_to_read(protocols, FakeRequest(method, target, body, HEADERS))
    assert "parse_target" in first
    assert "parse_target" not in again
    assert "__missing__" not in again
    assert len(again) <= most, again
