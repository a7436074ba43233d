"""HTTP/1.1 towards a warm replica: a pool of kept-alive connections on asyncio.Protocol and llhttp.

The warm path's upstream half. It sends ready bytes and parses answers; it never chooses a replica,
never retries except for a kept-alive connection that the server had already closed, and knows nothing
of models or prices. Bodies pass through untouched.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

from gateway.clock import Clock
from gateway.errors import AnswerTruncated, BackendBroke, BackendDown
from gateway.vocab import HOP_BY_HOP, Body, Headers, Reply, Start

_HIGH_WATER = 256 * 1024  # bytes of an answer held here before the replica is made to wait
_WAIT_FOR_WHOLE = 64 * 1024  # an answer declared this small is relayed in one piece
_MAX_HEAD = 64 * 1024
_MOST_KNOWN = 256
_LONGEST_KNOWN = 2048


class KnownHead(NamedTuple):
    """The head of an answer that was parsed before: status, fields, and length of the body.

    The key is the whole head as it came, so that a head that is found has been parsed to the byte.
    """

    status: int
    headers: Headers
    length: int


class UpstreamConnection(asyncio.Protocol):
    """One connection to a replica; carries one exchange at a time."""

    __slots__ = (
        "_chunked", "_closed", "_complete", "_drained", "_head_done", "_head_size", "_held", "_is_head",
        "_known", "_length", "_loop", "_parser", "_parts", "_paused", "_raw_close", "_reusable",
        "_transport", "_waiter", "_writable", "busy", "headers", "idle_since", "reused", "started", "status",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, known: dict[bytes, "KnownHead"]) -> None:
        self._loop = loop
        self._known = known
        self.busy = False
        self.reused = False
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)  # good for every answer of this connection
        self._closed = False
        self._paused = False
        self._writable = True
        self._waiter: asyncio.Future[None] | None = None
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
            if self._complete and self._head_size == len(data):
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
        whole = self._reusable and not self._is_head and self._length == len(data) - end
        if whole and end <= _LONGEST_KNOWN:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[data[:end]] = KnownHead(self.status, self.headers, len(data) - end)

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
        status = self._parser.get_status_code()
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
        return self._complete and self._reusable and not self._is_head and not self._closed

    def send(self, data: bytes, *, is_head: bool) -> None:
        """Begin an exchange: write the head and as much of the body as is ready."""
        self._reset(is_head=is_head)
        self.busy = True
        self._transport.write(data)

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

    async def reply(self) -> Reply:
        """The answer's head, with all of its body where that is small and its length is declared."""
        while not self._head_done or (
            not self._complete and self._length is not None and self._length <= _WAIT_FOR_WHOLE
        ):
            if self._closed:
                when = "in the middle of its answer" if self._head_done else "before it answered"
                raise BackendBroke(f"the backend closed the connection {when}")
            waiter = self._waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        if self._complete:
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            return Reply(self.status, self.headers, body, length=self._length)
        return Reply(self.status, self.headers, stream=self._stream(), length=self._length)

    def close(self) -> None:
        """Drop the connection now, with whatever is under way on it."""
        if not self._closed:
            self._transport.abort()

    async def _stream(self) -> AsyncIterator[bytes]:
        while True:
            while self._parts:
                data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts.clear()
                self._held = 0
                yield data
                if self._paused and not self._closed:
                    self._paused = False
                    self._transport.resume_reading()
            if self._complete:
                return
            if self._closed:
                raise AnswerTruncated("the backend closed the connection in the middle of its answer")
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ReplicaConnections:
    """The connections to one replica. Its slots bound how many there are; this only reuses them."""

    def __init__(self, url: str, *, clock: Clock, connect_timeout: float, keep_idle: float) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or 80
        self.authority = parts.netloc.encode("ascii")
        self.base = parts.path.rstrip("/").encode("ascii")
        self._clock = clock
        self._connect_timeout = connect_timeout
        self._keep_idle = keep_idle
        self._idle: list[UpstreamConnection] = []
        self._known: dict[bytes, KnownHead] = {}

    @property
    def idle(self) -> int:
        """Connections that wait for work."""
        return len(self._idle)

    def reuse(self) -> UpstreamConnection | None:
        """The most recently used idle connection, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            # The server closes idle connections too; the younger the connection, the rarer that race.
            if connection.usable and self._clock.now() - connection.idle_since < self._keep_idle:
                connection.reused = True
                return connection
            connection.close()
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises BackendDown."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    partial(UpstreamConnection, loop, self._known), self.host, self.port
                )
        except TimeoutError:
            raise BackendDown(
                f"no connection to {self.host}:{self.port} in {self._connect_timeout:g} s"
            ) from None
        except OSError as error:
            raise BackendDown(
                f"cannot connect to {self.host}:{self.port}: {error.strerror or error}"
            ) from None
        return connection

    def release(self, connection: UpstreamConnection) -> None:
        """Take a connection back: kept if its exchange ended cleanly, closed if not."""
        connection.busy = False
        if connection.clean and connection.usable:
            connection.idle_since = self._clock.now()
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            self._idle.pop().close()


class Attempt:
    """One request to one replica, as a context manager around its answer.

    head:  request line and fields, up to and without the empty line, without body framing
    """

    __slots__ = ("_body", "_connection", "_connections", "_head", "_method", "_resend", "_sender")

    def __init__(
        self, connections: ReplicaConnections, *, method: bytes, head: bytes, body: Body, resend: bool
    ) -> None:
        self._connections = connections
        self._method = method
        self._head = head
        self._body = body
        self._resend = resend
        self._connection: UpstreamConnection | None = None
        self._sender: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reply:
        try:
            connection = self._connections.reuse() or await self._connections.connect()
            while True:
                self._connection = connection
                data = self._send(connection)
                try:
                    reply = await connection.reply()
                    break
                except BackendBroke as error:
                    self._blame_the_client(error)
                    stale = connection.reused and not connection.started and data is not None
                    if not (stale and self._resend):
                        raise
                # The server closed a kept-alive connection as we wrote to it. Nothing of an answer had
                # come, so an idempotent request is sent once more on a connection of its own
                # (RFC 9110, 9.2.2).
                self._leave()
                connection = await self._connections.connect()
            reply.start = Start.WARM  # whatever stands behind this pool is always on
            if reply.status >= 400:
                await self._judge(reply)
        except BaseException:
            self._leave()
            raise
        return reply

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    async def _judge(self, reply: Reply) -> None:
        """Raise a BackendError if this answer is not the client's."""

    def _send(self, connection: UpstreamConnection) -> bytes | None:
        """Send the request; returns its body if that was all here."""
        body = self._body
        data = body.whole()
        is_head = self._method == b"HEAD"
        if data:
            connection.send(
                b"%bcontent-length: %d\r\n\r\n%b" % (self._head, len(data), data), is_head=is_head
            )
        elif data is not None:
            framing = b"\r\n" if is_head or self._method == b"GET" else b"content-length: 0\r\n\r\n"
            connection.send(self._head + framing, is_head=is_head)
        else:
            if body.length is None:
                framing = b"transfer-encoding: chunked\r\n\r\n"
            else:
                framing = b"content-length: %d\r\n\r\n" % body.length
            connection.send(self._head + framing, is_head=is_head)
            # It goes out beside the wait for the answer: a server may answer before it has read all.
            self._sender = asyncio.get_running_loop().create_task(self._send_body(connection))
        return data

    def _blame_the_client(self, error: BackendBroke) -> None:
        """Raise the error of the client's body instead, if that is why the connection was closed."""
        sender = self._sender
        if sender is not None and sender.done() and (cause := sender.exception()) is not None:
            raise cause from error

    async def _send_body(self, connection: UpstreamConnection) -> None:
        try:
            await connection.send_body(self._body)
        except BaseException:
            connection.close()  # a request that stops half-way must not look complete
            raise

    def _leave(self) -> None:
        connection, self._connection = self._connection, None
        sender, self._sender = self._sender, None
        if sender is not None:
            finished = sender.done() and not sender.cancelled() and sender.exception() is None
            if not finished:
                if connection is not None:
                    connection.close()
                sender.add_done_callback(_look_at)
                sender.cancel()
        if connection is not None:
            self._connections.release(connection)


def _look_at(sender: asyncio.Task[None]) -> None:
    """The sender's error was told by the attempt already; asyncio only wants to know that it was seen."""
    if not sender.cancelled():
        sender.exception()
