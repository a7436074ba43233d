"""One RPC with the means to answer it: what the pipeline sees in place of an HTTP exchange.

Belongs to step 1. It turns an answer (a status, fields, a body) into a gRPC status, metadata and messages;
it knows nothing of routes or backends, and of the gRPC library only the shape of its context.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from gateway.errors import ClientGone, DeadlinePassed, OverspillError
from gateway.exchange import Certificate
from gateway.framing import REQUEST_ID, traceparent_of, without_state
from gateway.message_stream import MessageStream
from gateway.protocols.base import error_text
from gateway.protocols.grpc import STATUS_FIELD, code_of, code_of_error
from gateway.vocab import Body, Headers

Metadata = tuple[tuple[str, str | bytes], ...]

_LONGEST_DETAILS = 2048
"""Characters of a status message. It is sent as a header field, of which clients take 8 KiB in all."""
_LONGEST_DEADLINE_S = 1e6
_ALTERNATIVE_NAMES = {"DNS": "peer_dns", "URI": "peer_uri", "email": "peer_email", "IP Address": "peer_ip"}


class StatusLike(NamedTuple):
    """A status as `grpc.StatusCode` has it."""

    value: tuple[int, str]


_UNAUTHENTICATED = StatusLike((16, "unauthenticated"))


class Context(Protocol):
    """What is used of a `grpc.aio.ServicerContext`."""

    def peer(self) -> str: ...
    def invocation_metadata(self) -> Metadata | None: ...
    def time_remaining(self) -> float | None: ...
    def auth_context(self) -> Mapping[str, Sequence[bytes]]: ...
    def set_code(self, code: "int | StatusLike") -> None: ...
    def set_details(self, details: str) -> None: ...
    def set_trailing_metadata(self, metadata: Metadata) -> None: ...
    async def send_initial_metadata(self, metadata: Metadata) -> None: ...
    async def write(self, message: bytes) -> None: ...


class GrpcExchange:
    """One unary RPC. `message` is the answer once the exchange has ended."""

    __slots__ = (
        "_context", "arrived", "began", "body", "bytes_out", "ended", "headers", "keep_alive", "max_body",
        "message", "method", "peer", "request_id", "scheme", "target", "task", "traceparent",
    )  # fmt: skip

    def __init__(
        self,
        context: Context,
        *,
        target: bytes,
        body: Body,
        arrived: float,
        max_body: int,
        task: asyncio.Task[None] | None,
    ) -> None:
        self._context = context
        self.method = b"POST"
        self.target = target
        self.body = body
        self.arrived = arrived
        self.max_body = max_body
        self.task = task
        self.request_id = ""
        self.traceparent = ""
        self.keep_alive = True  # of no meaning here: gRPC looks after its connections by itself
        self.began = False
        self.ended = False
        self.bytes_out = 0
        self.message = b""
        self.scheme = b"http"
        self.peer = address_of(context.peer())
        self.headers = self._read_metadata()

    @property
    def certificate(self) -> Certificate | None:
        """The client's, which the library has verified; None where it has shown none."""
        return certificate_of(self._context.auth_context())

    @property
    def congested(self) -> bool:
        """The answer is one message: it goes out at the end."""
        return False

    async def drain(self) -> None:
        """Nothing to wait for."""

    def send(
        self, status: int, headers: Headers, extra: bytes, body: bytes, *, length: int | None = None
    ) -> None:
        """A whole answer. `extra` holds ready header lines, each ended by CRLF."""
        self.began = True
        code = _code(status, headers)
        self._context.set_trailing_metadata(_metadata(headers, extra))
        if code:
            self._set_status(code, body.decode("utf-8", "replace"))
        else:
            self.write(body)
        self.ended = True

    def begin(self, status: int, headers: Headers, extra: bytes, length: int | None) -> None:
        """The head of an answer whose body follows."""
        self.began = True
        self._context.set_trailing_metadata(_metadata(headers, extra))

    def write(self, data: bytes) -> None:
        """A part of the message."""
        self.message = self.message + data if self.message else data
        self.bytes_out += len(data)

    def end(self) -> None:
        """The message is complete."""
        self.ended = True

    def abort(self, error: OverspillError | None = None) -> None:
        """End with the error's status; what was written is not sent."""
        if not self.ended:
            self.ended = True
            self.message = b""
            error = error or OverspillError("the answer is incomplete")
            self._set_status(code_of_error(error), error_text(error))

    def parting(self) -> OverspillError:
        """Why the RPC was cancelled: its deadline, as far as can be seen from here, or its client."""
        remaining = self._context.time_remaining()
        if remaining is not None and remaining <= 0:
            return DeadlinePassed("the client's deadline passed")
        return ClientGone()

    def _set_status(self, code: int, details: str) -> None:
        # grpcio takes numbers up to 15, and makes UNKNOWN of 16, which is UNAUTHENTICATED (seen in 1.85).
        self._context.set_code(code if code < _UNAUTHENTICATED.value[0] else _UNAUTHENTICATED)
        self._context.set_details(details[:_LONGEST_DETAILS])

    def _read_metadata(self) -> Headers:
        """The metadata as fields; the RPC's deadline as the field in which HTTP clients say theirs."""
        headers: Headers = []
        for name, value in self._context.invocation_metadata() or ():
            data = value if isinstance(value, bytes) else value.encode("latin-1")
            if name == "x-request-id":
                if REQUEST_ID.fullmatch(data):
                    self.request_id = data.decode("ascii")
            elif name == "traceparent":
                self.traceparent = traceparent_of(data)
            else:
                headers.append((name.encode("ascii"), data))
        if not self.traceparent:
            headers = without_state(headers)
        remaining = self._context.time_remaining()
        if remaining is not None and remaining < _LONGEST_DEADLINE_S:
            milliseconds = max(remaining * 1000, 0.001)
            headers.append((b"x-overspill-deadline-ms", b"%.3f" % milliseconds))
        return headers


class GrpcStream(GrpcExchange):
    """One RPC whose two sides are streams: each part of the answer is a message of its own.

    departed:  what the library raises where something is written to a client that has gone
    """

    __slots__ = ("_departed", "_initial", "_messages", "_pending")

    def __init__(
        self,
        context: Context,
        *,
        target: bytes,
        body: MessageStream,
        arrived: float,
        max_body: int,
        task: asyncio.Task[None] | None,
        departed: type[Exception],
    ) -> None:
        super().__init__(context, target=target, body=body, arrived=arrived, max_body=max_body, task=task)
        self._departed = departed
        self._messages = body
        self._initial: Metadata | None = None
        self._pending: list[bytes] = []

    @property
    def congested(self) -> bool:
        """True while something waits to be written: a stream writes one message after the other."""
        return bool(self._pending)

    def begin(self, status: int, headers: Headers, extra: bytes, length: int | None) -> None:
        """The answer begins: what is known by now goes out before the first message, and again at the end."""
        super().begin(status, headers, extra, length)
        self._messages.commit()
        self._initial = _metadata((), extra)

    def write(self, data: bytes) -> None:
        """One message."""
        if data:
            self._pending.append(data)
            self.bytes_out += len(data)

    async def drain(self) -> None:
        """Write what waits, and wait until the client's window has taken it. Raises ClientGone."""
        try:
            if self._initial is not None:
                initial, self._initial = self._initial, None
                await self._context.send_initial_metadata(initial)
            while self._pending:
                await self._context.write(self._pending.pop(0))
        except self._departed:
            raise ClientGone("the client left before its stream was complete") from None


def address_of(peer: str) -> bytes:
    """The address in what gRPC calls a peer, like `ipv4:127.0.0.1:50514` and `ipv6:%5B::1%5D:50514`."""
    scheme, _, rest = peer.partition(":")
    if scheme not in {"ipv4", "ipv6"}:
        return scheme.encode("ascii", "replace")
    host = rest.rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")
    return host.encode("ascii", "replace")


def certificate_of(authentication: Mapping[str, Sequence[bytes]]) -> Certificate | None:
    """What gRPC says of a client's certificate, as `ssl` would: its common name and alternative names.

    The properties of the peer (gRPC core, `grpc_security_constants.h`) tell the kind of an alternative name
    only for DNS names, URIs, e-mail and IP addresses; others are left out.
    """
    if not authentication.get("x509_pem_cert"):
        return None
    names = {kind: authentication.get(key) or () for kind, key in _ALTERNATIVE_NAMES.items()}
    said: dict[str, object] = {
        "subjectAltName": tuple((kind, name.decode()) for kind, each in names.items() for name in each)
    }
    common = authentication.get("x509_common_name")
    if common:
        said["subject"] = ((("commonName", common[0].decode()),),)
    return said


def _code(status: int, headers: Headers) -> int:
    for name, value in headers:
        if name == STATUS_FIELD:
            return int(value)
    return code_of(status)


def _metadata(headers: Headers | tuple[()], extra: bytes) -> Metadata:
    fields: list[tuple[str, str | bytes]] = []
    for line in extra.decode("latin-1").split("\r\n"):
        if line:
            name, _, value = line.partition(": ")
            fields.append((name, value))
    for key, data in headers:
        if not key.startswith((b"grpc-", b":")):
            name = key.decode("ascii")
            fields.append((name, data if name.endswith("-bin") else data.decode("latin-1")))
    return tuple(fields)
