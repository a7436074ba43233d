"""One RPC with the means to answer it: what the pipeline sees in place of an HTTP exchange.

Belongs to step 1. It turns an answer (a status, fields, a body) into a gRPC status, metadata and messages;
it knows nothing of routes or backends, and of the wire only that a stream takes field sections and bytes.
"""

import asyncio
from typing import Protocol

from gateway.errors import ClientGone, DeadlinePassed, OverspillError
from gateway.exchange import Certificate
from gateway.grpc_head import RpcHead
from gateway.http2.fields import field, named
from gateway.http2.messages import prefixed
from gateway.message_stream import MessageStream
from gateway.protocols.base import error_text
from gateway.protocols.grpc import STATUS_FIELD, code_of, code_of_error
from gateway.vocab import Body, Headers

_LONGEST_DETAILS = 2048
"""Characters of a status message. It is sent as a header field, of which clients take 8 KiB in all."""
_CONTENT_TYPE = named(31, b"application/grpc")
_HEADS = {
    200: b"\x88" + _CONTENT_TYPE,  # `:status: 200` is entry 8 of the static table
    405: named(8, b"405") + _CONTENT_TYPE,
    415: named(8, b"415") + _CONTENT_TYPE,
}
_STATUS_OK = field(STATUS_FIELD, b"0")
_RICH_STATUS = b"grpc-status-details-bin"
_DEADLINE_ROUNDING_S = 0.02
"""A client's clock started before its call came: it gives up a little before the deadline seen here."""


class Wire(Protocol):
    """What is needed of the stream that carries the RPC, and of its connection."""

    waiting: int

    def send_fields(self, section: bytes, *, last: bool = False) -> None: ...
    def send(self, data: bytes, *, last: bool = False) -> None: ...
    def answer(self, section: bytes, data: bytes, trailers: bytes) -> None: ...
    async def drained(self) -> bool: ...

    @property
    def peer(self) -> bytes: ...
    @property
    def scheme(self) -> bytes: ...
    @property
    def certificate(self) -> Certificate | None: ...
    @property
    def remaining(self) -> float | None: ...


class GrpcExchange:
    """One unary RPC."""

    __slots__ = (
        "_http_status", "_message", "_trailing", "_wire", "arrived", "began", "body", "bytes_out", "ended",
        "headers", "keep_alive", "max_body", "method", "peer", "request_id", "scheme", "target", "task",
        "traceparent",
    )  # fmt: skip

    def __init__(
        self,
        wire: Wire,
        head: RpcHead,
        *,
        body: Body,
        arrived: float,
        max_body: int,
        task: asyncio.Task[None] | None,
    ) -> None:
        self._wire = wire
        self._http_status = head.status
        self.method = b"POST"
        self.target = head.target
        self.headers = head.headers
        self.request_id = head.request_id
        self.traceparent = head.traceparent
        self.body = body
        self.arrived = arrived
        self.max_body = max_body
        self.task = task
        self.keep_alive = True  # of no meaning here: a connection has room for others
        self.began = False
        self.ended = False
        self.bytes_out = 0
        self.peer = wire.peer
        self.scheme = wire.scheme
        self._message: list[bytes] = []
        self._trailing = b""

    @property
    def certificate(self) -> Certificate | None:
        """The client's, verified; None where it has shown none."""
        return self._wire.certificate

    @property
    def congested(self) -> bool:
        """The answer is one message: it goes out at the end."""
        return False

    async def drain(self) -> None:
        """Nothing to wait for."""

    def send(
        self, status: int, headers: Headers, extra: bytes, body: bytes, *, length: int | None = None
    ) -> None:
        """A whole answer. `extra` holds ready header lines, each ended by CRLF."""
        self.began = True
        code = _code(status, headers)
        if code:
            self._refuse(code, body.decode("utf-8", "replace"), metadata(headers, extra))
            return
        self.bytes_out = len(body)
        self.ended = True
        self._wire.answer(_HEADS[200], prefixed(body), _STATUS_OK + metadata(headers, extra))

    def begin(self, status: int, headers: Headers, extra: bytes, length: int | None) -> None:
        """The head of an answer whose body follows."""
        self.began = True
        self._trailing = metadata(headers, extra)

    def write(self, data: bytes) -> None:
        """A part of the message."""
        if data:
            self._message.append(data)
            self.bytes_out += len(data)

    def end(self) -> None:
        """The message is complete."""
        self.ended = True
        self._wire.answer(_HEADS[200], prefixed(b"".join(self._message)), _STATUS_OK + self._trailing)

    def abort(self, error: OverspillError | None = None) -> None:
        """End with the error's status; what was written is not sent."""
        if not self.ended:
            error = error or OverspillError("the answer is incomplete")
            self._refuse(code_of_error(error), error_text(error), self._trailing)

    def end_empty(self) -> None:
        """A stream of no messages has an answer of none."""
        self.ended = True
        self._wire.send_fields(_HEADS[200] + _STATUS_OK, last=True)

    def parting(self) -> OverspillError:
        """Why the RPC was cancelled: its deadline, as far as can be seen from here, or its client."""
        remaining = self._wire.remaining
        if remaining is not None and remaining <= _DEADLINE_ROUNDING_S:
            return DeadlinePassed("the client's deadline passed")
        return ClientGone()

    def _refuse(self, code: int, details: str, more: bytes) -> None:
        """A status without a message."""
        self.ended = True
        self._wire.send_fields(_HEADS[self._http_status] + _status(code, details) + more, last=True)


class GrpcStream(GrpcExchange):
    """One RPC whose two sides are streams: each part of the answer is a message of its own."""

    __slots__ = ("_messages",)

    def __init__(
        self,
        wire: Wire,
        head: RpcHead,
        *,
        body: MessageStream,
        arrived: float,
        max_body: int,
        task: asyncio.Task[None] | None,
    ) -> None:
        super().__init__(wire, head, body=body, arrived=arrived, max_body=max_body, task=task)
        self._messages = body

    @property
    def congested(self) -> bool:
        """True while something waits for room in the client's window."""
        return self._wire.waiting > 0

    def begin(self, status: int, headers: Headers, extra: bytes, length: int | None) -> None:
        """The answer begins: what is known by now goes out before the first message, and again at the end."""
        super().begin(status, headers, extra, length)
        self._messages.commit()
        self._wire.send_fields(_HEADS[200] + metadata([], extra))

    def write(self, data: bytes) -> None:
        """One message."""
        if data:
            self._wire.send(prefixed(data))
            self.bytes_out += len(data)

    async def drain(self) -> None:
        """Wait until the client's window has taken it all. Raises ClientGone."""
        if not await self._wire.drained():
            raise ClientGone("the client left before its stream was complete")

    def end(self) -> None:
        """All messages were written."""
        self.ended = True
        self._wire.send_fields(_STATUS_OK + self._trailing, last=True)

    def _refuse(self, code: int, details: str, more: bytes) -> None:
        if not self._trailing:
            super()._refuse(code, details, more)
            return
        self.ended = True
        self._wire.send_fields(_status(code, details) + more, last=True)


def metadata(headers: Headers, extra: bytes) -> bytes:
    """Fields and ready header lines as a field section. What means something to gRPC itself is left out."""
    found = [field(*line.split(b": ", 1)) for line in extra.split(b"\r\n") if line]
    found += [
        field(name, value)
        for name, value in headers
        if not name.startswith((b"grpc-", b":")) or name == _RICH_STATUS
    ]
    return b"".join(found)


def _code(status: int, headers: Headers) -> int:
    for name, value in headers:
        if name == STATUS_FIELD:
            return int(value)
    return code_of(status)


def _status(code: int, details: str) -> bytes:
    """A status and its message, percent-encoded ("gRPC over HTTP2", Status-Message)."""
    text = "".join(
        chr(octet) if 0x20 <= octet <= 0x7E and octet != 0x25 else f"%{octet:02X}"
        for octet in details[:_LONGEST_DETAILS].encode()
    )
    return field(STATUS_FIELD, b"%d" % code) + field(b"grpc-message", text.encode("ascii"))
