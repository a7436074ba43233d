"""The shared HTTP client against a server that misbehaves: bytes untouched, every failure in our words."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backends.client import HttpClient, join_url
from gateway.errors import AnswerTruncated, BackendBroke, BackendDenied, BackendDown, SlowRequest
from tests.support.provider import Behaviour, Provider, Received, Wire, providing, refusing_url, until


@asynccontextmanager
async def client_of(behaviour: Behaviour) -> AsyncIterator[tuple[HttpClient, Provider]]:
    async with providing(behaviour) as provider:
        client = HttpClient("burst", max_in_flight=2)
        try:
            yield client, provider
        finally:
            await client.close()


async def echo(request: Received, wire: Wire) -> None:
    await wire.answer(200, request.body, {"x-method": request.method, "set-cookie": "a=1"})


async def test_bytes_pass_both_ways() -> None:
    body = bytes(range(256)) * 1200  # more than one piece
    async with client_of(echo) as (client, provider):
        answer = await client.exchange("POST", provider.url + "/a", headers=[(b"x-a", b"1")], body=body)
    assert (answer.status, answer.body) == (200, body)
    assert (b"x-method", b"POST") in answer.headers
    request = provider.seen[0]
    assert request.fields["content-length"] == str(len(body))
    assert "transfer-encoding" not in request.fields
    assert request.fields["x-a"] == "1"


async def test_only_what_is_needed_is_added_to_a_request() -> None:
    async with client_of(echo) as (client, provider):
        headers = [(b"accept-encoding", b"gzip"), (b"host", b"elsewhere"), (b"expect", b"100-continue")]
        await client.exchange("POST", provider.url, headers=headers, body=b"x")
        await client.exchange("GET", provider.url, headers=[])
    host = provider.url.removeprefix("http://")
    assert provider.seen[0].fields == {"host": host, "accept-encoding": "identity", "content-length": "1"}
    # No cookie either, although the first answer set one.
    assert provider.seen[1].fields == {"host": host, "accept-encoding": "identity"}


@pytest.mark.parametrize("target", ["/a%2Fb/../c?x=%20&y=a+b", "/a?b=1?c", "/:a@b/*"])
async def test_a_target_is_sent_as_it_is(target: str) -> None:
    async with client_of(echo) as (client, provider):
        await client.exchange("GET", join_url(provider.url, target.encode()), headers=[])
    assert provider.seen[0].target == target


async def test_a_compressed_answer_is_not_opened() -> None:
    async def gzipped(request: Received, wire: Wire) -> None:
        await wire.answer(200, b"\x1f\x8bnot really", {"content-encoding": "gzip"})

    async with client_of(gzipped) as (client, provider):
        assert (await client.exchange("GET", provider.url, headers=[])).body == b"\x1f\x8bnot really"


async def test_a_redirect_is_an_answer() -> None:
    async def redirect(request: Received, wire: Wire) -> None:
        await wire.answer(302, b"", {"location": "/elsewhere"})

    async with client_of(redirect) as (client, provider):
        assert (await client.exchange("GET", provider.url, headers=[])).status == 302
    assert len(provider.seen) == 1


async def test_a_connection_is_used_again_after_a_whole_answer() -> None:
    async with client_of(echo) as (client, provider):
        for _ in range(3):
            await client.exchange("POST", provider.url, headers=[], body=b"x")
        assert provider.connections == 1
        assert client.in_use == 0


async def test_refused_means_that_nothing_was_sent() -> None:
    client = HttpClient("burst", max_in_flight=1)
    with pytest.raises(BackendDown, match="cannot connect to 127"):
        await client.exchange("POST", await refusing_url(), headers=[], body=b"x")
    assert client.in_use == 0
    await client.close()


async def test_a_broken_connection_may_have_done_the_work() -> None:
    async def reset(request: Received, wire: Wire) -> None:
        await wire.reset()

    async with client_of(reset) as (client, provider):
        with pytest.raises(BackendBroke, match="the connection broke"):
            await client.exchange("POST", provider.url, headers=[], body=b"x")


@pytest.mark.parametrize("head", [b"NOT HTTP\r\n\r\n", b"HTTP/1.1 200 X\r\nbad field\r\n\r\n"])
async def test_an_answer_that_is_not_http_is_broken(head: bytes) -> None:
    async def garbage(request: Received, wire: Wire) -> None:
        await wire.write(head)
        await wire.hang()

    async with client_of(garbage) as (client, provider):
        with pytest.raises(BackendBroke):
            await client.exchange("POST", provider.url, headers=[], body=b"x")


async def cut(request: Received, wire: Wire) -> None:
    await wire.head(200, {"content-length": "100"})
    await wire.write(b"half")
    await wire.reset()


async def test_an_answer_that_breaks_off_while_it_is_read_whole_is_broken() -> None:
    async with client_of(cut) as (client, provider):
        with pytest.raises(BackendBroke, match="broke off"):
            await client.exchange("GET", provider.url, headers=[])


async def test_an_answer_that_breaks_off_while_it_streams_is_truncated() -> None:
    got = b""
    async with client_of(cut) as (client, provider):
        with pytest.raises(AnswerTruncated):
            async with client.open("GET", provider.url, headers=[]) as exchange:
                async for chunk in exchange.chunks():
                    got += chunk
        assert client.in_use == 0
    assert got in (b"half", b"")


async def test_an_answer_over_the_limit_is_not_kept() -> None:
    async with client_of(echo) as (client, provider):
        with pytest.raises(BackendBroke, match="over 10 bytes"):
            await client.exchange("POST", provider.url, headers=[], body=b"x" * 11, limit=10)


async def test_leaving_early_closes_the_connection() -> None:
    async def endless(request: Received, wire: Wire) -> None:
        await wire.head(200, {"transfer-encoding": "chunked"})
        await wire.write(b"1\r\nx\r\n")
        await wire.hang()

    async with client_of(endless) as (client, provider):
        async with client.open("GET", provider.url, headers=[]) as exchange:
            assert await anext(exchange.chunks()) == b"x"
        await until(lambda: provider.connections == 0)
        assert client.in_use == 0


async def test_being_cancelled_closes_the_connection() -> None:
    async def silent(request: Received, wire: Wire) -> None:
        await wire.hang()

    async with client_of(silent) as (client, provider):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.exchange("POST", provider.url, headers=[], body=b"x")
        await until(lambda: provider.connections == 0)
        assert client.in_use == 0


async def test_an_upload_streams_with_or_without_a_length() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async with client_of(echo) as (client, provider):
        for length in (6, None):
            async with client.open(
                "POST", provider.url, headers=[], body=pieces(), length=length
            ) as exchange:
                assert await exchange.read(100) == b"onetwo"
    assert provider.seen[0].fields["content-length"] == "6"
    assert provider.seen[1].fields["transfer-encoding"] == "chunked"


async def test_a_fault_of_the_uploads_source_is_not_blamed_on_the_backend() -> None:
    async def stalls() -> AsyncIterator[bytes]:
        yield b"one"
        raise SlowRequest("the body did not arrive")

    async with client_of(echo) as (client, provider):
        with pytest.raises(SlowRequest):
            async with client.open("POST", provider.url, headers=[], body=stalls(), length=6):
                pass
        assert client.in_use == 0


async def test_a_field_that_would_split_the_request_is_not_sent() -> None:
    async with client_of(echo) as (client, provider):
        with pytest.raises(BackendDenied) as caught:
            await client.exchange("GET", provider.url, headers=[(b"x-key", b"secret\r\nx: y")])
    assert "secret" not in str(caught.value)
    assert provider.seen == []


async def test_reading_slowly_pauses_the_sender() -> None:
    """A sender of 64 MiB must be stopped by a reader that takes nothing, not buffered for it."""
    sent = 0

    async def flood(request: Received, wire: Wire) -> None:
        nonlocal sent
        await wire.head(200, {"content-length": str(64 * 2**20)})
        for _ in range(1024):
            await wire.write(bytes(64 * 1024))
            sent += 64 * 1024

    async with client_of(flood) as (client, provider):
        async with client.open("GET", provider.url, headers=[]) as exchange:
            await until(lambda: sent > 0)
            before = -1
            while sent != before:  # until it stands still
                before = sent
                await asyncio.sleep(0.1)
            assert sent < 32 * 2**20
            size = 0
            async for chunk in exchange.chunks():
                size += len(chunk)
    assert size == 64 * 2**20


def test_what_a_gateway_without_lambda_pays_no_memory_for() -> None:
    code = "import sys, backends; print([m for m in ('botocore', 'runpod', 'modal', 'numpy') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert output == b"[]\n"
