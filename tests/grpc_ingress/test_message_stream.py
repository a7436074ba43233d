"""The body of a stream: every message once to each reader, nothing kept that is of no use."""

import asyncio

import pytest

from gateway.errors import BadCall, NotOffered
from gateway.message_stream import MessageStream


async def taken(stream: MessageStream, count: int) -> list[bytes]:
    messages = stream.chunks()
    return [await anext(messages) for _ in range(count)]


async def test_a_second_reader_begins_anew_while_everything_is_here() -> None:
    stream = MessageStream(b"a", buffer=100)
    await stream.feed(b"b")
    assert await taken(stream, 2) == [b"a", b"b"]
    assert stream.repeatable
    await stream.feed(b"c")
    stream.finish()
    assert [message async for message in stream.chunks()] == [b"a", b"b", b"c"]
    assert stream.length == 3


async def test_beyond_the_buffer_what_was_taken_is_forgotten() -> None:
    stream = MessageStream(b"a" * 6, buffer=10)
    messages = stream.chunks()
    assert await anext(messages) == b"a" * 6
    await stream.feed(b"b" * 6)
    assert not stream.repeatable
    stream.finish()
    assert [message async for message in messages] == [b"b" * 6]


async def test_once_the_answer_began_nothing_is_kept() -> None:
    stream = MessageStream(b"a", buffer=10)
    messages = stream.chunks()
    await anext(messages)
    stream.commit()
    assert not stream.repeatable
    await stream.feed(b"b")
    stream.finish()
    assert [message async for message in messages] == [b"b"]


async def test_a_client_that_sends_more_than_is_taken_has_to_wait() -> None:
    stream = MessageStream(b"a" * 8, buffer=10)
    feeding = asyncio.ensure_future(stream.feed(b"b" * 8))
    messages = stream.chunks()
    await asyncio.sleep(0)
    assert not feeding.done()
    assert [await anext(messages), await anext(messages)] == [b"a" * 8, b"b" * 8]
    await feeding


async def test_a_reader_learns_why_no_more_can_come() -> None:
    stream = MessageStream(b"a", buffer=10)
    stream.fail(BadCall("wrong"))
    messages = stream.chunks()
    assert await anext(messages) == b"a"
    with pytest.raises(BadCall, match="wrong"):
        await anext(messages)


async def test_it_is_never_one_message() -> None:
    stream = MessageStream(b"abc", buffer=10)
    assert stream.whole() is None
    assert stream.length is None
    assert await stream.prefix(2) == b"ab"
    with pytest.raises(NotOffered):
        await stream.read(100)
