"""Step 1 for gRPC: own the port, hand every RPC to the pipeline as one exchange, drain.

`grpc.aio` with generic handlers: messages come and go as bytes, no stub is generated or used. Knows nothing
of routes or backends. The library is imported when a port is to be opened, for most gateways have none.

A stream is one call, from its first message to its end: it takes its slot with the first message, on one
replica, and holds it for as long as it lives. One that was opened and never used holds nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

from gateway.clock import Clock
from gateway.errors import ClientGone, ConfigError, OverspillError
from gateway.exchange import Conversation
from gateway.grpc_exchange import Context, GrpcExchange, GrpcStream
from gateway.message_stream import MessageStream
from gateway.protocols.grpc import METHODS, STREAM, UNAVAILABLE, Grpc
from gateway.tls import PortTls
from gateway.vocab import WholeBody

log = logging.getLogger("overspill.grpc")

_LARGEST_OPTION = 2**31 - 1
_AFTER_CANCEL_S = 5.0
MOST_STREAMS = 4096
"""RPCs of one connection at once. Clients hold the next ones back."""


class GrpcLimits(NamedTuple):
    """Bytes of one message, and of the messages of a stream that are held so that it can be tried again.

    head:   bytes of a call's metadata, each entry with 32 bytes more (RFC 9113, 6.5.2)
    calls:  most that are inside the gateway; twice as many RPCs may be open, for a stream that nobody has
            used yet is no call, and who is refused by the gateway learns why and is counted
    """

    body: int = 64 * 2**20
    body_buffer: int = 256 * 1024
    calls: int = 10_000
    head: int = 32 * 1024


class Handler(Protocol):
    """What is needed of the pipeline."""

    def handle(self, exchange: Conversation) -> Awaitable[None]:
        """Answer one request. Must answer or abort the exchange before it returns."""
        ...


def library() -> Any:
    """The gRPC library. Raises ConfigError where it is not installed."""
    try:
        import grpc.aio  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError(
            "listen.grpc needs the grpcio package, which is not installed: pip install 'overspill[grpc]'"
        ) from None
    return grpc


class GrpcServer:
    """All gRPC clients of one port.

    name:  gives an exchange an id and a trace where its client gave none
    tls:   what it shows its clients; None: it speaks in the clear
    """

    def __init__(
        self,
        handler: Handler,
        protocol: Grpc,
        *,
        limits: GrpcLimits,
        clock: Clock,
        name: Callable[[Any], None],
        tls: PortTls | None = None,
    ) -> None:
        self._grpc = library()
        self._tls = tls
        self._handler = handler
        self._protocol = protocol
        self._limits = limits
        self._clock = clock
        self._name = name
        self._server: Any = None
        self._stopping: asyncio.Future[None] | None = None
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._methods = {method: self._method(method) for method in METHODS}

    @property
    def calls(self) -> int:
        """RPCs that are being answered."""
        return self._inside

    async def open(self, host: str, port: int, *, shared: bool = False) -> tuple[str, int]:
        """Listen; returns the address really bound (port 0 asks the system for one). Raises OSError.

        shared:  with other processes: the system deals out the connections (SO_REUSEPORT)
        """
        self._stopping = asyncio.get_running_loop().create_future()
        self._server = self._grpc.aio.server(
            maximum_concurrent_rpcs=2 * self._limits.calls,
            options=(
                ("grpc.max_concurrent_streams", min(MOST_STREAMS, 2 * self._limits.calls)),
                ("grpc.max_receive_message_length", min(self._limits.body, _LARGEST_OPTION)),
                ("grpc.max_send_message_length", -1),
                # Both, for between the two of them calls are refused by chance.
                ("grpc.max_metadata_size", min(self._limits.head, _LARGEST_OPTION)),
                ("grpc.absolute_max_metadata_size", min(self._limits.head, _LARGEST_OPTION)),
                # Otherwise a second gateway on the same port would silently take half of the connections.
                ("grpc.so_reuseport", int(shared)),
                # Clients that keep their connections alive are not sent away for asking too often.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
        )
        self._server.add_generic_rpc_handlers((self,))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = (
                self._server.add_insecure_port(address)
                if self._tls is None
                else self._server.add_secure_port(address, grpc_credentials(self._grpc, self._tls))
            )
        except RuntimeError:
            raise OSError(f"the gRPC port {address} cannot be opened; is it in use?") from None
        await self._server.start()
        return host, int(bound)

    async def drain(self, timeout: float) -> None:
        """Take no new RPC, finish what is in flight for at most `timeout` seconds, then cancel it."""
        if self._server is None:
            return
        if self._stopping is not None and not self._stopping.done():
            self._stopping.set_result(None)
        await self._server.stop(timeout)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), _AFTER_CANCEL_S)

    def service(self, details: Any) -> Any:
        """The handler of a method, None for one that is not known: what `grpc` asks a generic handler."""
        return self._methods.get(details.method)

    def _method(self, method: str) -> Any:
        if method == STREAM:
            return self._grpc.stream_stream_rpc_method_handler(partial(self._stream, method.encode()))
        return self._grpc.unary_unary_rpc_method_handler(partial(self._unary, method.encode()))

    async def _unary(self, target: bytes, message: bytes, context: Context) -> bytes:
        exchange = GrpcExchange(
            context,
            target=target,
            body=WholeBody(message),
            arrived=self._clock.now(),
            max_body=self._limits.body,
            task=asyncio.current_task(),
        )
        self._introduce(exchange)
        with self._counted():
            await self._handler.handle(exchange)
        return exchange.message

    async def _stream(self, target: bytes, messages: AsyncIterator[bytes], context: Context) -> None:
        with self._counted():
            first = await self._first(messages)
            if first is None:
                assert self._stopping is not None
                if self._stopping.done():
                    context.set_code(UNAVAILABLE)
                    context.set_details("the gateway is stopping")
                return
            body = MessageStream(first, buffer=self._limits.body_buffer)
            exchange = GrpcStream(
                context,
                target=target,
                body=body,
                arrived=self._clock.now(),
                max_body=self._limits.body,
                task=asyncio.current_task(),
                departed=self._grpc.aio.BaseError,
            )
            self._introduce(exchange)
            reading = asyncio.get_running_loop().create_task(self._read(messages, body, first))
            try:
                await self._handler.handle(exchange)
                with contextlib.suppress(ClientGone):  # the pipeline has booked the call by now
                    await exchange.drain()
            finally:
                reading.cancel()

    async def _first(self, messages: AsyncIterator[bytes]) -> bytes | None:
        """The first message of a stream; None if it ends without one, or the gateway stops meanwhile."""
        assert self._stopping is not None
        coming = asyncio.get_running_loop().create_task(_next(messages))
        either: set[asyncio.Future[Any]] = {coming, self._stopping}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return coming.result() if coming.done() else None
        finally:
            coming.cancel()

    async def _read(self, messages: AsyncIterator[bytes], body: MessageStream, first: bytes) -> None:
        """Feed the messages after the first, each checked."""
        try:
            check = self._protocol.follows(first)
            while (message := await _next(messages)) is not None:
                check(message)
                await body.feed(message)
        except OverspillError as error:
            body.fail(error)
        else:
            body.finish()

    def _introduce(self, exchange: GrpcExchange) -> None:
        if self._tls is not None:
            exchange.scheme = b"https"
        self._name(exchange)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()


async def _next(messages: AsyncIterator[bytes]) -> bytes | None:
    async for message in messages:
        return message
    return None


def grpc_credentials(grpc: Any, tls: PortTls) -> Any:
    """Server credentials of the gRPC library that show the port's certificate as it is at each handshake."""

    def configuration() -> Any:
        pems = tls.shown.pems
        pair = [(pems.key, pems.certificate)]
        return grpc.ssl_server_certificate_configuration(pair, root_certificates=pems.client_ca)

    shown = tls.shown

    def renewed() -> Any:
        nonlocal shown
        if tls.shown is shown:
            return None  # nothing has changed
        shown = tls.shown
        return configuration()

    return grpc.dynamic_ssl_server_credentials(
        configuration(),
        renewed,
        require_client_authentication=tls.files.client_certificates == "required",
    )
