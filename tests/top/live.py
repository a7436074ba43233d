"""A gateway as a process, and `overspill top` on a pseudo-terminal beside it."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 20.0
COMMAND = [sys.executable, "-m", "gateway.cli"]
ROOT = Path(__file__).parent.parent.parent
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

FILE = """
version: 1
listen: {{http: '127.0.0.1:0', admin: '127.0.0.1:{admin}'}}
backends:
  fleet: {{type: loopback, max_in_flight: 4, replicas: 2}}
  rented: {{type: loopback_rented, max_in_flight: 8, price: {{usd_per_second: 0.001}}}}
routes:
  chat:
    tiers: [{{backend: fleet}}, {{backend: rented}}]
    latency_budget: {{within: 500ms, objective: 99%}}
    spill_budget: {{usd_per_hour: 10}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class GatewayProcess:
    """`overspill serve` on a port that stays the same when it is started again."""

    def __init__(self, folder: Path, more: str = "", options: tuple[str, ...] = ()) -> None:
        self._options = options
        self.admin = free_port()
        self.url = f"http://127.0.0.1:{self.admin}"
        self._file = folder / "overspill.yaml"
        self._file.write_text(FILE.format(admin=self.admin) + more)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [*COMMAND, "serve", "--config", str(self._file), *self._options]
        self._process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        until(self._alive, "the gateway lives")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)

    def _alive(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/livez", timeout=1):
            return True
        return False


@contextmanager
def gateway(folder: Path, more: str = "", *options: str) -> Iterator[GatewayProcess]:
    made = GatewayProcess(folder, more, options)
    made.start()
    try:
        yield made
    finally:
        made.stop()


class TopOnATerminal:
    """What it writes to a terminal of so many columns and lines, as frames of text."""

    def __init__(self, *options: str, columns: int = 120, rows: int = 30) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        self.raw = ""
        self.process = subprocess.Popen(
            [*COMMAND, "top", *options],
            cwd=ROOT, stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True,
            preexec_fn=_own_terminal, env={**_environment(), "TERM": "xterm-256color"},
        )  # fmt: skip

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read(self) -> None:
        while select.select([self.master], [], [], 0.05)[0]:
            self.raw += os.read(self.master, 65536).decode()

    def shows(self, judge: Callable[[list[str]], bool], what: str) -> list[str]:
        """The lines of the newest frame that is as wanted."""
        found: list[list[str]] = []

        def seen() -> bool:
            self.read()
            found[:] = [frame for frame in self.frames()[-3:] if judge(frame)]
            return bool(found)

        until(seen, what)
        return found[-1]

    def forget(self) -> None:
        """Frames so far."""
        self.read()
        self.raw = ""

    def frames(self) -> list[list[str]]:
        return [
            [line.rstrip() for line in _ESCAPE.sub("", frame).split("\r\n")]
            for frame in self.raw.split("\x1b[H")[1:]
        ]

    def ended(self) -> int:
        def over() -> bool:
            self.read()
            return self.process.poll() is not None

        until(over, "it has ended")
        self.read()
        return int(self.process.returncode)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@contextmanager
def top(*options: str, columns: int = 120, rows: int = 30) -> Iterator[TopOnATerminal]:
    made = TopOnATerminal(*options, columns=columns, rows=rows)
    try:
        yield made
    finally:
        made.close()


def piped(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "top", *options], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**_environment(), **environment}, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def until(happened: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.02)


def _environment() -> dict[str, str]:
    unwanted = {"COLUMNS", "LINES", "OVERSPILL_ADMIN_TOKEN", "NO_COLOR"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
