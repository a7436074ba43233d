"""A conversation that notes what is answered on it, up to a size, and tells the client whether it was kept.

Passes everything on as it is: it never changes an answer and never holds one up. Knows no key.
"""

from gateway.exchange import Conversation
from gateway.idempotency.store import Kept
from gateway.vocab import Headers

KEPT = b"idempotency-kept"
"""Field that says whether the answer can be had again: `true`, `false`, or `below=N`, if it has not more than
so many bytes in the end."""


class Capture:
    """One conversation. `most`: bytes of a body that are kept."""

    def __init__(self, exchange: Conversation, most: int) -> None:
        self._exchange = exchange
        self._most = most
        self._status = 0
        self._headers: Headers = []
        self._parts: list[bytes] | None = []
        self._size = 0
        self.complete = False

    def kept(self) -> Kept | None:
        """The answer, once it is complete; None where it was too large."""
        return None if self._parts is None else Kept(self._status, self._headers, b"".join(self._parts))

    def send(
        self, status: int, headers: Headers, extra: bytes, body: bytes, *, length: int | None = None
    ) -> None:
        """See `Conversation`."""
        self._status, self._headers = status, list(headers)
        self._note(body)
        told = b"false" if self._parts is None else b"true"
        self._exchange.send(status, headers, extra + b"%b: %b\r\n" % (KEPT, told), body, length=length)
        self.complete = True

    def begin(self, status: int, headers: Headers, extra: bytes, length: int | None) -> None:
        """See `Conversation`."""
        self._status, self._headers = status, list(headers)
        if length is None:
            told = b"below=%d" % self._most
        elif length > self._most:
            told, self._parts = b"false", None
        else:
            told = b"true"
        self._exchange.begin(status, headers, extra + b"%b: %b\r\n" % (KEPT, told), length)

    def write(self, data: bytes) -> None:
        """See `Conversation`."""
        self._note(data)
        self._exchange.write(data)

    def end(self) -> None:
        """See `Conversation`."""
        self._exchange.end()
        self.complete = True

    def _note(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._most:
            self._parts = None
        elif self._parts is not None:
            self._parts.append(data)

    # -- passed on

    @property
    def congested(self) -> bool:
        """See `Conversation`."""
        return self._exchange.congested

    @property
    def began(self) -> bool:
        """See `Conversation`."""
        return self._exchange.began

    @property
    def bytes_out(self) -> int:
        """See `Conversation`."""
        return self._exchange.bytes_out

    async def drain(self) -> None:
        """See `Conversation`."""
        await self._exchange.drain()
