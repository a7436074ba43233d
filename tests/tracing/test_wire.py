"""The bytes that spans are sent as, beside those that OpenTelemetry's own library makes of them."""

from collections.abc import Sequence

import pytest

from gateway.tracing.spans import Event, Span
from gateway.tracing.wire import Wire

sdk_export = pytest.importorskip(
    "opentelemetry.sdk.trace.export", reason="opentelemetry-sdk is not installed"
)
encoder = pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder")

from gateway.config.tracing import Tracing  # noqa: E402
from gateway.tracing import otlp  # noqa: E402 - needs the library
from gateway.tracing.otlp import OtlpExporter  # noqa: E402

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
PLAIN = Span("queue", "internal", TRACE, 7, 3, 1_700_000_000_000_000_000, 1_700_000_000_000_000_001, {})


def both(spans: Sequence[Span]) -> tuple[bytes, bytes]:
    """As we write them, and as the library does."""
    exporter = OtlpExporter(Tracing(endpoint="http://127.0.0.1:1"), version="1.2", instance="here")
    request = encoder.encode_spans([exporter._readable(span) for span in spans])
    exporter.stop()
    wire = Wire(exporter._resource.attributes, scope=("overspill", "1.2"), schema=otlp._SCHEMA)
    return wire.request(spans), request.SerializeToString()


@pytest.mark.parametrize(
    "span",
    [
        PLAIN,
        PLAIN._replace(name="", parent=0),
        PLAIN._replace(kind="server", parent=(1 << 64) - 1, remote=True, failed=True),
        PLAIN._replace(kind="server", parent=0, remote=True),
        PLAIN._replace(kind="client", trace_id=1, span_id=1 << 63, start=1, end=1),
        PLAIN._replace(events=(Event("decision", 5, {"a": 1.5}), Event("decision", 6, {}))),
    ],
)
def test_a_span_is_written_as_the_library_writes_it(span: Span) -> None:
    mine, theirs = both([span])
    assert mine == theirs


@pytest.mark.parametrize(
    "value",
    [
        "", "m", "größer", "x" * 127, "x" * 128, "x" * 1023, "x" * 40_000, True, False, 0, 1, 127, 128, -1,
        -(1 << 63), (1 << 63) - 1, 0.0, -0.0, 1e-9, float("inf"),
    ],
)  # fmt: skip
def test_an_attribute_is_written_as_the_library_writes_it(value: str | bool | int | float) -> None:
    mine, theirs = both([PLAIN._replace(attributes={"overspill.told": value})])
    assert mine == theirs


def test_many_spans_are_one_request_and_names_are_written_the_same_each_time() -> None:
    spans = [PLAIN._replace(span_id=number + 1, attributes={"a": number, "b": "x"}) for number in range(300)]
    mine, theirs = both(spans)
    assert mine == theirs


def test_more_names_than_are_remembered_are_written_all_the_same() -> None:
    told: dict[str, str | bool | int | float] = {f"name.{number}": number for number in range(2_000)}
    mine, theirs = both([PLAIN._replace(attributes=told), PLAIN._replace(attributes=told)])
    assert mine == theirs


def test_a_library_that_takes_no_bytes_makes_them_itself() -> None:
    assert otlp._bytes_sender(object()) is None
    exporter = OtlpExporter(Tracing(endpoint="http://127.0.0.1:1"), version="1.2", instance="here")
    sent: list[Sequence[object]] = []

    class Takes:
        def export(self, spans: Sequence[object]) -> object:
            sent.append(spans)
            return sdk_export.SpanExportResult.SUCCESS

    exporter.stop()
    exporter._exporter, exporter._send = Takes(), None  # type: ignore[assignment]
    assert exporter.export([PLAIN])
    assert [type(each).__name__ for each in sent[0]] == ["ReadableSpan"]


def test_the_installed_library_takes_bytes_over_both_protocols() -> None:
    for protocol in ("http", "grpc"):
        options = Tracing.model_validate({"endpoint": "http://127.0.0.1:1", "protocol": protocol})
        exporter = OtlpExporter(options, version="1.2", instance="here")
        exporter.stop()
        assert exporter._send is not None, "the cheap way has gone: a span costs several times as much"
        assert not exporter.export([PLAIN]), "nothing is sent after the end"
