"""Requests that do not go out as usual: answered before they are read, broken off by their client, stale."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from backends.base import Backend
from gateway.errors import BackendError, BadCall, ClientGone, SlowRequest
from gateway.vocab import Call
from tests.conformance.stubs import FIELDS, answer_to, good
from tests.conformance.support import (
    ON_A_SERVER,
    attempted,
    came_of,
    consumed,
    example,
    nothing_owed,
    nothing_runs,
)
from tests.support.errors import told
from tests.support.provider import Received, Wire, a_call_for, providing, until
from tests.support.requests import ArrivingBody

LARGE = 100_000


@asynccontextmanager
async def hasty(status: int) -> AsyncIterator[str]:
    """A server that answers as soon as a head is there, reads nothing more, and closes."""
    open_connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_connections
        open_connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 8\r\nconnection: close\r\n\r\ntoo big!" % status)
        writer.close()
        open_connections -= 1

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await until(lambda: open_connections == 0)
        server.close()
        await server.wait_closed()


def with_body(backend: Backend, body: ArrivingBody) -> Call:
    call = a_call_for(backend)
    call.body = body
    return call


@ON_A_SERVER
@pytest.mark.parametrize("status", [413, 500])
async def test_an_answer_may_come_before_the_request_was_read(kind: type[Backend], status: int) -> None:
    async with hasty(status) as url, example(kind, url) as (backend, background):
        body = ArrivingBody(b'{"x":"' + b"x" * LARGE + b'"}', chunks_of=8192)
        came = await came_of(backend, with_body(backend, body))
        assert came.error is not None or 400 <= came.status < 500
        await background.done()
        nothing_runs(backend)


class Breaking(ArrivingBody):
    """A body whose client goes wrong half way."""

    def __init__(self, error: Exception) -> None:
        super().__init__(b"x" * LARGE, declared=LARGE)
        self._error = error

    async def read(self, limit: int) -> bytes:
        raise self._error

    async def settle(self) -> None:
        raise self._error

    async def prefix(self, size: int) -> bytes:
        raise self._error

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"x" * 10
        raise self._error


@ON_A_SERVER
@pytest.mark.parametrize("error", [ClientGone(), SlowRequest("too slow")])
async def test_a_clients_fault_is_never_the_backends(kind: type[Backend], error: Exception) -> None:
    whole: list[Received] = []

    async def keep(request: Received, wire: Wire) -> None:
        whole.append(request)
        await good(request, wire)

    async with providing(keep) as provider:
        async with example(kind, provider.url) as (backend, background):
            with pytest.raises((BadCall, ClientGone)) as caught:
                await consumed(backend, with_body(backend, Breaking(error)))
            assert told(caught.value) == told(error)
            await background.done()
            nothing_runs(backend)
            nothing_owed(backend)
            assert not any(b"xxx" in request.body for request in whole), "half a request looked complete"
        await until(lambda: provider.connections == 0)


@ON_A_SERVER
async def test_a_connection_that_went_away_while_idle_is_not_the_calls_problem(kind: type[Backend]) -> None:
    """The server closes its kept-alive connections; by the next call that is known here."""

    async def once(request: Received, wire: Wire) -> None:
        await good(request, wire)
        await wire.close()

    async with providing(once) as provider:
        async with example(kind, provider.url) as (backend, background):
            fine = await came_of(backend)
            for _ in range(3):
                await until(lambda: provider.connections == 0)
                await asyncio.sleep(0.005)
                after = await came_of(backend)
                assert after.same_as(fine), after
            await background.done()
            nothing_runs(backend)


@ON_A_SERVER
async def test_it_keeps_no_more_connections_than_it_needs(kind: type[Backend]) -> None:
    most = 0

    async def count(request: Received, wire: Wire) -> None:
        nonlocal most
        most = max(most, provider.connections)
        await wire.answer(200, answer_to(request), FIELDS)

    async with providing(count) as provider:
        async with example(kind, provider.url) as (backend, background):
            for _ in range(12):
                await came_of(backend)
            await background.done()
            assert most <= 2, "one call after the other takes one connection, or two with its token's"
            assert backend.options.max_in_flight > 2
        await until(lambda: provider.connections == 0)


@ON_A_SERVER
async def test_what_a_call_that_never_began_cost_is_nothing(kind: type[Backend]) -> None:
    """Refused, full or unreachable: neither its time nor an instance's idling is owed."""

    async def full(request: Received, wire: Wire) -> None:
        await wire.answer(429, b"full")

    async with providing(full) as provider:
        async with example(kind, provider.url) as (backend, background):
            for _ in range(3):
                came = await attempted(backend)
                if not isinstance(came, BackendError):
                    pytest.skip("a 429 of this server is the application's own: it ran")
                assert came.usage is None
            await background.done()
            nothing_runs(backend)
            nothing_owed(backend)
