"""`wrk`: what it is told to send, and its report in the form that all load generators share.

Knows nothing about what is listening on the port.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from loadtests.bench.load_figures import MARK, LoadFigures, NoFigures, parse
from loadtests.bench.workload import Workload

# wrk's printed report rounds to three digits and changes units; the script hands over the raw figures.
# No `response` function: wrk then skips the body, and one core can drive more than a proxy can answer.
_SCRIPT = """
wrk.method = "POST"
local file = assert(io.open([==[{body}]==], "rb"))
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{mark}{{"duration_us":%d,"requests":%d,"bytes":%d,'
    .. '"latency":{{"p50":%d,"p99":%d,"p999":%d}},'
    .. '"errors":{{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}}}\\n',
    summary.duration, summary.requests, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    e.connect, e.read, e.write, e.timeout, e.status))
end
"""


def script(workload: Workload, body_file: Path, headers: Mapping[str, str]) -> str:
    """The Lua program that posts this workload, with those fields beside its own."""
    fields = {**workload.headers, **headers}
    lines = "\n".join(f"wrk.headers[ [==[{name}]==] ] = [==[{value}]==]" for name, value in fields.items())
    return _SCRIPT.format(body=body_file, headers=lines, mark=MARK)


def write_script(directory: Path, workload: Workload, headers: Mapping[str, str]) -> Path:
    """That program and the body it reads, as files in `directory`."""
    body, file = directory / "request.body", directory / "post.lua"
    body.write_bytes(workload.request)
    file.write_text(script(workload, body, headers))
    return file


def command(binary: str, script_file: Path, *, url: str, connections: int, seconds: float) -> list[str]:
    """One thread, so that the generator stays on its core; a request unanswered for 10 s is an error."""
    duration = f"{max(1, round(seconds))}s"  # wrk takes whole seconds
    return [
        binary,
        "-t1",
        f"-c{connections}",
        f"-d{duration}",
        "--timeout",
        "10s",
        "-s",
        str(script_file),
        url,
    ]


def run(argv: list[str], *, limit_s: float) -> LoadFigures:
    """Run wrk to its end, for at most `limit_s` seconds. Raises NoFigures."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise NoFigures(f"wrk did not end within {limit_s:.0f} s") from None
    return parse(done.stdout + done.stderr)
