"""gRPC towards a server: one HTTP/2 connection, and one RPC on it, messages as bytes.

Knows the wire and what ends an RPC; it must never know a replica, a model, nor what is made of a status.

Wire facts from "gRPC over HTTP2": an answer is fields, messages, trailers with `grpc-status`; or trailers
only. A stream that was reset with REFUSED_STREAM, or lies above the number of a GOAWAY, was never looked at
(RFC 9113, 8.7): its call has not begun. What other codes become is that document's table, and that of HTTP
statuses of "HTTP to gRPC Status Code Mapping".
"""

import asyncio
import re
from collections import deque
from urllib.parse import unquote_to_bytes

from gateway.cork import Cork
from gateway.errors import BackendBroke, BackendDown, BackendError, BackendFull, BadCall
from gateway.http2.connection import Http2Connection
from gateway.http2.fields import Fields
from gateway.http2.frames import PREFACE, ErrorCode, named
from gateway.http2.limits import Limits
from gateway.http2.messages import MessageReader, prefixed
from gateway.http2.stream import Stream
from gateway.vocab import Headers

LIMITS = Limits(fields=64 * 1024, window=4 * 2**20, shared=64 * 2**20, frame=2**20)
_MOST_MESSAGE = 2**32
_MOST_NUMBER = 2**31 - 1
UNKNOWN, INTERNAL = 2, 13
_CODES_OF_RESET: dict[int, int] = {
    ErrorCode.CANCEL: 1,  # CANCELLED
    ErrorCode.ENHANCE_YOUR_CALM: 8,  # RESOURCE_EXHAUSTED
    ErrorCode.INADEQUATE_SECURITY: 7,  # PERMISSION_DENIED
}
_CODES_OF_HTTP = {400: INTERNAL, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_STATUS = re.compile(rb"[1-9][0-9]{2}")
_NAME = re.compile(rb":status|[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[^\x00\r\n]*")
_OF_THE_WIRE = frozenset(
    (b"grpc-status", b"grpc-message", b"grpc-encoding", b"grpc-accept-encoding", b"content-type")
)


class Said:
    """A field section of a server.

    status:   of HTTP, 0 in trailers
    code:     of gRPC, None where it says none
    details:  its message
    headers:  the rest
    malformed:  no field section at all (RFC 9113, 8.1 to 8.3): others would read its values as something else
    """

    __slots__ = ("code", "coding", "details", "headers", "is_grpc", "malformed", "status")

    def __init__(self, fields: Fields) -> None:
        self.status = 0
        self.code: int | None = None
        self.details = ""
        self.coding = b"identity"
        self.is_grpc = False
        self.headers: Headers = []
        malformed = False
        for name, value in fields:
            malformed = malformed or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value)
            if name == b":status":
                self.status = int(value) if _STATUS.fullmatch(value) else 0
                malformed = malformed or not self.status
            elif name == b"grpc-status":
                self.code = int(value) if value.isdigit() and len(value) < 4 else UNKNOWN
            elif name == b"grpc-message":
                self.details = unquote_to_bytes(value).decode("utf-8", "replace")
            elif name == b"grpc-encoding":
                self.coding = value
            elif name == b"content-type":
                self.is_grpc = value.startswith(b"application/grpc")
            if name not in _OF_THE_WIRE and not name.startswith(b":"):
                self.headers.append((name, value))
        self.malformed = malformed


class GrpcClient(Http2Connection):
    """One connection to a server, on which any number of RPCs run side by side.

    address:  of the server, for messages
    cork:     by which frames are written; None: each by itself
    """

    def __init__(self, address: str, cork: Cork | None = None) -> None:
        super().__init__(LIMITS, client=True, cork=cork)
        self.address = address
        self.settling: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the server has said its settings: it speaks HTTP/2."""
        self._next = 1
        self._leaving = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def usable(self) -> bool:
        """May an RPC begin on it?"""
        return not self.closed and not self._leaving and self._next < _MOST_NUMBER

    @property
    def last_opened(self) -> int:
        return self._next - 2

    async def begin(self, section: bytes, message: bytes | None) -> "OutgoingRpc":
        """Begin an RPC; `message` is its only one, None: they come later. Raises BackendDown, BackendBroke.

        It waits while the server takes no more at once.
        """
        while len(self.streams) >= self.most_streams and self.usable:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self.room()  # it may be this one's turn that another can have now
                raise
        if not self.usable:
            raise BackendDown(f"the connection to {self.address} has ended")
        rpc = OutgoingRpc(self, self._next, unary=message is not None)
        self._next += 2
        self.add(rpc)
        if message is None:
            rpc.send_fields(section)
        else:
            rpc.ask(section, prefixed(message))
        return rpc

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.write(PREFACE + self.greeting())

    # -- Http2Connection

    def made(self, fields: Fields, size: int) -> Said:
        said = Said(fields)
        if size > self.limits.fields:
            said.code, said.details = (
                INTERNAL,
                f"the server's metadata has more than {self.limits.fields} bytes",
            )
        return said

    def ready(self) -> None:
        if not self.settling.done():
            self.settling.set_result(None)

    def room(self) -> None:
        free = self.most_streams - len(self.streams)
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1
        self._close_if_left()

    def left(self, last: int, code: int, text: str) -> None:
        self._leaving = True
        why = f"{self.address} closes the connection ({named(code)})"
        for number, stream in list(self.streams.items()):
            if number > last:
                del self.streams[number]
                stream.stop()
                stream.lost(why, untouched=True)
        self._wake_all()
        self._close_if_left()

    def over(self, why: str) -> None:
        if not self.settling.done():
            self.settling.set_exception(ConnectionError(0, f"it does not speak HTTP/2: {why}"))
        self._wake_all()

    def give_up(self, code: ErrorCode, text: str) -> None:
        super().give_up(code, text)
        self.over(text)

    def _close_if_left(self) -> None:
        if self._leaving and not self.streams and not self.closed:
            self.close()

    def _wake_all(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)


class OutgoingRpc(Stream):
    """One RPC. `code` is None until it has ended; then `details` and `headers` are complete."""

    __slots__ = (
        "_error",
        "_held",
        "_messages",
        "_news",
        "_reader",
        "_unary",
        "address",
        "begun",
        "code",
        "details",
        "headers",
    )

    def __init__(self, client: GrpcClient, number: int, *, unary: bool) -> None:
        super().__init__(client, number, client.peer_window)
        self._unary = unary
        self.address = client.address
        self.begun = False
        """The head of the answer is here."""
        self.code: int | None = None
        self.details = ""
        self.headers: Headers = []
        self._reader: MessageReader | None = None
        self._messages: deque[bytes] = deque()
        self._held = 0
        self._error: BackendError | None = None
        self._news: asyncio.Future[None] | None = None

    # -- for who called

    async def end(self) -> bytes | None:
        """Wait for the end; returns the only message, None without one. Raises BackendError."""
        while self.code is None and self._error is None:
            await self._wait()
        if self._error is not None:
            raise self._error.again()
        return self._messages.popleft() if self._messages else None

    async def next(self) -> bytes | None:
        """The next message, None after the last one: then `code` tells how it ended. Raises BackendError."""
        while not self._messages:
            if self._error is not None:
                raise self._error.again()
            if self.code is not None:
                return None
            await self._wait()
        message = self._messages.popleft()
        if not self._messages:
            self.taken(self._held)
            self._held = 0
        return message

    async def write(self, message: bytes) -> bool:
        """Send one message and wait until there is room for the next; False once the RPC is over."""
        self.send(prefixed(message))
        return await self.drained()

    def done_writing(self) -> None:
        """There are no more messages."""
        self.send(b"", last=True)

    def cancel(self) -> None:
        """Nobody wants its answer any more."""
        if not (self.ended and self.heard_all):
            self.link.reset(self, ErrorCode.CANCEL)
        if self._error is None and self.code is None:
            self._fail(BackendBroke("the call was cancelled"))

    # -- Stream

    def fields(self, made: Said, *, last: bool) -> None:
        if made.malformed or (not self.begun and not made.status):
            self._refuse("a malformed field section")
            return
        if 100 <= made.status < 200:
            if last:
                self._refuse("an answer that ends before it begins")
            return
        if not self.begun:
            self.begun = True
            self._reader = MessageReader(_MOST_MESSAGE, made.coding)
        elif not last:
            self._refuse("fields amid messages")
            return
        if made.headers:
            self.headers = [*self.headers, *made.headers]
        if made.code is not None:
            self._close(made.code, made.details, last=last)
        elif made.status not in {0, 200} or (made.status and not made.is_grpc):
            code = _CODES_OF_HTTP.get(made.status, UNKNOWN)
            self._close(
                code, f"the server answered with HTTP status {made.status} and no gRPC status", last=last
            )
        elif last:
            self._close(UNKNOWN, "the server ended the call without a status", last=True)
        self._tell()

    def content(self, data: bytes, *, last: bool) -> None:
        if self.code is not None or self._error is not None:
            return
        if self._reader is None:
            self._refuse("messages before the head of the answer")
            return
        try:
            reader = self._reader
            self._messages.extend(reader.unpacked(message) for message in (reader.feed(data) if data else ()))
        except BadCall as error:  # what is wrong with a client's message is wrong with a server's
            self._refuse(str(error))
            return
        if self._unary and len(self._messages) > 1:
            self._refuse("two messages as the answer to a unary call")
            return
        self._held += len(data)
        if self._unary or not self._messages:  # the rest of a message must find room
            self.taken(self._held)
            self._held = 0
        if last:
            self._close(UNKNOWN, "the server ended the call without a status", last=True)
        self._tell()

    def cut(self, code: int) -> None:
        if self.code is not None:
            return
        if code == ErrorCode.REFUSED_STREAM:
            self._fail(BackendFull(f"{self.address} refused the stream"))
        else:
            self.code = _CODES_OF_RESET.get(code, INTERNAL)
            self.details = f"the server reset the stream ({named(code)})"
            self._tell()

    def lost(self, why: str, *, untouched: bool) -> None:
        if self.code is None:
            words = f"the connection to {self.address} broke: {why}"
            self._fail(BackendDown(words) if untouched else BackendBroke(words))

    # -- inside

    def _close(self, code: int, details: str, *, last: bool) -> None:
        if not code and self._reader is not None and not self._reader.between:
            code, details = INTERNAL, "the server's last message is cut short"
        self.code, self.details = code, details
        if not (last and self.ended):
            self.link.reset(self, ErrorCode.CANCEL)  # what was not sent yet is of no use

    def _refuse(self, what: str) -> None:
        self.link.reset(self, ErrorCode.PROTOCOL_ERROR)
        self._fail(BackendBroke(f"{self.address} does not keep to gRPC: {what}"))

    def _fail(self, error: BackendError) -> None:
        self._error = error
        self._tell()

    async def _wait(self) -> None:
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
