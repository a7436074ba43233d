"""The whole bench once, as small as it gets, on whatever is installed here."""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtests.bench import __main__ as bench
from loadtests.bench import procfs, sse_load
from loadtests.bench.load_figures import LoadFigures
from loadtests.bench.peers.envoy import VARIABLE as ENVOY
from loadtests.bench.peers.nginx import find_nginx
from loadtests.bench.processes import Server, free_ports, on_core
from loadtests.bench.sse_load import http_request
from loadtests.bench.workload import CHAT_PATH, WORKLOADS, Kind

SHORT = ["--rounds", "1", "--seconds", "1", "--warm-up", "0", "--connections", "2", "--no-startup"]
SHORT += ["--stream-events", "4", "--stream-interval", "0.05"]
TINY = [*SHORT, "--workload", "infer"]

needs_tools = pytest.mark.skipif(
    shutil.which("wrk") is None or find_nginx() is None, reason="needs wrk and nginx"
)


@needs_tools
def test_a_tiny_run_measures_nginx_and_skips_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVOY, str(tmp_path / "not-installed"))
    figures, table = tmp_path / "figures.json", tmp_path / "table.md"
    handler = signal.getsignal(signal.SIGTERM)
    try:
        code = bench.main(
            [*TINY, "--peers", "direct,nginx,envoy", "--json", str(figures), "--markdown", str(table)]
        )
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert code == 0
    document = json.loads(figures.read_text())["workloads"]["infer"]
    assert [(run["peer"], run["faults"]) for run in document["runs"]] == [("direct", []), ("nginx", [])]
    nginx = document["runs"][1]
    assert nginx["requests"] > 100
    assert nginx["cpu_us_per_request"] > 1
    assert document["rss_mib"]["nginx"]["idle"] > 1
    assert [skip["name"] for skip in document["absent"]] == ["envoy"]
    assert table.read_text().strip() == capsys.readouterr().out.strip()
    assert not [p for p in procfs.read_tree(os.getpid()) if p.pid != os.getpid()], "everything was ended"


def missing_for(workload: str) -> str | None:
    """Why this workload cannot be measured here."""
    kind = WORKLOADS[workload].kind
    if kind is Kind.GRPC:
        return None if importlib.util.find_spec("grpc") else "needs grpcio"
    if kind is Kind.SSE:
        return None
    if workload in {"infer", "chat"} and find_nginx() is None:
        return "needs nginx"
    return None if shutil.which("wrk") else "needs wrk"


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_goes_through_overspill_without_a_failure(workload: str, tmp_path: Path) -> None:
    if why := missing_for(workload):
        pytest.skip(why)
    figures = tmp_path / "figures.json"
    handler = signal.getsignal(signal.SIGTERM)
    try:
        arguments = [*SHORT, "--workload", workload, "--peers", "direct,overspill", "--json", str(figures)]
        assert bench.main(arguments) == 0
    finally:
        signal.signal(signal.SIGTERM, handler)
    measured = json.loads(figures.read_text())["workloads"][workload]
    runs = measured["runs"]
    assert [(run["peer"], run["faults"]) for run in runs] == [("direct", []), ("overspill", [])]
    for run in runs:
        assert run["requests"] >= 2
        assert run["p50_ms"] > 0
        if WORKLOADS[workload].kind is Kind.SSE:
            assert run["events"] == 4 * run["requests"]
            assert 0 < run["event_p50_ms"] < 1000
    assert "fewer than 200 requests before the rounds" in measured["remarks"][0], "nothing was waited for"
    assert runs[1]["cpu_us_per_request"] > 0
    assert runs[1]["rss_mib"] > 10


def test_an_answer_that_lacks_events_is_an_error_and_no_stream() -> None:
    """Readers that want more events than come, and readers of a path that is no stream."""
    [port] = free_ports(1)
    upstream = [sys.executable, "-m", "loadtests.bench.sse_upstream", str(port), "--interval", "0.01"]
    with subprocess.Popen(upstream) as server:
        try:
            await_port(port)
            body = WORKLOADS["sse"].request.replace(b'"max_tokens":20', b'"max_tokens":3')
            right = asyncio.run(streams(port, http_request(CHAT_PATH, {}, body), 3))
            assert (right.requests, right.events, right.errors) == (2, 6, {})
            for path, events in ((CHAT_PATH, 4), ("/nowhere", 3)):
                found = asyncio.run(streams(port, http_request(path, {}, body), events))
                assert found.requests == 0
                assert found.errors == {"cut short": 2}
        finally:
            server.kill()


async def streams(port: int, request: bytes, events: int) -> LoadFigures:
    return await sse_load.load(port, 2, seconds=0.0, request=request, events=events, interval_s=0.01)


def await_port(port: int) -> None:
    ends = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < ends
            time.sleep(0.05)


@needs_tools
def test_ctrl_c_ends_everything_that_was_started() -> None:
    argv = [sys.executable, "-m", "loadtests.bench", *TINY, "--seconds", "30", "--peers", "nginx"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        ends = time.monotonic() + 20
        while (
            len(family := procfs.read_tree(process.pid)) < 6
        ):  # two nginx with a worker each, wrk, and the bench
            assert time.monotonic() < ends, "the bench started nothing"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    for member in family:
        gone(member.pid)


@needs_tools
def test_a_peer_that_crashes_at_its_start_is_told_and_fails_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "envoy"
    broken.write_text("#!/bin/sh\necho no such option >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv(ENVOY, str(broken))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert bench.main([*TINY, "--peers", "envoy"]) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert "it ended before it answered; its output ends with: no such option" in capsys.readouterr().out


def test_without_a_load_generator_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert bench.main(TINY) == 2
    assert "apt-get install wrk" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--peers", "apache"],
        ["--workload", "haiku"],
        ["--connections", "0"],
        ["--connections", "a"],
        ["--rounds", "x"],
        ["--one-core", "--workload", "sse,chat"],
    ],
)
def test_wrong_options_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        bench.main(wrong)
    assert refused.value.code == 2


def family_of(server: Server, size: int) -> list[procfs.ProcessStat]:
    ends = time.monotonic() + 10
    while len(family := procfs.read_session(server.pid)) < size:
        assert time.monotonic() < ends
        time.sleep(0.01)
    return family


def gone(pid: int) -> None:
    """The process and its session end; a killed process is still listed for a moment."""
    ends = time.monotonic() + 10
    while procfs.read_session(pid) or any(process.alive for process in procfs.read_tree(pid)):
        assert time.monotonic() < ends
        time.sleep(0.01)


DEAF = ["/bin/bash", "-c", "trap '' TERM; sleep 60 & sleep 60 & wait; wait"]
"""A process with two children; all of them ignore SIGTERM."""


def test_a_process_and_its_children_are_pinned_and_ended(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    with Server(DEAF, core=core, log=tmp_path / "log", stop_within_s=0.2) as server:
        for member in family_of(server, 3):
            assert os.sched_getaffinity(member.pid) == {core}
        assert os.sched_getaffinity(0) == before
    assert server.ended
    gone(server.pid)


def test_children_are_ended_even_when_their_parent_crashed(tmp_path: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with Server(DEAF, core=core, log=tmp_path / "log", stop_within_s=0.2) as server:
        family_of(server, 3)
        os.kill(server.pid, signal.SIGKILL)
    gone(server.pid)


PARENT = "import subprocess, sys, time; work = [sys.executable, '-c', 'sum(range(3_000_000))']; "


def parent(does: str, log: Path) -> Server:
    return Server([sys.executable, "-c", f"{PARENT}{does}; time.sleep(60)"], core=None, log=log)


def test_a_child_is_waited_for_also_when_it_is_gone_already(tmp_path: Path) -> None:
    with parent("subprocess.run(work)", tmp_path / "log") as server:
        for _ in range(2):
            assert server.child_came_and_went(comes_within_s=20, goes_within_s=20)


@pytest.mark.parametrize("does", ["pass", "subprocess.Popen(['sleep', '60'])"])
def test_no_child_and_one_that_stays_are_told(does: str, tmp_path: Path) -> None:
    with parent(does, tmp_path / "log") as server:
        assert not server.child_came_and_went(comes_within_s=1, goes_within_s=1)


def test_pinning_is_undone_on_every_way_out() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), on_core(min(before)):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == before
