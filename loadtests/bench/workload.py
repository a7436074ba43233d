"""The work that is measured: what is asked, what must come back, and the nginx that answers it.

Knows nothing about the proxies between the two ends.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

REQUEST_BYTES = 100
ANSWER_BYTES = 274
MODEL = "small"
CHAT_PATH = "/v1/chat/completions"
KIB = 1024

HEALTH_PATHS = ("/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready", "/health")
"""KServe v2 probes, so that the upstream passes for a Triton; routers of language models ask /health."""
ABOUT = {
    "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "local"}]},
    "/get_model_info": {"model_path": MODEL, "tokenizer_path": MODEL, "is_generation": True},
    "/get_server_info": {"model_path": MODEL, "served_model_name": MODEL, "dp_size": 1},
}
"""What routers ask a server about itself before they send it anything."""


class Kind(StrEnum):
    """How the load is made, and what answers it."""

    HTTP = "http"  # wrk, and an nginx with canned answers; `tensor_upstream` where they are large
    SSE = "sse"  # event streams: `sse_load` and `sse_upstream`
    GRPC = "grpc"  # `grpc_load`, and a bare grpc.aio server


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One request and the answer that it must bring back, byte for byte.

    connections:  how many at once, unless the command line says otherwise
    rounds, seconds:  how often, and for how long; likewise
    events, interval_s:  of each stream: how many events, and the seconds between two of them
    answer_headers:  beside those that every answer has; of tensors
    mark:         what an answer must contain that a peer wrote anew
    """

    name: str
    says: str
    path: str
    request: bytes
    answer: bytes = b""
    kind: Kind = Kind.HTTP
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    connections: Sequence[int] = (1, 16, 256, 1000)
    rounds: int = 5
    seconds: float = 3.0
    events: int = 0
    interval_s: float = 0.0
    mark: bytes = b""


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
        says="small JSON, KServe v2",
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
        says="small JSON, OpenAI",
        path=CHAT_PATH,
        request=_sized({**request}, field="user", size=REQUEST_BYTES),
        answer=_sized({**answer}, field="id", size=ANSWER_BYTES),
        mark=b"hello",
    )


def _tensor(name: str, size: int) -> Workload:
    """A tensor of `size` bytes in, one as large out, in the binary form of KServe v2: a JSON header whose
    length stands in a header field, then the elements as they lie in memory.
    """
    path = f"/v2/models/{MODEL}/versions/{size}/infer"
    tensor = {"datatype": "FP32", "shape": [1, size // 4], "parameters": {"binary_data_size": size}}
    asked = json.dumps({"inputs": [{"name": "x", **tensor}], "parameters": {"binary_data_output": True}})
    told = json.dumps({"model_name": MODEL, "model_version": str(size), "outputs": [{"name": "y", **tensor}]})
    elements = struct.pack("<f", 0.5) * (size // 4)
    return Workload(
        name=name,
        says=f"binary tensor of {size // KIB} KiB each way, KServe v2",
        path=path,
        request=asked.encode() + elements,
        answer=told.encode() + elements,
        headers={
            "Content-Type": "application/octet-stream",
            "Inference-Header-Content-Length": str(len(asked)),
        },
        answer_headers={"Inference-Header-Content-Length": str(len(told))},
        connections=(1, 16, 64),  # no more: the memory that it takes is judged at 64
    )


def stream(events: int = 20, interval_s: float = 0.1) -> Workload:
    """Chat streams of so many events, so many seconds apart."""
    request = {
        "model": MODEL,
        "stream": True,
        "max_tokens": events,
        "messages": [{"role": "user", "content": "hi"}],
    }
    return Workload(
        name="sse",
        says=f"event streams, OpenAI: {events} events, {interval_s:g} s apart",
        path=CHAT_PATH,
        kind=Kind.SSE,
        request=json.dumps(request, separators=(",", ":")).encode(),
        connections=(1, 16, 100),
        events=events,
        interval_s=interval_s,
    )


def many_streams(events: int = 20, interval_s: float = 0.1) -> Workload:
    """As many chat streams as a gateway must hold at once, for a minute."""
    each = stream(events, interval_s)
    return replace(
        each, name="sse_1000", says=f"{each.says}; 1,000 at once for a minute",
        connections=(1000,), rounds=1, seconds=60.0,
    )  # fmt: skip


def _grpc() -> Workload:
    return Workload(
        name="grpc",
        says="unary ModelInfer of KServe v2, 256 bytes each way",
        path="/inference.GRPCInferenceService/ModelInfer",
        kind=Kind.GRPC,
        request=b"",  # `grpc_forward` has the messages
        connections=(1, 16, 256, 1000),
    )


WORKLOADS = {
    workload.name: workload
    for workload in (
        _infer(),
        _chat(),
        _tensor("tensor_64k", 64 * KIB),
        _tensor("tensor_1m", 1024 * KIB),
        stream(),
        many_streams(),
        _grpc(),
    )
}


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
        f"events {{ worker_connections 8192; }}\n"
        f"http {{\n{temporary}  default_type application/json;\n  keepalive_requests 1000000000;\n"
        "  client_max_body_size 16m;\n"
    )


def upstream_config(directory: Path, *, port: int, user: str | None) -> str:
    """An nginx that stands in for the warm fleet: canned answers, keep-alive, no log."""
    answers = "".join(
        f"    location = {each.path} {{ return 200 '{each.answer.decode()}'; }}\n"
        for each in WORKLOADS.values()
        if each.kind is Kind.HTTP and not each.answer_headers
    )
    about = "".join(
        f"    location = {path} {{ return 200 '{json.dumps(document)}'; }}\n"
        for path, document in ABOUT.items()
    )
    probes = "".join(f"    location = {path} {{ return 200; }}\n" for path in HEALTH_PATHS)
    return (
        nginx_preamble(directory, user=user)
        + f"  access_log off;\n  server {{\n    listen 127.0.0.1:{port} backlog=4096;\n"
        + f"{answers}{about}{probes}  }}\n}}\n"
    )
