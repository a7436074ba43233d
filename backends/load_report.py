"""How busy an OpenAI-compatible server says it is: in its metrics, or in a field of each answer.

Pure: text in, figures out. Knows the names that servers use, old and new; it must never know which replica
said something or what follows from it.

Wire facts:
- vLLM (its documentation, "Production metrics"): `vllm:num_requests_waiting`, `vllm:num_requests_running`,
  `vllm:kv_cache_usage_perc`, formerly `vllm:gpu_cache_usage_perc`, a share from 0 to 1 in spite of its name;
- SGLang ("Production metrics"): `sglang:num_queue_reqs`, `sglang:num_running_reqs`, `sglang:token_usage`;
- TGI ("Metrics"): `tgi_queue_size`, `tgi_batch_current_size`;
- Triton: `nv_inference_pending_request_count`; with TensorRT-LLM `nv_trt_llm_request_metrics` by
  `request_type`, `nv_trt_llm_kv_cache_block_metrics` by `kv_cache_block_type`;
- ORCA, the Open Request Cost Aggregation of the xDS project: with `endpoint-load-metrics-format: JSON` or
  `TEXT` in the request, the answer has `endpoint-load-metrics: JSON {"named_metrics": {…}}` or
  `TEXT named_metrics.kv_cache_usage_perc=0.4, …`. vLLM names `num_requests_waiting` there, Triton only the
  use of its cache. Unverified: other servers' names there; those of their metrics are taken too.
"""

import math
import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

import msgspec

ORCA_FORMAT = b"endpoint-load-metrics-format"
"""The field of a request that asks for a report."""
ORCA = b"endpoint-load-metrics"
"""The field of an answer that is one."""

LARGEST_METRICS = 4 * 2**20


class _Kind(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    CACHE = "cache"


_METRICS = {
    b"vllm:num_requests_waiting": _Kind.WAITING,
    b"vllm:num_requests_running": _Kind.RUNNING,
    b"vllm:kv_cache_usage_perc": _Kind.CACHE,
    b"vllm:gpu_cache_usage_perc": _Kind.CACHE,
    b"sglang:num_queue_reqs": _Kind.WAITING,
    b"sglang:num_running_reqs": _Kind.RUNNING,
    b"sglang:token_usage": _Kind.CACHE,
    b"tgi_queue_size": _Kind.WAITING,
    b"tgi_batch_current_size": _Kind.RUNNING,
    b"nv_inference_pending_request_count": _Kind.WAITING,
}
_BY_LABEL = {
    (b"nv_trt_llm_request_metrics", b'request_type="waiting"'): _Kind.WAITING,
    (b"nv_trt_llm_request_metrics", b'request_type="scheduled"'): _Kind.RUNNING,
    (b"nv_trt_llm_kv_cache_block_metrics", b'kv_cache_block_type="fraction"'): _Kind.CACHE,
}
_SAMPLE = re.compile(
    rb"^("
    + b"|".join(map(re.escape, [*_METRICS, *{name for name, _ in _BY_LABEL}]))
    + rb")(?:\{([^}\n]*)\})? +([^ \n\r]+)",
    re.MULTILINE,
)
_PREFIX = re.compile(r"^(?:vllm:|sglang:|tgi_|named_metrics\.)+")
_NAMED = {
    "num_requests_waiting": _Kind.WAITING,
    "num_queue_reqs": _Kind.WAITING,
    "queue_size": _Kind.WAITING,
    "num_requests_running": _Kind.RUNNING,
    "num_running_reqs": _Kind.RUNNING,
    "kv_cache_usage_perc": _Kind.CACHE,
    "gpu_cache_usage_perc": _Kind.CACHE,
    "kv_cache_utilization": _Kind.CACHE,
    "token_usage": _Kind.CACHE,
}


class LoadReport(NamedTuple):
    """What a server said.

    waiting, running:  calls in its queue, and those it works on
    kv_cache:          share of the key-value cache that is in use
    """

    waiting: int | None = None
    running: int | None = None
    kv_cache: float | None = None


class _Orca(msgspec.Struct, gc=False):
    named_metrics: dict[str, float] = {}


_orca = msgspec.json.Decoder(_Orca)


def from_metrics(text: bytes) -> LoadReport | None:
    """What a page in Prometheus' text format says; None if it says nothing of the kind.

    A server may have several engines or models: their calls are added up, and the fullest cache counts.
    """
    return _report(_samples(text))


def _samples(text: bytes) -> Iterable[tuple[_Kind, str]]:
    for name, labels, value in _SAMPLE.findall(text):
        kind = _METRICS.get(name)
        if kind is None:
            kinds = (each for (of, label), each in _BY_LABEL.items() if of == name and label in labels)
            kind = next(kinds, None)
        if kind is not None:
            yield kind, value.decode("latin-1")


def from_field(value: bytes) -> LoadReport | None:
    """What an `endpoint-load-metrics` field says, in JSON or as text; None if it cannot be read."""
    text = value.decode("latin-1").strip()
    form, _, rest = text.partition(" ")
    named: dict[str, float | str]
    if form.upper() == "JSON" or text.startswith("{"):
        try:
            named = dict(_orca.decode(text if text.startswith("{") else rest).named_metrics)
        except (ValueError, RecursionError):
            return None
    else:
        pairs = (pair.partition("=") for pair in (rest if form.upper() == "TEXT" else text).split(","))
        named = {name.strip(): said.strip() for name, _, said in pairs}
    short = ((_NAMED.get(_PREFIX.sub("", name)), said) for name, said in named.items())
    return _report((kind, said) for kind, said in short if kind is not None)


def _report(figures: Iterable[tuple[_Kind, float | str]]) -> LoadReport | None:
    sums: dict[_Kind, float] = {}
    for kind, said in figures:
        try:
            value = float(said)
        except ValueError:
            continue
        if math.isfinite(value) and value >= 0:
            before = sums.get(kind, 0.0)
            sums[kind] = max(before, value) if kind is _Kind.CACHE else before + value
    if not sums:
        return None
    waiting, running, cache = (sums.get(kind) for kind in (_Kind.WAITING, _Kind.RUNNING, _Kind.CACHE))
    return LoadReport(
        None if waiting is None else int(waiting),
        None if running is None else int(running),
        None if cache is None else min(1.0, cache),
    )
