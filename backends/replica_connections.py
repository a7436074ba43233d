"""The kept-alive connections to one warm replica, and one request on them as a context manager.

The warm path's upstream half, on top of `http1.py`. It never chooses a replica, never retries except for a
kept-alive connection that the server had already closed, and knows nothing of models or prices.
"""

import asyncio
from functools import partial
from urllib.parse import urlsplit

from backends.egress import Lookup, ask_system
from backends.http1 import MOST_KNOWN, KnownHead, UpstreamConnection
from backends.reaching import Reach
from backends.upstream_tls import ClientTls
from gateway.clock import Clock
from gateway.cork import Cork
from gateway.errors import BackendBroke
from gateway.kept_fields import HeadTable
from gateway.vocab import WARM_START, Body, Discreet, Reply


class ReplicaConnections:
    """The connections to one replica. Its slots bound how many there are; this only reuses them.

    tls:     for an https address; None: whom the system trusts
    lookup:  finds the addresses of a host name
    cork:    by which requests are written; None: each by itself
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        connect_timeout: float,
        keep_idle: float,
        tls: ClientTls | None = None,
        lookup: Lookup = ask_system,
        cork: Cork | None = None,
    ) -> None:
        parts = urlsplit(url)
        self._tls = (tls or ClientTls(url, None)) if parts.scheme == "https" else None
        self.host = parts.hostname or ""
        self.port = parts.port or (80 if self._tls is None else 443)
        self.authority = parts.netloc.encode("ascii")
        self.base = parts.path.rstrip("/").encode("ascii")
        self._reach = Reach(self.host, self.port, tls=self._tls, timeout=connect_timeout, lookup=lookup)
        self._clock = clock
        self._keep_idle = keep_idle
        self._idle: list[UpstreamConnection] = []
        self._known = HeadTable[KnownHead](MOST_KNOWN)
        self._retired = False
        self._cork = cork or Cork(at_once=True)

    @property
    def retired(self) -> bool:
        """True once it has gone."""
        return self._retired

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
        """A new connection. Raises BackendDown, NoDescriptor among them."""
        loop = asyncio.get_running_loop()
        return await self._reach.connect(partial(UpstreamConnection, loop, self._known, self._cork))

    def release(self, connection: UpstreamConnection) -> None:
        """Take a connection back: kept if its exchange ended cleanly, closed if not."""
        connection.busy = False
        if connection.clean and not self._retired:
            connection.idle_since = self._clock.now()
            self._idle.append(connection)
        else:
            connection.close()

    def retire(self) -> None:
        """Close every idle connection, and those in use when their exchange has ended."""
        self._retired = True
        self.close()

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            self._idle.pop().close()


class Attempt(Discreet, eq=False):
    """One request to one replica, as a context manager around its answer.

    head:    request line and fields, up to and without the empty line, without body framing
    resend:  it may be sent once more where a kept connection turns out to be closed
    """

    _connections: ReplicaConnections
    _method: bytes
    _head: bytes
    _body: Body
    _resend: bool
    _connection: UpstreamConnection | None = None
    _sender: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Reply:
        try:
            connection = self._connections.reuse() or await self._connections.connect()
            while True:
                self._connection = connection
                data = self._send(connection)
                try:
                    while (reply := connection.reply()) is None:
                        await connection.news()
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
            reply.start = WARM_START  # whatever stands behind this pool is always on
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
            connection.send(self._head + framing, is_head=is_head, more=True)
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
