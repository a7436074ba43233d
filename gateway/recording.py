"""`overspill serve --record FILE`: the recorder of a whole gateway, and its file.

The file is made when the gateway starts, so that a place that cannot be written is known then, and written
when it stops. Knows no pool and no line.
"""

import asyncio
import logging
import os
from pathlib import Path
from random import Random

from gateway.clock import SystemClock
from gateway.recorder import LIMIT, Recorder

log = logging.getLogger("overspill.recording")


def begun(path: Path, chance: Random) -> Recorder:
    """A recorder on the running event loop. Only its owner may read the file. Raises OSError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    log.info("recording up to %d events and decisions; %s is written at the end", LIMIT, path)
    return Recorder(clock=SystemClock(), timers=asyncio.get_running_loop(), seed=chance.getrandbits(32))


def end(recorder: Recorder, path: Path) -> None:
    """Write the file. What goes wrong is said: the gateway has done its work."""
    try:
        recorder.save(path)
    except OSError as error:
        log.error("the recording was not written: %s", error)
        return
    log.info("recorded %d lines in %s", len(recorder.lines), path)
    if recorder.full:
        log.warning(
            "the recording was full after %d lines: what came later is not in it", len(recorder.lines)
        )
