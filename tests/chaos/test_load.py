"""The load sees what went wrong: each way in which an answer can be bad is played by a server that does just that."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import pytest

from gateway.clock import SystemClock
from loadtests.chaos import load as load_module
from loadtests.chaos.load import Asked, Load
from loadtests.chaos.work import answer_to

Play = Callable[[asyncio.StreamWriter, str, bytes], None]


def whole(name: str, body: bytes, status: str = "200 OK") -> bytes:
    head = f"HTTP/1.1 {status}\r\nx-request-id: {name}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@asynccontextmanager
async def playing(play: Play) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"content-length: (\d+)", head)
                assert length is not None
                body = await reader.readexactly(int(length[1]))
                play(writer, json.loads(body)["id"], body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def driven(play: Play, *, requests: int = 5) -> Load:
    async with playing(play) as port:
        load = Load("t", port, rate=200.0, chance=Random(3), clock=SystemClock())
        running = asyncio.ensure_future(load.run())
        while len(load.asked) < requests:
            await asyncio.sleep(0.005)
        load.stop()
        await running
    return load


def right(writer: asyncio.StreamWriter, name: str, body: bytes) -> None:
    writer.write(whole(name, answer_to(body)))


async def test_right_answers_are_right() -> None:
    load = await driven(right)
    assert load.asked
    assert all(each.right and not each.wrong for each in load.asked)
    assert not load.strays


async def test_one_other_byte_is_wrong() -> None:
    def play(writer: asyncio.StreamWriter, name: str, body: bytes) -> None:
        writer.write(whole(name, answer_to(body)[:-1] + b" "))

    load = await driven(play)
    assert all(each.wrong and not each.right for each in load.asked)


async def test_somebody_elses_answer_is_wrong_even_where_it_is_an_error() -> None:
    def play(writer: asyncio.StreamWriter, name: str, body: bytes) -> None:
        writer.write(whole("another", b"{}", "503 Service Unavailable"))

    load = await driven(play)
    assert all(each.wrong for each in load.asked)


async def test_an_error_of_its_own_is_neither_right_nor_wrong() -> None:
    def play(writer: asyncio.StreamWriter, name: str, body: bytes) -> None:
        writer.write(whole(name, b"{}", "503 Service Unavailable"))

    load = await driven(play)
    assert all(each.ending == "answered" and not each.right and not each.wrong for each in load.asked)


async def test_an_answer_that_comes_twice_is_seen() -> None:
    def play(writer: asyncio.StreamWriter, name: str, body: bytes) -> None:
        writer.write(whole(name, answer_to(body)) + whole(name, answer_to(body)))

    load = await driven(play)
    assert load.strays


async def test_an_answer_that_comes_again_later_is_seen() -> None:
    def play(writer: asyncio.StreamWriter, name: str, body: bytes) -> None:
        right(writer, name, body)
        asyncio.get_running_loop().call_later(0.03, right, writer, name, body)

    assert (await driven(play, requests=1)).strays


async def test_a_connection_that_is_closed_without_an_answer_is_a_loss() -> None:
    load = await driven(lambda writer, name, body: writer.close())
    assert {each.ending for each in load.asked} == {"lost"}


async def test_an_answer_that_breaks_off_is_cut_and_never_right() -> None:
    def play(writer: asyncio.StreamWriter, name: str, body: bytes) -> None:
        writer.write(whole(name, answer_to(body))[:-5])
        writer.close()

    load = await driven(play)
    assert all(each.ending == "cut" and not each.right for each in load.asked)


async def test_silence_is_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "PATIENCE_S", 0.1)
    load = await driven(lambda writer, name, body: None)
    assert {(each.ending, each.why) for each in load.asked} == {("lost", "silence")}


async def test_where_nobody_listens_nothing_is_lost() -> None:
    async with playing(right) as port:
        pass
    load = Load("t", port, rate=200.0, chance=Random(3), clock=SystemClock())
    running = asyncio.ensure_future(load.run())
    while not load.asked:
        await asyncio.sleep(0.005)
    load.stop()
    await running
    assert {each.ending for each in load.asked} == {"unreached"}


async def test_equal_seeds_ask_the_same() -> None:
    first, second = await driven(right), await driven(right)

    def bodies(asked: list[Asked]) -> list[bytes]:
        return [each.body for each in asked[:5]]

    assert bodies(first.asked) == bodies(second.asked)
