"""What the load generator is told, and how its report is read."""

from pathlib import Path

import pytest

from loadtests.bench import wrk
from loadtests.bench.workload import ANSWER_BYTES, REQUEST_BYTES, WORKLOADS, Workload

REPORT = """\
Running 2s test @ http://127.0.0.1:1/v2/models/small/infer
  1 threads and 32 connections
  64226 requests in 2.00s, 29.40MB read
Requests/sec:  32113.00
bench-figures {"duration_us":2000000,"requests":64226,"bytes":30825480,"p50_us":902,"p99_us":2947,\
"connect":0,"read":0,"write":0,"timeout":0,"status":0}
"""


def test_figures_come_from_the_marked_line() -> None:
    figures = wrk.parse(REPORT)
    assert figures.requests == 64226
    assert figures.requests_per_s == 32113
    assert (figures.p50_us, figures.p99_us) == (902, 2947)
    assert figures.errors == {}


def test_every_kind_of_failure_is_kept_apart() -> None:
    figures = wrk.parse(REPORT.replace('"timeout":0,"status":0', '"timeout":2,"status":64226'))
    assert figures.errors == {"timeout": 2, "status": 64226}


def test_a_run_without_a_single_answer_has_no_rate() -> None:
    assert wrk.parse(REPORT.replace("2000000", "0")).requests_per_s == 0


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1:1 Connection refused"])
def test_no_figures_is_an_error_that_quotes_wrk(output: str) -> None:
    with pytest.raises(wrk.WrkFailed, match=output or "no output"):
        wrk.parse(output)


def test_one_thread_whole_seconds_and_the_script() -> None:
    argv = wrk.command("wrk", Path("p.lua"), url="http://127.0.0.1:9/x", connections=32, seconds=0.4)
    assert argv[:4] == ["wrk", "-t1", "-c32", "-d1s"]
    assert argv[-3:] == ["-s", "p.lua", "http://127.0.0.1:9/x"]


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_the_bytes_have_the_promised_sizes(workload: Workload) -> None:
    assert len(workload.request) == REQUEST_BYTES == 100
    assert len(workload.answer) == ANSWER_BYTES == 274
    assert workload.request.decode() in wrk.script(workload)
