"""The machine that the figures belong to: cores, processor, kernel, versions, and how quiet it is.

Reads what the kernel says; measures nothing of the peers.
"""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench import procfs


@dataclass(frozen=True)
class Cores:
    """Which core does what. On a single core both are the same, and the figures are not comparable."""

    gateway: int
    load: int

    @property
    def shared(self) -> bool:
        """True when there was only one to give."""
        return self.gateway == self.load

    @classmethod
    def choose(cls) -> "Cores":
        """The first two cores that this process may use."""
        allowed = sorted(os.sched_getaffinity(0))
        return cls(gateway=allowed[0], load=allowed[1] if len(allowed) > 1 else allowed[0])


def processor() -> str:
    """Its model name, or the bare architecture where the kernel does not tell."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def busy_shares(cores: Cores, *, over_s: float) -> dict[int, float]:
    """How much of each core others use while we wait: 0 on a quiet machine."""
    used = {core: procfs.core_seconds(core)[0] for core in (cores.gateway, cores.load)}
    time.sleep(over_s)
    return {core: (procfs.core_seconds(core)[0] - before) / over_s for core, before in used.items()}


def describe(cores: Cores) -> dict[str, str]:
    """What a reader needs to judge the figures, in words."""
    busy = busy_shares(cores, over_s=0.5)
    quiet = ", ".join(f"core {core} {share:.0%}" for core, share in sorted(busy.items()))
    return {
        "processor": processor(),
        "cores": f"{len(os.sched_getaffinity(0))} usable; gateway on core {cores.gateway}, "
        f"load generator and upstream on core {cores.load}" + (" (the same one)" if cores.shared else ""),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "busy before the start": quiet,
    }
