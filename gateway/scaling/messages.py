"""The messages of KEDA's external scaler, read and written by hand: they are tiny.

Pure. Field numbers are those of KEDA's `externalscaler.proto`: a ScaledObjectRef has name 1, namespace 2 and
the map scalerMetadata 3; a GetMetricsRequest has scaledObjectRef 1 and metricName 2; a MetricSpec has
metricName 1, targetSize 2 (deprecated) and targetSizeFloat 3; a MetricValue metricName 1, metricValue 2
(deprecated) and metricValueFloat 3. The deprecated numbers are sent as well, for the KEDA that reads these.
"""

import struct
from typing import NamedTuple

from backends.protobuf_wire import (
    FIXED64,
    LENGTH,
    VARINT,
    delimited,
    fields,
    key,
    string,
    text,
    varint,
)


class ScaledObject(NamedTuple):
    """Who asks: the object in the cluster, and what its trigger says under `metadata`."""

    name: str
    namespace: str
    metadata: dict[str, str]


class Asked(NamedTuple):
    """Which metric, of what."""

    scaled: ScaledObject
    metric: str


NOBODY = ScaledObject("", "", {})


def read_scaled_object(message: bytes | memoryview) -> ScaledObject:
    """Raises Malformed for what is no such message."""
    name, namespace, metadata = "", "", {}
    for field in fields(memoryview(message), "ScaledObjectRef"):
        if field.wire != LENGTH:
            continue
        if field.number == 1:
            name = text(field.data, "name")
        elif field.number == 2:
            namespace = text(field.data, "namespace")
        elif field.number == 3:
            word, value = _entry(field.data)
            metadata[word] = value
    return ScaledObject(name, namespace, metadata)


def read_metrics_request(message: bytes) -> Asked:
    """Raises Malformed for what is no such message."""
    scaled, metric = NOBODY, ""
    for field in fields(memoryview(message), "GetMetricsRequest"):
        if field.wire == LENGTH and field.number == 1:
            scaled = read_scaled_object(field.data)
        elif field.wire == LENGTH and field.number == 2:
            metric = text(field.data, "metricName")
    return Asked(scaled, metric)


def active(value: bool) -> bytes:
    """An IsActiveResponse."""
    return key(1, VARINT) + varint(1) if value else b""


def metric_spec(name: str, target: float) -> bytes:
    """A GetMetricSpecResponse with one metric."""
    return delimited(1, _metric(name, target))


def metric_value(name: str, value: float) -> bytes:
    """A GetMetricsResponse with one value."""
    return delimited(1, _metric(name, value))


def _metric(name: str, value: float) -> bytes:
    whole = int(value)
    number = key(2, VARINT) + varint(whole) if whole else b""
    exact = key(3, FIXED64) + struct.pack("<d", value) if value else b""
    return string(1, name) + number + exact


def _entry(data: memoryview) -> tuple[str, str]:
    word = value = ""
    for field in fields(data, "scalerMetadata"):
        if field.wire == LENGTH and field.number == 1:
            word = text(field.data, "scalerMetadata")
        elif field.wire == LENGTH and field.number == 2:
            value = text(field.data, "scalerMetadata")
    return word, value
