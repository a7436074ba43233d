"""HTTP/1.1 towards a warm replica: one connection on asyncio.Protocol and llhttp.

It sends ready bytes and parses answers, one exchange at a time; bodies pass through untouched. Knows
nothing of replicas, models or prices: `replica_connections.py` keeps and reuses what is opened here.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import httptools

from gateway.cork import Cork
from gateway.errors import AnswerTruncated, BackendBroke, again
from gateway.kept_fields import HeadTable, KeptFields
from gateway.vocab import HOP_BY_HOP, Body, Headers, Poured, Reply

_HIGH_WATER = 256 * 1024  # bytes of an answer held here before the replica is made to wait
_WAIT_FOR_WHOLE = 64 * 1024  # an answer declared this small is relayed in one piece
_WORTH_JOINING = 16 * 1024  # parts of an answer that are larger than this on average go on one by one
_MAX_HEAD = 64 * 1024
MOST_KNOWN = 256
"""Heads of answers that are kept for all connections to a replica."""


class KnownHead(NamedTuple):
    """The head of an answer that was parsed before: status, fields, and length of the body."""

    status: int
    headers: KeptFields
    length: int


class UpstreamConnection(asyncio.Protocol):
    """One connection to a replica; carries one exchange at a time."""

    __slots__ = (
        "_chunked",
        "_closed",
        "_complete",
        "_cork",
        "_drained",
        "_head_done",
        "_head_size",
        "_held",
        "_is_head",
        "_known",
        "_length",
        "_loop",
        "_overrun",
        "_parser",
        "_parts",
        "_paused",
        "_raw_close",
        "_reusable",
        "_take",
        "_transport",
        "_waiter",
        "_writable",
        "busy",
        "headers",
        "idle_since",
        "reused",
        "started",
        "status",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, known: HeadTable[KnownHead], cork: Cork) -> None:
        self._loop = loop
        self._known = known
        self._cork = cork
        self.busy = False
        self.reused = False
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)  # good for every answer of this connection
        self._closed = False
        self._paused = False
        self._writable = True
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None  # who is given what comes, instead of being woken
        self._drained: asyncio.Future[None] | None = None
        self._reset(is_head=False)

    def _reset(self, *, is_head: bool) -> None:
        self.status = 0
        self.headers: Headers = []
        self.started = False  # has any byte of the answer arrived?
        self._is_head = is_head
        self._head_done = False
        self._head_size = 0
        self._length: int | None = None
        self._complete = False
        self._reusable = False
        self._chunked = False
        self._raw_close = False
        self._overrun = False  # another answer follows the one that was asked for
        self._parts: list[bytes] = []
        self._held = 0

    # -- asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, error: Exception | None) -> None:
        """The replica closed; for an answer without a length that is its regular end."""
        self._closed = True
        if self._head_done and self._raw_close and error is None:
            self._complete = True
        self._wake()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        del self._parser  # it holds this connection, and both would stay until somebody looks for cycles

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        if not self.busy:
            self._transport.abort()  # nobody asked: the connection is out of step
            return
        if not self.started:
            self.started = True
            if self._recognise(data):
                return
        if not self._head_done:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.abort()
            self._closed = True
        if self._head_done or self._closed:
            if self._complete and self._head_size == len(data) and not self._closed:
                self._remember(data)
            self._wake()
        elif self._head_size > _MAX_HEAD:
            self._transport.abort()

    def _recognise(self, data: bytes) -> bool:
        """Take a whole answer whose head is known to the byte; False if it has to be parsed."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._known.get(data[:end])
        if known is None or self._is_head or len(data) - end != known.length:
            return False
        self.status, self.headers, self._length = known
        if end < len(data):
            self._parts.append(data[end:])
        self._head_done = self._complete = self._reusable = True
        self._wake()
        return True

    def _remember(self, data: bytes) -> None:
        """Keep the head of an answer that came whole and alone; servers repeat themselves."""
        end = data.find(b"\r\n\r\n") + 4
        # All of what follows the head must have been its body: a 204 has none, whatever its length says.
        whole = self._reusable and not self._is_head and self._held == self._length == len(data) - end
        if whole and self._known.again(raw := data[:end]):
            self._known.keep(raw, KnownHead(self.status, KeptFields(self.headers), len(data) - end))

    def pause_writing(self) -> None:
        """The replica reads slowly."""
        self._writable = False

    def resume_writing(self) -> None:
        """The replica has caught up."""
        self._writable = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # -- httptools calls these

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head; a trailer is dropped."""
        if self._head_done:
            return
        name = name.lower()
        if name == b"content-length":
            self._length = int(value)
        elif name not in HOP_BY_HOP:
            self.headers.append((name, value))
            return
        elif name == b"transfer-encoding":
            self._chunked = True

    def on_headers_complete(self) -> None:
        """The head is complete; an interim one (100, 103) is passed over."""
        if self._head_done:
            self._overrun, self._reusable = True, False  # it answers nobody, nor can what comes after it
            return
        status = self._parser.get_status_code()
        if not 100 <= status <= 599:
            raise ValueError("no status of HTTP")  # the connection is closed, as for all that is not HTTP
        if status < 200:
            self.headers.clear()
            self._length = None
            self._chunked = False
            return
        self.status = status
        self._head_done = True
        self._reusable = self._parser.should_keep_alive()
        # Without a length and without chunks the body ends with the connection.
        self._raw_close = self._length is None and not self._chunked and not self._reusable
        if self._is_head:
            self._complete = True

    def on_body(self, data: bytes) -> None:
        """Body bytes, decoded from chunks."""
        if self._overrun:
            return
        self._parts.append(data)
        self._held += len(data)
        if self._held >= _HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """The answer is complete."""
        if self._head_done:
            self._complete = True

    # -- the pool calls these

    @property
    def usable(self) -> bool:
        """Can another request be sent on it?"""
        return not self._closed and not self._transport.is_closing()

    @property
    def clean(self) -> bool:
        """Did the last exchange end so that the connection can carry another?"""
        ended = self._complete and self._reusable and not self._is_head
        return ended and not self._closed and not self._transport.is_closing()

    def send(self, data: bytes, *, is_head: bool, more: bool = False) -> None:
        """Begin an exchange: write the head and as much of the body as is ready.

        more: `send_body` follows, which writes past the cork: what comes before it may not wait there.
        """
        self._reset(is_head=is_head)
        self.busy = True
        if more:
            self._transport.write(data)
        else:
            self._cork.write(self._transport, data)

    async def send_body(self, body: Body) -> None:
        """Write a body that is still arriving, as fast as both sides allow."""
        chunked = body.length is None
        async for chunk in body.chunks():
            if self._closed:
                return
            if chunked:
                self._transport.writelines((b"%x\r\n" % len(chunk), chunk, b"\r\n"))
            else:
                self._transport.write(chunk)
            if not self._writable:
                self._drained = self._loop.create_future()
                try:
                    await self._drained
                finally:
                    self._drained = None
        if chunked and not self._closed:
            self._transport.write(b"0\r\n\r\n")

    def reply(self) -> Reply | None:
        """The answer's head, with all of its body where that is small and its length is declared.

        None while there is less: there will be `news`. Raises BackendBroke where the connection is closed.
        """
        if self._complete:
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            return Reply(self.status, self.headers, body, length=self._length)
        if self._head_done and (self._length is None or self._length > _WAIT_FOR_WHOLE):
            return Reply(self.status, self.headers, stream=_Rest(self), length=self._length)
        if self._closed:
            when = "in the middle of its answer" if self._head_done else "before it answered"
            raise BackendBroke(f"the backend closed the connection {when}")
        return None

    def news(self) -> "asyncio.Future[None]":
        """Over as soon as more of the answer is here, or the connection is closed. For one at a time."""
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def close(self) -> None:
        """Drop the connection now, with whatever is under way on it."""
        if not self._closed:
            self._transport.abort()

    async def parts(self) -> AsyncIterator[bytes]:
        """The rest of the answer, as it is asked for. Raises AnswerTruncated."""
        while True:
            while self._parts:
                for data in self._taken():
                    yield data
                self._flow()
            if self._over():
                return
            await self.news()

    async def pour(self, take: Callable[[bytes], bool]) -> bool:
        """The rest of the answer, as it comes (`vocab.Poured`). Raises AnswerTruncated."""
        if not self._hand_over(take):
            return False
        while not self._over():
            self._take = take
            try:
                await self.news()
                wants_more = self._take is not None
            finally:
                self._take = None
                self._waiter = None  # of an error that it was given, nothing stays
            if not wants_more:
                return False
        return True

    def _pass_on(self, take: Callable[[bytes], bool]) -> None:
        """Hand over what has come; who waits is woken only if there is more to say."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return  # he has gone
        try:
            if not self._hand_over(take):
                self._take = None
                waiter.set_result(None)
            elif self._complete or self._closed:
                waiter.set_result(None)
        except Exception as error:
            self._take = None
            waiter.set_exception(again(error))

    def _hand_over(self, take: Callable[[bytes], bool]) -> bool:
        """Give away what is here; False when no more is wanted for now."""
        if self._parts:
            pieces = self._taken()
            for place, data in enumerate(pieces):
                if not take(data):
                    self._parts = pieces[place + 1 :]
                    self._held = sum(map(len, self._parts))
                    return False
        self._flow()
        return True

    def _taken(self) -> list[bytes]:
        """What is here, in as few pieces as are worth it; nothing of it is here any more."""
        parts = self._parts
        small = len(parts) > 1 and self._held < _WORTH_JOINING * len(parts)
        self._parts, self._held = [], 0
        return [b"".join(parts)] if small else parts

    def _over(self) -> bool:
        """Is the answer complete? Raises AnswerTruncated where it never will be."""
        if not self._complete and self._closed:
            raise AnswerTruncated("the backend closed the connection in the middle of its answer")
        return self._complete

    def _flow(self) -> None:
        if self._paused and not self._closed:
            self._paused = False
            self._transport.resume_reading()

    def _wake(self) -> None:
        if self._take is not None:
            self._pass_on(self._take)
            return
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Rest(Poured):
    """What follows of the answer on a connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: UpstreamConnection) -> None:
        self._connection = connection

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._connection.parts()

    def pour(self, take: Callable[[bytes], bool]) -> Awaitable[bool]:
        """See `Poured.pour`."""
        return self._connection.pour(take)
