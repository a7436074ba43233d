"""Keys that are fetched: once for all who wait, again when they rotate, never because a token wants it."""

import asyncio
import logging

import pytest

from gateway.auth.fetch import MOST_BYTES, NotFetched, fetch
from gateway.auth.jwks import COOL_DOWN_S, FetchedKeys
from gateway.auth.jwt import Issuer, Tokens
from gateway.background import Background
from gateway.clock import FakeClock
from gateway.config.auth import TokenIssuer
from gateway.errors import IssuerDown, Unauthorised
from tests.auth.support import ISSUER, claims, jwks, public, rsa_key, token
from tests.support.upstream import Answerer, Received, upstream

OLD, NEW = jwks(public(rsa_key("a"), kid="a")), jwks(public(rsa_key("b"), kid="b"))


class Desk:
    """An issuer's address, played."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.gate: asyncio.Event | None = None
        self.clock = FakeClock()
        self.background = Background()
        self.keys = FetchedKeys(
            "https://x/", issuer="x", refresh_s=600, fetch=self._fetch, spawn=self.background.spawn,
            clock=self.clock,
        )  # fmt: skip
        known = TokenIssuer(issuer=ISSUER, audience="overspill", jwks_url="https://x/")
        self.tokens = Tokens([Issuer(known, self.keys)], self.clock)

    async def _fetch(self, url: str) -> bytes:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.keys.tend()
        await self.background.close(grace=5)


async def test_all_who_wait_share_one_fetch_and_one_that_leaves_does_not_end_it() -> None:
    desk = Desk(OLD)
    desk.gate = asyncio.Event()
    text = token(claims())
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(desk.tokens.verify(text)) for _ in range(20)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        desk.gate.set()
    assert waiting[0].cancelled()
    assert {task.result().name for task in waiting[1:]} == {"batch-7"}
    assert desk.asked == 1


async def test_a_new_key_is_found_at_once_and_the_old_one_is_gone() -> None:
    desk = Desk(OLD, NEW)
    changes: list[None] = []
    desk.keys.changed = lambda: changes.append(None)
    await desk.tokens.verify(token(claims()))
    desk.clock.advance(COOL_DOWN_S)
    await desk.tokens.verify(token(claims(), rsa_key("b"), kid="b"))
    with pytest.raises(Unauthorised):
        await desk.tokens.verify(token(claims()))
    assert (desk.asked, len(changes)) == (2, 2)


async def test_made_up_ids_cost_one_fetch_in_ten_seconds() -> None:
    desk = Desk(OLD)
    for number in range(500):
        with pytest.raises(Unauthorised):
            await desk.tokens.verify(
                token(claims(), kid=str(number)) if number % 50 == 0 else token(claims(), kid="x")
            )
        desk.clock.advance(0.1)
    assert desk.asked <= 1 + 50 / COOL_DOWN_S


async def test_while_the_issuer_is_down_its_last_keys_stay(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(OLD, NotFetched("answered with status 503"), NotFetched("x"), b"{", NEW)
    await desk.tokens.verify(token(claims()))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await desk.later(600)
            await desk.keys.find("RS256", "a")
            assert (await desk.keys.find("RS256", "a")) is not None
    assert desk.asked == 4
    assert caplog.text.count("the keys of before stay") == 1
    await desk.later(COOL_DOWN_S)
    assert (await desk.keys.find("RS256", "b")) is not None
    assert desk.asked == 5


async def test_without_any_keys_it_is_not_the_clients_fault() -> None:
    desk = Desk(NotFetched("x"))
    for _ in range(3):
        with pytest.raises(IssuerDown) as caught:
            await desk.tokens.verify(token(claims()))
    assert (desk.asked, caught.value.status, caught.value.retry_after) == (1, 503, COOL_DOWN_S)
    await desk.background.close(grace=1)


async def test_keys_are_fetched_ahead_and_again_with_age() -> None:
    desk = Desk(OLD)
    await desk.later(0)
    assert desk.asked == 1
    await desk.later(599)
    assert desk.asked == 1
    await desk.later(1)
    assert desk.asked == 2


def page(status: str, body: bytes, more: bytes = b"") -> Answerer:
    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n".encode()
        writer.write(head + more + b"\r\n" + body)

    return answer


async def fetched(answer: Answerer) -> bytes:
    async with upstream(answer) as server:
        return await fetch(server.url + "/jwks")


async def test_a_fetch_is_bounded_and_follows_nobody() -> None:
    assert await fetched(page("200 OK", OLD)) == OLD
    refused: list[tuple[Answerer, str]] = [
        (page("302 Found", b"", b"location: http://127.0.0.1:1/\r\n"), "status 302"),
        (page("404 Not Found", b"a secret page"), "status 404"),
        (page("200 OK", b"x" * (MOST_BYTES + 1)), "more than 262,144 bytes"),
        (page("200 OK", b"x", b"content-encoding: gzip\r\n"), ""),
    ]
    for answer, says in refused:
        with pytest.raises(NotFetched) as caught:
            await fetched(answer)
        assert says in str(caught.value)
        assert "secret" not in str(caught.value)
    with pytest.raises(NotFetched, match="could not be asked"):
        await fetch("http://127.0.0.1:1/")
