"""The locust files once, as short as they get, where locust is installed."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loadtests.bench.peers.plan import home

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python() -> str:
    """A Python that has locust: this one, or that of an environment of its own."""
    for candidate in (sys.executable, str(home() / "locust/bin/python")):
        if os.access(candidate, os.X_OK):
            wanted = [candidate, "-c", "import locust, pydantic"]
            if subprocess.run(wanted, capture_output=True, check=False).returncode == 0:
                return candidate
    pytest.skip("needs locust (the `load` extra)")


class Gateway(BaseHTTPRequestHandler):
    """Answers like the gateway, at once."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        stream = self.path == "/v1/chat/completions"
        answer = b"data: {}\n\ndata: [DONE]\n\n" if stream else b'{"outputs":[]}'
        self.send_response(200)
        self.send_header("x-overspill-backend", "fleet")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def locust(python: str, file: str, url: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    argv = [python, "-m", "locust", "-f", f"loadtests/{file}", "--headless", "--only-summary", "--host", url]
    env = {**os.environ, **{f"OVERSPILL_LOAD_{name}": value for name, value in settings.items()}}
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("shape", ["burst", "day"])
def test_users_ask_while_the_shape_lasts(shape: str, python: str, url: str) -> None:
    done = locust(
        python, "locustfile.py", url,
        SHAPE=shape, CALM_USERS="1", BURST_USERS="4", CALM_S="0.5", BURST_S="1", CYCLES="1", CHAT_MODEL="m",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "x-overspill-backend    fleet" in done.stdout


def test_a_shape_that_is_not_there_is_refused(python: str, url: str) -> None:
    done = locust(python, "locustfile.py", url, SHAPE="square")
    assert done.returncode != 0
    assert "OVERSPILL_LOAD_SHAPE is 'square'; there are burst, spikes, ramp, day" in done.stdout + done.stderr


def test_a_trace_is_sent_whole_and_then_the_test_ends(python: str, url: str) -> None:
    done = locust(python, "trace_locustfile.py", url, TRACE="poisson:50:2s", TRACE_SPEED="2")
    assert done.returncode == 0, done.stdout + done.stderr
    sent = next(line for line in done.stdout.splitlines() if "requests left" in line)
    assert 50 < int(sent.split()[0]) < 150
    assert f"fleet                {sent.split()[0]:>8}  100.0%" in done.stdout
