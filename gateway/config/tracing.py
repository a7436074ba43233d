"""The `tracing` section of the file. Knows its shape only, never what becomes of it."""

import re
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from backends.base import FieldName, FieldValue
from gateway.options import Duration, Options, SecretRef, Share

_COLLECTOR = re.compile(r"https?://[^/\s?#@]+(/[^\s?#]*)?")


def _written_collector(value: object) -> str:
    if isinstance(value, str) and _COLLECTOR.fullmatch(value):
        return value.rstrip("/")
    # The value is not quoted here: it may hold a password.
    raise ValueError(
        "not the address of a collector; write http://HOST:PORT or https://…, without user, query or fragment"
    )


class Tracing(Options):
    """Spans of sampled calls for an OpenTelemetry collector; it takes the extra `overspill[otel]`."""

    endpoint: Annotated[
        str,
        PlainValidator(_written_collector),
        WithJsonSchema({"type": "string", "pattern": "^https?://", "examples": ["http://localhost:4318"]}),
    ]
    """The collector, as http://HOST:PORT, or https for TLS. With protocol `http`, `/v1/traces` is added where
    no path is given."""
    protocol: Literal["http", "grpc"] = "http"
    """OTLP over HTTP (port 4318 as a rule) or over gRPC (4317)."""
    sample: Share = 0.01
    """Share of the calls that come without a `traceparent`; the others are traced if their caller keeps its
    own spans."""
    headers: dict[FieldName, FieldValue | SecretRef] = {}
    """Fields of every request to the collector, such as its key."""
    service_name: str = Field(default="overspill", min_length=1, max_length=255)
    """The gateway's name among the services of a trace."""
    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """How long the collector may take; what could not be delivered by then is dropped and counted."""

    @model_validator(mode="after")
    def _no_path_over_grpc(self) -> "Tracing":
        if self.protocol == "grpc" and self.endpoint.count("/") > 2:
            raise ValueError("over gRPC a collector has no path; write the endpoint as http://HOST:PORT")
        return self
