"""What the played servers of the bench have in common: HTTP/1.1 on one port, healthy, nothing to configure.

A request is answered only when all of it has come, as a model server does. Knows no workload and no gateway.
"""

import asyncio
import json
from collections.abc import Callable
from typing import cast

import httptools

from loadtests.bench.workload import ABOUT


class PlayedConnection(asyncio.Protocol):
    """One client; one request at a time. `answered` is for those who have something to say to this path."""

    keeps_body = True

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []
        self._path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def answered(self, path: str, body: bytes) -> bool:
        """Answer it, or return False: then it is answered like a healthy server's probe."""
        return False

    def write_whole(self, answer: bytes, fields: bytes = b"content-type: application/json\r\n") -> None:
        """A whole answer."""
        head = b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n" % (fields, len(answer))
        self._transport.write(head + answer)

    # what the parser calls

    def on_url(self, url: bytes) -> None:
        self._path = url
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        if self.keeps_body:
            self._body.append(body)

    def on_message_complete(self) -> None:
        path = self._path.partition(b"?")[0].decode("ascii")
        if not self.answered(path, b"".join(self._body)):
            self.write_whole(json.dumps(ABOUT.get(path, {})).encode())


async def serve(port: int, connection: Callable[[], PlayedConnection]) -> None:
    """Until the process is ended."""
    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()
