from typing import Any

import pytest

from gateway.errors import Contended
from gateway.record import Hedged, Record
from gateway.tracing.spans import Span, spans_of
from gateway.tracing.trace import Decision, Failure, Trace
from gateway.tracing.tracer import Finished
from gateway.vocab import Outcome, Reason, Start, Usage, Work

T0 = 100.0
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def opened(
    protocol: str = "openai", operation: str = "chat", path: bytes = b"/v1/chat/completions"
) -> Record:
    record = Record("req-1", TRACE, T0)
    record.trace = Trace(TRACE, 0xB7AD6B7169203331, 1, b"POST", path)
    record.protocol, record.operation, record.model, record.route = protocol, operation, "llama", "chat"
    return record


def told(record: Record, *decisions: Decision, end: float = T0 + 1.0) -> list[Span]:
    record.closed_at = end
    assert record.trace is not None
    return spans_of(Finished(record, record.trace, decisions, offset=0.0))


def answered(record: Record, at: float, status: int = 200) -> None:
    record.head_at = record.first_byte_at = at
    record.status, record.outcome = status, Outcome.OK


def by_name(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def seconds(span: Span) -> tuple[float, float]:
    return pytest.approx(span.start / 1e9 - T0, abs=1e-5), pytest.approx(span.end / 1e9 - T0, abs=1e-5)  # type: ignore[return-value]


def test_a_generation_says_model_operation_and_tokens() -> None:
    record = opened()
    assert record.trace is not None
    record.stream = True
    record.trace.attempt(T0 + 0.1, None)
    record.took("burst", "burst", Reason.SPILL_SLOW, T0 + 0.3)
    answered(record, T0 + 0.7)
    record.start = Start.COLD
    record.usage = Usage(0.7, 0.2, 0.01, "i-1", True, input_tokens=12, output_tokens=180)
    (client,) = by_name(told(record), "chat llama")
    assert client.kind == "client"
    assert seconds(client) == (0.3, 1.0)
    ttfc = client.attributes.pop("gen_ai.response.time_to_first_chunk")
    assert ttfc == pytest.approx(0.4)
    assert client.attributes == {
        "http.request.method": "POST", "http.response.status_code": 200, "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai", "gen_ai.request.model": "llama", "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 180, "overspill.backend": "burst",
        "overspill.replica": "burst", "overspill.hedge": False, "overspill.start": "cold",
        "overspill.reason": "spill_slow", "overspill.cost_usd": 0.01, "overspill.billed": 0.7,
        "overspill.boot": 0.2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("protocol", "operation", "expected"),
    [
        ("openai", "responses", "chat"),
        ("openai", "completions", "text_completion"),
        ("openai", "embeddings", "embeddings"),
        ("kserve", "generate_stream", "text_completion"),
        ("kserve", "infer", None),
        ("raw", "invoke", None),
    ],
)
def test_only_what_generates_is_called_so(protocol: str, operation: str, expected: str | None) -> None:
    record = opened(protocol, operation)
    assert record.trace is not None
    record.trace.attempt(T0, None)
    record.took("fleet", "gpu-0:8000", Reason.WARM, T0)
    (client,) = [span for span in told(record) if span.kind == "client"]
    assert client.attributes.get("gen_ai.operation.name") == expected
    assert client.attributes["server.address"] == "gpu-0"
    assert client.attributes["server.port"] == 8000


def test_a_retry_is_two_rounds_with_an_attempt_each() -> None:
    record = opened()
    trace = record.trace
    assert trace is not None
    trace.attempt(T0 + 0.1, None)
    record.took("fleet", "gpu-0:8000", Reason.WARM, T0 + 0.2)
    record.tried("fleet", None, 0.1, "gpu-0:8000", Work.MAYBE)
    trace.attempt(T0 + 0.3, Failure("backend_broke", 500))
    record.took("burst", "burst", Reason.FALLBACK, T0 + 0.4)
    answered(record, T0 + 0.8)
    spans = told(record)
    first, second = by_name(spans, "chat llama")
    assert (seconds(first), seconds(second)) == ((0.2, 0.3), (0.4, 1.0))
    assert (first.failed, second.failed) == (True, False)
    assert first.attributes["error.type"] == "backend_broke"
    assert first.attributes["http.response.status_code"] == 500
    assert "http.request.resend_count" not in first.attributes
    assert second.attributes["http.request.resend_count"] == 1
    assert [seconds(span) for span in by_name(spans, "queue")] == [(0.1, 0.2), (0.3, 0.4)]
    (relay,) = by_name(spans, "relay")
    assert relay.parent == second.span_id
    assert spans[0].attributes["overspill.attempts"] == 2
    assert len({span.span_id for span in spans}) == len(spans)


def hedged(record: Record) -> float:
    """A call whose second attempt, since the moment that is returned, runs beside the first."""
    trace = record.trace
    assert trace is not None
    trace.attempt(T0, None)
    record.took("fleet", "gpu-0:8000", Reason.WARM, T0)
    record.hedge = Hedged("burst", "burst", T0 + 0.5)
    trace.hedged(T0 + 0.5)
    return T0 + 0.5


def test_a_hedge_that_lost_is_an_attempt_that_did_not_fail() -> None:
    record = opened()
    began = hedged(record)
    record.attempts += 1
    record.lost("burst", "burst", None, 0.2, refused=False, began=began)
    answered(record, T0 + 0.7)
    spans = told(record)
    first, second = by_name(spans, "chat llama")
    assert (first.attributes["overspill.hedge"], second.attributes["overspill.hedge"]) == (False, True)
    assert not second.failed
    assert seconds(second) == (0.5, 0.7)
    assert record.trace is not None
    assert second.span_id == record.trace.hedges[began]
    assert spans[0].attributes["overspill.hedged"] == "lost"


def test_a_hedge_that_won_is_the_attempt_that_was_relayed() -> None:
    record = opened()
    began = hedged(record)
    record.lost("fleet", "gpu-0:8000", None, 0.7, refused=False, began=T0)
    record.took("burst", "burst", Reason.HEDGE, began)
    answered(record, T0 + 0.7)
    spans = told(record)
    first, second = by_name(spans, "chat llama")
    assert (seconds(first), seconds(second)) == ((0.0, 0.7), (0.5, 1.0))
    (relay,) = by_name(spans, "relay")
    assert relay.parent == second.span_id
    assert second.attributes["overspill.hedge"]
    assert len(by_name(spans, "queue")) == 1


def test_a_call_that_was_shed_has_waited_and_was_never_sent() -> None:
    record = opened()
    assert record.trace is not None
    record.trace.attempt(T0 + 0.1, None)
    hold = Decision(T0 + 0.1, {"overspill.action": "hold"})
    shed = Decision(T0 + 0.9, {"overspill.action": "shed", "overspill.predicted.finish": 2.0})
    record.fail(Contended("full"))
    spans = told(record, hold, shed)
    assert [span.name for span in spans] == ["POST /v1/chat/completions", "receive", "queue"]
    whole, _, queue = spans
    assert whole.attributes["error.type"] == "contended"
    assert whole.attributes["overspill.reason"] == "shed_full"
    assert whole.attributes["overspill.predicted.finish"] == 2.0
    assert seconds(queue) == (0.1, 1.0)
    assert [event.attributes["overspill.action"] for event in queue.events] == ["hold", "shed"]
    assert queue.attributes["overspill.action"] == "shed"


@pytest.mark.parametrize(
    ("status", "outcome", "failed"),
    [
        (200, Outcome.OK, False),
        (404, Outcome.BACKEND_REJECTED, False),
        (500, Outcome.BACKEND_ERROR, True),
        (503, Outcome.SHED, True),
        (200, Outcome.TRUNCATED, True),
        (0, Outcome.INTERNAL_ERROR, True),
    ],
)
def test_the_call_failed_where_the_server_did(status: int, outcome: Outcome, failed: bool) -> None:
    record = opened()
    record.status, record.outcome = status, outcome
    assert told(record)[0].failed is failed


@pytest.mark.parametrize(
    ("protocol", "route", "path", "expected"),
    [
        ("kserve", "r", b"/v2/models/llama/versions/3/infer", "/v2/models/{model}/versions/{version}/infer"),
        ("kserve", "r", b"/v2/models/stats", "/v2/models/stats"),
        ("openai", "r", b"/v1/embeddings", "/v1/embeddings"),
        ("raw", "r", b"/invoke/r/users/4711", "/invoke/{route}"),
        ("raw", "", b"/invoke/unknown", None),
        ("", "", b"/whatever/was/asked", None),
    ],
)
def test_a_path_is_shown_as_far_as_it_is_understood(
    protocol: str, route: str, path: bytes, expected: str | None
) -> None:
    record = opened(protocol, "", path)
    record.route = route
    whole: dict[str, Any] = told(record)[0].attributes
    assert whole.get("http.route") == expected
    assert "4711" not in str(whole)
    assert "unknown" not in str(whole)
    assert "whatever" not in str(whole)


def test_a_grpc_call_is_a_remote_procedure_call() -> None:
    record = opened("grpc", "infer", b"/inference.GRPCInferenceService/ModelInfer")
    assert record.trace is not None
    record.trace.attempt(T0, None)
    record.took("fleet", "gpu-0:8000", Reason.WARM, T0)
    answered(record, T0 + 0.5)
    whole, *_ = spans = told(record)
    assert whole.name == "inference.GRPCInferenceService/ModelInfer"
    assert whole.attributes["rpc.system.name"] == "grpc"
    assert whole.attributes["rpc.response.status_code"] == "OK"
    assert not [name for span in spans for name in span.attributes if name.startswith("http.")]


def test_long_and_unsendable_names_are_made_fit() -> None:
    record = opened()
    record.model = "half \ud800 a pair " + "m" * 1_000
    text = told(record)[0].attributes["overspill.model"]
    assert isinstance(text, str)
    assert len(text.encode("utf-8")) <= 256
