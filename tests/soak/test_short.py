"""The whole soak once, as short as it gets: everything in it works, and nothing is left behind."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from loadtests.soak import __main__ as soak


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")
def test_a_few_seconds_leave_nothing_behind(tmp_path: Path) -> None:
    figures = tmp_path / "soak.json"
    handler = signal.getsignal(signal.SIGTERM)
    arguments = ["--seconds", "4", "--round", "4", "--reload-every", "1", "--sample-every", "0.5"]
    try:
        code = soak.main([*arguments, "--json", str(figures)])
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert code in {0, 1}
    verdicts = {each["name"]: each for each in json.loads(figures.read_text())["verdicts"]}
    # Four seconds are all warm-up, so growth says nothing here.
    for name in ("tasks, idle", "file descriptors, idle", "slots in use, idle", "lines of the access log"):
        assert verdicts[name]["kept"], verdicts[name]
    assert "no figures" not in verdicts["the run itself"]["got"]


def test_without_wrk_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert soak.main(["--seconds", "1"]) == 2
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert "apt-get install wrk" in capsys.readouterr().err
