"""The always-on fleet: Triton Inference Server over its HTTP/REST port, byte for byte.

The call's own path, fields and body go out unchanged and the answer comes back unchanged. Knows
Triton's statuses (what was safe, what may have run); knows nothing of slots, queues or other tiers.

Wire facts, observed on Triton 2.51 and read in its HTTP server's source:
- with `Accept-Encoding: gzip` it compresses even tiny answers, and Inference-Header-Content-Length
  then counts the decompressed bytes: `identity` is always sent;
- 503 is its queue limit, its queue time-out and its shutdown: none of them started the work;
- 404 without a version asked for means "not loaded (yet)": another replica may have it;
- 500 also answers malformed JSON; the JSON was checked before it got here, so 500 is a failure;
- health answers 400, not 503, while it is not ready.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from backends.base import Backend, BackendOptions, Kit, backends
from backends.replica_connections import Attempt, ReplicaConnections
from backends.triton_translated import GenerateOptions, TranslatedAttempt
from gateway.errors import BackendBroke, BackendError, BackendFull, BackendUnready
from gateway.options import Duration, Options, SecretRef, Usd
from gateway.vocab import Call, Headers, Reply, WholeBody

_ERROR_TEXT_LIMIT = 300


class TritonPrice(Options):
    """What the fleet costs, used or not."""

    usd_per_replica_hour: Usd
    """Price of one replica for one hour."""


class TritonOptions(BackendOptions):
    """An always-on fleet of Triton servers."""

    replicas: tuple[str, ...] = Field(min_length=1)
    """Base URLs of the servers' HTTP ports, like http://triton-0:8000."""
    price: TritonPrice | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    connect_timeout: Duration = 1.0
    """Longest wait for a connection before the replica counts as down."""
    keep_idle: Duration = 30.0
    """How long an unused connection is kept; keep it below the server's own limit."""
    probe_every: Duration = 2.0
    """Time between readiness checks of each replica."""

    openai: Literal["passthrough"] | GenerateOptions = "passthrough"
    """How OpenAI calls are carried: `passthrough` to servers that have an OpenAI front end, or translated
    to Triton's generate API, as `{chat_template: plain}`."""

    @field_validator("replicas")
    @classmethod
    def _plain_http(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if (
                parts.scheme != "http"
                or not parts.hostname
                or parts.query
                or parts.fragment
                or parts.username
            ):
                raise ValueError(f"{url!r} is not a replica address; write it like http://triton-0:8000")
        if len(set(urls)) != len(urls):
            raise ValueError("the same replica is listed twice; its slots would be counted twice")
        return urls


@backends.add("triton")
class Triton(Backend):
    """A fleet of Triton servers."""

    Options: ClassVar[type[BackendOptions]] = TritonOptions
    owned: ClassVar[bool] = True
    options: TritonOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        super().__init__(name, options, kit)
        assert isinstance(options, TritonOptions)
        self._replicas = [
            ReplicaConnections(
                url, clock=kit.clock, connect_timeout=options.connect_timeout, keep_idle=options.keep_idle
            )
            for url in options.replicas
        ]
        self._names = tuple(connections.authority.decode() for connections in self._replicas)
        fields = {name.lower(): value for name, value in options.headers.items()}
        self._own_fields: Headers = [
            (
                key.encode("ascii"),
                (value.resolve() if isinstance(value, SecretRef) else value).encode("latin-1"),
            )
            for key, value in fields.items()
        ]
        self._replaced = frozenset([b"accept-encoding", *(key for key, _ in self._own_fields)])
        self._tail = b"accept-encoding: identity\r\n" + b"".join(
            key + b": " + value + b"\r\n" for key, value in self._own_fields
        )

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options for one replica at `url`, as in the file."""
        return {
            "type": "triton",
            "replicas": [url],
            "max_in_flight": 4,
            "price": {"usd_per_replica_hour": 0.79},
        }

    @property
    def replicas(self) -> Sequence[str]:
        """The replicas' addresses."""
        return self._names

    @property
    def usd_per_replica_hour(self) -> float | None:
        """Price of one replica, None if the file does not say."""
        return None if self.options.price is None else self.options.price.usd_per_replica_hour

    @property
    def price_known(self) -> bool:
        """False when the file does not say."""
        return self.options.price is not None

    async def close(self) -> None:
        """Close the idle connections."""
        for connections in self._replicas:
            connections.close()

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """Pass the call to one replica: as it is, or in the words of Triton's generate API."""
        openai = self.options.openai
        if call.protocol == "openai" and isinstance(openai, GenerateOptions):
            created = int(self.kit.clock.wall())
            return TranslatedAttempt(call, openai, partial(self._attempt, replica), created=created)
        return self._attempt(replica, call)

    def _attempt(self, replica: int, call: Call) -> "TritonAttempt":
        connections = self._replicas[replica]
        return TritonAttempt(connections, self._head(call, connections), call)

    async def probe(self, replica: int) -> bool | None:
        """`/v2/health/ready`; any answer but 200, or none in time, is not ready."""
        connections = self._replicas[replica]
        head = b"GET %b/v2/health/ready HTTP/1.1\r\nhost: %b\r\n" % (connections.base, connections.authority)
        try:
            async with (
                asyncio.timeout(self.options.connect_timeout + 1.0),
                Attempt(connections, method=b"GET", head=head, body=WholeBody(b""), resend=True) as reply,
            ):
                return reply.status == 200
        except (BackendError, TimeoutError):
            return False

    def _head(self, call: Call, connections: ReplicaConnections) -> bytes:
        replaced = self._replaced
        fields = b"\r\n".join([n + b": " + v for n, v in call.headers if n not in replaced])
        return b"%b %b%b HTTP/1.1\r\nhost: %b\r\n%b%bx-request-id: %b\r\ntraceparent: %b\r\n%b" % (
            call.method,
            connections.base,
            call.target,
            connections.authority,
            fields,
            b"\r\n" if fields else b"",
            call.request_id.encode("ascii"),
            call.traceparent.encode("ascii"),
            self._tail,
        )


class TritonAttempt(Attempt):
    """One call on one replica, its failure statuses turned into errors."""

    __slots__ = ("_version_asked",)

    def __init__(self, connections: ReplicaConnections, head: bytes, call: Call) -> None:
        super().__init__(connections, method=call.method, head=head, body=call.body, resend=call.idempotent)
        self._version_asked = call.version != ""

    async def _judge(self, reply: Reply) -> None:
        """Raise what this status means for another attempt; return if it is the client's own answer."""
        status = reply.status
        if reply.stream is not None and status >= 500:
            parts = [part async for part in reply.stream]
            reply.body, reply.stream = b"".join(parts), None
        text = (reply.body or b"")[:_ERROR_TEXT_LIMIT].decode("utf-8", "replace")
        if status in {429, 503}:
            if "not ready" in text or "exiting" in text or "stopping" in text:
                raise BackendUnready(f"the replica is not ready: {text}", answer=reply)
            raise BackendFull(f"the replica pushed back: {text}", answer=reply)
        if status == 404 and not self._version_asked and ("unknown model" in text or "no available" in text):
            raise BackendUnready(f"the replica does not have the model: {text}", answer=reply)
        if status >= 500 and status != 501:
            raise BackendBroke(f"the replica answered {status}: {text}", answer=reply)
