"""A stream has begun with its first output: what fails before that may still be answered from elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.app import Gateway
from gateway.preamble import MOST_BYTES, Kind, Preamble, kind_of
from gateway.relay import Relay
from gateway.vocab import Outcome
from tests.support.gateways import port_of, running
from tests.support.upstream import Received, upstream
from tests.support.wire import Peer

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
CREATED = b'event: response.created\ndata: {"type":"response.created","response":{"id":"r"}}\n\n'
COMMENT = b": ping\n\n"
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
DONE = b"data: [DONE]\n\n"
BROKE = b'data: {"error":{"message":"it broke","type":"server_error","code":500}}\n\n'
QUOTA = b'data: {"error":{"message":"no more","type":"insufficient_quota","code":"rate_limit_exceeded"}}\n\n'
WRONG = b'data: {"error":{"message":"too long","type":"invalid_request_error","code":400}}\n\n'
FAILED = b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"code":"server_error"}}}\n\n'
TRITON = b'data: {"error":"the model failed"}\n\n'
GOOD = (ROLE, WORD, DONE)

TWO = """
retry_budget: {{share: 20%, floor_per_second: {floor}}}
backends:
  first: {{type: triton, replicas: ["{first}"], max_in_flight: 2, probe_every: 50ms}}
  second: {{type: triton, replicas: ["{second}"], max_in_flight: 2, probe_every: 50ms}}
routes:
  chat:
    match: {{model: m}}
    policy: spill_when_full
    stall_timeout: {stall}
    idempotent: {idempotent}
    tiers: [{{backend: first, when_full: spill}}, {{backend: second, when_full: shed}}]
"""


class Server:
    """Streams these parts one by one, and then ends well, hangs up (`cut`) or falls silent (`hang`)."""

    def __init__(self, *parts: bytes, then: str = "end") -> None:
        self.parts, self.then, self.asked = parts, then, 0

    async def __call__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        if b"/ready" in request.line:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            return
        self.asked += 1
        writer.write(HEAD)
        for part in self.parts:
            await writer.drain()
            await asyncio.sleep(0.01)  # each a read of its own at the other end
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        if self.then == "end":
            writer.write(b"0\r\n\r\n")
        elif self.then == "cut":
            await writer.drain()
            writer.close()
        else:
            await asyncio.Event().wait()


@asynccontextmanager
async def between(
    first: Server, second: Server, *, idempotent: bool = True, stall: str = "200ms", floor: int = 10
) -> AsyncIterator[Gateway]:
    async with upstream(first) as one, upstream(second) as two:
        text = TWO.format(
            first=one.url, second=two.url, stall=stall, idempotent=str(idempotent).lower(), floor=floor
        )
        async with running(text) as gateway:
            yield gateway


async def chat(gateway: Gateway) -> Peer:
    peer = await Peer.connect(port_of(gateway))
    body = b'{"model":"m","stream":true,"messages":[]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    peer.send(head % len(body) + body)
    return peer


@pytest.mark.parametrize("opening", [(ROLE,), (CREATED,), (COMMENT,), (COMMENT, CREATED, ROLE), ()])
@pytest.mark.parametrize("error", [BROKE, QUOTA, FAILED, TRITON])
async def test_an_error_right_after_the_preamble_falls_over_and_the_client_sees_only_the_answer(
    opening: tuple[bytes, ...], error: bytes
) -> None:
    first, second = Server(*opening, error), Server(*GOOD)
    async with between(first, second) as gateway:
        status, fields, body = await (await chat(gateway)).answer()
        assert (status, body) == (200, b"".join(GOOD))
        assert fields[b"x-overspill-backend"] == b"second"
        assert (first.asked, second.asked) == (1, 1)
        (record,) = gateway.ledger.ended
        assert (record.outcome, record.attempts, record.status) == (Outcome.OK, 2, 200)


@pytest.mark.parametrize("then", ["cut", "hang"])
async def test_a_stream_that_dies_after_its_preamble_falls_over(then: str) -> None:
    first, second = Server(ROLE, then=then), Server(*GOOD)
    async with between(first, second) as gateway:
        assert (await (await chat(gateway)).answer())[2] == b"".join(GOOD)
        assert (first.asked, second.asked) == (1, 1)


@pytest.mark.parametrize("then", ["cut", "hang"])
async def test_after_the_first_output_there_is_no_second_attempt(then: str) -> None:
    first, second = Server(ROLE, WORD, then=then), Server(*GOOD)
    async with between(first, second) as gateway:
        answer = await (await chat(gateway)).rest()
        assert ROLE in answer
        assert WORD in answer
        assert b'data: {"error":' in answer
        assert not answer.endswith(b"0\r\n\r\n")
        assert b"[DONE]" not in answer
        assert second.asked == 0
        (record,) = gateway.ledger.ended
        assert record.outcome is Outcome.TRUNCATED


async def test_an_error_that_blames_the_request_is_its_answer() -> None:
    first, second = Server(ROLE, WRONG), Server(*GOOD)
    async with between(first, second) as gateway:
        assert (await (await chat(gateway)).answer())[2] == ROLE + WRONG
        assert second.asked == 0


async def test_a_call_that_must_run_once_is_not_tried_again_and_the_client_gets_the_servers_own_words() -> (
    None
):
    first, second = Server(ROLE, BROKE), Server(*GOOD)
    async with between(first, second, idempotent=False) as gateway:
        status, _, body = await (await chat(gateway)).answer()
        assert (status, body) == (200, ROLE + BROKE)
        assert second.asked == 0
        (record,) = gateway.ledger.ended
        assert record.outcome is Outcome.BACKEND_ERROR


async def test_falling_over_takes_a_token_of_the_retry_budget() -> None:
    first, second = Server(ROLE, BROKE), Server(*GOOD)
    async with between(first, second, floor=0) as gateway:
        answers = [(await (await chat(gateway)).answer())[2] for _ in range(4)]
        assert answers == [ROLE + BROKE] * 4  # a fifth of four calls is no token yet
        assert second.asked == 0


async def test_a_pushback_inside_a_stream_trips_no_breaker() -> None:
    first, second = Server(ROLE, QUOTA), Server(*GOOD)
    async with between(first, second) as gateway:
        for _ in range(8):
            assert (await (await chat(gateway)).answer())[0] == 200
        assert first.asked == 8


async def test_a_stream_that_is_nothing_but_a_preamble_is_passed_on_whole() -> None:
    first, second = Server(COMMENT, ROLE), Server(*GOOD)
    async with between(first, second) as gateway:
        assert (await (await chat(gateway)).answer())[2] == COMMENT + ROLE
        assert second.asked == 0


async def test_a_preamble_is_not_held_for_long() -> None:
    first, second = Server(COMMENT, then="hang"), Server(*GOOD)
    async with between(first, second, stall="400ms") as gateway:
        gateway.pipeline._relay = Relay(clock=gateway.clock, hold_s=0.05)
        answer = await (await chat(gateway)).rest()
        assert COMMENT in answer
        assert b'data: {"error":' in answer
        assert second.asked == 0


async def test_a_head_without_any_event_is_not_held_for_long_either() -> None:
    first, second = Server(then="hang"), Server(*GOOD)
    async with between(first, second, stall="400ms") as gateway:
        gateway.pipeline._relay = Relay(clock=gateway.clock, hold_s=0.05)
        peer = await chat(gateway)
        assert b"200 OK" in await peer.head()
        assert b'data: {"error":' in await peer.rest()


@given(st.data())
def test_the_preamble_ends_at_the_same_byte_however_it_is_cut(data: st.DataObject) -> None:
    end = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    events = data.draw(
        st.lists(st.sampled_from([ROLE, CREATED, COMMENT, WORD, BROKE, WRONG, DONE]), max_size=6)
    )
    text = b"".join(events).replace(b"\n", end)
    whole = Preamble(events=True)
    begun = whole.take(text)
    pieces, cuts = Preamble(events=True), sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
        if pieces.take(text[start:stop]):
            break
    else:
        assert pieces.held == text
    assert begun == (pieces.kind is not Kind.OPENING)
    assert whole.kind is pieces.kind
    assert text.startswith(pieces.held)


def test_a_preamble_without_end_is_cut_short_by_its_size() -> None:
    preamble = Preamble(events=True)
    rounds = 0
    while not preamble.take(COMMENT * 100):
        rounds += 1
    assert len(preamble.held) <= MOST_BYTES + 100 * len(COMMENT)
    assert rounds > 10


def test_what_is_not_events_begins_with_its_first_byte() -> None:
    preamble = Preamble(events=False)
    assert not preamble.take(b"")
    assert preamble.take(b"{")


@pytest.mark.parametrize(
    ("name", "said", "kind"),
    [
        ("", "", Kind.OPENING),
        ("", "[DONE]", Kind.OUTPUT),
        ("", "plain text", Kind.OUTPUT),
        ("", "1", Kind.OUTPUT),
        ("", {"text_output": ""}, Kind.OUTPUT),
        ("ping", {"type": "ping"}, Kind.OPENING),
        ("message_start", {"type": "message_start", "message": {}}, Kind.OPENING),
        ("", {"choices": []}, Kind.OPENING),
        ("", {"choices": [{"text": ""}]}, Kind.OPENING),
        ("", {"choices": [{"text": "", "finish_reason": "stop"}]}, Kind.OUTPUT),
        ("", {"choices": [{"delta": {"tool_calls": [{"id": "c"}]}}]}, Kind.OUTPUT),
        ("", {"choices": [{"delta": {"role": "assistant"}}, {"delta": {"content": "x"}}]}, Kind.OUTPUT),
        ("error", "not json", Kind.ERROR),
        ("error", {"message": "?"}, Kind.ERROR),
        ("", {"error": {"code": 429}}, Kind.FULL),
        ("", {"error": {"type": "overloaded_error"}}, Kind.FULL),
        ("", {"error": {"status": 503}}, Kind.BROKE),
        ("", {"error": {"code": "context_length_exceeded"}}, Kind.OUTPUT),
        ("", {"error": None, "text_output": "x"}, Kind.OUTPUT),
        ("", "[" * 100_000, Kind.OUTPUT),
    ],
)
def test_what_an_event_is_for(name: str, said: object, kind: Kind) -> None:
    data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
    assert kind_of(name, data) is kind
