"""Runs one emulator as a process: `python -m backends.emulators --kind runpod --port 0 --config JSON`.

Writes one line of JSON, `{"url", "pid"}`, when it listens, and ends on SIGTERM or SIGINT. Must never know
who started it.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import uvloop
from pydantic import ValidationError

from backends.emulators.config import EmulatorConfig, Kind, build


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 after a signal, 2 for a configuration that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m backends.emulators", description=__doc__)
    parser.add_argument("--kind", required=True, choices=get_args(Kind))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port")
    parser.add_argument("--config", required=True, help="JSON, or @FILE with JSON in it")
    given = parser.parse_args(arguments)
    try:
        text = given.config
        if text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        config = EmulatorConfig.model_validate_json(text)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(given.kind, config, given.host, given.port))
    except (ValidationError, ValueError, TypeError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


async def _serve(kind: Kind, config: EmulatorConfig, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    # The worker kit's ASGI app blocks a thread of the default executor per request.
    loop.set_default_executor(ThreadPoolExecutor(max(16, 2 * config.cap), thread_name_prefix="kit"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = build(kind, config, host=host, port=port)
    async with server:
        sys.stdout.write(json.dumps({"url": server.url, "pid": os.getpid()}) + "\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
