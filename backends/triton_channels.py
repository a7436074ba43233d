"""The gRPC channels to one replica: made when they are needed, shared by calls, closed when it has gone.

Knows the gRPC library, which is imported when a fleet has gRPC addresses; it must never know what a call asks
or what its status means.
"""

from collections.abc import Callable
from typing import Any

from backends.base import Spawn
from backends.upstream_tls import ClientTls
from gateway.clock import Clock
from gateway.errors import BackendDown, ConfigError
from gateway.options import Duration
from gateway.vocab import Call, Headers

_OURS = frozenset((b"user-agent", b"content-type", b"te"))


def library() -> Any:
    """The gRPC library. Raises ConfigError where it is not installed."""
    try:
        import grpc.aio  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError(
            "gRPC replicas need the grpcio package, which is not installed: pip install 'overspill[grpc]'"
        ) from None
    return grpc


class GrpcReplica:
    """The channels to one replica.

    fields:  metadata added to every call, in place of the call's own of that name
    """

    def __init__(
        self,
        address: str,
        *,
        channels: int,
        connect_timeout: Duration,
        fields: Headers,
        clock: Clock,
        spawn: Spawn,
        tls: ClientTls | None = None,
    ) -> None:
        self.address = address
        self._tls = tls
        self._spawn = spawn
        self.clock = clock
        self.library = library()
        self._count = channels
        self._connect_timeout = connect_timeout
        self._replaced = _OURS | {name for name, _ in fields}
        self._fields = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in fields)
        self._channels: list[Channel] = []
        self._calls = 0
        self._retired = False

    def begin(self) -> None:
        """A call is about to use a channel; `end` must follow."""
        self._calls += 1

    def end(self) -> None:
        """A call is over."""
        self._calls -= 1
        self._close_if_left()

    def retire(self) -> None:
        """Close its channels as soon as no call is on them."""
        self._retired = True
        self._close_if_left()

    def _close_if_left(self) -> None:
        if self._retired and not self._calls and self._channels:
            self._spawn(self.close(), name=f"close the channels to {self.address}")

    def channel(self) -> "Channel":
        """The channel with the fewest calls. They are made with the first use, and connect when called."""
        if not self._channels:
            wait = int(self._connect_timeout * 1000)
            options = (
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),  # else all channels would share one connection
                # A replica that is back is found again at once; meanwhile calls fail fast and go elsewhere.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", wait),
                ("grpc.max_reconnect_backoff_ms", 1000),
                ("grpc.enable_retries", 0),  # what may be tried again is decided by the gateway
                ("grpc.enable_http_proxy", 0),
            )
            self._channels = [Channel(self._open(options)) for _ in range(self._count)]
        return min(self._channels, key=_busy)

    def _open(self, options: tuple[tuple[str, Any], ...]) -> Any:
        aio, tls = self.library.aio, self._tls
        if tls is None:
            return aio.insecure_channel(self.address, options=options)
        if tls.server_name is not None:
            options = (*options, ("grpc.ssl_target_name_override", tls.server_name))
        try:
            credentials = tls.grpc_credentials(self.library)
        except ConfigError as error:
            raise BackendDown(str(error)) from None
        return aio.secure_channel(self.address, credentials, options=options)

    def metadata(self, call: Call) -> tuple[tuple[str, str | bytes], ...]:
        """What is sent beside the message."""
        fields: list[tuple[str, str | bytes]] = []
        for key, value in call.headers:
            if key not in self._replaced and not key.startswith(b"grpc-"):
                name = key.decode("ascii")
                fields.append((name, value if name.endswith("-bin") else value.decode("latin-1")))
        return (
            *fields,
            ("x-request-id", call.request_id),
            ("traceparent", call.traceparent),
            *self._fields,
        )

    async def close(self) -> None:
        """Close every connection."""
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.close()


class Channel:
    """One connection, and how many calls are on it."""

    __slots__ = ("_channel", "_methods", "busy")

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._methods: dict[bytes, Callable[..., Any]] = {}
        self.busy = 0

    def method(self, target: bytes, *, stream: bool) -> Callable[..., Any]:
        """What makes a call of a method; the methods are a closed list."""
        method = self._methods.get(target)
        if method is None:
            make = self._channel.stream_stream if stream else self._channel.unary_unary
            method = self._methods[target] = make(target.decode("ascii"))
        return method

    async def close(self) -> None:
        await self._channel.close()


def _busy(channel: Channel) -> int:
    return channel.busy
