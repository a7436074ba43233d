"""The whole bench once, as small as it gets, on whatever is installed here."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadtests.bench import __main__ as bench
from loadtests.bench import peers, procfs
from loadtests.bench.processes import Server, on_core

TINY = ["--rounds", "1", "--seconds", "1", "--warm-up", "1", "--connections", "2", "--no-startup"]

needs_tools = pytest.mark.skipif(
    shutil.which("wrk") is None or peers.find_nginx() is None, reason="needs wrk and nginx"
)


@needs_tools
def test_a_tiny_run_measures_nginx_and_skips_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(peers.ENVOY_VARIABLE, str(tmp_path / "not-installed"))
    figures, table = tmp_path / "figures.json", tmp_path / "table.md"
    handler = signal.getsignal(signal.SIGTERM)
    try:
        code = bench.main(
            [*TINY, "--peers", "direct,nginx,envoy", "--json", str(figures), "--markdown", str(table)]
        )
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert code == 0
    document = json.loads(figures.read_text())
    assert [(run["peer"], run["faults"]) for run in document["runs"]] == [("direct", []), ("nginx", [])]
    nginx = document["runs"][1]
    assert nginx["requests"] > 100
    assert nginx["cpu_us_per_request"] > 1
    assert document["rss_mib"]["nginx"]["idle"] > 1
    assert [skip["name"] for skip in document["skipped"]] == ["envoy"]
    assert table.read_text().strip() == capsys.readouterr().out.strip()
    assert not [p for p in procfs.read_tree(os.getpid()) if p.pid != os.getpid()], "everything was ended"


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
    monkeypatch.setenv(peers.ENVOY_VARIABLE, str(broken))
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
    "wrong", [["--peers", "apache"], ["--connections", "0"], ["--connections", "a"], ["--rounds", "x"]]
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


def test_pinning_is_undone_on_every_way_out() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), on_core(min(before)):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == before
