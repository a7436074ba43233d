"""One request and its answer on the wire: what the pipeline reads from and writes to.

Belongs to step 1. It frames the answer for HTTP/1.1 (content-length, chunked, or until close for
HTTP/1.0) and keeps back-pressure; it knows nothing of routes, backends or protocols. Exactly one
answer leaves it: a second one is a programming error, none at all breaks the connection.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from operator import attrgetter
from typing import Any, ClassVar, Protocol

from gateway.body import ArrivedBody, IncomingBody
from gateway.errors import ClientGone, OverspillError
from gateway.kept_fields import KeptFields
from gateway.vocab import Body, Discreet, Headers

_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}

STATUS_LINES = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, b"")) for status in range(100, 600)
}
"""Status lines ready to be written."""


Certificate = Mapping[str, Any]
"""What a client's certificate says, in the form of `ssl.SSLSocket.getpeercert`: it has been verified."""


class Wire(Protocol):
    """The client connection, as far as one exchange may use it."""

    @property
    def scheme(self) -> bytes:
        """`http`, or `https` where it is encrypted."""
        ...

    @property
    def certificate(self) -> Certificate | None:
        """The client's, once verified; None where it has shown none."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes; never waits."""
        ...

    @property
    def congested(self) -> bool:
        """True while the client reads more slowly than we write."""
        ...

    async def drain(self) -> None:
        """Wait until the client has read enough. Raises ClientGone if it leaves."""
        ...

    def done(self, exchange: "Exchange") -> None:
        """The answer is complete; without its `keep_alive` the connection closes after it."""
        ...

    def break_off(self) -> None:
        """Close so that the client can tell that the answer is incomplete."""
        ...


def _lines(headers: Headers) -> bytes:
    return b"\r\n".join([name + b": " + value for name, value in headers]) + b"\r\n"


class Conversation(Protocol):
    """One request with the means to answer it, once, as the later steps see it: over HTTP or over gRPC."""

    request_id: str
    traceparent: str
    keep_alive: bool
    headers: Headers
    """Other requests may have the very same list: it is replaced, never changed."""

    @property
    def method(self) -> bytes: ...
    @property
    def target(self) -> bytes: ...
    @property
    def body(self) -> Body: ...
    @property
    def peer(self) -> bytes: ...
    @property
    def arrived(self) -> float: ...
    @property
    def scheme(self) -> bytes: ...
    @property
    def certificate(self) -> Certificate | None: ...
    @property
    def max_body(self) -> int: ...
    @property
    def task(self) -> asyncio.Task[None] | None: ...
    @property
    def began(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def congested(self) -> bool: ...

    def send(
        self, status: int, headers: Headers, extra: bytes, body: bytes, *, length: int | None = None
    ) -> None:
        """A whole answer."""
        ...

    def begin(self, status: int, headers: Headers, extra: bytes, length: int | None) -> None:
        """The head of an answer whose body follows by `write`."""
        ...

    def write(self, data: bytes) -> None:
        """A part of the body."""
        ...

    async def drain(self) -> None:
        """Wait until the client has read enough. Raises ClientGone if it leaves."""
        ...

    def end(self) -> None:
        """The body is complete."""
        ...

    def abort(self, error: OverspillError | None = None) -> None:
        """Give the answer up, and say why where the wire has a place for it."""
        ...

    def parting(self) -> OverspillError:
        """What happened, when the request was cancelled from the client's side."""
        ...


class Exchange(Discreet, eq=False):
    """One HTTP request with the means to answer it, once. `task` is the one that answers."""

    _wire: Wire
    peer: bytes
    arrived: float
    max_body: int
    method: bytes = b""
    target: bytes = b""
    headers: Headers = []
    body: IncomingBody | ArrivedBody = ArrivedBody(b"", 0, 0)
    keep_alive: bool = True
    request_id: str = ""
    traceparent: str = ""
    http10: bool = False
    task: asyncio.Task[None] | None = None
    began: bool = False
    ended: bool = False
    bytes_out: int = 0
    _bodiless: bool = False
    _chunked: bool = False
    _left: int | None = None

    scheme: ClassVar["property"] = property(attrgetter("_wire.scheme"))
    """`http`, or `https` where the connection is encrypted; read for every call, so without a frame."""

    @property
    def certificate(self) -> Certificate | None:
        """The client's, verified; None where it has shown none. Read once for each connection, if at all."""
        return self._wire.certificate

    def send(
        self, status: int, headers: Headers, extra: bytes, body: bytes, *, length: int | None = None
    ) -> None:
        """A whole answer in one write. `extra` holds ready header lines, each ended by CRLF.

        `length` is for answers to HEAD only: the size that the body of GET would have.
        """
        self.began = True
        head = self._head(status, headers, extra)
        if status in {204, 304} or status < 200:
            head += b"\r\n"
        elif self.method == b"HEAD":
            # The answer to HEAD tells the length that GET would have, and has no body (RFC 9110, 9.3.2).
            head += b"content-length: %d\r\n\r\n" % (len(body) if length is None else length)
        else:
            self.bytes_out = size = len(body)
            head = b"%bcontent-length: %d\r\n\r\n%b" % (head, size, body)
        wire = self._wire
        wire.write(head)
        self.ended = True
        wire.done(self)

    def begin(self, status: int, headers: Headers, extra: bytes, length: int | None) -> None:
        """The head of an answer whose body follows by `write`. `length` None: not known ahead."""
        self.began = True
        if status in {204, 304}:
            self._bodiless = True  # whatever is written: the client reads none (RFC 9112, 6.3)
            framing, length = b"\r\n", None
        elif length is not None:
            framing = b"content-length: %d\r\n\r\n" % length
        elif self.http10:
            self.keep_alive = False  # the end of the connection is the end of the body
            framing = b"\r\n"
        else:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n\r\n"
        self._left = length
        self._wire.write(self._head(status, headers, extra) + framing)

    def write(self, data: bytes) -> None:
        """A part of the body."""
        if not data or self._bodiless or self.method == b"HEAD":
            return
        self.bytes_out += len(data)
        if self._chunked:
            self._wire.write(b"%x\r\n%b\r\n" % (len(data), data))
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("more body bytes than the declared length")
        self._wire.write(data)

    @property
    def congested(self) -> bool:
        """True while the client reads more slowly than we write."""
        return self._wire.congested

    async def drain(self) -> None:
        """Wait until the client has read enough. Raises ClientGone if it leaves."""
        await self._wire.drain()

    def end(self) -> None:
        """The body is complete."""
        if self._left and self.method != b"HEAD":
            raise ValueError(f"{self._left} body bytes of the declared length are missing")
        if self._chunked and self.method != b"HEAD":
            self._wire.write(b"0\r\n\r\n")
        self._finish()

    def abort(self, error: OverspillError | None = None) -> None:
        """Give the answer up: the client must not take what it has for a complete one."""
        if not self.ended:
            self.ended = True
            self.keep_alive = False
            self._wire.break_off()

    def parting(self) -> OverspillError:
        """The connection is gone."""
        return ClientGone()

    def _head(self, status: int, headers: Headers, extra: bytes) -> bytes:
        line = STATUS_LINES[status]
        # A body that was not read to its end would be taken for the next request.
        if not self.body.complete:
            self.keep_alive = False
        if not self.keep_alive:
            extra += b"connection: close\r\n"
        elif self.http10:
            extra += b"connection: keep-alive\r\n"
        if not headers:
            return line + extra
        if type(headers) is not KeptFields:
            return line + _lines(headers) + extra
        lines: bytes | None = headers.known.get(_lines)
        if lines is None:
            lines = _lines(headers)
            headers.keep(_lines, lines)
        return line + lines + extra

    def _finish(self) -> None:
        self.ended = True
        self._wire.done(self)
