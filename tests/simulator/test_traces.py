"""Every published format becomes the same arrays, and what cannot be read says where."""

from __future__ import annotations

import gzip
import json
from array import array
from pathlib import Path
from random import Random

import pytest

from gateway.access_log import Line
from gateway.simulator.generators import burst, open_trace, poisson
from gateway.simulator.traces import Trace, load, thin

RECORDED = Path(__file__).parents[2].parent / "shared" / "traces"


def written(folder: Path, text: str, name: str = "sample.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_plain_form_is_sorted_shifted_to_zero_and_renamed(tmp_path: Path) -> None:
    path = written(tmp_path, "t_s,tokens_in,tokens_out,client\n7.5,10,1,a\n5.0,20,2,b\n6.0,30,3,c\n")
    trace = load(path)
    assert trace.name == "sample"
    assert list(trace.arrivals) == [0.0, 1.0, 2.5]
    assert {name: list(values) for name, values in trace.sizes.items()} == {
        "input_tokens": [20, 30, 10],
        "output_tokens": [2, 3, 1],
    }
    assert len(trace) == 3
    assert trace.span == 2.5


def test_gzip_is_told_by_content_and_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(gzip.compress(b"t_s\n0\n1\n"))
    assert list(load(path).arrivals) == [0.0, 1.0]


def test_azure_llm(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
    )
    trace = load(path)
    assert list(trace.arrivals) == pytest.approx([0.0, 4.314579], abs=1e-6)
    assert list(trace.sizes["input_tokens"]) == [374, 396]
    assert list(trace.sizes["output_tokens"]) == [44, 109]


def test_azure_llm_2024_with_its_offset(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 01:00:01+01:00,2399,6\n",
    )
    assert list(load(path).arrivals) == pytest.approx([0.0, 0.99007], abs=1e-6)


def test_burst_gpt_leaves_out_failed_rows(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,API log\n118,GPT-4,417,276,693,API log\n",
    )
    trace = load(path)
    assert list(trace.arrivals) == [0.0, 113.0]
    assert list(trace.sizes["output_tokens"]) == [18, 276]


def test_azure_functions_tell_the_end(tmp_path: Path) -> None:
    path = written(tmp_path, "app,func,end_timestamp,duration\na,f,10.0,1.0\na,g,10.5,4.5\n")
    trace = load(path)
    assert list(trace.arrivals) == [0.0, 3.0]
    assert list(trace.sizes["duration"]) == [4.5, 1.0]


def mooncake(stamp: int) -> str:
    return json.dumps(
        {"timestamp": stamp, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}
    )  # fmt: skip


def test_mooncake_stamps_are_spread_by_seed(tmp_path: Path) -> None:
    path = written(tmp_path, "\n".join(mooncake(stamp) for stamp in [0] * 50 + [27000] * 50), "m.jsonl")
    first, again, other = load(path), load(path), load(path, spread_seed=1)
    assert first.arrivals == again.arrivals != other.arrivals
    assert len(set(first.arrivals)) == 100
    assert 0 <= first.arrivals[49] <= 3.0
    assert 24.0 <= first.arrivals[50] <= first.arrivals[99] <= 30.0
    assert set(first.sizes["input_tokens"]) == {6758.0}


@pytest.mark.parametrize("step", [1, 3, 60])
def test_a_table_of_volleys_is_spread(tmp_path: Path, step: int) -> None:
    rows = "\n".join(f"{step * (row // 5)},{row}" for row in range(200))
    trace = load(written(tmp_path, f"t_s,number\n{rows}\n"))
    assert len(set(trace.arrivals)) == 200
    for at, number in zip(trace.arrivals, trace.sizes["number"], strict=True):
        assert abs(at - step * (number // 5)) <= step


def test_exact_stamps_stay_as_they_are(tmp_path: Path) -> None:
    rows = "\n".join(str(row // 5 * 0.3) for row in range(200))
    assert len(set(load(written(tmp_path, f"t_s\n{rows}\n")).arrivals)) == 40


@pytest.mark.parametrize(("column", "width"), [("second", 1.0), ("minute", 60.0)])
def test_counts_are_placed_inside_their_bin(tmp_path: Path, column: str, width: float) -> None:
    trace = load(written(tmp_path, f"{column},count\n0,40\n1,0\n2,60\n"))
    assert len(trace) == 100
    assert trace.arrivals[39] < width < trace.arrivals[40] < trace.arrivals[99] < 3 * width
    assert len(set(trace.arrivals)) == 100


def test_azure_functions_2019_counts_per_minute(tmp_path: Path) -> None:
    minutes = ",".join(str(minute) for minute in range(1, 1441))
    counts = ",".join(["2"] + ["0"] * 1438 + ["1"])
    header = f"HashOwner,HashApp,HashFunction,Trigger,{minutes}\n"
    trace = load(written(tmp_path, f"{header}o,a,f,http,{counts}\no,a,g,http,{counts}\n"))
    assert len(trace) == 6
    assert trace.arrivals[3] < 60 < 1437 * 60 < trace.arrivals[4]


def test_the_access_log(tmp_path: Path) -> None:
    line = dict.fromkeys(Line.__struct_fields__) | {
        "ts": "2026-01-02T03:04:05.250Z", "route": "chat", "duration_ms": 1500.0, "queued_ms": 250.0,
        "upstream_ms": 1200.0, "bytes_in": 10, "bytes_out": 20,
    }  # fmt: skip
    later = line | {"ts": "2026-01-02T03:04:06.000Z"}
    nowhere = line | {"route": None}
    path = written(tmp_path, "\n".join(json.dumps(entry) for entry in (later, nowhere, line)) + "\n", "log")
    trace = load(path)
    assert list(trace.arrivals) == [0.0, 0.75]
    assert {name: values[0] for name, values in trace.sizes.items()} == {
        "duration": 1.5, "queued": 0.25, "upstream": 1.2, "bytes_in": 10, "bytes_out": 20,
    }  # fmt: skip


def test_the_gateway_writes_the_fields_that_are_read() -> None:
    assert {"ts", "route", "duration_ms", "queued_ms", "upstream_ms", "bytes_in", "bytes_out"} <= set(
        Line.__struct_fields__
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("t_s\n", "without arrivals"),
        ("second,count\n0,0\n", "without arrivals"),
        ("when,size\n1,2\n", "line 1: no known trace has the columns when, size"),
        ("t_s,t_s\n1,2\n", "line 1: two columns"),
        ("t_s,rate_rps\n1,2\n", "table of rates"),
        ("t_s,size\n1,2\n\n2\n", "line 4: 1 columns where the header has 2"),
        ("t_s,size\n1,2\n2,x\n", "line 3: 'x' is not a finite number"),
        ("t_s,size\n1,2\nnan,2\n", "line 3: nan is not a finite number"),
        ("second,count\n0,1.5\n", "line 2: a count of 1.5"),
        ("second,count\n0,-1\n", "line 2: a count of -1"),
        ("second,count\n0,9e15\n", "line 2: more than 50,000,000"),
        ("second,count\n0\n", "line 2: 1 columns"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "line 2: .*yesterday"),
        ('{"a": 1}\n', "line 1: neither"),
        ("{broken\n", "line 1: not a JSON object"),
        (mooncake(0) + "\n[1]\n", "line 2: not a JSON object"),
        (mooncake(0) + '\n{"timestamp": 1}\n', "line 2: 'input_length' is missing"),
        (mooncake(0).replace("500", "true"), "line 1: True is not a number"),
    ],
)
def test_what_cannot_be_read_says_where(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=complaint) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"t_s\n\xff\xfe\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        load(path)
    path.write_bytes(gzip.compress(b"t_s\n0\n1\n" * 1000)[:30])
    with pytest.raises(ValueError, match="damaged gzip"):
        load(path)


def test_thinning_keeps_a_share_and_each_request_whole() -> None:
    count = 20_000
    numbers = array("d", range(count))
    trace = Trace("t", array("d", (row / 10 for row in range(count))), {"number": numbers})
    thinned = thin(trace, 0.3, seed=4)
    assert len(thinned) == pytest.approx(0.3 * count, rel=0.05)
    first = thinned.sizes["number"][0]
    for at, number in zip(thinned.arrivals, thinned.sizes["number"], strict=True):
        assert at == pytest.approx((number - first) / 10)
    assert thinned.arrivals == thin(trace, 0.3, seed=4).arrivals != thin(trace, 0.3, seed=5).arrivals
    for share in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="share"):
            thin(trace, share, seed=0)


def test_generated_traffic_has_its_rates() -> None:
    steady = poisson(20.0, 500.0, seed=1)
    assert len(steady) == pytest.approx(10_000, rel=0.05)
    assert steady.arrivals == poisson(20.0, 500.0, seed=1).arrivals
    wave = burst(2.0, 50.0, 300.0, start=100.0, length=50.0, seed=Random(1).randrange(99))
    inside = sum(100 <= at < 150 for at in wave.arrivals)
    assert inside == pytest.approx(2500, rel=0.1)
    assert len(wave) - inside == pytest.approx(500, rel=0.2)


def test_a_spec_makes_traffic_and_anything_else_is_a_file(tmp_path: Path) -> None:
    assert open_trace("poisson:5:2m", seed=3).arrivals == poisson(5, 120, seed=3).arrivals
    wave = burst(1, 9, 60, start=10, length=5, seed=3)
    assert open_trace("burst:1:9:60:10s:5", seed=3).arrivals == wave.arrivals
    assert len(open_trace("burst:1:9:60", seed=3)) > 20
    assert len(open_trace(str(written(tmp_path, "t_s\n0\n")))) == 1
    for text in ("poisson:5", "burst:1:2", "poisson:x:3", "poisson:1:y", "poisson:-1:3", "poisson:1e9:1e9"):
        with pytest.raises(ValueError):
            open_trace(text)
    with pytest.raises(ValueError, match="without arrivals"):
        open_trace("poisson:0:10")
    with pytest.raises(FileNotFoundError):
        open_trace(str(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    ("name", "rows", "span"),
    [
        ("azure_llm_2023_code", 8819, 3436),
        ("ci_azure_code_600s", 1817, 600),
        ("mooncake_conversation", 12031, 3540),
        ("twitter_burst_1h_thin10", 38221, 3600),
    ],
)
def test_recorded_traces(name: str, rows: int, span: float) -> None:
    path = RECORDED / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip("the recorded traces are not part of the project and not here")
    trace = load(path)
    assert len(trace) == rows
    assert trace.span == pytest.approx(span, abs=3)
    assert set(trace.sizes) == (set() if "twitter" in name else {"input_tokens", "output_tokens"})
    assert len(set(trace.arrivals)) > 0.9 * rows
