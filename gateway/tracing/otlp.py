"""Spans over OTLP, by OpenTelemetry's own library: HTTP with protobuf, or gRPC.

The only module that knows that library, and imported only where tracing is configured: that takes some tenths
of a second. The connection is the library's; what is sent are `gateway.tracing.spans`, made into bytes by
`gateway.tracing.wire` where this version of the library takes bytes, and by the library where it does not.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple
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
from gateway.tracing.wire import Wire

_KINDS: Final = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_ERROR: Final = Status(StatusCode.ERROR)
_UNSET: Final = Status(StatusCode.UNSET)
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.41.0"
_PATH: Final = "/v1/traces"
"""Where OTLP over HTTP takes spans (OTLP specification, "OTLP/HTTP Request")."""


class _Way(NamedTuple):
    """To the collector. `send` takes a whole request as bytes and says whether it was taken; None: only the
    library's own spans can be sent.
    """

    exporter: SpanExporter
    send: Callable[[bytes], bool] | None


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
        self._exporter, self._send = _way(options)
        self._wire = Wire(self._resource.attributes, scope=("overspill", version), schema=_SCHEMA)
        self._stopped = False

    def export(self, spans: Sequence[Span]) -> bool:
        """See `Exporter.export`."""
        if self._send is not None:
            return not self._stopped and self._send(self._wire.request(spans))
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


def _way(options: Tracing) -> _Way:
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


def _over_grpc(options: Tracing, headers: dict[str, str]) -> _Way:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 - optional
        OTLPSpanExporter,
    )
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415 - optional
        ExportTraceServiceRequest,
    )

    class Encoded(OTLPSpanExporter):
        """Takes bytes for spans."""

        def _translate_data(self, data: Any) -> Any:
            return ExportTraceServiceRequest.FromString(data)

        def _count_data(self, _: Any) -> int:
            return 1

    takes_bytes = all(hasattr(OTLPSpanExporter, name) for name in ("_translate_data", "_count_data"))
    secure = options.endpoint.startswith("https:")
    exporter = (Encoded if takes_bytes else OTLPSpanExporter)(
        endpoint=options.endpoint, insecure=not secure, headers=headers, timeout=options.timeout
    )

    def send(request: Any) -> bool:
        return exporter.export(request) is SpanExportResult.SUCCESS

    return _Way(exporter, send if takes_bytes else None)


def _over_http(options: Tracing, headers: dict[str, str]) -> _Way:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - optional
        OTLPSpanExporter,
    )

    url = options.endpoint if urlsplit(options.endpoint).path else options.endpoint + _PATH
    exporter = OTLPSpanExporter(endpoint=url, headers=headers, timeout=options.timeout)
    return _Way(exporter, _bytes_sender(exporter))


def _bytes_sender(exporter: object) -> Callable[[bytes], bool] | None:
    """What the library itself sends its bytes with, where it is found: it has no public name."""
    send = getattr(getattr(exporter, "_client", None), "export", None)
    return None if send is None else lambda request: bool(send(request).success)
