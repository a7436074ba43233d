"""A replica's answer without a socket: bytes go to the warm path's own connection class."""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from backends.http1 import MOST_KNOWN, KnownHead, UpstreamConnection
from gateway.cork import Cork
from gateway.errors import BackendError
from gateway.kept_fields import HeadTable
from gateway.vocab import Headers, Poured, Reply
from loadtests.fuzz.memory_wire import MemoryTransport


class Taken(NamedTuple):
    """What was made of it. `error` is the word of an error; then the rest may be incomplete."""

    status: int
    headers: Headers
    body: bytes
    error: str


class MemoryReplica:
    """Reads answers, each on a connection of its own; heads that came before are known, as in life."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.known = HeadTable[KnownHead](MOST_KNOWN)

    def take(self, pieces: Iterable[bytes], *, is_head: bool = False) -> Taken:
        """Feed the pieces, then close. Raises whatever is no BackendError."""
        return self.loop.run_until_complete(self._take(pieces, is_head))

    def pour(self, pieces: Iterable[bytes], *, is_head: bool = False) -> Taken:
        """The same, and what follows the head is handed over as the pieces come (`vocab.Poured`)."""
        return self.loop.run_until_complete(self._pour(pieces, is_head))

    def close(self) -> None:
        """Give the loop back."""
        self.loop.close()

    def _asked(self, is_head: bool) -> tuple[UpstreamConnection, MemoryTransport]:
        transport = MemoryTransport()
        connection = UpstreamConnection(self.loop, self.known, Cork(at_once=True))
        connection.connection_made(transport)
        connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", is_head=is_head)
        return connection, transport

    async def _take(self, pieces: Iterable[bytes], is_head: bool) -> Taken:
        connection, transport = self._asked(is_head)
        for piece in pieces:
            if transport.closing:
                break
            connection.data_received(piece)
        connection.connection_lost(None)
        status, headers, body = 0, [], b""
        try:
            while (reply := connection.reply()) is None:
                await connection.news()
            status, headers = reply.status, reply.headers
            if reply.body is not None:
                body = reply.body
            else:
                assert reply.stream is not None
                async for part in reply.stream:
                    body += part
        except BackendError as error:
            return Taken(status, headers, body, error.word)
        if reply.length is not None and not is_head and status not in {204, 304}:
            assert len(body) == reply.length, "an answer that is not as long as it says was taken for whole"
        return Taken(status, headers, body, "")

    async def _pour(self, pieces: Iterable[bytes], is_head: bool) -> Taken:
        connection, transport = self._asked(is_head)
        glass = _Glass()
        reading = self.loop.create_task(_read(connection, glass))
        for piece in pieces:
            await asyncio.sleep(0)
            if transport.closing:
                break
            connection.data_received(piece)
        connection.connection_lost(None)
        try:
            reply = await reading
        except BackendError as error:
            return Taken(glass.status, glass.headers, bytes(glass.got), error.word)
        body = reply.body if reply.body is not None else bytes(glass.got)
        return Taken(reply.status, reply.headers, body, "")


class _Glass:
    """Is full after every third part."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Headers = []
        self.got = bytearray()
        self._parts = 0

    def take(self, data: bytes) -> bool:
        assert data, "a part without a byte"
        self.got += data
        self._parts += 1
        return self._parts % 3 != 0


async def _read(connection: UpstreamConnection, glass: _Glass) -> Reply:
    while (reply := connection.reply()) is None:
        await connection.news()
    glass.status, glass.headers = reply.status, reply.headers
    if reply.stream is not None:
        assert isinstance(reply.stream, Poured)
        while not await reply.stream.pour(glass.take):
            pass
    return reply
