"""Step 1, one connection: HTTP/1.1 framing, pipelining in order, limits, hang-up.

It turns bytes into one Exchange after another and hands each to the pipeline, one task per connection,
in the order in which they came. It never looks into a body and knows nothing of routes or backends.
The grammar is llhttp's, in its strict mode; what llhttp leaves to its caller (one Host, no
`gzip, chunked`, no transfer-encoding in HTTP/1.0, sizes) is checked here.
"""

import asyncio
import contextlib
import socket
from collections import deque

import httptools

from gateway.body import ArrivedBody, IncomingBody, client_left
from gateway.errors import (
    BadCall,
    BodyTooLarge,
    ClientGone,
    HeadTooLarge,
    OverspillError,
    SlowRequest,
    TargetTooLong,
)
from gateway.exchange import Certificate, Exchange
from gateway.framing import comes_again, is_http10, read_framing
from gateway.heads import Head
from gateway.host import Handler, Host
from gateway.kept_fields import KeptFields
from gateway.listener_limits import ListenerLimits
from gateway.unswitched import rest_of_message

__all__ = ["Connection", "Handler", "Host", "ListenerLimits"]

_FOREVER = float("inf")
LAST_REQUEST_S = 1.0
"""How long an idle connection stays open while its gateway drains: a request may be on its way already."""
_LINGER_S = 1.0  # how long a client may go on sending after an early answer before the socket is closed


class Connection(asyncio.Protocol):
    """One client connection: requests in, answers out, in order."""

    __slots__ = (
        "_awaited", "_body", "_current", "_drained", "_expects", "_fatal", "_framing", "_head_size",
        "_listener", "_parser", "_parsing", "_paused", "_peer", "_queue", "_refused", "_sweep_at",
        "_switches", "_task", "_transport", "_unread", "_writable", "_write_by",
    )  # fmt: skip

    _transport: asyncio.Transport
    scheme = b"http"
    certificate: Certificate | None = None  # in the clear nobody shows one

    def __init__(self, listener: Host) -> None:
        self._listener = listener
        self._parser = httptools.HttpRequestParser(self)
        self._parsing: Exchange | None = None  # the request whose head or body is arriving
        self._current: Exchange | None = None  # the request being answered
        self._queue: deque[Exchange] = deque()  # pipelined requests that wait for their turn
        self._task: asyncio.Task[None] | None = None  # answers one request after the other
        self._awaited: asyncio.Future[None] | None = None  # set while that task waits for a request
        self._expects = False  # does the client wait to be invited?
        self._body: IncomingBody | None = None  # that of the request in `_parsing`, once its head is read
        self._head_size = 0
        self._framing = 0  # bytes that were neither head nor body: chunk sizes, extensions, trailers
        self._switches = False  # does the request in `_parsing` offer another protocol, and have a body?
        self._refused = False  # no further request is taken from this connection
        self._fatal: OverspillError | None = None  # why, where it is still to be answered
        self._paused = False
        self._writable = True
        self._drained: asyncio.Future[None] | None = None
        self._peer = b""
        self._sweep_at = _FOREVER
        self._unread = 0  # bytes of answers that the client had not taken when last looked at
        self._write_by = _FOREVER  # when it must have taken some of them

    # -- asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = transport  # type: ignore[assignment]
        peer = transport.get_extra_info("peername")
        self._peer = peer[0].encode() if isinstance(peer, tuple) else b""
        if not self._listener.admit(self):
            self._transport.abort()
            return
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sweep_at = self._listener.clock.now() + self._listener.limits.head_timeout

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone: whatever works for it stops and gives back what it holds."""
        self._listener.forget(self)
        self._sweep_at = self._write_by = _FOREVER
        self._refused = True
        if self._parsing is not None and self._body is not None:
            self._body.fail(client_left())
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(ClientGone("the client closed the connection"))
        if self._task is not None:
            self._task.cancel()
        # What holds this connection in turn would stay with it until somebody looks for cycles.
        del self._parser
        self._parsing = self._body = self._current = self._task = self._fatal = None
        self._queue.clear()

    def eof_received(self) -> bool:
        """The client will send no more: taken as leaving, as the other proxies do."""
        return False

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._refused or self._fatal is not None:
            return
        fresh = self._parsing is None and self._current is None and not self._queue
        if fresh and self._recognise(data):
            return
        self._framing += len(data)
        try:
            self._parse(data)
            self._check_unfinished()
        except httptools.HttpParserCallbackError as error:
            self._refuse(_raised_within(error))
        except httptools.HttpParserError as error:
            self._refuse(BadCall(f"this is not a valid HTTP/1.1 request: {error}", close=True))
        except OverspillError as error:
            self._refuse(error)
        if self._current is None and self._queue:
            if fresh and len(self._queue) == 1 and self._parsing is None:
                self._remember(data, self._queue[0])
            self._start(self._queue.popleft())
        # A request whose body is still on its way is started too: it may be refused by its head alone.
        parsing = self._parsing
        if parsing is not None and self._current is None and self._body is not None:
            self._start(parsing)

    def _recognise(self, data: bytes) -> bool:
        """Take a whole request whose head is known to the byte; False if it has to be parsed."""
        listener = self._listener
        end = data.find(b"\r\n\r\n") + 4
        head = listener.heads.get(data[:end])
        if head is None or len(data) - end != head.length:
            return False
        limit = listener.limits.body
        method, target, headers, length = head
        request_id, traceparent = listener.names()
        self._sweep_at = _FOREVER
        self._start(
            Exchange(
                self,
                self._peer,
                listener.clock.now(),
                limit,
                method,
                target,
                headers,
                ArrivedBody(data[end:], length, limit),
                not listener.draining,
                request_id,
                traceparent,
            )
        )
        return True

    def _remember(self, data: bytes, exchange: Exchange) -> None:
        """Keep the head of a request that came whole and alone, and whose head comes again."""
        end = data.find(b"\r\n\r\n") + 4
        length = len(data) - end
        plain = exchange.keep_alive and not exchange.http10 and exchange.body.length == length
        heads, raw = self._listener.heads, data[:end]
        if plain and comes_again(exchange.headers) and heads.again(raw):
            heads.keep(raw, Head(exchange.method, exchange.target, KeptFields(exchange.headers), length))

    def pause_writing(self) -> None:
        """The client reads slowly: stop taking bytes from upstream."""
        self._writable = False
        self._watch_reading()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable = True
        if not self._transport.is_closing():
            self._write_by = _FOREVER
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # -- httptools calls these

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        listener = self._listener
        now = listener.clock.now()
        self._parsing = Exchange(self, self._peer, now, listener.limits.body)
        self._body = None
        self._head_size = 0
        if self._current is None:
            self._sweep_at = now + listener.limits.head_timeout

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        exchange = self._parsing
        assert exchange is not None
        exchange.target += url
        if len(exchange.target) > self._listener.limits.target:
            raise TargetTooLong(
                f"the request target is over the limit of {self._listener.limits.target} bytes", close=True
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head, or of the trailer, which is dropped."""
        exchange = self._parsing
        assert exchange is not None
        self._head_size += len(name) + len(value) + 4
        if self._body is not None:
            return
        exchange.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is complete: check what llhttp leaves to us, and open the body."""
        exchange = self._parsing
        assert exchange is not None
        self._check_head(exchange)
        exchange.method = self._parser.get_method()
        exchange.http10 = is_http10(exchange.method, self._parser.get_http_version())
        exchange.keep_alive = self._parser.should_keep_alive() and not self._listener.draining
        length, expects = read_framing(exchange)
        self._switches = length != 0 and self._parser.should_upgrade()
        self._listener.name(exchange)
        limits = self._listener.limits
        if length is not None and length > limits.body:
            raise BodyTooLarge(f"the body has {length} bytes, the limit is {limits.body}", close=True)
        self._expects = expects
        body = IncomingBody(self, length=length, buffer=limits.body_buffer, limit=limits.body)
        exchange.body = self._body = body
        self._framing = 0
        if length != 0 and self._current is None:
            self._sweep_at = self._listener.clock.now() + limits.body_timeout

    def on_body(self, data: bytes) -> None:
        """Decoded body bytes."""
        assert self._body is not None
        self._framing -= len(data) * 9  # up to eight framing bytes a body byte are a fair chunk size
        self._body.feed(data)
        if self._sweep_at is not _FOREVER:
            self._sweep_at = self._listener.clock.now() + self._listener.limits.body_timeout

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        exchange, body = self._parsing, self._body
        assert exchange is not None
        assert body is not None
        if self._switches:
            return  # its body is yet to come, see `_parse`
        self._parsing = self._body = None
        body.finish()
        self._sweep_at = _FOREVER
        if exchange is not self._current:
            self._queue.append(exchange)
            if len(self._queue) >= self._listener.limits.pipelined:
                self.pause()

    # -- the current exchange calls these (exchange.Wire)

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._listener.cork.write(self._transport, data)

    @property
    def congested(self) -> bool:
        """True while the client reads more slowly than we write."""
        return not self._writable

    async def drain(self) -> None:
        """Wait until the client has caught up."""
        if self._writable:
            return
        self._drained = asyncio.get_running_loop().create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    def done(self, exchange: Exchange) -> None:
        """The answer is complete."""
        if exchange.keep_alive:
            return
        if exchange.body.complete:
            self._close()
            self._refused = True
            return
        # Closing now would reset the connection and could destroy the answer before it is read.
        self._refused = True
        exchange.body.discard()
        self.resume()
        self._listener.cork.flush()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._sweep_at = self._listener.clock.now() + _LINGER_S

    def break_off(self) -> None:
        """Close without completing the answer; what was written before is still delivered."""
        self._refused = True
        self._close()

    # -- inside

    def pause(self) -> None:
        """Stop reading from the client."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
            if self._parsing is not None and not self._refused:
                self._sweep_at = self._listener.clock.now() + self._listener.limits.body_timeout

    def invite(self) -> None:
        """Tell a client that waits to be told (`Expect: 100-continue`) to send its body."""
        if self._expects:
            self._expects = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def sweep(self, now: float) -> None:
        """Has this connection kept us waiting too long?"""
        if now >= self._write_by:
            if self._transport.get_write_buffer_size() >= self._unread:
                self._transport.abort()  # it takes nothing: what is held for it is better forgotten
                return
            self._watch_reading()
        parsing, body, rate = self._parsing, self._body, self._listener.limits.body_min_rate
        awaited = not (self._paused or self._refused or self._expects)
        slow = body is not None and parsing is not None and body.trickles(now, rate, awaited=awaited)
        if now < self._sweep_at and not slow:
            return
        self._sweep_at = _FOREVER
        if self._refused or parsing is None:
            self._close()  # lingered, idle, or never said a word
        elif body is not None:
            if self._paused:
                return  # we are the ones who do not read
            body.fail(SlowRequest("the request body stopped arriving, or comes too slowly", close=True))
        else:
            self._refuse(SlowRequest("the request head took too long to arrive", close=True))

    def retire(self, by: float) -> None:
        """Draining: the last answer says so; if idle, stay until `by`, for a request may be on its way."""
        last = self._parsing or (self._queue[-1] if self._queue else self._current)
        if last is None:
            self._sweep_at = min(self._sweep_at, by)
        elif not last.began:
            last.keep_alive = False

    def abandon(self) -> None:
        """Close whatever happens."""
        self._transport.abort()

    def _start(self, exchange: Exchange) -> None:
        self._current = exchange
        if self._task is None:
            self._task = self._listener.loop.create_task(self._answer_all())
        elif self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)
        exchange.task = self._task

    async def _answer_all(self) -> None:
        """The task of this connection: one request after the other, as long as it lives.

        Cancelled, it ends well: a task that keeps an error keeps all that was at work, large bodies among it,
        and as that holds the task in turn they would stay until somebody looks for cycles.
        """
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                exchange = self._current
                assert exchange is not None
                try:
                    keeper = self._listener.doorkeeper
                    if keeper is not None and (error := keeper.refusal(exchange)) is not None:
                        self._listener.handler.refuse(exchange, error)
                    else:
                        await self._listener.handler.handle(exchange)
                    if not (self._writable or self._refused):
                        await self.drain()  # or a client that asks and never reads would fill the memory
                finally:
                    self._current = None
                    if not exchange.ended:
                        exchange.abort()
                if self._refused:
                    return
                self._next(exchange)
                if self._current is None:
                    self._awaited = self._listener.loop.create_future()
                    await self._awaited
                    self._awaited = None

    def _next(self, exchange: Exchange) -> None:
        listener = self._listener
        if self._queue:
            following = self._queue.popleft()
            if self._fatal is None:
                self.resume()
            self._start(following)
        elif self._fatal is not None:
            self._answer_fatal(self._fatal)
        elif self._parsing is None:
            idle = listener.limits.idle_timeout  # while draining the client was not told to send no more
            self._sweep_at = listener.clock.now() + (min(idle, LAST_REQUEST_S) if listener.draining else idle)
            if self._paused:
                self.resume()
        elif self._body is not None and self._parsing is not exchange:
            self._start(self._parsing)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            exchange = self._parsing
            if exchange is None or not self._switches:
                self._no_more_requests()
                return
            self._switches = exchange.keep_alive = False  # what follows the body is not read
            self._parser = rest_of_message(exchange.body.length, self.on_body, self.on_message_complete)
            self._parser.feed_data(data[offer.args[0] :])

    def _close(self) -> None:
        self._listener.cork.flush()
        self._watch_reading()
        self._transport.close()

    def _watch_reading(self) -> None:
        self._unread = self._transport.get_write_buffer_size()
        self._write_by = self._listener.clock.now() + self._listener.limits.write_timeout

    def _no_more_requests(self) -> None:
        # An Upgrade is not taken; the request is answered as plain HTTP/1.1 and the connection closed,
        # because llhttp stops parsing behind it.
        last = self._queue[-1] if self._queue else self._current
        if last is not None:
            last.keep_alive = False
        self.pause()

    def _refuse(self, error: OverspillError) -> None:
        """A request cannot be read: answer it in its turn and close, for what follows cannot be trusted."""
        self._sweep_at = _FOREVER
        self.pause()
        if self._body is not None and self._parsing is not None and self._parsing is self._current:
            self._body.fail(error)  # its own task answers
            self._parsing = self._body = None
            self._current.keep_alive = False
            return
        self._fatal = error.again()
        if self._current is None and not self._queue:
            self._answer_fatal(error)

    def _answer_fatal(self, error: OverspillError) -> None:
        broken, self._parsing = self._parsing, None
        if broken is None:
            limits = self._listener.limits
            broken = Exchange(self, self._peer, self._listener.clock.now(), limits.body)
            self._body = None
        if self._body is None:
            broken.body = IncomingBody(self, length=None, buffer=1, limit=1)
        broken.keep_alive = False
        self._listener.name(broken)
        self._listener.handler.refuse(broken, error)

    def _check_head(self, exchange: Exchange) -> None:
        limits = self._listener.limits
        if self._head_size > limits.head:
            raise HeadTooLarge(f"the header section is over the limit of {limits.head} bytes", close=True)
        if len(exchange.headers) > limits.fields:
            raise HeadTooLarge(f"the request has more than {limits.fields} header fields", close=True)

    def _check_unfinished(self) -> None:
        """What has arrived of a request that goes on: a head must not be endless, nor a body all framing."""
        exchange, limits = self._parsing, self._listener.limits
        if exchange is None:
            return
        self._check_head(exchange)
        if self._body is None and self._framing > limits.head + limits.target:
            raise HeadTooLarge(f"the header section is over the limit of {limits.head} bytes", close=True)
        if self._body is not None and self._framing > limits.head + 65536:
            raise BadCall("the chunked body has more framing than content", close=True)


def _raised_within(error: httptools.HttpParserCallbackError) -> OverspillError:
    """What one of the functions that the parser calls has raised."""
    cause = error.__context__
    return cause if isinstance(cause, OverspillError) else BadCall(str(cause), close=True)
