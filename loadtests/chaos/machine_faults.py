"""Faults of the machine and of the gateway's own processes: clock, disk, descriptors, signals.

Must never know how they are judged.
"""

import asyncio
import json
import os
import re
import resource
import signal
import socket
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import ClassVar

from loadtests.chaos.fault import HELD, Expected, Fault, apart, told
from loadtests.chaos.isolation import mount_memory, unmount
from loadtests.chaos.load import Load
from loadtests.chaos.stage import Metrics, Stage


class ClockJump(Fault):
    name = "clock_jump"
    what = "the wall clock jumps an hour ahead, then two back; the monotonic one cannot"
    expected = Expected()
    quick = True

    async def prepare(self, stage: Stage) -> None:
        self._shift = stage.folder / "shift"
        self._shift.write_text("0")
        urls = [stage.upstream("one"), stage.upstream("two")]
        tiers = {"fleet": stage.fleet(*urls), "cloud": stage.cloud(stage.upstream("cloud"))}
        through = ("loadtests.chaos.shifted_clock", str(self._shift))
        stage.open_gateway(stage.document(tiers), through=through)

    async def inject(self, stage: Stage, load: Load) -> None:
        self._set("3600")
        await asyncio.sleep(1.0)
        self._set("-3600")

    async def heal(self, stage: Stage, load: Load) -> None:
        self._set("0")

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        """Lines of the access log whose time is off by more than half an hour."""
        await asyncio.sleep(0.6)  # until all lines are written
        now = stage.clock.wall()
        stamps = [json.loads(line)["ts"] for line in stage.access_log.read_text().splitlines()]
        return sum(abs(datetime.fromisoformat(stamp).timestamp() - now) > 1800 for stamp in stamps)

    def _set(self, seconds: str) -> None:
        fresh = self._shift.with_suffix(".new")
        fresh.write_text(seconds)
        fresh.replace(self._shift)  # never read half


class GatewayPaused(Fault):
    name = "gateway_paused"
    what = "the gateway itself: SIGSTOP for 1.5 s, as when its machine is frozen"
    expected = Expected(gap_s=2.5, healthy_s=3.0, refused=0.3)
    lasts_s = 1.5

    async def inject(self, stage: Stage, load: Load) -> None:
        stage.kill("gateway", signal.SIGSTOP)

    async def heal(self, stage: Stage, load: Load) -> None:
        stage.kill("gateway", signal.SIGCONT)

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return sum((each.done_at or 0.0) - each.sent_at > 0.5 for each in load.asked)


class DiskFull(Fault):
    name = "log_disk_full"
    what = "the file system of the access log is full, later it is not"
    expected = Expected()
    isolated = True
    quick = True

    async def prepare(self, stage: Stage) -> None:
        folder = stage.folder / "log"
        folder.mkdir()
        mount_memory(folder, 4 << 20)
        stage.access_log = folder / "access.jsonl"
        self._filler = folder / "filler"
        await super().prepare(stage)

    async def inject(self, stage: Stage, load: Load) -> None:
        await apart(self._fill)

    async def heal(self, stage: Stage, load: Load) -> None:
        await asyncio.sleep(0.6)  # until what was logged meanwhile was tried to be written
        self._filler.unlink()

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return metrics.total("overspill_access_log_lost_total")

    async def cleared(self, stage: Stage) -> None:
        unmount(stage.folder / "log")

    def _fill(self) -> None:
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass


class LogTooLarge(Fault):
    name = "log_file_limit"
    what = "the access log reaches the size that a file may have (RLIMIT_FSIZE), later it may be larger"
    expected = Expected()

    async def inject(self, stage: Stage, load: Load) -> None:
        pid = stage.children["gateway"].pid
        self._before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        size = stage.access_log.stat().st_size if stage.access_log.exists() else 0
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, self._before[1]))

    async def heal(self, stage: Stage, load: Load) -> None:
        resource.prlimit(stage.children["gateway"].pid, resource.RLIMIT_FSIZE, self._before)

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return metrics.total("overspill_access_log_lost_total")


class _Guests(Fault):
    """Clients that come in great numbers and say nothing, while replicas close their connections."""

    guests: ClassVar[int]

    def __init__(self) -> None:
        self._guests: list[socket.socket] = []
        self._turned_away = 0

    async def inject(self, stage: Stage, load: Load) -> None:
        self._invite(stage, self.guests)
        await asyncio.sleep(0.2)
        for name in ("one", "two"):
            await told(stage, name, mode="ok", close=True)
            self._invite(stage, 16)

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return self._turned_away

    async def heal(self, stage: Stage, load: Load) -> None:
        self._turned_away = sum(map(_closed, self._guests))
        for guest in self._guests:
            guest.close()

    def _invite(self, stage: Stage, count: int) -> None:
        for _ in range(count):
            guest = socket.socket()
            guest.settimeout(0)
            guest.connect_ex(("127.0.0.1", stage.port))
            self._guests.append(guest)


class DescriptorsFew(_Guests):
    name = "descriptors_few"
    what = "the gateway may open 128 files (RLIMIT_NOFILE), 300 clients want in, and replicas hang up"
    expected = Expected()
    guests = 300

    async def prepare(self, stage: Stage) -> None:
        urls = [stage.upstream("one"), stage.upstream("two")]
        tiers = {"fleet": stage.fleet(*urls), "cloud": stage.cloud(stage.upstream("cloud"))}
        stage.open_gateway(stage.document(tiers), files=128)

    async def inject(self, stage: Stage, load: Load) -> None:
        await load.open_lines(24)
        await super().inject(stage, load)


class DescriptorsGone(_Guests):
    name = "descriptors_gone"
    what = "the gateway may open not one file more (RLIMIT_NOFILE), clients want in, and replicas hang up"
    # Where no connection can be made at all, calls are refused; but each is answered.
    expected = Expected(refused=0.5, gap_s=3.0, healthy_s=2.0)
    guests = 64

    async def inject(self, stage: Stage, load: Load) -> None:
        await load.open_lines(24)
        await asyncio.sleep(0.1)
        pid = stage.children["gateway"].pid
        self._before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        most = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, self._before[1]))
        await super().inject(stage, load)

    async def heal(self, stage: Stage, load: Load) -> None:
        await super().heal(stage, load)
        resource.prlimit(stage.children["gateway"].pid, resource.RLIMIT_NOFILE, self._before)


class WorkerKilled(Fault):
    name = "worker_killed"
    what = "one of two workers of the gateway: SIGKILL"
    # Up to half a second of lines is in a worker's memory and goes with it.
    expected = Expected(lost=HELD, unlogged=60, healthy_s=3.0, unreached=True)
    workers = 2

    async def inject(self, stage: Stage, load: Load) -> None:
        os.kill(_workers(stage)[0], signal.SIGKILL)

    async def heal(self, stage: Stage, load: Load) -> None:
        """It is the supervisor's to start another."""

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return float(len(_workers(stage)) - self.workers)


class SupervisorKilled(Fault):
    name = "supervisor_killed"
    what = "the supervisor of two workers: SIGKILL; they finish and end, and the gateway is started again"
    # Most of the gap is how long the gateway takes to start on a busy machine.
    expected = Expected(lost=HELD, unlogged=HELD, unreached=True, gap_s=20.0, healthy_s=6.0)
    workers = 2
    lasts_s = 3.0

    async def inject(self, stage: Stage, load: Load) -> None:
        self._left = [*_workers(stage), *_admin(stage)]
        stage.kill("gateway")

    async def heal(self, stage: Stage, load: Load) -> None:
        orphans = [pid for pid in self._left if _runs(pid)]
        if orphans:
            raise AssertionError(f"processes {orphans} outlived their supervisor by {self.lasts_s:g} s")
        await apart(self._again, stage)

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return sum(each.ending == "unreached" for each in load.asked)

    def _again(self, stage: Stage) -> None:
        stage.children.pop("gateway").stop(ask=False)
        stage.start_gateway_again()


def _closed(guest: socket.socket) -> bool:
    try:
        return guest.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _workers(stage: Stage) -> list[int]:
    return _told(stage, r"worker \d+ is process (\d+)")


def _admin(stage: Stage) -> list[int]:
    return _told(stage, r"admin process is process (\d+)")


def _told(stage: Stage, pattern: str) -> list[int]:
    return [int(pid) for pid in re.findall(pattern, stage.children["gateway"].stderr_tail(65536))]


def _runs(pid: int) -> bool:
    """Whether it is there, and not only waits for somebody to ask how it ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")


MACHINE_FAULTS: tuple[type[Fault], ...] = (
    ClockJump,
    GatewayPaused,
    DiskFull,
    LogTooLarge,
    DescriptorsFew,
    DescriptorsGone,
    WorkerKilled,
    SupervisorKilled,
)
