"""What Lambda says of one invocation in its log tail: the REPORT and INIT_REPORT lines, or their JSON twins.

Pure. It must never know a price or a wire format.

Sources: AWS Lambda documentation, "Viewing logs" (REPORT line) and "Telemetry API event schema"
(`platform.report`, `platform.initReport`), and "Understanding the execution environment lifecycle":
- Billed Duration contains the init phase (all configurations, since August 2025) and the billed part of a
  SnapStart restore;
- an init that fails, or takes more than 10 s, is told by INIT_REPORT before the START line, and done again
  within the invocation, whose REPORT line then has no Init Duration: it was a cold start all the same;
- where no invocation came of it there is no REPORT line, and the seconds of the init are what is billed.
Not confirmed: whether the Billed Duration of an invocation contains a failed init before it. It is taken as
it is: Lambda's own word.
"""

import base64
import binascii
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

_FIELD = re.compile(
    r"(?P<name>Billed Duration|Init Duration|Restore Duration|Memory Size|Duration)"
    r":\s*(?P<value>\d+(?:\.\d+)?)\s*(?:ms|MB)"
)
_STATUS = re.compile(r"Status:\s*(\w+)")


class Report(NamedTuple):
    """One invocation's figures; None where the lines do not have them."""

    duration_s: float | None
    billed_s: float | None
    memory_gb: float | None
    init_s: float | None
    restore_s: float | None
    failed_init_s: float | None = None

    @property
    def boot_s(self) -> float | None:
        """Start-up that this invocation waited for: init or restore; None for a warm environment.

        Of an init that failed first, the time until it did: the second one is within the duration.
        """
        told = (self.init_s, self.restore_s, self.failed_init_s)
        return next((seconds for seconds in told if seconds is not None), None)

    @property
    def init_failed(self) -> bool:
        """Whether an init before this invocation failed."""
        return self.failed_init_s is not None

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
    status: str = ""


class _Platform(msgspec.Struct):
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
    lines = [line.strip() for line in text.splitlines()]
    failed_s = _failed_init(lines)
    for line in reversed(lines):
        report: Report | None = None
        if line.startswith("REPORT RequestId:"):
            report = _from_line(line)
        elif _platform(line, "platform.report"):
            report = _from_json(line)
        if report is not None:
            return report._replace(failed_init_s=failed_s)
    if failed_s is None:
        return None
    billed_s = math.ceil(failed_s * 1000 - 1e-6) / 1000  # in whole milliseconds, as everything is
    return Report(None, billed_s, None, None, None, failed_s)


def _failed_init(lines: Iterable[str]) -> float | None:
    """Seconds of the inits that failed before the invocation began; None for none."""
    failed_s: float | None = None
    for line in lines:
        if line.startswith("START RequestId:") or _platform(line, "platform.start"):
            return failed_s
        if line.startswith("REPORT RequestId:") or _platform(line, "platform.report"):
            return None  # START was cut off, and what stood before it: these were the function's own lines
        if (seconds := _init_that_failed(line)) is not None:
            failed_s = (failed_s or 0.0) + seconds
    return failed_s


def _init_that_failed(line: str) -> float | None:
    if line.startswith("INIT_REPORT"):
        status = _STATUS.search(line)
        took = _FIELD.search(line)
        if status is None or status[1] == "success" or took is None or took["name"] != "Init Duration":
            return None
        return float(took["value"]) / 1000
    if not _platform(line, "platform.initReport"):
        return None
    report = _decoded(line)
    failed = report is not None and report.record.status not in ("", "success")
    return _scaled(report.record.metrics.duration_ms, 1000) if report is not None and failed else None


def _platform(line: str, event: str) -> bool:
    """Whether this looks like that event in JSON."""
    return line.startswith("{") and f'"{event}"' in line


def _decoded(line: str) -> _Platform | None:
    try:
        return msgspec.json.decode(line, type=_Platform)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
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
    report = _decoded(line)
    if report is None or report.type != "platform.report":
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
