"""The one HTTP client of the serverless backends: explicit limits, bytes untouched, errors in our words.

Apart from the warm path's own http1 module, nothing else under backends/ opens a socket. It knows
connections and fields; it must never know a provider, a price, or what a status code means.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import NamedTuple, cast
from urllib.parse import quote_from_bytes

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from backends.egress import Guarded
from backends.upstream_tls import ClientTls, tls_failed
from gateway.errors import (
    NO_DESCRIPTOR,
    AnswerTruncated,
    BackendBroke,
    BackendDenied,
    BackendDown,
    BackendError,
    ConfigError,
    NoDescriptor,
    again,
)
from gateway.vocab import Headers

CONTROL_HEADROOM = 8
"""Connections kept for what is not an attempt: polls, cancels, probes."""

_CHUNK = 64 * 1024
_MAX_FIELD = 64 * 1024  # Lambda returns 4 KiB of log, base64-encoded, in one field
_NOT_ADDED = ("Accept", "Content-Type", "User-Agent")
_OURS = frozenset((b"host", b"content-length", b"accept-encoding", b"expect"))

_UNSENT = "nothing had been sent"

Upload = bytes | AsyncIterator[bytes] | None
"""A request body: here, on its way, or none."""


def _nobody() -> None:
    """There is no connection to be closed."""


class Answer(NamedTuple):
    """A whole answer. `distrust` closes the connection it came on, where it turns out to be another's."""

    status: int
    headers: Headers
    body: bytes
    distrust: Callable[[], None] = _nobody


class Exchange:
    """An answer whose head has arrived. `length` is the declared size of its body in bytes, if any."""

    __slots__ = ("_carrier", "_name", "_outgoing", "_response", "headers", "length", "status")

    def __init__(
        self,
        name: str,
        response: aiohttp.ClientResponse,
        outgoing: "_Outgoing | None",
        carrier: asyncio.Transport | None,
    ) -> None:
        self._name = name
        self._carrier = carrier
        self._response = response
        self._outgoing = outgoing
        self.status = response.status
        self.headers: Headers = [(field.lower(), value) for field, value in response.raw_headers]
        self.length = response.content_length

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises BackendBroke if it breaks off or is larger than `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        try:
            async for part in self._response.content.iter_any():
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise BackendBroke(f"{self._name}: the answer is over {limit} bytes")
        except (aiohttp.ClientError, OSError) as error:
            error.__traceback__ = None  # its response keeps it, and with it it would keep this call
            self._blame_source()
            raise BackendBroke(f"{self._name}: the answer broke off ({type(error).__name__})") from None
        return b"".join(parts)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives. Reading pauses the sender; raises AnswerTruncated if it breaks off."""
        try:
            async for part in self._response.content.iter_any():
                yield part
        except (aiohttp.ClientError, OSError) as error:
            error.__traceback__ = None  # its response keeps it, and with it it would keep this call
            self._blame_source()
            raise AnswerTruncated(f"{self._name}: the answer broke off ({type(error).__name__})") from None

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it: the peer must notice."""
        if not self._response.content.is_eof():
            self._response.close()
        self._response.release()

    def distrust(self) -> None:
        """What came is no answer to what was sent: close the connection, even if somebody else has it by now.

        Whatever comes on it from here on would be taken for the answer to another request.
        """
        if self._carrier is not None:
            self._carrier.abort()

    def _blame_source(self) -> None:
        if self._outgoing is not None and self._outgoing.fault is not None:
            raise again(self._outgoing.fault)


class _Progress:
    """How far a request has come."""

    connected = False
    carrier: asyncio.Transport | None = None
    """The connection. The library forgets it as soon as the whole answer is there."""


_PROGRESS: ContextVar[_Progress] = ContextVar("progress")


def _tracing() -> aiohttp.TraceConfig:
    async def connected(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
        context.trace_request_ctx.connected = True

    tracing = aiohttp.TraceConfig()
    tracing.on_connection_create_end.append(connected)
    tracing.on_connection_reuseconn.append(connected)
    return tracing


def unsent(left: BaseException) -> bool:
    """Whether this cancellation came before anything was sent of what was cancelled."""
    return _UNSENT in getattr(left, "__notes__", ())


class _Connector(aiohttp.TCPConnector):
    """Hands out no connection on which something came that nobody had asked for.

    The library would take it for the answer to the next request.
    """

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection with nothing on it."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            if protocol is None or not protocol.should_close:
                # uvloop's transports are none by descent.
                _PROGRESS.get().carrier = cast(asyncio.Transport, connection.transport)
                return connection
            connection.close()


class _Outgoing:
    """A request body on its way out, that remembers a fault of its source.

    The HTTP library reports such a fault as a broken connection, which would blame the wrong side.
    """

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source = source
        self.fault: BaseException | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._source:
                yield chunk
        except Exception as error:
            self.fault = error
            raise


async def _slices(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _CHUNK):
        yield body[start : start + _CHUNK]


def wire_text(value: bytes) -> str:
    """Field bytes as the text that the library sends back out as UTF-8: unchanged unless not UTF-8."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def join_url(base: str, target: bytes) -> str:
    """`base` followed by a request target in wire form, in which nothing is decoded or re-encoded."""
    return base.rstrip("/") + quote_from_bytes(target, safe="!\"$%&'()*+,/:;<=>?@[\\]^`{|}~")


class HttpClient:
    """A connection pool for one backend. The session is made on the event loop, with the first call.

    name:             the backend, for messages
    max_in_flight:    attempts at once; twice that many connections are allowed, because an attempt
                      whose client left may still be finishing in the background
    connect_timeout:  seconds for DNS, TCP and TLS together
    tls:              whom to trust, and what to show; None: whom the system trusts, and nothing
    metadata:         names that may lead to a link-local address: metadata services
    resolver:         makes what looks names up; the library's own where nothing is said
    """

    def __init__(
        self,
        name: str,
        *,
        max_in_flight: int,
        connect_timeout: float = 5.0,
        tls: ClientTls | ssl.SSLContext | None = None,
        metadata: Iterable[str] = (),
        resolver: Callable[[], AbstractResolver] = aiohttp.DefaultResolver,
    ) -> None:
        self._name = name
        self._metadata = tuple(metadata)
        self._resolver = resolver
        self._tls = tls
        self._server_name = tls.server_name if isinstance(tls, ClientTls) else None
        self._limit = 2 * max_in_flight + CONTROL_HEADROOM
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._session: aiohttp.ClientSession | None = None
        self._in_use = 0
        self.host: str | None = None
        """Sent as `host` instead of the address's own: where one address serves many names."""

    @property
    def in_use(self) -> int:
        """Exchanges that hold, or wait for, a connection."""
        return self._in_use

    async def close(self) -> None:
        """Close every connection. The client can be used again afterwards."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Headers,
        body: Upload = None,
        length: int | None = None,
        first: bool = False,
    ) -> AsyncIterator[Exchange]:
        """Send a request; enter with the head of its answer, leave with the connection given back.

        Never follows a redirect. `length` is the size of a body that is an iterator, if it is known. With
        `first`, nothing was sent for the same work before: a cancellation that comes before anything is,
        says so (`unsent`).
        Raises BackendDown when no byte was sent, BackendBroke when some may have been, BackendDenied
        when the request cannot be written at all; a fault of the body's own source passes as it is.
        """
        if isinstance(body, bytes) and len(body) > _CHUNK:
            # In pieces, so that a large body is written as fast as it drains and not copied at once.
            length, body = len(body), _slices(body)
        outgoing = None if body is None or isinstance(body, bytes) else _Outgoing(body)
        progress = _Progress()
        _PROGRESS.set(progress)
        self._in_use += 1
        try:
            try:
                response = await self._here().request(
                    method,
                    URL(url, encoded=True),
                    headers=_fields(headers, length if outgoing else None, self.host),
                    data=outgoing or body,
                    allow_redirects=False,
                    trace_request_ctx=progress,
                    ssl=self._trust(),
                    server_hostname=self._server_name,
                )
            except asyncio.CancelledError as left:
                if first and not progress.connected:
                    left.add_note(_UNSENT)
                raise
            except (aiohttp.ClientError, OSError, ValueError) as error:
                if outgoing is not None and outgoing.fault is not None:
                    raise again(outgoing.fault) from None
                raise self._explain(error) from None  # a parser's error quotes what it could not read
            exchange = Exchange(self._name, response, outgoing, progress.carrier)
            try:
                if response.status < 200:
                    raise BackendBroke(f"{self._name}: it switched protocols, which nobody had asked for")
                yield exchange
            finally:
                exchange.close()
        finally:
            self._in_use -= 1
            progress.carrier = None  # which keeps the context that keeps this

    async def exchange(
        self, method: str, url: str, *, headers: Headers, body: Upload = None, limit: int = 64 * 2**20
    ) -> Answer:
        """Send a request and read its whole answer (at most `limit` bytes). Raises as `open` does."""
        async with self.open(method, url, headers=headers, body=body) as exchange:
            body_here = await exchange.read(limit)
            return Answer(exchange.status, exchange.headers, body_here, exchange.distrust)

    def _trust(self) -> ssl.SSLContext | bool:
        """For a new connection. Raises BackendDown."""
        if not isinstance(self._tls, ClientTls):
            return self._tls or True
        try:
            return self._tls.context()
        except ConfigError as error:
            raise BackendDown(str(error)) from None

    def _here(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(
                    limit=0,
                    limit_per_host=self._limit,
                    resolver=Guarded(self._resolver(), names=self._metadata),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[_tracing()],
                auto_decompress=False,
                trust_env=False,
                timeout=self._timeout,
                skip_auto_headers=_NOT_ADDED,
                read_bufsize=_CHUNK,
                max_field_size=_MAX_FIELD,
            )
        return self._session

    def _explain(self, error: Exception) -> BackendError:
        """Our word for the library's error. Its own text is left out where it could quote a field."""
        match error:
            case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
                return BackendDenied(f"{self._name}: its address cannot be used")
            case aiohttp.ClientConnectorError():
                # The one for certificates has no `os_error`, whatever its base class says.
                why = getattr(error, "certificate_error", None) or error.os_error
                if getattr(why, "errno", None) in NO_DESCRIPTOR:
                    text = f"no connection to {error.host}:{error.port} can be tried: {why.strerror}"
                    return NoDescriptor(f"{self._name}: {text}")
                text = tls_failed(why) or why.strerror or type(why).__name__
                return BackendDown(f"{self._name}: cannot connect to {error.host}:{error.port}: {text}")
            case aiohttp.ConnectionTimeoutError():
                return BackendDown(f"{self._name}: no connection within {self._timeout.sock_connect:g} s")
            case aiohttp.ClientError() | OSError():
                return BackendBroke(f"{self._name}: the connection broke ({type(error).__name__})")
            case _:
                return BackendDenied(f"{self._name}: a request field cannot be written")


def _fields(headers: Headers, length: int | None, host: str | None) -> CIMultiDict[str]:
    """The fields to send. Compression is never asked for: a spilled answer has the warm one's bytes."""
    fields = CIMultiDict((name.decode("latin-1"), wire_text(v)) for name, v in headers if name not in _OURS)
    fields["Accept-Encoding"] = "identity"
    if length is not None:
        fields["Content-Length"] = str(length)
    if host is not None:
        fields["Host"] = host
    return fields
