"""A network between two namespaces that loses packets by a seed, or all of them.

Two TUN devices with this process between them: every packet passes through here, and may end here. It works
where the kernel has no netem. Must never know what the packets carry.
"""

import asyncio
import contextlib
import fcntl
import os
import struct
import subprocess
from random import Random

from gateway.demo.processes import Child

OURS = "10.77.0.1"
THEIRS = "10.77.0.2"

# TUNSETIFF, and IFF_TUN | IFF_NO_PI of linux/if_tun.h.
_SET = 0x400454CA
_FLAGS = 0x0001 | 0x1000
_MOST = 65536


def why_not() -> str | None:
    """Why there is no such network here, or None."""
    return None if os.access("/dev/net/tun", os.W_OK) else "needs /dev/net/tun"


class Wire:
    """From this namespace to a new one. `loss`: chance of each packet, either way, to be lost.

    Use it on a running loop. `holder` is a process that keeps the other namespace.
    """

    def __init__(self, chance: Random) -> None:
        self.loss = 0.0
        self.passed = 0
        self.dropped = 0
        self._chance = chance
        self.holder = Child(
            "the other namespace", ["unshare", "--net", "sh", "-c", "echo {}; exec sleep 600"]
        )
        self.holder.wait_ready(10.0)
        self._near, self._far = _device("chaos0"), _device("chaos1")
        _run("ip", "link", "set", "chaos1", "netns", str(self.holder.pid))
        _run("ip", "addr", "add", f"{OURS}/30", "dev", "chaos0")
        _run("ip", "link", "set", "chaos0", "up")
        _run(*self.inside(), "ip", "link", "set", "lo", "up")
        _run(*self.inside(), "ip", "addr", "add", f"{THEIRS}/30", "dev", "chaos1")
        _run(*self.inside(), "ip", "link", "set", "chaos1", "up")
        loop = asyncio.get_running_loop()
        loop.add_reader(self._near, self._carry, self._near, self._far)
        loop.add_reader(self._far, self._carry, self._far, self._near)

    def inside(self) -> tuple[str, ...]:
        """What runs a command on the other side."""
        return ("nsenter", "--target", str(self.holder.pid), "--net")

    def close(self) -> None:
        """Take it all away."""
        loop = asyncio.get_running_loop()
        for device in (self._near, self._far):
            loop.remove_reader(device)
            os.close(device)
        self.holder.stop(grace=1.0)

    def _carry(self, source: int, target: int) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                packet = os.read(source, _MOST)
                if self.loss and self._chance.random() < self.loss:
                    self.dropped += 1
                    continue
                self.passed += 1
                # A device that is full, down or gone loses packets too: that is what networks do.
                with contextlib.suppress(OSError):
                    os.write(target, packet)


def _device(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _SET, struct.pack("16sH", name.encode(), _FLAGS) + bytes(22))
    return fd


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=10)
