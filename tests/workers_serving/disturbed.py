"""`overspill` with a gateway at whose start something happens: `python -m tests.workers_serving.disturbed`.

late FILE ARGUMENTS…      the second worker opens its port only when FILE is there
"""

import asyncio
import sys
from pathlib import Path

from gateway import cli, serving
from gateway.app import Gateway


class Late(Gateway):
    """Waits before it opens anything."""

    gate: Path

    async def open(self) -> None:
        while self.station is not None and self.station.index == 1 and not self.gate.exists():
            await asyncio.sleep(0.02)
        await super().open()


def main() -> None:
    how, file = sys.argv[1], Path(sys.argv[2])
    assert how == "late"
    Late.gate = file
    vars(serving)["Gateway"] = Late
    del sys.argv[1:3]
    cli.main()


if __name__ == "__main__":
    main()
