"""The always-on fleet: Triton Inference Server over its HTTP/REST port, byte for byte.

The call's own path, fields and body go out unchanged and the answer comes back unchanged. Knows
Triton's statuses (what was safe, what may have run); knows nothing of slots, queues or other tiers.

Wire facts, observed on Triton 2.51 and read in its HTTP server's source:
- with `Accept-Encoding: gzip` it compresses even tiny answers, and Inference-Header-Content-Length
  then counts the decompressed bytes: `identity` is always sent;
- health answers 400, not 503, while it is not ready;
- what its failure answers mean is in `triton_refusals.py`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from backends.base import Backend, BackendOptions, Kit, Places, backends
from backends.discovery import DiscoverOptions, Discovery, DnsDiscovery
from backends.kubernetes import KubernetesDiscovery
from backends.membership import Membership
from backends.replica_connections import Attempt, ReplicaConnections
from backends.triton_grpc import GrpcFleet, GrpcOptions
from backends.triton_refusals import refusal
from backends.triton_translated import GenerateOptions, TranslatedAttempt
from backends.triton_watch import MetricsOptions, TritonWatch, report_wanted
from gateway.errors import BackendError
from gateway.options import Duration, Options, SecretRef, SlotCount, Usd
from gateway.vocab import Call, Headers, Reply, WholeBody

_ERROR_TEXT_LIMIT = 300


class TritonPrice(Options):
    """What the fleet costs, used or not."""

    usd_per_replica_hour: Usd
    """Price of one replica for one hour."""


class TritonOptions(BackendOptions):
    """An always-on fleet of Triton servers."""

    max_in_flight: SlotCount
    """Slots per replica: the most calls the gateway has running there at once. `auto` learns it from how long
    calls take."""
    replicas: tuple[str, ...] = ()
    """Base URLs of the servers' HTTP ports, like http://triton-0:8000."""
    discover: DiscoverOptions | None = None
    """Instead of `replicas`: where they are found while the gateway serves."""
    metrics: MetricsOptions | None = None
    """The servers' own metrics, like {port: 8002}: other clients' calls there then take slots too. Without it
    the gateway counts only its own."""
    price: TritonPrice | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    connect_timeout: Duration = 1.0
    """Longest wait for a connection before the replica counts as down."""
    keep_idle: Duration = 30.0
    """How long an unused connection is kept; keep it below the server's own limit."""
    probe_every: Duration = 2.0
    """Time between readiness checks of each replica."""

    grpc: GrpcOptions | None = None
    """The servers' gRPC ports, like {port: 8001}; absent: gRPC calls go to their HTTP ports, transcoded."""
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

    @model_validator(mode="after")
    def _known_or_found(self) -> Self:
        if (self.discover is None) == (not self.replicas):
            raise ValueError(
                "give exactly one of replicas and discover, like replicas: [http://triton-0:8000] or"
                " discover: {dns: triton.ns.svc}"
            )
        if self.discover is not None and self.grpc is not None and self.grpc.replicas:
            raise ValueError("grpc.replicas is for listed replicas; with discover give grpc: {port: 8001}")
        return self

    @model_validator(mode="after")
    def _grpc_for_each(self) -> Self:
        if self.grpc is not None and self.grpc.replicas and len(self.grpc.replicas) != len(self.replicas):
            raise ValueError(
                f"grpc.replicas lists {len(self.grpc.replicas)} addresses for {len(self.replicas)} replicas;"
                " write one for each, in the same order"
            )
        return self


@backends.add("triton")
class Triton(Backend):
    """A fleet of Triton servers."""

    Options: ClassVar[type[BackendOptions]] = TritonOptions
    owned: ClassVar[bool] = True
    options: TritonOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        super().__init__(name, options, kit)
        assert isinstance(options, TritonOptions)
        self._replicas: list[ReplicaConnections] = []
        self._names: list[str] = []
        self._places: Places | None = None
        self._watch = None if options.metrics is None else TritonWatch(
            options.metrics, clock=kit.clock, chance=kit.chance, connect_timeout=options.connect_timeout
        )  # fmt: skip
        for index, url in enumerate(options.replicas):
            self._arrive(index, url)
        self._membership = None if options.discover is None else Membership(
            name,
            _discovery(name, options.discover, kit),
            kit=kit,
            arrive=lambda index, address: self._arrive(index, f"http://{address}"),
            leave=self._leave,
        )  # fmt: skip
        fields = {name.lower(): value for name, value in options.headers.items()}
        self._own_fields: Headers = [
            (
                key.encode("ascii"),
                (value.resolve() if isinstance(value, SecretRef) else value).encode("latin-1"),
            )
            for key, value in fields.items()
        ]
        self._grpc = None if options.grpc is None else GrpcFleet(
            options.grpc, connect_timeout=options.connect_timeout, fields=self._own_fields, clock=kit.clock
        )  # fmt: skip
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

    @property
    def speaks_grpc(self) -> bool:
        """Only where the file says on which port."""
        return self._grpc is not None

    @property
    def moves(self) -> bool:
        """Where replicas are found, or tell their load."""
        return self._membership is not None or self._watch is not None

    def attach(self, places: Places) -> None:
        """Whom to tell of replicas and of their load."""
        self._places = places
        if self._membership is not None:
            self._membership.attach(places)

    def report(self, now: float) -> Mapping[str, Any]:
        """How its replicas are found, if they are."""
        return {} if self._membership is None else {"discovery": self._membership.report(now)}

    async def open(self) -> None:
        """Find the replicas, and begin to watch them."""
        if self._membership is not None:
            await self._membership.open()
        if self._watch is not None and self._places is not None:
            self.kit.spawn(self._watch.run(self._places), name=f"watch the load of {self.name}")

    def _arrive(self, index: int, url: str) -> None:
        options = self.options
        connections = ReplicaConnections(
            url, clock=self.kit.clock, connect_timeout=options.connect_timeout, keep_idle=options.keep_idle
        )
        self._replicas[index : index + 1] = [connections]
        self._names[index : index + 1] = [connections.authority.decode()]
        if self._watch is not None:
            self._watch.add(index, connections.host)

    def _leave(self, index: int) -> None:
        self._replicas[index].retire()
        if self._watch is not None:
            self._watch.remove(index)

    async def close(self) -> None:
        """Close the idle connections."""
        for connections in self._replicas:
            connections.close()
        if self._watch is not None:
            self._watch.close()
        if self._membership is not None:
            await self._membership.close()
        if self._grpc is not None:
            await self._grpc.close()

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """Pass the call to one replica: as it is, or in the words of Triton's generate API."""
        attempt = self._send(call, replica)
        return attempt if self._watch is None else self._watch.counted(call, replica, attempt)

    def _send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        if call.protocol == "grpc" and self._grpc is not None:
            return self._grpc.send(call, host=self._replicas[replica].host, index=replica)
        openai = self.options.openai
        if call.protocol == "openai" and isinstance(openai, GenerateOptions):
            created = int(self.kit.clock.wall())
            return TranslatedAttempt(call, openai, partial(self._attempt, replica), created=created)
        return self._attempt(replica, call)

    def _attempt(self, replica: int, call: Call) -> "TritonAttempt":
        connections = self._replicas[replica]
        head = self._head(call, connections)
        if self._watch is not None:
            head += report_wanted(call)
        return TritonAttempt(connections, head, call)

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


def _discovery(name: str, options: DiscoverOptions, kit: Kit) -> Discovery:
    if options.kubernetes is not None:
        return KubernetesDiscovery(name, options.kubernetes, chance=kit.chance)
    assert options.dns is not None
    every = 5.0 if options.every is None else options.every
    return DnsDiscovery(options.dns, options.port or 8000, every=every, chance=kit.chance)


class TritonAttempt(Attempt):
    """One call on one replica, its failure statuses turned into errors."""

    __slots__ = ("_inference", "_version_asked")

    def __init__(self, connections: ReplicaConnections, head: bytes, call: Call) -> None:
        super().__init__(connections, method=call.method, head=head, body=call.body, resend=call.idempotent)
        self._version_asked = call.version != ""
        self._inference = call.inference

    async def _judge(self, reply: Reply) -> None:
        """Raise what this status means for another attempt; return if it is the client's own answer."""
        status = reply.status
        if reply.stream is not None and status >= 500:
            parts = [part async for part in reply.stream]
            reply.body, reply.stream = b"".join(parts), None
        text = (reply.body or b"")[:_ERROR_TEXT_LIMIT].decode("utf-8", "replace")
        error = refusal(status, text, inference=self._inference, version_asked=self._version_asked)
        if error is not None:
            error.answer = reply
            raise error
