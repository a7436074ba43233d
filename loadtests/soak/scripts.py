"""The kinds of requests that `wrk` makes, each a Lua program of its own. Text only: nothing runs here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.load_figures import MARK

INFER = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}]}'
CHAT = '{"model":"small","stream":true,"max_tokens":6,"messages":[{"role":"user","content":"hi"}]}'
ABORTING = "aborting"
"""The part that is run again and again, and leaves in the middle of its answers each time."""
_DONE = f"""
function done(summary, latency, requests)
  local e, form = summary.errors, '{MARK}{{"requests":%d,"connect":%d,"timeout":%d}}\\n'
  io.write(string.format(form, summary.requests, e.connect, e.timeout))
end
"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One wrk.

    connections:  kept alive
    cut_after_s:  wrk is run for so long again and again, and leaves in the middle of its answers each time;
                  None: once, as long as the round
    """

    name: str
    connections: int
    program: str
    path: str = "/v2/models/small/infer"
    cut_after_s: int | None = None


def _program(body: str, fields: Mapping[str, str], more: str = "") -> str:
    lines = "\n".join(f"wrk.headers[ [==[{name}]==] ] = [==[{value}]==]" for name, value in fields.items())
    return f'wrk.method = "POST"\nwrk.body = {body}\n{lines}\n{more}\n{_DONE}'


def parts(key: str) -> Sequence[Part]:
    """All of them, with that API key."""
    fields = {"Content-Type": "application/json", "x-api-key": key}
    infer = f"[==[{INFER}]==]"
    # A head that never comes again, and a key of idempotency that comes twice.
    unique = """
local n, seed = 0, tostring(os.time()) .. tostring({}):sub(8)
function request()
  n = n + 1
  wrk.headers["x-request-id"] = seed .. "-" .. n
  wrk.headers["user-agent"] = "soak/" .. n
  wrk.headers["idempotency-key"] = (n % 4 == 0) and (seed .. math.floor(n / 8)) or nil
  return wrk.format()
end
"""
    wrong = """
local n, good = 0, wrk.headers["x-api-key"]
function request()
  n = n + 1
  local path, body, key = wrk.path, wrk.body, good
  if n % 5 == 0 then key = "ovs_nobody_" .. n .. string.rep("a", 43 - #tostring(n))
  elseif n % 5 == 1 then path = "/v2/models/unknown" .. n .. "/infer"
  elseif n % 5 == 2 then body = "{not json " .. n
  elseif n % 5 == 3 then path = "/nowhere/" .. n
  end
  wrk.headers["x-api-key"] = key
  wrk.headers["x-long"] = (n % 50 == 4) and string.rep("h", 40000) or nil
  return wrk.format("POST", path, nil, body)
end
"""
    return (
        Part(name="normal", connections=32, program=_program(infer, fields)),
        Part(name="unique heads", connections=8, program=_program(infer, fields, unique)),
        Part(name="errors", connections=4, program=_program(infer, fields, wrong)),
        Part(
            name="large", connections=2, path="/v2/models/small/versions/large/infer",
            program=_program(
                'string.rep("x", 300000)',
                {**fields, "Content-Type": "application/octet-stream"},
            ),
        ),
        Part(
            name="streams", connections=8, path="/v1/chat/completions",
            program=_program(f"[==[{CHAT}]==]", fields),
        ),
        Part(
            name=ABORTING, connections=16, path="/v2/models/small/versions/slow/infer",
            program=_program(infer, fields), cut_after_s=1,
        ),
    )  # fmt: skip


def command(binary: str, part: Part, folder: Path, *, port: int, seconds: int) -> list[str]:
    """The command line of one run; its program goes into `folder`."""
    file = folder / f"{part.name.replace(' ', '-')}.lua"
    if not file.exists():
        file.write_text(part.program)
    url = f"http://127.0.0.1:{port}{part.path}"
    lasts = part.cut_after_s or seconds
    return [
        binary, "-t1", f"-c{part.connections}", f"-d{lasts}s", "--timeout", "30s", "-s", str(file), url,
    ]  # fmt: skip
