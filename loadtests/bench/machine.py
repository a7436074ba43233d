"""The machine that the figures belong to: cores, processor, kernel, versions, and how quiet it is.

Reads what the kernel says, and how fast it wakes who sleeps; measures nothing of the peers.
"""

import os
import platform
import sys
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench import procfs
from loadtests.bench.waking import waking


@dataclass(frozen=True)
class Cores:
    """Which core does what. On a single core both are the same, and its requests/s say nothing."""

    gateway: int
    load: int

    @property
    def shared(self) -> bool:
        """True when there is only one."""
        return self.gateway == self.load

    @classmethod
    def choose(cls, *, one: bool = False) -> "Cores":
        """The first two cores that this process may use, or only the last."""
        allowed = sorted(os.sched_getaffinity(0))
        if one:
            return cls(gateway=allowed[-1], load=allowed[-1])
        return cls(gateway=allowed[0], load=allowed[1] if len(allowed) > 1 else allowed[0])


def processor() -> str:
    """Its model name, or the bare architecture where the kernel does not tell."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


_FLAGS = ("OPT", "CFLAGS", "PY_CFLAGS", "PY_CORE_CFLAGS", "LDFLAGS", "PY_LDFLAGS", "PY_CORE_LDFLAGS")
_OF_DISTRIBUTIONS = ("/usr", "/")
"""Where they install the Python that their packages share."""


def python_build(variables: Mapping[str, object], base_prefix: str) -> str:
    """How an interpreter was built, as far as its own `sysconfig` variables tell.

    Between a build with profile-guided and link-time optimisation and one without lies about a fifth of the
    CPU time of a request, so figures of two builds are not comparable. A distribution may optimise in ways
    of its own that are written nowhere (Debian's 3.11 has neither option among those it was configured
    with): of such a build nothing is claimed.
    """
    asked = str(variables.get("CONFIG_ARGS") or "")
    flags = " ".join(str(variables.get(name) or "") for name in _FLAGS)
    found = []
    if "--enable-optimizations" in asked or "-fprofile-use" in flags or "-fprofile-instr-use" in flags:
        found.append("profile-guided optimisation")
    if "--with-lto" in asked.replace("--with-lto=no", "") or "-flto" in flags:
        found.append("link-time optimisation")
    where = f"{'distribution' if base_prefix in _OF_DISTRIBUTIONS else 'local'} build in {base_prefix}"
    if found:
        return f"{where}, with {' and '.join(found)}"
    if not asked:
        return f"{where}, which does not say how it was configured"
    if base_prefix in _OF_DISTRIBUTIONS:
        return f"{where}, which does not say whether it was optimised by a profile"
    return f"{where}, without --enable-optimizations and --with-lto"


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
        "python": f"{platform.python_version()}, {platform.python_compiler()}, "
        + python_build(sysconfig.get_config_vars(), sys.base_prefix),
        "busy before the start": quiet,
    }


def wakes(cores: Cores) -> str:
    """How fast it wakes who sleeps, in words: 8 bytes there and back on the load's core, and across both."""
    ways = {"on one core": (cores.load, cores.load)}
    if not cores.shared:
        ways["across the two"] = (cores.load, cores.gateway)
    found = {how: waking(*ends) for how, ends in ways.items()}
    return ", ".join(f"{how} p50 {w.p50_ms:.3f} ms and p99 {w.p99_ms:.3f} ms" for how, w in found.items())
