"""Step 1: the body of a request that offers another protocol (`Upgrade`) and is answered in this one.

llhttp ends such a message with its head and takes what follows for the other protocol. A server may
ignore the offer (RFC 9110, 7.8), and then the body is a body as ever; clients do send one with
`Upgrade: h2c`. Knows nothing of sockets or exchanges.
"""

from collections.abc import Callable
from typing import Any

import httptools


class RestOfMessage:
    """What a parser calls that reads one body and nothing behind it."""

    def __init__(self, body: Callable[[bytes], None], complete: Callable[[], None]) -> None:
        self._body = body
        self._complete = complete
        self._over = False

    def on_body(self, data: bytes) -> None:
        """Body bytes, decoded from chunks."""
        if not self._over:
            self._body(data)

    def on_message_complete(self) -> None:
        """The last byte of the body: what follows is not read, for the connection closes."""
        if not self._over:
            self._over = True
            self._complete()


def rest_of_message(length: int | None, body: Callable[[bytes], None], complete: Callable[[], None]) -> Any:
    """A parser that stands behind a head with this framing; `length` None: chunked."""
    parser = httptools.HttpRequestParser(RestOfMessage(body, complete))
    framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
    parser.feed_data(b"POST / HTTP/1.1\r\nconnection: close\r\n%b\r\n\r\n" % framing)
    return parser
