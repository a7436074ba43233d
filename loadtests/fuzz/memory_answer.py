"""A replica's answer without a socket: bytes go to the warm path's own connection class."""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from backends.http1 import MOST_KNOWN, KnownHead, UpstreamConnection
from gateway.cork import Cork
from gateway.errors import BackendError
from gateway.kept_fields import HeadTable
from gateway.vocab import Headers, Reply
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

    def close(self) -> None:
        """Give the loop back."""
        self.loop.close()

    async def _take(self, pieces: Iterable[bytes], is_head: bool) -> Taken:
        transport = MemoryTransport()
        connection = UpstreamConnection(self.loop, self.known, Cork(at_once=True))
        connection.connection_made(transport)
        connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", is_head=is_head)
        for piece in pieces:
            if transport.closing:
                break
            connection.data_received(piece)
        connection.connection_lost(None)
        status, headers, body = 0, [], b""
        try:
            reply: Reply = await connection.reply()
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
