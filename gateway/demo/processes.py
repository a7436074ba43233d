"""Child processes: start one, wait until it says that it is ready, end it by its own process id.

A child says that it is ready by writing one line of JSON to standard output. Must never know what
the child does, and never signals a process that it did not start.
"""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from typing import IO, Any

from gateway.clock import Clock, SystemClock


class CannotStart(Exception):
    """A child ended, or stayed silent past its deadline; the message ends with what it last wrote."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Child:
    """One process that this one started, in a process group of its own.

    A group of its own keeps a Ctrl-C meant for the parent from ending the children before the
    parent has asked them to, and lets `stop` reach what the child itself started.
    """

    def __init__(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.ready: dict[str, Any] = {}
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(  # noqa: S603 - the caller's own command, no shell
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        # Its output is read to the end, so that a full pipe never stops it.
        self._reader = threading.Thread(target=self._read, name=f"{name}-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        if self._process.returncode is not None:
            return False
        if hasattr(os, "waitid"):
            # Looks without reaping: until `stop` has ended its group, its process id stays its own.
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        return self._process.poll() is None

    def wait_ready(self, seconds: float, *, clock: Clock | None = None) -> dict[str, Any]:
        """Its first line of JSON, parsed. Raises CannotStart after `seconds`, or when it ends."""
        clock = clock or SystemClock()
        give_up = clock.now() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, give_up - clock.now()))
            except queue.Empty:
                raise CannotStart(self.explain(f"was not ready within {seconds:g} s")) from None
            if line is None:
                tail = self.stderr_tail()
                code = self.stop(ask=False)
                raise CannotStart(_sentence(self.name, f"ended with exit code {code}", tail))
            if line.startswith(b"{"):
                with contextlib.suppress(ValueError):
                    self.ready = json.loads(line)
                    return self.ready

    def wait_answer(self, url: str, seconds: float, *, clock: Clock | None = None) -> None:
        """Return when `url` answers 200. Raises CannotStart after `seconds`, or when the child ends."""
        clock = clock or SystemClock()
        give_up = clock.now() + seconds
        while not _answers(url):
            if not self.alive:
                tail = self.stderr_tail()
                raise CannotStart(_sentence(self.name, f"ended with exit code {self.stop()}", tail))
            if clock.now() > give_up:
                raise CannotStart(self.explain(f"did not answer at {url} within {seconds:g} s"))
            self._reader.join(0.05)

    def explain(self, what: str) -> str:
        """One sentence about this child, with the end of what it wrote to standard error."""
        return _sentence(self.name, what, self.stderr_tail())

    def stderr_tail(self, limit: int = 2_000) -> str:
        """The last `limit` bytes that it wrote to standard error."""
        if self._errors.closed:
            return ""
        # pread leaves the offset alone, which the child shares and writes at.
        size = os.fstat(self._errors.fileno()).st_size
        tail = os.pread(self._errors.fileno(), limit, max(0, size - limit))
        return tail.decode("utf-8", "replace").strip()

    def stop(self, *, grace: float = 10.0, ask: bool = True) -> int:
        """Ask it to end; after `grace` seconds kill its process group. Its exit code. Idempotent."""
        if self._process.returncode is None:
            if ask and self.alive:
                self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self.alive:
                    self._process.wait(grace)
            # What did not listen, and whatever a child that has ended left behind.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
                # They are killed, not yet gone; nobody may find them once this has returned.
                for _ in range(100):
                    os.killpg(self.pid, 0)
                    time.sleep(0.01)
            self._process.wait()
        self._reader.join(grace)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
        return self._process.returncode

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not self.ready:
                self._lines.put(line)
        self._lines.put(None)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as reply:  # noqa: S310 - an address of our own
            return bool(reply.status == 200)
    except OSError:
        return False


def _sentence(name: str, what: str, tail: str) -> str:
    return f"{name} {what}" + (f"; it last wrote:\n{tail}" if tail else "")


def start_module(name: str, module: str, *arguments: str, env: Mapping[str, str] | None = None) -> Child:
    """Start `python -m MODULE ARGUMENTS…` with this interpreter; returns at once."""
    return Child(name, [sys.executable, "-m", module, *arguments], env=env)


__all__ = ["CannotStart", "Child", "free_port", "start_module"]
