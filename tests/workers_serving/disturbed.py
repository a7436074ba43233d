"""`overspill` with a gateway at whose start something happens: `python -m tests.workers_serving.disturbed`.

late FILE ARGUMENTS…      the second worker opens its port only when FILE is there
rotated FILE ARGUMENTS…   FILE, the access log, is renamed and SIGHUP sent while no handler is there yet
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from gateway import cli, serving
from gateway.app import Gateway


class Late(Gateway):
    """Waits before it opens anything."""

    gate: Path

    async def open(self) -> None:
        while self.station is not None and self.station.index == 1 and not self.gate.exists():
            await asyncio.sleep(0.02)
        await super().open()


class Rotated(Gateway):
    """Its access log is open, and its signal handlers are not installed yet."""

    log_file: Path

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        if self.station is None or self.station.index == 1:
            self.log_file.rename(self.log_file.with_suffix(".1"))
            os.kill(os.getpid(), signal.SIGHUP)


def main() -> None:
    how, file = sys.argv[1], Path(sys.argv[2])
    Late.gate = Rotated.log_file = file
    disturbed: type[Gateway] = Late if how == "late" else Rotated
    vars(serving)["Gateway"] = disturbed
    del sys.argv[1:3]
    cli.main()


if __name__ == "__main__":
    main()
