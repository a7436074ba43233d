"""The always-on fleet: Triton Inference Server over its HTTP/REST port, byte for byte.

The call's own path, fields and body go out unchanged and the answer comes back unchanged. Knows
Triton's statuses (what was safe, what may have run); knows nothing of slots, queues or other tiers.

Wire facts, observed on Triton 2.51 and read in its HTTP server's source:
- with `Accept-Encoding: gzip` it compresses even tiny answers, and Inference-Header-Content-Length
  then counts the decompressed bytes: `identity` is always sent;
- health answers 400, not 503, while it is not ready;
- what its failure answers mean is in `triton_refusals.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from backends.base import BackendOptions, Kit, Places, backends
from backends.discovery import DiscoverOptions, Discovery, DnsDiscovery
from backends.kubernetes import KubernetesDiscovery
from backends.membership import Membership
from backends.replica_connections import Attempt, ReplicaConnections
from backends.replica_requests import ReplicaUrls, RequestHeads
from backends.triton_grpc import GrpcFleet, GrpcOptions
from backends.triton_openai import TRANSLATED
from backends.triton_refusals import refusal
from backends.triton_translated import GenerateOptions, TranslatedAttempt
from backends.triton_watch import MetricsOptions, TritonWatch, report_wanted
from backends.warm_fleet import FleetOptions, WarmFleet, whole
from gateway.options import Duration
from gateway.vocab import Call, Reply

_ERROR_TEXT_LIMIT = 300
_LARGEST_ERROR = 4 * 2**20  # bytes of an error answer that are read: it is held, to be passed on whole


class TritonOptions(FleetOptions):
    """An always-on fleet of Triton servers."""

    replicas: ReplicaUrls = ()
    """Base URLs of the servers' HTTP ports, like http://triton-0:8000."""
    discover: DiscoverOptions | None = None
    """Instead of `replicas`: where they are found while the gateway serves; spoken to over https where there
    is a `tls` section."""
    metrics: MetricsOptions | None = None
    """The servers' own metrics, like {port: 8002}: other clients' calls there then take slots too. Without it
    the gateway counts only its own."""
    keep_idle: Duration = 30.0
    """How long an unused connection is kept; keep it below the server's own limit."""
    grpc: GrpcOptions | None = None
    """The servers' gRPC ports, like {port: 8001}; absent: gRPC calls go to their HTTP ports, transcoded."""
    openai: Literal["passthrough"] | GenerateOptions = "passthrough"
    """How OpenAI calls are carried: `passthrough` to servers that have an OpenAI front end, or translated
    to Triton's generate API, as `{chat_template: plain}`."""

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
class Triton(WarmFleet):
    """A fleet of Triton servers."""

    Options: ClassVar[type[BackendOptions]] = TritonOptions
    options: TritonOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, TritonOptions)
        super().__init__(name, options, kit, heads=RequestHeads(name, options.headers))
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
            arrive=self._found,
            leave=self._leave,
        )  # fmt: skip
        self._grpc = None if options.grpc is None else GrpcFleet(
            options.grpc, connect_timeout=options.connect_timeout, fields=lambda: self.heads.added,
            clock=kit.clock, spawn=kit.spawn, tls=self.tls, cork=kit.cork,
        )  # fmt: skip
        self._otherwise: dict[str, Callable[[Call, int], AbstractAsyncContextManager[Reply]]] = {}
        if self._grpc is not None:
            self._otherwise["grpc"] = self._by_grpc
        if isinstance(options.openai, GenerateOptions):
            self._otherwise["openai"] = self._translated

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
    def carries_all(self) -> bool:
        """All but what a translation into the generate API leaves out."""
        return self._versions is None and self.options.openai == "passthrough"

    def cannot_carry(self, call: Call) -> str | None:
        """What has no counterpart in the generate API, where OpenAI calls are translated to it."""
        if call.protocol != "openai" or self.options.openai == "passthrough" or call.operation in TRANSLATED:
            return None
        return f"{self.name}: {call.operation} cannot be translated to Triton's generate API (`openai`)"

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
        """Check the secrets, find the replicas, and begin to watch them. Raises ConfigError."""
        await super().open()
        if self._membership is not None:
            await self._membership.open()
        if self._watch is not None and self._places is not None:
            self.kit.spawn(self._watch.run(self._places), name=f"watch the load of {self.name}")

    def _found(self, index: int, address: str) -> None:
        self._arrive(index, f"{'http' if self.options.tls is None else 'https'}://{address}")

    def _arrive(self, index: int, url: str) -> None:
        connections = self.connections_to(url)
        self._replicas[index : index + 1] = [connections]
        self._names[index : index + 1] = [connections.authority.decode()]
        if self._watch is not None:
            self._watch.add(index, connections.host)

    def _leave(self, index: int) -> None:
        self._replicas[index].retire()
        if self._grpc is not None:
            self._grpc.retire(host=self._replicas[index].host, index=index)
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
        if call.protocol in self._otherwise:
            attempt = self._otherwise[call.protocol](call, replica)
        else:
            attempt = self._attempt(replica, call)
        return attempt if self._watch is None else self._watch.counted(call, replica, attempt)

    def _by_grpc(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        assert self._grpc is not None
        http = self._replicas[replica]
        return self._grpc.send(call, host=http.host, index=replica, retired=http.retired)

    def _translated(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        openai = self.options.openai
        assert isinstance(openai, GenerateOptions)
        created = int(self.kit.clock.wall())
        return TranslatedAttempt(call, openai, partial(self._attempt, replica), created=created)

    def _attempt(self, replica: int, call: Call) -> "TritonAttempt":
        connections = self._replicas[replica]
        head = self.heads.head(call, connections, call.target)
        if self._watch is not None:
            head += report_wanted(call)
        return TritonAttempt(connections, call.method, head, call.body, call.idempotent, _call=call)

    async def probe(self, replica: int) -> bool | None:
        """`/v2/health/ready`; any answer but 200, or none in time, is not ready."""
        return await self.ready(self._replicas[replica], "/v2/health/ready")


def _discovery(name: str, options: DiscoverOptions, kit: Kit) -> Discovery:
    if options.kubernetes is not None:
        return KubernetesDiscovery(name, options.kubernetes, chance=kit.chance)
    assert options.dns is not None
    every = 5.0 if options.every is None else options.every
    return DnsDiscovery(options.dns, options.port or 8000, every=every, chance=kit.chance)


class TritonAttempt(Attempt, kw_only=True, eq=False):
    """One call on one replica, its failure statuses turned into errors."""

    _call: Call

    async def _judge(self, reply: Reply) -> None:
        """Raise what this status means for another attempt; return if it is the client's own answer."""
        status = reply.status
        if reply.stream is not None and status >= 500:
            reply.body, reply.stream = await whole(reply, _LARGEST_ERROR), None
        text = (reply.body or b"")[:_ERROR_TEXT_LIMIT].decode("utf-8", "replace")
        call = self._call
        error = refusal(status, text, inference=call.inference, version_asked=call.version != "")
        if error is not None:
            error.answer = reply
            try:
                raise error
            finally:
                del error  # or it would hold this frame, and this frame it
