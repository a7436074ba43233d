"""The load generator: what `wrk` is told to send, and what it reports, as numbers.

Knows nothing about what is listening on the port.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.workload import Workload

_MARK = "bench-figures "

# wrk's printed report rounds to three digits and changes units; the script hands over the raw figures.
# No `response` function: wrk then skips the body, and one core can drive more than a proxy can answer.
_SCRIPT = """
wrk.method = "POST"
wrk.body = [==[{body}]==]
wrk.headers["Content-Type"] = "application/json"
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{mark}{{"duration_us":%d,"requests":%d,"bytes":%d,"p50_us":%d,"p99_us":%d,'
    .. '"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}\\n',
    summary.duration, summary.requests, summary.bytes, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.timeout, e.status))
end
"""


class WrkFailed(Exception):
    """wrk ended without its figures; the text says what it printed instead."""


@dataclass(frozen=True, kw_only=True)
class WrkFigures:
    """One run, in the units of its field names; the last five are counts of requests that went wrong."""

    duration_us: int
    requests: int
    bytes: int
    p50_us: int
    p99_us: int
    connect: int
    read: int
    write: int
    timeout: int
    status: int

    @property
    def requests_per_s(self) -> float:
        """Answers per second."""
        return self.requests / (self.duration_us / 1e6) if self.duration_us else 0.0

    @property
    def errors(self) -> dict[str, int]:
        """What went wrong, by kind; empty when nothing did."""
        kinds = ("connect", "read", "write", "timeout", "status")
        return {kind: count for kind in kinds if (count := getattr(self, kind))}


def script(workload: Workload) -> str:
    """The Lua program that posts this workload."""
    return _SCRIPT.format(body=workload.request.decode(), mark=_MARK)


def parse(output: str) -> WrkFigures:
    """The figures in wrk's output. Raises WrkFailed, quoting its end, where there are none."""
    for line in reversed(output.splitlines()):
        if line.startswith(_MARK):
            return WrkFigures(**json.loads(line.removeprefix(_MARK)))
    raise WrkFailed(f"wrk reported no figures: {output.strip()[-300:] or 'no output'}")


def command(binary: str, script_file: Path, *, url: str, connections: int, seconds: float) -> list[str]:
    """One thread, so that the generator stays on its core; a request unanswered for 5 s is an error."""
    duration = f"{max(1, round(seconds))}s"  # wrk takes whole seconds
    return [
        binary,
        "-t1",
        f"-c{connections}",
        f"-d{duration}",
        "--timeout",
        "5s",
        "-s",
        str(script_file),
        url,
    ]


def run(argv: list[str], *, limit_s: float) -> WrkFigures:
    """Run wrk to its end, for at most `limit_s` seconds. Raises WrkFailed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise WrkFailed(f"wrk did not end within {limit_s:.0f} s") from None
    return parse(done.stdout + done.stderr)
