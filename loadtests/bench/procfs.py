"""CPU time and memory of processes and cores, read from Linux' /proc (proc(5)).

Parsers take text, readers take a pid; neither knows what the processes are.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")


class ProcessStat(NamedTuple):
    """One process of /proc/PID/stat."""

    pid: int
    parent: int
    session: int
    """Pid of the process that started the session; it outlives that process."""
    alive: bool
    """False for a zombie: ended, and waiting to be asked about."""
    ticks: int
    """User and system time of its threads and of its children that have ended, in clock ticks."""
    ended: int = 0
    """The part of the latter."""


class CoreTimes(NamedTuple):
    """One `cpuN` line of /proc/stat, in clock ticks."""

    work: int
    """Run by somebody: user, nice, system, and what the hypervisor took away (steal)."""
    interrupts: int
    """Hard and soft interrupts: loopback networking runs here, on behalf of whoever sends."""


def parse_stat(text: str) -> ProcessStat:
    """The fields after the command name, which may itself hold spaces and brackets."""
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(
        pid=int(text[: text.index(" ")]),
        parent=int(fields[1]),
        session=int(fields[3]),
        alive=fields[0] not in {"Z", "X"},
        ticks=sum(int(field) for field in fields[11:15]),  # utime stime cutime cstime
        ended=sum(int(field) for field in fields[13:15]),
    )


def parse_rss_mib(status: str) -> float:
    """VmRSS of /proc/PID/status in MiB; 0 for a process without memory (a zombie)."""
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def parse_core(stat: str, core: int) -> CoreTimes:
    """The line of one core. Raises LookupError where the kernel does not list it."""
    for line in stat.splitlines():
        name, _, rest = line.partition(" ")
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, hard, soft, steal = (int(x) for x in rest.split()[:8])
            return CoreTimes(work=user + nice + system + steal, interrupts=hard + soft)
    raise LookupError(f"/proc/stat has no line for core {core}")


def family(root: int, processes: Iterable[ProcessStat]) -> list[ProcessStat]:
    """`root` and everything below it, parents before children."""
    by_pid = {process.pid: process for process in processes}
    found = [by_pid[root]] if root in by_pid else []
    for process in found:  # grows while it is walked
        found.extend(other for other in by_pid.values() if other.parent == process.pid)
    return found


def _read_all() -> list[ProcessStat]:
    """Every process there is; those that end meanwhile are left out."""
    processes = []
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                processes.append(parse_stat((entry / "stat").read_text()))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return processes


def read_tree(root: int) -> list[ProcessStat]:
    """`root` and everything below it."""
    return family(root, _read_all())


def read_session(leader: int) -> list[ProcessStat]:
    """Who is alive in the session that `leader` started, also after its own end."""
    return [process for process in _read_all() if process.session == leader and process.alive]


def tree_cpu_seconds(root: int) -> float:
    """User and system time of the whole tree so far, in seconds."""
    return sum(process.ticks for process in read_tree(root)) / os.sysconf("SC_CLK_TCK")


def tree_rss_mib(root: int) -> float:
    """Resident memory of the whole tree in MiB; pages shared between its processes count in each."""
    total = 0.0
    for process in read_tree(root):
        try:
            total += parse_rss_mib((_PROC / str(process.pid) / "status").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def core_seconds(core: int) -> tuple[float, float]:
    """Work and interrupt time of one core since boot, in seconds."""
    times = parse_core((_PROC / "stat").read_text(), core)
    tick = os.sysconf("SC_CLK_TCK")
    return times.work / tick, times.interrupts / tick
