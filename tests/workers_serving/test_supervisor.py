"""Keeping processes running: each test is a supervisor in a process of its own, see `supervised.py`."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

LIMIT_S = 50.0
"""Less than a child stays that nobody ends."""


def run(scenario: str) -> dict[str, Any]:
    """What was seen. The process and all its children are ended if it takes too long."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.workers_serving.supervised", scenario],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            seen, errors = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(seen)
    return found


def test_what_ends_is_started_again_later_each_time_and_the_others_stay() -> None:
    seen = run("restarted")
    assert seen["status"] == 0
    assert seen["lives"] == 4
    assert len(seen["restarts"]) == 3
    assert seen["restarts"][2] - seen["restarts"][1] > 0.35
    assert sorted(seen["ended"]) == [0, 0, 0, 0, 1]


def test_what_ends_before_it_served_ends_everything_with_its_status() -> None:
    seen = run("not_served")
    assert seen["status"] == 2
    assert sorted(seen["ended"]) == [0, 1, 2]
    assert not seen["restarts"]


def test_what_does_not_end_is_killed() -> None:
    seen = run("killed")
    assert seen["status"] == 0
    assert 0.3 <= seen["took"] < 20


def test_the_last_is_told_to_end_when_all_others_have_and_once() -> None:
    seen = run("ends_last")
    assert seen["order"] == ["worker", "worker", "office"]
    assert seen["ended"][-1] == 2
    assert seen["status"] == 0


def test_a_hangup_is_passed_on_to_all() -> None:
    seen = run("hung_up")
    assert seen["noted"] == [
        f"{each}:{name}" for each in ("a", "b", "last") for name in ("SIGHUP", "SIGTERM")
    ]
    assert seen["status"] == 0


def test_a_hangup_that_nobody_waits_for_is_not_passed_on_and_ends_nothing() -> None:
    seen = run("not_hung_up")
    assert seen["noted"] == ["a:SIGTERM", "b:SIGTERM", "last:SIGTERM"]
    assert seen["status"] == 0


def test_being_told_once_more_while_it_ends_changes_nothing() -> None:
    seen = run("told_twice")
    assert (seen["status"], seen["ended"]) == (0, [0])
