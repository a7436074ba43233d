"""What the load generators are told, and how their reports are read."""

import io
from pathlib import Path

import pytest

from loadtests.bench import load_figures, turns, wrk
from loadtests.bench.load_figures import LoadFigures, NoFigures, Percentiles
from loadtests.bench.workload import ANSWER_BYTES, REQUEST_BYTES, WORKLOADS

REPORT = """\
Running 2s test @ http://127.0.0.1:1/v2/models/small/infer
  1 threads and 32 connections
  64226 requests in 2.00s, 29.40MB read
Requests/sec:  32113.00
bench-figures {"duration_us":2000000,"requests":64226,"bytes":30825480,\
"latency":{"p50":902,"p99":2947,"p999":4000},\
"errors":{"connect":0,"read":0,"write":0,"timeout":0,"status":0}}
"""


def test_figures_come_from_the_marked_line() -> None:
    figures = load_figures.parse(REPORT)
    assert figures.requests == 64226
    assert figures.requests_per_s == 32113
    assert figures.latency == Percentiles(p50=902, p99=2947, p999=4000)
    assert figures.errors == {}


def test_every_kind_of_failure_is_kept_apart() -> None:
    figures = load_figures.parse(REPORT.replace('"timeout":0,"status":0', '"timeout":2,"status":64226'))
    assert figures.errors == {"timeout": 2, "status": 64226}


def test_a_run_without_a_single_answer_has_no_rate() -> None:
    assert load_figures.parse(REPORT.replace("2000000", "0")).requests_per_s == 0


@pytest.mark.parametrize("output", ["", "unable to connect to 127.0.0.1:1 Connection refused"])
def test_no_figures_is_an_error_that_quotes_the_generator(output: str) -> None:
    with pytest.raises(NoFigures, match=output or "no output"):
        load_figures.parse(output)


def test_one_thread_whole_seconds_and_the_script() -> None:
    argv = wrk.command("wrk", Path("p.lua"), url="http://127.0.0.1:9/x", connections=32, seconds=0.4)
    assert argv[:4] == ["wrk", "-t1", "-c32", "-d1s"]
    assert argv[-3:] == ["-s", "p.lua", "http://127.0.0.1:9/x"]


@pytest.mark.parametrize("name", ["infer", "chat"])
def test_small_requests_and_answers_have_the_promised_sizes(name: str) -> None:
    assert len(WORKLOADS[name].request) == REQUEST_BYTES == 100
    assert len(WORKLOADS[name].answer) == ANSWER_BYTES == 274


@pytest.mark.parametrize(("name", "size"), [("tensor_64k", 65536), ("tensor_1m", 1048576)])
def test_tensors_are_as_large_as_their_headers_say(name: str, size: int) -> None:
    workload = WORKLOADS[name]
    for fields, body in (
        (workload.headers, workload.request),
        (workload.answer_headers, workload.answer),
    ):
        header = int(fields["Inference-Header-Content-Length"])
        assert len(body) - header == size
        assert body[:header].endswith(b"}")
        assert b'"binary_data_size": %d' % size in body[:header]


def test_the_script_sends_the_body_from_a_file_and_the_fields_of_the_peer(tmp_path: Path) -> None:
    workload = WORKLOADS["tensor_64k"]
    text = wrk.write_script(tmp_path, workload, {"x-for-this-peer": "yes"}).read_text()
    assert (tmp_path / "request.body").read_bytes() == workload.request
    assert str(tmp_path / "request.body") in text
    assert "[ [==[x-for-this-peer]==] ] = [==[yes]==]" in text
    assert "Inference-Header-Content-Length" in text


def test_a_percentile_needs_a_value_beyond_it() -> None:
    assert Percentiles.of([]) == Percentiles()
    assert Percentiles.of([7.0]) == Percentiles(p50=7.0)
    hundred = Percentiles.of([float(n) for n in range(100)])
    assert (hundred.p50, hundred.p99, hundred.p999) == (49.0, 98.0, None)
    assert Percentiles.of([float(n) for n in range(1000)]).p999 == 998.0


def test_what_a_generator_writes_is_what_the_bench_reads() -> None:
    figures = LoadFigures(
        duration_us=1e6, requests=3, latency=Percentiles(p50=1.0), events=60,
        event_delay=Percentiles(p50=2.0, p99=3.0), errors={"cut short": 1},
    )  # fmt: skip
    assert load_figures.parse(figures.line()) == figures


def test_a_generator_waits_to_be_told() -> None:
    loaded = []

    def load() -> LoadFigures:
        loaded.append(1)
        return LoadFigures(duration_us=1.0, requests=1, latency=Percentiles())

    said = io.StringIO()
    turns.take_turn(load, io.StringIO(""), said)
    assert (loaded, said.getvalue()) == ([], "ready\n")
    turns.take_turn(load, io.StringIO("go\nend\n"), said)
    assert loaded == [1]
    assert load_figures.parse(said.getvalue()).requests == 1


def test_a_generator_that_crashes_is_quoted() -> None:
    with (
        pytest.raises(NoFigures, match="invalid int value"),
        turns.generator("loadtests.bench.sse_load", "no-port", "1"),
    ):
        raise AssertionError("it must not become ready")
