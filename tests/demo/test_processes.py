"""Child processes: readiness, failure with an explanation, and an end that leaves nothing behind."""

import socket
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gateway.demo.processes import CannotStart, Child, free_port

READY = 'import sys, time; print("starting"); print(\'{"ready": true, "port": 7}\', flush=True);'


def python(code: str) -> Child:
    return Child("child", [sys.executable, "-u", "-c", textwrap.dedent(code)])


def state(pid: int) -> str:
    """One letter as the kernel gives it; "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().partition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def gone(pid: int) -> None:
    """Wait until a killed process has ended; it may stay in the table until its heir takes notice."""
    give_up = time.monotonic() + 10
    while state(pid) not in ("", "Z", "X"):
        assert time.monotonic() < give_up, f"process {pid} still runs"
        time.sleep(0.01)


def test_a_child_is_ready_with_its_first_line_of_json() -> None:
    with python(READY + "time.sleep(60)") as child:
        assert child.wait_ready(30) == {"ready": True, "port": 7}
        pid = child.pid
        assert state(pid) in "RSD"
    assert state(pid) == ""


def test_a_child_that_ends_is_explained_with_its_last_words() -> None:
    child = python("import sys; sys.stderr.write('no such model'); sys.exit(4)")
    with pytest.raises(CannotStart, match=r"child ended with exit code 4; it last wrote:\nno such model"):
        child.wait_ready(30)
    assert not child.alive


def test_a_silent_child_is_given_up_at_its_deadline() -> None:
    with python("import time; time.sleep(60)") as child:
        with pytest.raises(CannotStart, match=r"was not ready within 0\.05 s"):
            child.wait_ready(0.05)


def test_a_child_that_ignores_the_request_is_killed() -> None:
    child = python("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + READY + "time.sleep(60)")
    child.wait_ready(30)
    assert child.stop(grace=0.1) == -9


def test_what_a_child_started_ends_with_it() -> None:
    child = python(
        """
        import json, subprocess, sys, time
        nested = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(json.dumps({"nested": nested.pid}), flush=True)
        time.sleep(60)
        """
    )
    nested = child.wait_ready(30)["nested"]
    assert state(nested) in "RSD"
    child.stop()
    gone(nested)


def test_output_after_the_ready_line_never_blocks_the_child() -> None:
    with python(READY + "print('x' * 300_000); sys.stderr.write('done'); sys.stderr.flush()") as child:
        child.wait_ready(30)
        assert child._process.wait(30) == 0
        assert child.stderr_tail() == "done"


def test_stopping_twice_is_harmless() -> None:
    child = python(READY)
    child.wait_ready(30)
    assert child.stop() == child.stop()


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
