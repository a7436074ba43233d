"""`overspill demo` as a whole: without what it needs, interrupted, and for real."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from gateway.demo import main, stage
from gateway.demo.triton_process import why_not
from tests.demo.schema import REPORT


def test_without_its_packages_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main.run(10, None) == 1
    assert "pip install 'overspill[demo]'" in " ".join(capsys.readouterr().err.split())


def demo(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(parent: int) -> set[int]:
    """Everything that descends from a process and still runs."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, above = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state not in "ZX":
                parents[int(folder.name)] = int(above)
    found = {parent}
    while more := {pid for pid, above in parents.items() if above in found} - found:
        found |= more
    return found - {parent}


def still(pids: set[int]) -> set[int]:
    alive = set()
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                alive.add(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return alive


def test_where_no_triton_runs_the_bundled_server_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "why_not", lambda: "there is no Triton wheel for this machine")
    file = tmp_path / "demo.json"
    status = main.run(10, file)
    said = capsys.readouterr()
    assert status == 0, said.err
    assert "there is no Triton wheel for this machine; started the bundled KServe-v2 server" in said.out
    result = json.loads(file.read_text())
    jsonschema.validate(result, REPORT)
    assert result["triton"] == "bundled"


@pytest.mark.real_triton
@pytest.mark.skipif(why_not() is not None, reason=f"no real Triton here: {why_not()}")
def test_the_demo_shows_everything_it_is_meant_to(tmp_path: Path) -> None:
    file = tmp_path / "demo.json"
    process = demo("--seconds", "20", "--json", str(file))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, out[-3000:] + err[-3000:]
    result = json.loads(file.read_text())
    jsonschema.validate(result, REPORT)
    assert result["triton"] == "real"
    assert (result["lost"], result["wrong"], result["shed"]) == (0, 0, 0)
    assert result["requests"] == sum(seen["requests"] for seen in result["backends"].values())
    assert all(seen["requests"] for seen in result["backends"].values())
    assert sum(seen["start"]["cold"] for seen in result["backends"].values()) > 0
    assert result["cost_usd"] == pytest.approx(sum(result["cost_by_kind_usd"].values()))
    assert result["cost_usd"] > 0
    for words in ("real Triton", "paced to 40ms", "where requests went", "all serverless", "modelled"):
        assert words in out


@pytest.mark.real_triton
@pytest.mark.skipif(why_not() is not None, reason=f"no real Triton here: {why_not()}")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_an_interrupted_demo_leaves_no_process_behind(number: signal.Signals) -> None:
    process = demo("--seconds", "600")
    try:
        assert process.stdout is not None
        while "driving" not in (line := process.stdout.readline()):
            assert line, process.stderr and process.stderr.read()
        started = children(process.pid)
        assert len(started) > 5  # Triton and its own, three emulators, the gateway
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == main.INTERRUPTED
    give_up = time.monotonic() + 10
    while still(started):
        assert time.monotonic() < give_up, still(started)
        time.sleep(0.05)
