"""Triton over its gRPC port: messages as bytes, several connections to each replica, one attempt per call.

Knows nothing of slots, queues or other tiers; what a status means is in `triton_grpc_status.py`, what goes
over the wire in `grpc_client.py`.

Wire facts, read in Triton's gRPC server source and in the gRPC core documentation:
- cancelling an RPC cancels the inference, also while it queues;
- `ModelStreamInfer` tells of errors inside the stream (`error_message`), unless the client's metadata has
  `triton_grpc_error: true`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from backends.base import Spawn
from backends.grpc_client import OutgoingRpc
from backends.triton_channels import GrpcReplica
from backends.triton_grpc_status import ERROR_TEXT_LIMIT, judge, raise_if_not_started
from backends.upstream_tls import ClientTls
from gateway.clock import Clock
from gateway.cork import Cork
from gateway.errors import BackendBroke, again
from gateway.options import Duration, Options
from gateway.vocab import Call, Headers, Reply, Start

_DEADLINE_SLACK_S = 0.25
"""The gateway's own deadline rings first; the replica is told a little more."""
_QUIET_S = 1.0
"""How often a stream that waits for its client says that nothing is wrong."""


class GrpcOptions(Options):
    """The gRPC ports of a Triton fleet. gRPC calls then go there as they are; else they are transcoded."""

    port: int | None = Field(default=None, ge=1, le=65535)
    """gRPC port on the host of each replica, 8001 unless Triton was told otherwise."""
    replicas: tuple[str, ...] = ()
    """Instead of `port`: HOST:PORT of each replica's gRPC port, in the order of `replicas`."""
    tls: bool = False
    """Whether these ports speak TLS (`--grpc-use-ssl`), by the backend's `tls` section if it has one."""
    channels: int = Field(default=4, ge=1, le=64)
    """Connections to each replica; a call takes the one with the fewest calls on it."""

    @field_validator("replicas")
    @classmethod
    def _addresses(cls, addresses: tuple[str, ...]) -> tuple[str, ...]:
        for address in addresses:
            parts = urlsplit(f"//{address}")
            if not parts.hostname or not parts.port or parts.path or parts.username:
                raise ValueError(f"{address!r} is not a gRPC address; write it like triton-0:8001")
        return addresses

    @model_validator(mode="after")
    def _one_of_two(self) -> "GrpcOptions":
        if (self.port is None) == (not self.replicas):
            raise ValueError("give either port, like {port: 8001}, or replicas, like [triton-0:8001]")
        return self

    def address(self, host: str, index: int) -> str:
        """The gRPC address of the replica with this place in `replicas`, on this host."""
        if self.replicas:
            return self.replicas[index]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class GrpcFleet:
    """The gRPC side of a fleet: channels to each replica that was called, made when they are needed.

    fields:  gives the metadata added to every call, in place of the call's own of that name
    """

    def __init__(
        self,
        options: GrpcOptions,
        *,
        connect_timeout: Duration,
        fields: Callable[[], Headers],
        clock: Clock,
        spawn: Spawn,
        tls: ClientTls | None = None,
        cork: Cork | None = None,
    ) -> None:
        self._cork = cork
        self._tls = (tls or ClientTls("gRPC replicas", None)).for_http2() if options.tls else None
        self._spawn = spawn
        self._options = options
        self._connect_timeout = connect_timeout
        self._fields = fields
        self._clock = clock
        self._replicas: dict[str, GrpcReplica] = {}

    def send(
        self, call: Call, *, host: str, index: int, retired: bool = False
    ) -> AbstractAsyncContextManager[Reply]:
        """One attempt on one replica. `retired`: it has gone since the call was given its slot."""
        address = self._options.address(host, index)
        replica = self._replicas.get(address)
        if replica is None:
            replica = GrpcReplica(
                address,
                channels=self._options.channels,
                connect_timeout=self._connect_timeout,
                fields=self._fields(),
                clock=self._clock,
                spawn=self._spawn,
                tls=self._tls,
                cork=self._cork,
            )
            if retired:
                replica.retire()
            else:
                self._replicas[address] = replica
        return StreamAttempt(replica, call) if call.stream else UnaryAttempt(replica, call)

    def retire(self, *, host: str, index: int) -> None:
        """Close the channels to a replica that has gone, once the last call on it is over.

        Should it come back, it gets new ones.
        """
        replica = self._replicas.pop(self._options.address(host, index), None)
        if replica is not None:
            replica.retire()

    async def close(self) -> None:
        """Close every connection."""
        while self._replicas:
            _, replica = self._replicas.popitem()
            await replica.close()


class UnaryAttempt:
    """One unary RPC on one replica, its failures turned into errors."""

    __slots__ = ("_call", "_channel", "_replica")

    def __init__(self, replica: GrpcReplica, call: Call) -> None:
        self._replica = replica
        self._call = call
        self._channel = replica.channel()

    async def __aenter__(self) -> Reply:
        call, channel, replica = self._call, self._channel, self._replica
        message = call.body.whole()
        assert message is not None, "a unary request is one message"
        timeout = None
        if call.deadline_is_clients:
            timeout = max(0.0, call.deadline - replica.clock.now()) + _DEADLINE_SLACK_S
        channel.busy += 1
        replica.begin()
        try:
            client = channel.ready or await channel.connect()
            rpc = await client.begin(replica.head(call, timeout), message)
            try:
                body = await rpc.end()
            except BaseException:
                rpc.cancel()
                raise
        finally:
            channel.busy -= 1
            replica.end()
        if rpc.code:
            return judge(rpc.code, rpc.details, call)
        if body is None:
            raise BackendBroke(f"{replica.address} answered without a message")
        return Reply(200, rpc.headers, body, start=Start.WARM)

    async def __aexit__(self, *_: object) -> None:
        """The answer is complete; a cancelled wait for it has cancelled the RPC."""


class StreamAttempt:
    """One bidirectional RPC on one replica. The reply's head is its first message."""

    __slots__ = (
        "_call", "_channel", "_entered", "_pump", "_reading", "_replica", "_rpc", "_said", "_sent",
    )  # fmt: skip

    def __init__(self, replica: GrpcReplica, call: Call) -> None:
        self._replica = replica
        self._call = call
        self._channel = replica.channel()
        self._rpc: OutgoingRpc | None = None
        self._entered = False
        self._pump: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[bytes | None] | None = None
        self._sent = 0
        self._said = False  # has the client said anything since it last heard something?

    async def __aenter__(self) -> Reply:
        call, channel = self._call, self._channel
        channel.busy += 1
        self._replica.begin()
        self._entered = True
        try:
            client = await channel.connect()
            rpc = self._rpc = await client.begin(self._replica.head(call, None), None)
            self._pump = asyncio.get_running_loop().create_task(self._send_messages(rpc))
            coming = self._begin_next(rpc)
            await self._wait(coming, None)
            first = _outcome(coming)
            if first is None and rpc.code:
                self._leave()
                return judge(rpc.code, rpc.details, call)
            if first is not None and self._sent == 1:
                raise_if_not_started(first, call)
            return Reply(200, rpc.headers, stream=self._stream(first, rpc), start=Start.WARM)
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    async def _stream(self, first: bytes | None, rpc: OutgoingRpc) -> AsyncIterator[bytes]:
        message = first
        while message is not None:
            self._said = False
            yield message
            coming = self._begin_next(rpc)
            while not (await self._wait(coming, _QUIET_S)):
                if not self._said:
                    yield b""  # it is the client's turn: this silence is no stall
            message = _outcome(coming)
        if rpc.code:
            raise BackendBroke(f"the stream broke off: {rpc.details[:ERROR_TEXT_LIMIT]}")

    def _begin_next(self, rpc: OutgoingRpc) -> "asyncio.Task[bytes | None]":
        self._reading = asyncio.get_running_loop().create_task(rpc.next())
        return self._reading

    async def _wait(self, coming: "asyncio.Task[bytes | None]", timeout: float | None) -> bool:
        """True once the message, or the end, is there. Raises what the client's side of the stream raised."""
        pump = self._pump
        assert pump is not None
        while True:
            waited: set[asyncio.Task[Any]] = {coming} if pump.done() else {coming, pump}
            done, _ = await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if coming in done:
                return True
            if pump.done() and (error := pump.exception()) is not None:
                raise again(error)
            if not done:
                return False

    async def _send_messages(self, rpc: OutgoingRpc) -> None:
        async for message in self._call.body.chunks():
            self._sent += 1
            self._said = True
            if not await rpc.write(message):
                return  # the RPC is over: its status is told where its messages are read
        rpc.done_writing()

    def _leave(self) -> None:
        if not self._entered:
            return
        self._entered = False
        self._channel.busy -= 1
        for task in (self._pump, self._reading):
            if task is not None:
                task.add_done_callback(_look_at)
                task.cancel()
        self._pump = self._reading = None  # the error that one ends with knows this attempt
        if self._rpc is not None:
            self._rpc.cancel()
        self._replica.end()


def _outcome(task: "asyncio.Task[bytes | None]") -> bytes | None:
    """What a task that has ended returned. Its error is raised anew: the task keeps its own."""
    error = task.exception()
    if error is not None:
        raise again(error)
    return task.result()


def _look_at(task: "asyncio.Task[Any]") -> None:
    """The task's error was told already; asyncio only wants to know that it was seen."""
    if not task.cancelled():
        task.exception()
