"""Processes on one core: started, waited for until they answer, and ended by their own pids.

Knows how to start and stop; not what a proxy is.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

from loadtests.bench import procfs

_LOOK_S = 0.05


class NotAnswering(Exception):
    """A process ended, or did not give the expected answer in time; the text has the end of its log."""


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Whatever is started inside runs on this core only, with all its threads and children; None: on any.

    The affinity is inherited at birth; setting it afterwards would miss threads that exist already.
    """
    before = os.sched_getaffinity(0)
    if core is None:
        yield
        return
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_ports(count: int) -> list[int]:
    """Distinct ports of 127.0.0.1 that nobody holds at this moment."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Server:
    """A process under our care: `with` ends it, with all its children, on every way out."""

    def __init__(
        self,
        argv: list[str],
        *,
        core: int | None,
        log: Path,
        env: Mapping[str, str] | None = None,
        stop_within_s: float = 8.0,
    ) -> None:
        """Start it at once, in a session of its own, with its output in `log`.

        Ctrl-C then reaches only us and the end stays in our hands, and its children can be told from
        everybody else's even when it is gone.
        """
        self.log = log
        self._stop_within_s = stop_within_s
        with log.open("wb") as output, on_core(core):
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env} if env else None,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def ended(self) -> bool:
        """True once the process is gone."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL by pid for whoever of its session is left after a few seconds."""
        if not self.ended:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._stop_within_s)
        for member in procfs.read_session(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGKILL)
        self._process.wait(self._stop_within_s)

    def child_came_and_went(self, *, comes_within_s: float, goes_within_s: float) -> bool:
        """Wait until a child of it has worked and ended, and none is left; False where that does not happen.

        One that ended before this was called counts, if it took CPU time.
        """
        came = False
        ends = time.monotonic() + comes_within_s
        while time.monotonic() < ends and not self.ended:
            family = procfs.read_tree(self.pid)
            if len(family) > 1 and not came:
                came, ends = True, time.monotonic() + goes_within_s
            elif len(family) == 1 and (came or family[0].ended):
                return True
            time.sleep(_LOOK_S)
        return False

    def trouble(self, what: str) -> NotAnswering:
        """The error to raise about this process, with the last lines it wrote."""
        tail = self.log.read_text(errors="replace").strip()[-600:]
        return NotAnswering(f"{what}; its output ends with: {tail or '(nothing)'}")


def exchange(
    port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """One request on a fresh connection: status and body. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait_until_serving(server: Server, verify: Callable[[], str | None], *, within_s: float) -> None:
    """Until `verify` finds nothing wrong. Raises NotAnswering."""
    ends = time.monotonic() + within_s
    while (wrong := verify()) is not None:
        if server.ended:
            raise server.trouble("it ended before it answered")
        if time.monotonic() > ends:
            raise server.trouble(f"no right answer within {within_s:.0f} s ({wrong})")
        time.sleep(0.02)
