"""The gateway's command with a wall clock that a file moves.

`python -m loadtests.chaos.shifted_clock FILE serve …`

The machine's own clock stays as it is. Must never know why it is moved.
"""

import runpy
import sys
import time
from pathlib import Path


def main() -> None:
    """Everything in this process that asks for the time of day is told what FILE says to add, in seconds."""
    shift, real = Path(sys.argv.pop(1)), time.time  # noqa: TID251 - this is the clock that is moved
    setattr(time, "time", lambda: real() + float(shift.read_text() or 0))  # noqa: B010
    runpy.run_module("gateway.cli", run_name="__main__")


if __name__ == "__main__":
    main()
