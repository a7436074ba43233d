"""What Lambda says of one invocation in its log tail: the REPORT line, or its JSON twin.

Pure. It must never know a price or a wire format.

Sources: AWS Lambda documentation, "Viewing logs" (REPORT line) and "Telemetry API event schema"
(`platform.report`). Billed Duration contains the init phase (all configurations, since August 2025)
and the billed part of a SnapStart restore.
"""

import base64
import binascii
import re
from typing import NamedTuple

import msgspec

_FIELD = re.compile(
    r"(?P<name>Billed Duration|Init Duration|Restore Duration|Memory Size|Duration)"
    r":\s*(?P<value>\d+(?:\.\d+)?)\s*(?:ms|MB)"
)


class Report(NamedTuple):
    """One invocation's figures; None where the line does not have them."""

    duration_s: float | None
    billed_s: float | None
    memory_gb: float | None
    init_s: float | None
    restore_s: float | None

    @property
    def boot_s(self) -> float | None:
        """Start-up that this invocation waited for: init or restore; None for a warm environment."""
        return self.init_s if self.init_s is not None else self.restore_s

    @property
    def gb_seconds(self) -> float | None:
        """What is billed: 1 GB for 200 ms is 0.2 GB-s."""
        if self.billed_s is None or self.memory_gb is None:
            return None
        return self.billed_s * self.memory_gb


class _Metrics(msgspec.Struct, rename="camel"):
    duration_ms: float | None = None
    billed_duration_ms: float | None = None
    init_duration_ms: float | None = None
    restore_duration_ms: float | None = None
    # The name ends in two capitals, which no renaming rule gives.
    memory_mb: float | None = msgspec.field(default=None, name="memorySizeMB")


class _Record(msgspec.Struct):
    metrics: _Metrics


class _PlatformReport(msgspec.Struct):
    type: str
    record: _Record


def read_log_result(value: bytes) -> Report | None:
    """The report in an `X-Amz-Log-Result` field (base64 of the log's last 4 KiB); None if there is none."""
    try:
        text = base64.b64decode(value, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return None
    return read_log(text)


def read_log(text: str) -> Report | None:
    """The last report in a log: lines printed by the function itself come before it."""
    for line in reversed(text.splitlines()):
        stripped = line.strip()
        if stripped.startswith("REPORT RequestId:"):
            return _from_line(stripped)
        if stripped.startswith("{") and '"platform.report"' in stripped and (report := _from_json(stripped)):
            return report
    return None


def _from_line(line: str) -> Report:
    found: dict[str, float] = {}
    for field in line.split("\t"):
        if match := _FIELD.fullmatch(field.strip()):
            found[match["name"]] = float(match["value"])
    return _report(
        duration=found.get("Duration"),
        billed=found.get("Billed Duration"),
        memory=found.get("Memory Size"),
        init=found.get("Init Duration"),
        restore=found.get("Restore Duration"),
    )


def _from_json(line: str) -> Report | None:
    try:
        report = msgspec.json.decode(line, type=_PlatformReport)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if report.type != "platform.report":
        return None
    metrics = report.record.metrics
    return _report(
        duration=metrics.duration_ms,
        billed=metrics.billed_duration_ms,
        memory=metrics.memory_mb,
        init=metrics.init_duration_ms,
        restore=metrics.restore_duration_ms,
    )


def _report(
    *,
    duration: float | None,
    billed: float | None,
    memory: float | None,
    init: float | None,
    restore: float | None,
) -> Report:
    return Report(
        duration_s=_scaled(duration, 1000),
        billed_s=_scaled(billed, 1000),
        memory_gb=_scaled(memory, 1024),
        init_s=_scaled(init, 1000),
        restore_s=_scaled(restore, 1000),
    )


def _scaled(value: float | None, divisor: int) -> float | None:
    return None if value is None else value / divisor
