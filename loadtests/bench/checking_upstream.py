"""`python -m loadtests.bench.checking_upstream PORT`: a replica that counts how many calls it has at once.

It works on every call for a while, whether its client is still there or not. `GET /checker` tells what it saw
and forgets it. Knows no gateway.
"""

import argparse
import asyncio
import contextlib
import json
from dataclasses import asdict, dataclass

import uvloop

from loadtests.bench.played_server import PlayedConnection, serve
from loadtests.bench.workload import WORKLOADS

CHECKER = "/checker"
_INFER = WORKLOADS["infer"]


@dataclass
class Seen:
    """Calls: under way, most at once, and begun in all."""

    running: int = 0
    most: int = 0
    total: int = 0


class CheckedConnection(PlayedConnection):
    """One client; one request at a time."""

    def __init__(self, seen: Seen, work_s: float) -> None:
        super().__init__()
        self._seen = seen
        self._work_s = work_s

    def answered(self, path: str, body: bytes) -> bool:
        seen = self._seen
        if path == CHECKER:
            self.write_whole(json.dumps(asdict(seen)).encode())
            seen.most = seen.running
            seen.total = 0
        elif path == _INFER.path:
            seen.running += 1
            seen.total += 1
            seen.most = max(seen.most, seen.running)
            asyncio.get_running_loop().call_later(self._work_s, self._done)
        else:
            return False
        return True

    def _done(self) -> None:
        self._seen.running -= 1
        if not self._transport.is_closing():
            self.write_whole(_INFER.answer)


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m loadtests.bench.checking_upstream", description=__doc__)
    options.add_argument("port", type=int)
    options.add_argument("--work", type=float, default=0.005, help="seconds that a call takes (0.005)")
    asked, seen = options.parse_args(), Seen()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(asked.port, lambda: CheckedConnection(seen, asked.work)))


if __name__ == "__main__":
    main()
