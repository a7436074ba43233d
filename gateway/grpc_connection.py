"""One client's connection to the gRPC port, and the RPCs on it: when one may be handed on, and how it ends.

Belongs to step 1. What is an RPC's business goes to its task (`grpc_server.py`); here stand the rules of the
wire: one message for a unary call, room for the next ones of a stream, limits, silence. Knows no route.
"""

import asyncio
from collections import deque
from collections.abc import Collection
from typing import NamedTuple, Protocol

from gateway.clock import Clock
from gateway.cork import Cork
from gateway.errors import BadCall, Contended, NotOffered, OverspillError, SlowRequest
from gateway.exchange import Certificate
from gateway.grpc_head import RpcHead, read_head
from gateway.http2.connection import Http2Connection
from gateway.http2.fields import Fields
from gateway.http2.frames import LARGEST_WINDOW, PREFACE, Broken, ErrorCode, goaway, reset
from gateway.http2.limits import Limits
from gateway.http2.messages import MessageReader
from gateway.http2.stream import Stream

MOST_STREAMS = 4096
"""RPCs of one connection at once. Clients hold the next ones back."""
_RATE_S = 10.0
_SILENCE_S = 20.0
"""How long an idle client may take to answer a ping."""
_ALL_SEEN = b"all seen"
_ALIVE = b"overspil"
_HTTP1 = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n"
    b"this port speaks gRPC\n"
)


class GrpcLimits(NamedTuple):
    """Bytes of one message, and of the messages of a stream that are held so that it can be tried again.

    head:           bytes of a call's metadata, each entry with 32 bytes more (RFC 9113, 6.5.2)
    calls:          most that are inside the gateway; twice as many RPCs may be open, for a stream that nobody
                    has used yet is no call, and who is refused by the gateway learns why and is counted
    connections:    most open ones
    head_timeout:   seconds that a client may take to say that it speaks HTTP/2
    body_timeout:   longest silence inside a message
    body_min_rate:  fewest bytes a second of a message, over any ten seconds in which it is waited for
    idle_timeout:   after so long without any sign a client is asked for one
    write_timeout:  longest time in which a client takes nothing of what waits for it
    """

    body: int = 64 * 2**20
    body_buffer: int = 256 * 1024
    calls: int = 10_000
    head: int = 32 * 1024
    connections: int = 10_000
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    body_min_rate: int = 1024
    idle_timeout: float = 75.0
    write_timeout: float = 60.0


class Port(Protocol):
    """What is needed of the server."""

    limits: GrpcLimits
    clock: Clock
    scheme: bytes
    cork: Cork

    @property
    def methods(self) -> Collection[bytes]: ...
    @property
    def streamed(self) -> Collection[bytes]: ...
    def admit(self, connection: "GrpcConnection") -> bool: ...
    def forget(self, connection: "GrpcConnection") -> None: ...
    @property
    def full(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    def start(self, rpc: "Rpc") -> "asyncio.Task[None]": ...
    def cancel(self, task: "asyncio.Task[None]") -> None: ...
    def refuse(self, rpc: "Rpc", error: OverspillError) -> None: ...


class GrpcConnection(Http2Connection):
    """All RPCs of one client's connection."""

    def __init__(self, port: Port) -> None:
        limits = Limits(fields=port.limits.head, streams=min(MOST_STREAMS, 2 * port.limits.calls))
        super().__init__(limits, client=False, cork=port.cork)
        self.port = port
        self.peer = b""
        self._began_at = self._heard_at = port.clock.now()
        self._preface = b""
        self._greeted = False
        self._asked_at: float | None = None
        self._retiring = False
        self._last: int | None = None
        """No stream above it is looked at any more."""
        self._leaving = False

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0].encode() if isinstance(peer, tuple) else b""
        if not self.port.admit(self):
            self.abort()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.port.clock.now()
        if not self._greeted:
            data = self._greet(data)
        if data:
            super().data_received(data)
        if self._last is not None and not self.streams and not self.closed:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.port.forget(self)
        super().connection_lost(exc)

    @property
    def certificate(self) -> Certificate | None:
        """The client's, which was verified when it connected; None where it has shown none."""
        encryption = self._transport.get_extra_info("ssl_object")
        return None if encryption is None else encryption.getpeercert() or None

    def _greet(self, data: bytes) -> bytes:
        """Say hello once the client has, and return what it has said beyond that."""
        self._preface += data
        head = self._preface[: len(PREFACE)]
        if not PREFACE.startswith(head):
            self.write(_HTTP1)
            self.close()
            return b""
        if len(head) < len(PREFACE):
            return b""
        self._greeted = True
        rest, self._preface = self._preface[len(PREFACE) :], b""
        self.write(self.greeting())
        if self.port.draining:
            self.retire()
        return rest

    # -- Http2Connection

    def made(self, fields: Fields, size: int) -> RpcHead:
        return read_head(fields, size, most=self.limits.fields, methods=self.port.methods)

    def opened(self, number: int, made: RpcHead, *, last: bool) -> None:
        if self._last is not None and number > self._last:
            self.write(reset(number, ErrorCode.REFUSED_STREAM))
        elif made.malformed or not made.target:
            self._idle()
            self.write(reset(number, ErrorCode.PROTOCOL_ERROR))
        elif len(self.streams) >= self.limits.streams:
            self._idle()
            self.write(reset(number, ErrorCode.REFUSED_STREAM))
        else:
            rpc = Rpc(self, number, made)
            self.add(rpc)
            rpc.begin(last=last)

    def late(self, made: RpcHead) -> None:
        if made.target:  # trailers may come late; a number is used once, and none below the last (5.1.1)
            raise Broken(ErrorCode.PROTOCOL_ERROR, "a stream is opened again, or below one that was opened")

    def answered(self, payload: bytes) -> None:
        if payload == _ALL_SEEN and self._retiring and self._last is None:
            self._refuse_above(self.last_heard)
        self._asked_at = None

    def room(self) -> None:
        if self._leaving:
            self._give_back()
        if self._last is not None and not self.streams and not self.closed:
            self.close()

    # -- for the server

    def retire(self) -> None:
        """Tell the client to open no stream here any more; what it has opened by then is served.

        RFC 9113, 6.8: first without a number, for streams are on their way, and after a ping with one.
        """
        if self._retiring or not self._greeted or self.closed:
            return
        self._retiring = True
        self.write(goaway(LARGEST_WINDOW, ErrorCode.NO_ERROR, b"the gateway is stopping"))
        self.ping(_ALL_SEEN)

    def _refuse_above(self, last: int) -> None:
        self._last = last
        self.write(goaway(last, ErrorCode.NO_ERROR, b"the gateway is stopping"))

    def _give_back(self) -> None:
        """Have the client open elsewhere what nobody has used yet, where no stream in use is above it.

        Clients do so by themselves with streams above the number (gRPC proposal A6, transparent retries).
        """
        last = max((number for number, stream in self.streams.items() if _used(stream)), default=0)
        unused = [stream for number, stream in self.streams.items() if number > last]
        if self.closed or not unused:
            return
        self._refuse_above(last)
        for stream in unused:
            del self.streams[stream.number]
            stream.stop()
            self.write(reset(stream.number, ErrorCode.REFUSED_STREAM))
            stream.cut(ErrorCode.REFUSED_STREAM)

    def leave(self) -> None:
        """The client has had its time to hear of it: close as soon as nothing is left to do."""
        self._leaving = True
        if not self._greeted:
            self.close()
        elif self._last is None and not self.closed:
            self._refuse_above(self.last_heard)
        self.room()

    def sweep(self, now: float) -> None:
        """Look for what has waited too long."""
        self.calm()
        limits = self.port.limits
        silent = now - self._heard_at
        if self.closed:  # what was said last is not taken
            if silent > limits.write_timeout:
                self.abort()
            return
        if not self.settled:
            if now - self._began_at > limits.head_timeout:  # however little it says at a time
                self.abort()
            return
        for stream in list(self.streams.values()):
            assert isinstance(stream, Rpc)
            stream.sweep(now)
        if self._asked_at is not None:
            if now - self._asked_at > _SILENCE_S and silent > _SILENCE_S:
                self.abort()
        elif silent > limits.idle_timeout and self._greeted:
            self._asked_at = now
            self.ping(_ALIVE)


class Rpc(Stream):
    """One RPC: its messages, and the task that answers it."""

    __slots__ = (
        "_arrived_last", "_came", "_error", "_held", "_messages", "_news", "_reader", "_window",
        "_written_at", "arrived", "complete", "connection", "head", "port", "streamed", "task", "used",
    )  # fmt: skip

    def __init__(self, connection: GrpcConnection, number: int, head: RpcHead) -> None:
        super().__init__(connection, number, connection.peer_window)
        port = connection.port
        self.connection = connection
        self.port = port
        self.head = head
        self.streamed = head.target in port.streamed
        self.arrived = self._arrived_last = port.clock.now()
        self._came = 0
        self._window = (self.arrived, 0)  # since when the rate is looked at, and what had come by then
        self.task: asyncio.Task[None] | None = None
        self.complete = False
        """The client has sent its last message."""
        self.used = False
        """Something is done for it: it may not be opened elsewhere."""
        self._reader = MessageReader(port.limits.body, head.coding)
        self._messages: deque[bytes] = deque()
        self._held = 0
        self._error: OverspillError | None = None
        self._news: asyncio.Future[None] | None = None
        self._written_at: tuple[float, int] | None = None

    def begin(self, *, last: bool) -> None:
        """Its head is here."""
        self.heard_all = last
        if self.head.error is not None:
            self.port.refuse(self, self.head.error)
        elif self.port.full:
            self.port.refuse(self, Contended("too many calls are open at once", retry_after=1.0))
        elif self.streamed:
            self.complete = last
            self._start()
        elif last:
            self._all_here()

    # -- Stream

    def fields(self, made: RpcHead, *, last: bool) -> None:
        if made.target or made.malformed or not last:
            self.connection.fail(self, ErrorCode.PROTOCOL_ERROR)
        else:
            self.content(b"", last=True)

    def content(self, data: bytes, *, last: bool) -> None:
        self._arrived_last = self.port.clock.now()
        self._came += len(data)
        if self.ended or self._error is not None:
            return
        try:
            if data:
                self._messages.extend(self._reader.feed(data))
            if last and not self._reader.between:
                raise BadCall("the last message of the call is cut short")
            if not self.streamed and (len(self._messages) > 1 or (last and not self._messages)):
                raise NotOffered("a unary call has exactly one message")
        except OverspillError as error:
            self._wrong(error)
            return
        if not self.streamed:
            self.taken(len(data))
            if last:
                self._all_here()
            return
        self.complete = last
        self._held += len(data)
        if not self._messages:  # the rest of a message must find room
            self.taken(self._held)
            self._held = 0
        self._tell()

    def cut(self, code: int) -> None:
        self._leave()

    def lost(self, why: str, *, untouched: bool) -> None:
        self._leave()

    # -- for the task that answers

    @property
    def peer(self) -> bytes:
        """The client's address."""
        return self.connection.peer

    @property
    def scheme(self) -> bytes:
        """`http`, or `https` where the connection is encrypted."""
        return self.port.scheme

    @property
    def certificate(self) -> Certificate | None:
        """The client's, verified; None where it has shown none."""
        return self.connection.certificate

    @property
    def remaining(self) -> float | None:
        """Seconds until the client's deadline, None if it has none."""
        timeout = self.head.timeout
        return None if timeout is None else self.arrived + timeout - self.port.clock.now()

    @property
    def message(self) -> bytes:
        """The one of a unary call, once."""
        return self._messages.popleft()

    async def next(self) -> bytes | None:
        """The next message of a stream; None after the last one. Raises what is wrong with it."""
        while not self._messages:
            if self._error is not None:
                raise self._error.again()
            if self.complete or self.heard_all:
                return None
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        message = self._messages.popleft()
        if not self._messages:
            self.taken(self._held)
            self._held = 0
        return self._reader.unpacked(message)

    def sweep(self, now: float) -> None:
        """Has its client been silent inside a message, or read nothing, for too long?"""
        limits = self.port.limits
        awaited = not self._reader.between or not (self.streamed or self.heard_all)
        if not awaited or self.heard_all:
            self._window = (now, self._came)
        elif now - self._arrived_last > limits.body_timeout:
            self._wrong(SlowRequest("the message did not come within limits.body_timeout"))
        elif now - self._window[0] >= _RATE_S:
            if self._came - self._window[1] < limits.body_min_rate * _RATE_S:
                self._wrong(SlowRequest("the message comes more slowly than limits.body_min_rate"))
            self._window = (now, self._came)
        if not self.waiting:
            self._written_at = None
        elif self._written_at is None or self._written_at[1] != self.waiting:
            self._written_at = (now, self.waiting)
        elif now - self._written_at[0] > limits.write_timeout:
            self.link.reset(self, ErrorCode.CANCEL)
            self._leave()

    # -- inside

    def _all_here(self) -> None:
        if not self._messages:
            self._wrong(NotOffered("a unary call has exactly one message"))
            return
        try:
            self._messages[0] = self._reader.unpacked(self._messages[0])
        except OverspillError as error:
            self._wrong(error)
        else:
            self._start()

    def _start(self) -> None:
        self.task = self.port.start(self)

    def _wrong(self, error: OverspillError) -> None:
        """What the client sends cannot be used."""
        if self.task is None:
            self.port.refuse(self, error)
        else:
            self._error = error.again()
            self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _leave(self) -> None:
        """The client has gone."""
        if self.task is not None:
            self.port.cancel(self.task)


def _used(stream: Stream) -> bool:
    return isinstance(stream, Rpc) and stream.used
