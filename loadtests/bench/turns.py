"""How the bench and a load generator of its own take turns, so that neither start nor end is measured.

The generator says that it is ready, is told to go, prints its figures, and stays until it is told to end:
its CPU time can be read before and after. Knows no kind of load.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from selectors import EVENT_READ, DefaultSelector
from time import monotonic
from typing import TextIO

from loadtests.bench.load_figures import LoadFigures, NoFigures, parse

READY = "ready"
_START_S = 30.0


def take_turn(load: Callable[[], LoadFigures], told: TextIO, tell: TextIO) -> None:
    """The generator's side."""
    print(READY, file=tell, flush=True)
    if not told.readline():
        return
    print(load().line(), file=tell, flush=True)
    told.readline()


class Turn:
    """The bench's side: a generator that is ready."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.pid = process.pid
        self._expect(READY, _START_S)

    def go(self, *, limit_s: float) -> LoadFigures:
        """Load, for at most so long. Raises NoFigures."""
        assert self._process.stdin is not None
        try:
            print("go", file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise NoFigures("the load generator ended before it began") from None
        return parse(self._line(limit_s))

    def _expect(self, wanted: str, limit_s: float) -> None:
        if (line := self._line(limit_s)).strip() != wanted:
            raise NoFigures(f"the load generator did not become ready: {line.strip()[-300:] or 'no output'}")

    def _line(self, limit_s: float) -> str:
        """Its next line, or everything it says when that is its end."""
        assert self._process.stdout is not None
        ends = monotonic() + limit_s
        with DefaultSelector() as selector:
            selector.register(self._process.stdout, EVENT_READ)
            if not selector.select(max(0.0, ends - monotonic())):
                raise NoFigures(f"the load generator said nothing for {limit_s:.0f} s")
        line = self._process.stdout.readline()
        return line if line.startswith((READY, "bench-")) else line + self._process.stdout.read()


@contextmanager
def generator(module: str, *arguments: str) -> Iterator[Turn]:
    """A generator of our own as a process; ended on every way out. Raises NoFigures."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Turn(process)
            process.communicate("end\n", timeout=10)
        finally:
            process.kill()
