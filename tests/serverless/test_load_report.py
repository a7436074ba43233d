"""How busy servers say they are, in each of the ways they say it."""

import pytest

from backends.load_report import LoadReport, from_field, from_metrics
from backends.openai_load import ReplicaReports

VLLM = b"""# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a b"} 3.0
vllm:num_requests_waiting{engine="1",model_name="a b"} 4.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 7.0
vllm:num_requests_running{engine="0"} 8.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
"""


@pytest.mark.parametrize(
    ("text", "report"),
    [
        (VLLM, LoadReport(7, 8, 0.5)),
        (b"vllm:gpu_cache_usage_perc 0.75\n", LoadReport(kv_cache=0.75)),
        (
            b'sglang:num_queue_reqs{a="b"} 2\nsglang:num_running_reqs 5\nsglang:token_usage 0.9\n',
            LoadReport(2, 5, 0.9),
        ),
        (b"tgi_queue_size 11\ntgi_batch_current_size 4\n", LoadReport(11, 4)),
        (
            b'nv_trt_llm_request_metrics{model="x",request_type="waiting",version="1"} 2\n'
            b'nv_trt_llm_request_metrics{model="x",request_type="scheduled",version="1"} 6\n'
            b'nv_trt_llm_request_metrics{model="x",request_type="max",version="1"} 512\n'
            b'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"} 0.125\n',
            LoadReport(2, 6, 0.125),
        ),
        (b'nv_inference_pending_request_count{model="x"} 3\n', LoadReport(3)),
        (b"vllm:num_requests_waiting NaN\nvllm:num_requests_running -1\n", None),
        (b"process_cpu_seconds_total 3\n", None),
        (b"", None),
    ],
)
def test_metrics(text: bytes, report: LoadReport | None) -> None:
    assert from_metrics(text) == report


@pytest.mark.parametrize(
    ("field", "report"),
    [
        (
            b'JSON {"cpu_utilization":0.1,"named_metrics":{"kv_cache_usage_perc":0.4,"num_requests_waiting":2}}',
            LoadReport(2, None, 0.4),
        ),
        (b'{"named_metrics":{"kv_cache_utilization":0.4}}', LoadReport(kv_cache=0.4)),
        (
            b"TEXT named_metrics.kv_cache_usage_perc=0.4, named_metrics.num_requests_waiting=2.0",
            LoadReport(2, None, 0.4),
        ),
        (b"TEXT cpu_utilization=0.4", None),
        (b"JSON {", None),
        (b'JSON {"named_metrics":{"num_requests_waiting":"many"}}', None),
        (b"BIN CgQ=", None),
    ],
)
def test_fields(field: bytes, report: LoadReport | None) -> None:
    assert from_field(field) == report


def test_what_a_report_means_for_the_slots() -> None:
    reports = ReplicaReports()
    load = reports.said(LoadReport(3, 8, 0.5), own=6, now=10.0)
    assert (load.pending, load.elsewhere, load.at, load.kv_cache) == (3, 5, 10.0, 0.5)
    assert reports.said(LoadReport(1), own=6, now=10.0).elsewhere == 0


def test_what_was_said_is_forgotten_after_three_silent_periods() -> None:
    reports = ReplicaReports()
    assert [reports.silent() for _ in range(3)] == [False, False, True]
    reports.said(LoadReport(1), own=0, now=0.0)
    assert not reports.silent()
