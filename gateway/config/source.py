"""The file that the gateway runs by: read when it is asked to, and whether it has changed since.

What counts is what stands in it, not when it was written: a rename over it, a symbolic link that points
elsewhere (a mounted ConfigMap) and a write in place are seen alike. Knows no gateway.
"""

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from gateway.config.load import Loaded

LOOK_EVERY_S = 1.0
SETTLED_S = 0.2
"""A file that has changed is taken when it stays the same for so long: editors write in more than one go."""
_LONGEST = 16 * 2**20
_Marks = tuple[int, ...]


class Load(Protocol):
    """How it is read."""

    def __call__(self, path: Path, /, *, running: bool) -> Loaded: ...


class Source:
    """One file, and how it is read.

    load:  of a path, and whether a gateway runs by it already; raises ConfigProblems
    """

    def __init__(self, path: Path, load: Load) -> None:
        self.path = path
        self._load = load
        self._digest: bytes | None = None
        self._marks: _Marks | None = None

    def read(self, *, running: bool = False) -> Loaded:
        """Read and check it, as `overspill check` does. Raises ConfigProblems, and nothing else.

        running:  a gateway runs by it already: a certificate that has expired meanwhile is only a doubt
        """
        self._marks = self._look()
        self._digest = self._hash()
        return self._load(self.path, running=running)

    async def changed(self) -> None:
        """Return when something else stands in it than when it was read last. A missing file is no change."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            marks = self._look()
            if marks is None or marks == self._marks:
                continue
            digest = self._hash()
            while True:
                await asyncio.sleep(SETTLED_S)
                before, digest = digest, self._hash()
                if digest == before:
                    break
            self._marks = marks
            if digest is not None and digest != self._digest:
                return

    def _look(self) -> _Marks | None:
        try:
            found = self.path.stat()  # of what a link leads to
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _hash(self) -> bytes | None:
        try:
            with self.path.open("rb") as file:
                return sha256(file.read(_LONGEST)).digest()
        except OSError:
            return None
