"""A finished call as spans: their names, times and attributes. Pure; it never knows OpenTelemetry's library.

    SERVER    POST /v1/chat/completions        arrival to last byte
      INTERNAL  receive                        protocol, route, admission, the body
      INTERNAL  queue                          the pool: waiting for a slot; what was decided, an event for
                                               each decision where there were several
      CLIENT    chat llama-3                   an attempt, while it holds its slot; so does a hedge
        INTERNAL  relay                        from the head of the answer to its last byte

Attribute names are those of OpenTelemetry's semantic conventions: HTTP spans 1.41 (stable), RPC spans 1.41,
GenAI client spans (semantic-conventions-genai, in development). What these have no name for begins with
`overspill.`; such durations are seconds, money US dollars. Nothing is taken from a header field, a query or a
body, except the model's name; of a path only as much is shown as the protocol understands.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from gateway.protocols.grpc import code_of
from gateway.record import Record
from gateway.tracing.trace import ATTEMPT, QUEUE, RECEIVE, RELAY, Failure, Trace
from gateway.tracing.tracer import Finished
from gateway.vocab import Outcome, Usage

Attributes = dict[str, str | bool | int | float]

_LONGEST: Final = 256
_METHODS: Final = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"))
_GEN_AI: Final[Mapping[tuple[str, str], str]] = {
    ("openai", "chat"): "chat",
    ("openai", "responses"): "chat",
    ("openai", "completions"): "text_completion",
    ("openai", "embeddings"): "embeddings",
    ("kserve", "generate"): "text_completion",
    ("kserve", "generate_stream"): "text_completion",
}
"""(protocol, operation) -> gen_ai.operation.name. Tensors are not generative by themselves."""
_PROVIDERS: Final[Mapping[str, str]] = {
    "openai": "openai",
    "kserve": "triton",
}
"""gen_ai.provider.name: the flavour of the protocol, as the convention asks where only that is known."""
_BROKEN: Final = frozenset((Outcome.INTERNAL_ERROR, Outcome.TRUNCATED))
_SERVICE: Final = "inference.GRPCInferenceService"
_CODES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""gRPC's status codes by number."""


class Event(NamedTuple):
    """A moment within a span, nanoseconds since the Unix epoch."""

    name: str
    at: int
    attributes: Mapping[str, str | bool | float]


class Span(NamedTuple):
    """One span.

    parent:  0 for none; `remote` True where it is somebody else's
    start:   nanoseconds since the Unix epoch, as `end`
    failed:  its status is an error
    """

    name: str
    kind: Literal["server", "client", "internal"]
    trace_id: int
    span_id: int
    parent: int
    start: int
    end: int
    attributes: Attributes
    remote: bool = False
    failed: bool = False
    events: tuple[Event, ...] = ()


class _Attempt(NamedTuple):
    """One attempt, whatever became of it.

    status:  the backend's own, 0 where it gave none
    error:   word of what ended it, "" for nothing
    last:    it is the one that the record tells of
    """

    backend: str
    replica: str
    began: float
    ended: float
    usage: Usage | None
    status: int
    error: str
    last: bool


def spans_of(finished: Finished) -> list[Span]:
    """The spans of a call, the one of the whole call first."""
    return list(_Story(finished).spans())


class _Story:
    """One call."""

    def __init__(self, finished: Finished) -> None:
        self.record: Record = finished.record
        self.trace: Trace = finished.trace
        self.decisions = finished.decisions
        self.offset = finished.offset
        self.closed = max(self.record.closed_at or 0.0, self.record.arrived)
        self.attempts = sorted(self._attempts(), key=lambda each: each.began)

    def spans(self) -> Iterator[Span]:
        record, trace, asked = self.record, self.trace, self.trace.asked
        yield self._whole()
        if asked:
            told: Attributes = {"overspill.bytes_in": record.bytes_in}
            yield self._span("receive", trace.child(RECEIVE), record.arrived, asked[0], told)
        for number in range(len(asked)):
            yield self._queue(number)
        for place, attempt in enumerate(self.attempts):
            hedge = trace.hedges.get(attempt.began)
            span = trace.child(ATTEMPT, self._round(attempt.began)) if hedge is None else hedge
            yield self._attempt(attempt, span, place, hedge=hedge is not None)
            if attempt.last and attempt.status and record.head_at is not None:
                told = {"overspill.bytes_out": record.bytes_out}
                yield self._span("relay", trace.child(RELAY), record.head_at, self.closed, told, parent=span)

    def _span(
        self, name: str, span: int, start: float, end: float, told: Attributes, *,
        parent: int | None = None, **more: Any,
    ) -> Span:  # fmt: skip
        kind = more.pop("kind", "internal")
        above = self.trace.span if parent is None else parent
        times = self._ns(start), max(self._ns(start), self._ns(end))
        return Span(name, kind, self.trace.trace_id, span, above, *times, told, **more)

    def _ns(self, moment: float) -> int:
        return int((moment + self.offset) * 1e9)

    def _round(self, moment: float) -> int:
        """Which time around a moment belongs to."""
        return max(0, bisect_right(self.trace.asked, moment) - 1)

    # -- the whole call --------------------------------------------------------------------------

    def _whole(self) -> Span:
        record, trace = self.record, self.trace
        name, told = _request(record, trace)
        if record.protocol == "grpc":
            if record.status != 502:  # which of two codes that became is not known here
                told["rpc.response.status_code"] = _CODES[code_of(record.status)]
        elif record.status:
            told["http.response.status_code"] = record.status
        told |= _facts(record)
        failed = record.status >= 500 or record.outcome in _BROKEN
        if error := record.error or (str(record.status) if failed else ""):
            told["error.type"] = error
        for decision in self.decisions[-1:]:  # the one that counted
            told |= {key: value for key, value in decision.attributes.items() if ".predicted." in key}
        return self._span(
            name, trace.span, record.arrived, self.closed, told,
            kind="server", parent=trace.parent, remote=trace.parent != 0, failed=failed,
        )  # fmt: skip

    # -- its steps -------------------------------------------------------------------------------

    def _queue(self, number: int) -> Span:
        asked = self.trace.asked
        began = asked[number]
        later = asked[number + 1] if number + 1 < len(asked) else self.closed
        took = min((each.began for each in self.attempts if self._round(each.began) == number), default=later)
        here = [decision for decision in self.decisions if self._round(decision.at) == number]
        told = dict(here[-1].attributes) if here else {}
        earlier = here if len(here) > 1 else []  # of a single one all is in the span itself
        events = tuple(Event("decision", self._ns(each.at), each.attributes) for each in earlier)
        return self._span("queue", self.trace.child(QUEUE, number), began, took, told, events=events)

    def _attempts(self) -> Iterator[_Attempt]:
        record, failures = self.record, self.trace.failures
        for tried in record.failed:
            if tried.began is None:
                continue
            failure = Failure(tried.error, 0)
            place = self._round(tried.began)
            if not tried.error and tried.kind == "retry" and place < len(failures):
                failure = failures[place]
            yield _Attempt(
                tried.backend, tried.replica, tried.began, tried.began + tried.held_s, tried.usage,
                failure.status, failure.word, last=False,
            )  # fmt: skip
        if record.slot_at is not None:
            answered = record.head_at is not None and record.head_at >= record.slot_at
            yield _Attempt(
                record.backend, record.replica, record.slot_at, self.closed, record.usage,
                record.status if answered else 0, record.error, last=True,
            )  # fmt: skip

    def _attempt(self, attempt: _Attempt, span: int, place: int, *, hedge: bool) -> Span:
        record = self.record
        name, told = _sent(record, self.trace)
        told |= _address(attempt.replica)
        told |= {"overspill.backend": attempt.backend, "overspill.replica": attempt.replica}
        told["overspill.hedge"] = hedge
        if attempt.status and record.protocol != "grpc":
            told["http.response.status_code"] = attempt.status
        if place and record.protocol != "grpc":
            told["http.request.resend_count"] = place
        if attempt.last:
            told |= _known({"overspill.start": record.start, "overspill.reason": record.reason})
            if record.stream and "gen_ai.operation.name" in told and record.first_byte_at is not None:
                told["gen_ai.response.time_to_first_chunk"] = record.first_byte_at - attempt.began
        if attempt.usage is not None:
            told |= _usage(attempt.usage, told)
        failed = bool(attempt.error) or attempt.status >= 400
        if failed:
            told["error.type"] = attempt.error or str(attempt.status)
        return self._span(name, span, attempt.began, attempt.ended, told, kind="client", failed=failed)


# -- attributes


def _request(record: Record, trace: Trace) -> tuple[str, Attributes]:
    """The name of the whole call, and how it came."""
    if record.protocol == "grpc":
        method = f"{_SERVICE}/{_text(trace.path.rpartition(b'/')[2])}"
        return method, {"rpc.system.name": "grpc", "rpc.method": method}
    method = _text(trace.method)
    told: Attributes = {
        "http.request.method": method if method in _METHODS else "_OTHER",
        "url.scheme": "http",
    }
    name = method if method in _METHODS else "HTTP"
    route, path = _paths(record, trace.path)
    if path:
        told |= {"http.route": route, "url.path": path}
    return f"{name} {route}".strip(), told


def _paths(record: Record, path: bytes) -> tuple[str, str]:
    """Template and path, as far as the protocol understands them: no word in them is only the client's."""
    match record.protocol:
        case "openai":
            return _text(path), _text(path)
        case "kserve":
            parts = [_text(part) for part in path.split(b"/")]
            if len(parts) > 3 and parts[1:3] == ["v2", "models"] and parts[3] != "stats":
                parts[3] = "{model}"
                if len(parts) > 5 and parts[4] == "versions":
                    parts[5] = "{version}"
            return "/".join(parts), _text(path)
        case "raw" if record.route:
            return "/invoke/{route}", f"/invoke/{record.route}"
    return "", ""


def _sent(record: Record, trace: Trace) -> tuple[str, Attributes]:
    """The name of an attempt, and what was sent."""
    told: Attributes = {}
    if record.protocol == "grpc":
        name, told = _request(record, trace)
    else:
        method = _text(trace.method)
        told["http.request.method"] = method if method in _METHODS else "_OTHER"
        name = method if method in _METHODS else "HTTP"
    operation = _GEN_AI.get((record.protocol, record.operation))
    if operation is None:
        return name, told
    model = _text(record.model)
    told |= {"gen_ai.operation.name": operation, "gen_ai.provider.name": _PROVIDERS[record.protocol]}
    if model:
        told["gen_ai.request.model"] = model
    if operation != "embeddings":
        told["gen_ai.request.stream"] = record.stream
    return f"{operation} {model}".strip(), told


def _facts(record: Record) -> Attributes:
    """What the record says of the whole call; durations are seconds."""
    first = record.first_byte_at
    return _known(
        {
            "overspill.request_id": record.request_id,
            "overspill.protocol": record.protocol or None,
            "overspill.operation": _text(record.operation) or None,
            "overspill.model": _text(record.model) or None,
            "overspill.route": record.route or None,
            "overspill.backend": record.backend or None,
            "overspill.replica": record.replica or None,
            "overspill.reason": record.reason,
            "overspill.start": record.start,
            "overspill.outcome": record.outcome,
            "overspill.attempts": record.attempts,
            "overspill.stream": record.stream,
            "overspill.queued": record.queued_s,
            "overspill.upstream": record.upstream_s,
            "overspill.first_byte": None if first is None else first - record.arrived,
            "overspill.bytes_in": record.bytes_in,
            "overspill.bytes_out": record.bytes_out,
            "overspill.hedged": None if record.hedge is None else record.hedge.result,
            "overspill.cost_usd": record.usd,
        }
    )


def _usage(usage: Usage, sent: Attributes) -> Attributes:
    told: dict[str, Any] = {
        "overspill.cost_usd": usage.usd,
        "overspill.billed": usage.billed_s,
        "overspill.boot": usage.boot_s,
    }
    if "gen_ai.operation.name" in sent:
        told["gen_ai.usage.input_tokens"] = usage.input_tokens
        if sent["gen_ai.operation.name"] != "embeddings":
            told["gen_ai.usage.output_tokens"] = usage.output_tokens
    return _known(told)


def _address(replica: str) -> Attributes:
    """Where it went, if the replica is named by its address. Never the user or the path in it."""
    try:
        url = urlsplit(replica if "://" in replica else f"//{replica}")
        port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    except ValueError:
        return {}
    return {"server.address": url.hostname, "server.port": port} if url.hostname and port else {}


def _known(told: Mapping[str, Any]) -> Attributes:
    """Less what is not known; words of closed lists as plain text."""
    return {
        name: str(value) if isinstance(value, str) else value
        for name, value in told.items() if value is not None
    }  # fmt: skip


def _text(value: str | bytes) -> str:
    """Not too long, and such that it can be sent: a name that a client made up may hold half a pair."""
    if isinstance(value, str):
        value = value[:_LONGEST].encode("utf-8", "replace")
    return value.decode("utf-8", "replace")[:_LONGEST]
