"""The bytes that travel: a 100-byte request and a 274-byte JSON answer, and who answers them.

Knows nothing about the proxies between the two ends.
"""

import json
from dataclasses import dataclass
from pathlib import Path

REQUEST_BYTES = 100
ANSWER_BYTES = 274
MODEL = "small"

HEALTH_PATHS = ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready")
"""KServe v2 probes, so that the upstream passes for a ready Triton."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One POST and the answer it must bring back, byte for byte."""

    name: str
    path: str
    request: bytes
    answer: bytes


def _sized(document: dict[str, object], *, field: str, size: int) -> bytes:
    """`document` as compact JSON of exactly `size` bytes; the string under `field` takes up the slack."""
    bare = json.dumps({**document, field: ""}, separators=(",", ":"))
    if len(bare) > size:
        raise ValueError(f"the document alone has {len(bare)} bytes, more than {size}")
    return json.dumps({**document, field: "0" * (size - len(bare))}, separators=(",", ":")).encode()


def _infer() -> Workload:
    request = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    scores = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.55]
    outputs = [{"name": "scores", "datatype": "FP32", "shape": [1, 10], "data": scores}]
    answer = {"model_name": MODEL, "model_version": "1", "outputs": outputs}
    return Workload(
        name="infer",
        path=f"/v2/models/{MODEL}/infer",
        request=_sized({**request}, field="id", size=REQUEST_BYTES),
        answer=_sized({**answer}, field="id", size=ANSWER_BYTES),
    )


def _chat() -> Workload:
    request = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    message = {"role": "assistant", "content": "hello"}
    answer = {
        "object": "chat.completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
    return Workload(
        name="chat",
        path="/v1/chat/completions",
        request=_sized({**request}, field="user", size=REQUEST_BYTES),
        answer=_sized({**answer}, field="id", size=ANSWER_BYTES),
    )


WORKLOADS = {workload.name: workload for workload in (_infer(), _chat())}


def nginx_preamble(directory: Path, *, user: str | None) -> str:
    """The part that the upstream and the peer share: one worker, and no file outside `directory`.

    `user` is named only when the process starts as root: nginx would otherwise give up its rights to an
    account that cannot enter `directory`.
    """
    temporary = "".join(
        f"  {name}_temp_path {directory}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off;\n{f'user {user};' if user else ''}\nworker_processes 1;\n"
        f"pid {directory}/pid;\nerror_log {directory}/error.log warn;\n"
        f"events {{ worker_connections 4096; }}\n"
        f"http {{\n{temporary}  default_type application/json;\n  keepalive_requests 1000000000;\n"
    )


def upstream_config(directory: Path, *, port: int, user: str | None) -> str:
    """An nginx that stands in for the warm fleet: canned answers, keep-alive, no log."""
    answers = "".join(
        f"    location = {w.path} {{ return 200 '{w.answer.decode()}'; }}\n" for w in WORKLOADS.values()
    )
    probes = "".join(f"    location = {path} {{ return 200; }}\n" for path in HEALTH_PATHS)
    return (
        nginx_preamble(directory, user=user)
        + f"  access_log off;\n  server {{\n    listen 127.0.0.1:{port} backlog=4096;\n"
        + f"{answers}{probes}  }}\n}}\n"
    )
