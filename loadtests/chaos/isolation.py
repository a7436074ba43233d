"""Namespaces of its own for the suite, so that what it breaks is its own: network, mounts, processes.

Everything in them ends with the process that made them, whatever way it ends. Must never know a fault.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

MARK = "OVERSPILL_CHAOS_ISOLATED"

_ENTER = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc")


def why_not() -> str | None:
    """Why no namespaces can be made here, or None."""
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"needs the program {program} (util-linux, iproute2)"
    tried = subprocess.run([*_ENTER, "true"], capture_output=True, text=True, timeout=10, check=False)
    return None if tried.returncode == 0 else f"needs namespaces: {tried.stderr.strip() or 'not permitted'}"


def isolated() -> bool:
    """Is this process inside already?"""
    return MARK in os.environ


def again_inside(module: str, arguments: Sequence[str]) -> NoReturn:
    """Become `python -m MODULE ARGUMENTS…` in namespaces of its own: who ends this process ends all of it."""
    command = [*_ENTER, sys.executable, "-m", module, *arguments]
    sys.stdout.flush()
    os.execvpe(command[0], command, {**os.environ, MARK: "1"})


def settle_in() -> None:
    """Bring up the new network's own loopback. Raises CalledProcessError."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)


class Failed(OSError):
    """The system did not permit a mount."""


def mount_memory(folder: Path, size: int) -> None:
    """A file system of `size` bytes in memory, seen only in here. Raises Failed."""
    _mount(b"tmpfs", folder, b"tmpfs", 0, b"size=%d" % size)


def mount_over(source: Path, target: Path) -> None:
    """Let `target` be `source` in here. Raises Failed."""
    _mount(os.fsencode(source), target, b"", 4096, b"")  # MS_BIND (mount(2))


def unmount(target: Path) -> None:
    """Take the last mount on `target` away, where there is one."""
    if isolated():
        ctypes.CDLL(None).umount2(os.fsencode(target), 2)  # MNT_DETACH: also what is still in use (umount(2))


def _mount(source: bytes, target: Path, kind: bytes, flags: int, data: bytes) -> None:
    if not isolated():
        raise Failed("nothing is mounted outside of namespaces of our own")
    system = ctypes.CDLL(None, use_errno=True)
    if system.mount(source, os.fsencode(target), kind, flags, data):
        number = ctypes.get_errno()
        raise Failed(number, f"mount on {target}: {os.strerror(number)}")
