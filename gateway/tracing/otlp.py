"""Spans over OTLP, by OpenTelemetry's own library: HTTP with protobuf, or gRPC.

The only module that knows that library, and imported only where tracing is configured: that takes some tenths
of a second. The wire is the library's; what is sent are `gateway.tracing.spans`.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.config.tracing import Tracing
from gateway.errors import ConfigError
from gateway.options import SecretRef
from gateway.tracing.spans import Span

_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_ERROR: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.41.0"
_PATH: Final = "/v1/traces"
"""Where OTLP over HTTP takes spans (OTLP specification, "OTLP/HTTP Request")."""


class OtlpExporter:
    """An `Exporter` of `gateway.tracing.outbox`. Raises ConfigError where the library is not installed."""

    def __init__(self, options: Tracing, *, version: str, instance: str) -> None:
        self._resource = Resource.create(
            {
                "service.name": options.service_name,
                "service.version": version,
                "service.instance.id": instance,
            }
        )
        self._scope = InstrumentationScope("overspill", version, _SCHEMA)
        self._exporter = _exporter(options)
        self._stopped = False

    def export(self, spans: Sequence[Span]) -> bool:
        """See `Exporter.export`."""
        return self._exporter.export([self._readable(span) for span in spans]) is SpanExportResult.SUCCESS

    def stop(self) -> None:
        """See `Exporter.stop`."""
        if not self._stopped:
            self._stopped = True
            self._exporter.shutdown()

    def _readable(self, span: Span) -> ReadableSpan:
        # Made as they are sent: the library's own spans are for code that runs inside of them.
        parent = None
        if span.parent:
            parent = SpanContext(span.trace_id, span.parent, is_remote=span.remote, trace_flags=_SAMPLED)
        return ReadableSpan(
            span.name,
            SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=_SAMPLED),
            parent,
            self._resource,
            span.attributes,
            [SdkEvent(event.name, event.attributes, event.at) for event in span.events],
            kind=_KINDS[span.kind],
            status=_ERROR if span.failed else _UNSET,
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=self._scope,
        )


def _exporter(options: Tracing) -> SpanExporter:
    headers = {
        name.lower(): value.resolve() if isinstance(value, SecretRef) else value
        for name, value in options.headers.items()
    }
    try:
        return (_over_grpc if options.protocol == "grpc" else _over_http)(options, headers)
    except ImportError:
        raise ConfigError(
            f"tracing over {options.protocol} needs a package that is not installed: "
            "pip install 'overspill[otel]'"
        ) from None


def _over_grpc(options: Tracing, headers: dict[str, str]) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 - optional
        OTLPSpanExporter,
    )

    secure = options.endpoint.startswith("https:")
    return OTLPSpanExporter(
        endpoint=options.endpoint, insecure=not secure, headers=headers, timeout=options.timeout
    )


def _over_http(options: Tracing, headers: dict[str, str]) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - optional
        OTLPSpanExporter,
    )

    url = options.endpoint if urlsplit(options.endpoint).path else options.endpoint + _PATH
    return OTLPSpanExporter(endpoint=url, headers=headers, timeout=options.timeout)
