"""The gRPC connections to one replica: made when they are needed, shared by calls, closed when it has gone.

It must never know what a call asks or what its status means.
"""

import asyncio
from urllib.parse import urlsplit

from backends.base import Spawn
from backends.grpc_client import GrpcClient
from backends.reaching import Reach
from backends.upstream_tls import ClientTls
from gateway.clock import Clock
from gateway.cork import Cork
from gateway.http2.fields import field, named
from gateway.options import Duration
from gateway.vocab import Call, Headers

_OURS = frozenset((b"user-agent", b"content-type", b"te", b"host"))
_POST, _HTTP, _HTTPS = b"\x83", b"\x86", b"\x87"
"""`:method: POST` and `:scheme` as entries of HPACK's static table (RFC 7541, appendix A)."""
_AUTHORITY, _PATH, _CONTENT_TYPE, _USER_AGENT = 1, 4, 31, 58
_MOST_DIGITS = 10**8


class GrpcReplica:
    """The connections to one replica.

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
        cork: Cork | None = None,
    ) -> None:
        self.address = address
        self.clock = clock
        self._spawn = spawn
        parts = urlsplit(f"//{address}")
        assert parts.hostname is not None
        assert parts.port is not None
        self._reach = Reach(parts.hostname, parts.port, tls=tls, timeout=connect_timeout)
        self._count = channels
        self._cork = cork
        self._replaced = _OURS | {name for name, _ in fields}
        self._added = b"".join(field(name, value, secret=True) for name, value in fields)
        self._before = _POST + (_HTTP if tls is None else _HTTPS) + named(_AUTHORITY, address.encode("ascii"))
        self._heads: dict[bytes, bytes] = {}
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
            self._channels = [Channel(self._reach, self.address, self._cork) for _ in range(self._count)]
        return min(self._channels, key=_busy)

    def head(self, call: Call, timeout: float | None) -> bytes:
        """What is sent before the message. `timeout`: seconds that the replica may take."""
        head = self._heads.get(call.target)
        if head is None:  # the methods are a closed list
            head = self._heads[call.target] = b"".join(
                (
                    self._before, named(_PATH, call.target), field(b"te", b"trailers"),
                    named(_CONTENT_TYPE, b"application/grpc"), named(_USER_AGENT, b"overspill"),
                )
            )  # fmt: skip
        parts = [head]
        if timeout is not None:
            parts.append(field(b"grpc-timeout", _timeout(timeout)))
        replaced = self._replaced
        for name, value in call.headers:
            if name not in replaced and not name.startswith(b"grpc-"):
                parts.append(field(name, value))
        parts.append(field(b"x-request-id", call.request_id.encode("ascii")))
        if call.traceparent:
            parts.append(field(b"traceparent", call.traceparent.encode("ascii")))
        parts.append(self._added)
        return b"".join(parts)

    async def close(self) -> None:
        """Close every connection."""
        channels, self._channels = self._channels, []
        for channel in channels:
            channel.close()


class Channel:
    """One connection, made anew when it has ended, and how many calls are on it."""

    __slots__ = ("_address", "_client", "_connecting", "_cork", "_reach", "busy")

    def __init__(self, reach: Reach, address: str, cork: Cork | None) -> None:
        self._reach = reach
        self._cork = cork
        self._address = address
        self._client: GrpcClient | None = None
        self._connecting: asyncio.Task[GrpcClient] | None = None
        self.busy = 0

    @property
    def ready(self) -> GrpcClient | None:
        """The connection, if there is one that takes calls."""
        client = self._client
        return client if client is not None and client.usable else None

    async def connect(self) -> GrpcClient:
        """The connection, made if need be: once for all who wait. Raises BackendDown."""
        if (client := self.ready) is not None:
            return client
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add_done_callback(_look_at)
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> GrpcClient:
        try:
            made = await self._reach.connect(
                lambda: GrpcClient(self._address, self._cork), lambda client: client.settling
            )
            self._client = made
            return made
        finally:
            self._connecting = None

    def close(self) -> None:
        """Call nobody over it any more."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._client is not None:
            self._client.close()
            self._client = None


def _busy(channel: Channel) -> int:
    return channel.busy


def _timeout(seconds: float) -> bytes:
    """At most eight digits and a unit ("gRPC over HTTP2", Timeout); never 0."""
    for unit, size in ((b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0)):
        count = max(1, int(seconds / size))
        if count < _MOST_DIGITS:
            return b"%d%b" % (count, unit)
    return b"%dS" % (_MOST_DIGITS - 1)


def _look_at(task: "asyncio.Task[GrpcClient]") -> None:
    """Whoever waited was told of its error; asyncio only wants to know that it was seen."""
    if not task.cancelled():
        task.exception()
