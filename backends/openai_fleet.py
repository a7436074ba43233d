"""An always-on fleet of OpenAI-compatible servers: vLLM, SGLang, TGI, or Triton's own OpenAI front end.

OpenAI calls go out as they came, but for the model's name where the file gives another, and the answers
come back unchanged. It takes the warm path, as Triton's fleet does. Knows what such servers answer when
they are full, absent or broken; it must never know slots, queues or other tiers.

Wire facts: `/health` answers 200 on vLLM, SGLang and TGI when they can serve, and 503 on vLLM when its
engine is dead (their documentations); Triton's front end has `/health/ready`. What error answers mean is
in `openai_refusals.py`, how busy they say they are in `load_report.py`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from backends.base import BackendOptions, Kit, Places, backends
from backends.load_report import LARGEST_METRICS, ORCA, ORCA_FORMAT, from_field, from_metrics
from backends.openai_load import ReplicaReports
from backends.openai_refusals import Meaning, meaning
from backends.openai_wire import EVERY_OPERATION, ModelName, Operations, below, renamed, unfit
from backends.replica_connections import Attempt
from backends.replica_requests import ReplicaUrls, RequestHeads
from backends.warm_fleet import FleetOptions, WarmFleet, whole
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull, BackendUnready
from gateway.options import Duration, Options, SecretRef
from gateway.vocab import Body, Call, Reply, WholeBody

_ERROR_LIMIT = 1 << 20

UrlPath = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9\-._~%]+)*$")]


class LoadOptions(Options):
    """How to learn how busy the replicas are, beyond the calls that this gateway has there."""

    source: Literal["metrics", "answers"] = "metrics"
    """`metrics`: each replica is asked again and again. `answers`: chat and completions are asked to say it
    in a field of their answers (`endpoint-load-metrics`), which vLLM does."""
    every: Annotated[Duration, Field(gt=0)] = 1.0
    """Time between questions. After three without a word, nothing is known."""
    path: UrlPath = "/metrics"
    """Where the metrics are, in Prometheus' text format."""


class OpenAIFleetOptions(FleetOptions):
    """An always-on fleet of OpenAI-compatible servers."""

    type: Literal["openai_fleet"]
    """Kind of backend."""
    replicas: Annotated[ReplicaUrls, Field(min_length=1)]
    """Base URLs of the servers, like http://vllm-0:8000."""
    base_path: UrlPath = "/v1"
    """What the API's paths begin with there."""
    model: ModelName | None = None
    """The model's name there. Without it, the one that the client wrote."""
    api_key: SecretRef | None = None
    """Sent as `Authorization: Bearer …`. Without it, whatever the client sent."""
    operations: Operations = EVERY_OPERATION
    """What the servers offer."""
    health: UrlPath = "/health"
    """Where a server answers 200 when it can serve; `/health/ready` for Triton's front end."""
    load: LoadOptions | None = None
    """How to learn how busy the servers are. Without it only the gateway's own calls count."""
    keep_idle: Duration = 4.0
    """How long an unused connection is kept; keep it below the server's own limit, which is 5s for vLLM."""


@backends.add("openai_fleet")
class OpenAIFleet(WarmFleet):
    """A fleet of OpenAI-compatible servers."""

    Options: ClassVar[type[BackendOptions]] = OpenAIFleetOptions
    options: OpenAIFleetOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, OpenAIFleetOptions)
        load = options.load
        more = [(ORCA_FORMAT, b"JSON")] if load is not None and load.source == "answers" else []
        heads = RequestHeads(name, options.headers, bearer=options.api_key, more=more)
        super().__init__(name, options, kit, heads=heads)
        self._replicas = [self.connections_to(url) for url in options.replicas]
        self._names = tuple(connections.authority.decode() for connections in self._replicas)
        self._base = options.base_path.encode("ascii")
        self._renamed = renamed(options.model)
        self._reports = [ReplicaReports() for _ in self._replicas]
        self._places: Places | None = None

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options for one replica at `url`, as in the file."""
        return {
            "type": "openai_fleet",
            "replicas": [url],
            "model": "Qwen/Qwen3-8B",
            "api_key": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "max_in_flight": 4,
            "price": {"usd_per_replica_hour": 0.79},
        }

    @property
    def replicas(self) -> Sequence[str]:
        """The replicas' addresses."""
        return self._names

    @property
    def moves(self) -> bool:
        """Where it is to learn how busy the replicas are."""
        return self.options.load is not None

    def attach(self, places: Places) -> None:
        """What the replicas say of themselves goes there."""
        self._places = places

    async def open(self) -> None:
        """Check the secrets; begin to ask how busy the replicas are. Raises ConfigError."""
        await super().open()
        if self.options.load is not None:
            self.kit.spawn(self._watch(self.options.load), name=f"load of {self.name}")

    async def close(self) -> None:
        """Close the idle connections."""
        for connections in self._replicas:
            connections.close()

    def cannot_carry(self, call: Call) -> str | None:
        """Another protocol, or something that the servers do not offer."""
        return unfit(self.name, call, self.options.operations)

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """Pass the call to one replica."""
        connections = self._replicas[replica]
        head = self.heads.head(call, connections, below(self._base, call))
        body: Body = call.body
        if self._renamed is not None and (data := body.whole()):
            body = WholeBody(self._renamed.apply(data))
        if self.options.load is None:
            return _FleetAttempt(connections, call.method, head, body, call.idempotent, _fleet=self)
        return _ReportingAttempt(
            connections, call.method, head, body, call.idempotent, _fleet=self, _replica=replica
        )

    async def probe(self, replica: int) -> bool | None:
        """`health`; any answer but 200, or none in time, is not ready."""
        return await self.ready(self._replicas[replica], self.options.health)

    # -- how busy the replicas are

    def heard(self, replica: int, field: bytes) -> None:
        """An answer said how busy its replica is."""
        report = from_field(field)
        if report is not None and self._places is not None:
            reports = self._reports[replica]
            now = self.kit.clock.now()
            self._places.note_load(replica, reports.said(report, reports.running, now))

    async def look(self, replica: int) -> None:
        """One period has passed: ask, where it is to be asked, or note that nothing was heard."""
        assert self.options.load is not None
        reports = self._reports[replica]
        if self.options.load.source == "metrics":
            before = reports.running
            try:
                asked = self.ask(self._replicas[replica], self.options.load.path, LARGEST_METRICS)
                status, text = await asked
            except (BackendError, TimeoutError):
                status, text = 0, b""
            report = from_metrics(text) if status == 200 else None
            if report is not None and self._places is not None:
                # Calls that came or went meanwhile are in it or not.
                own = max(before, reports.running)
                self._places.note_load(replica, reports.said(report, own, self.kit.clock.now()))
                return
        if reports.silent() and self._places is not None:
            self._places.note_load(replica, None)

    def reports_of(self, replica: int) -> ReplicaReports:
        """What is kept of one replica."""
        return self._reports[replica]

    def refused(self) -> None:
        """A replica did not take our key."""
        self.heads.renew()

    def excerpt(self, text: bytes) -> str:
        """The beginning of an answer, without any secret."""
        return self.heads.credentials.excerpt(text)

    async def _watch(self, load: LoadOptions) -> None:
        while True:
            await asyncio.gather(*(self.look(replica) for replica in range(len(self._replicas))))
            await asyncio.sleep(load.every * (0.9 + 0.2 * self.kit.chance.random()))


class _FleetAttempt(Attempt, kw_only=True, eq=False):
    """One call on one replica, its failure statuses turned into errors."""

    _fleet: OpenAIFleet

    async def _judge(self, reply: Reply) -> None:
        """Raise what this status means for another attempt; return if it is the client's own answer."""
        reply.body, reply.stream = await whole(reply, _ERROR_LIMIT), None
        status, body = reply.status, reply.body
        found = meaning(status, body)
        if found is Meaning.ANSWER:
            return
        text = self._fleet.excerpt(body)
        match found:
            case Meaning.FULL:
                raise BackendFull(f"the replica pushed back: {text}", answer=reply)
            case Meaning.UNREADY:
                raise BackendUnready(f"the replica does not have the model: {text}", answer=reply)
            case Meaning.DENIED:
                self._fleet.refused()
                raise BackendDenied(f"the replica does not take our calls ({status}): {text}")
            case Meaning.BROKE:
                raise BackendBroke(f"the replica answered {status}: {text}", answer=reply)


class _ReportingAttempt(_FleetAttempt, kw_only=True, eq=False):
    """The same where it matters how many run, and what answers say of their replica."""

    _replica: int

    @property
    def _counted(self) -> ReplicaReports:
        return self._fleet.reports_of(self._replica)

    async def __aenter__(self) -> Reply:
        self._counted.running += 1
        try:
            reply = await super().__aenter__()
        except BaseException:
            self._counted.running -= 1
            raise
        said = [value for name, value in reply.headers if name == ORCA]
        if said:
            reply.headers = [field for field in reply.headers if field[0] != ORCA]
            self._fleet.heard(self._replica, said[0])
        return reply

    async def __aexit__(self, *raised: object) -> None:
        self._counted.running -= 1
        await super().__aexit__(*raised)
