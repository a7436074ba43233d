"""Starting a server of others from its own environment, and ending it by its pid."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.peers.recipes import home_of, missing

PATIENCE_S = 90.0


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def needs(name: str) -> None:
    """Skip the test, saying why, where this peer is not installed."""
    if why := missing(name):
        pytest.skip(why)


def python_of(name: str) -> str:
    """The interpreter of a peer's environment."""
    return str(home_of(name) / "bin" / "python")


@asynccontextmanager
async def peer(name: str, port: int, *command: str, cwd: Path, **environment: str) -> AsyncIterator[str]:
    """The URL of `command`, run with that peer's programs first in PATH, once it accepts connections.

    It gets a process group of its own: several of them start further processes, which end with it.
    """
    needs(name)
    programs = home_of(name) / ("node_modules/.bin" if (home_of(name) / "node_modules").exists() else "bin")
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    with (cwd / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(programs / command[0]),
            *command[1:],
            cwd=cwd,
            env={**os.environ, "PATH": path, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not await _listens(port):
                assert process.returncode is None, (cwd / f"{name}.log").read_text(errors="replace")[-2000:]
                await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        await _end(process)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _end(process: asyncio.subprocess.Process) -> None:
    """The whole group, which is ours: first asked, then made to."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10)
