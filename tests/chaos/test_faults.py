"""The faults that are over soon, on a real gateway in processes of its own; `make chaos` tries them all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.chaos.__main__ import FAULTS, chosen, main
from loadtests.chaos.machine_faults import ClockJump
from loadtests.chaos.report import document, notes
from loadtests.chaos.trial import Result

QUICK = [fault.name for fault in FAULTS if fault.quick]


@pytest.mark.parametrize("fault", QUICK)
def test_a_fault_does_what_is_expected_of_it(fault: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [
        sys.executable,
        "-m",
        "loadtests.chaos",
        "--only",
        fault,
        "--seconds",
        "0.4",
        "--patience",
        "4",
        "--json",
        str(figures),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (seen,) = json.loads(figures.read_text())["faults"]
    if seen["skipped"]:
        pytest.skip(seen["skipped"])
    assert seen["seen"]["calls"] > 50
    assert seen["seen"]["lost"] == seen["seen"]["twice"] == seen["seen"]["wrong"] == 0


def test_every_fault_has_a_name_of_its_own_and_says_what_it_is() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 20
    assert all(fault.what for fault in FAULTS)


def test_faults_are_chosen_by_name() -> None:
    assert chosen("clock_jump") == [ClockJump]
    assert chosen(None) == list(FAULTS)
    assert [fault.name for fault in chosen("quick")] == QUICK
    with pytest.raises(ValueError, match="no such fault: flood; known: replica_killed"):
        chosen("flood,clock_jump")


def test_a_wrong_argument_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--seconds", "0"])
    assert ended.value.code == 2
    assert "--seconds 0 is not between" in capsys.readouterr().err


def test_what_is_not_as_expected_is_named() -> None:
    results = [
        Result("a", "…", problems=("lost: 1, expected at most 0",)),
        Result("b", "…", skipped="needs ip"),
    ]
    assert notes(results) == ["b: skipped, needs ip", "a: lost: 1, expected at most 0"]
    assert document(results, 1)["as_expected"] is False
    assert document(results[1:], 1)["as_expected"] is True
