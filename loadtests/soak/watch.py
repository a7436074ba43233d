"""What a running gateway holds: memory, descriptors and threads from /proc, the rest from its own metrics.

Knows how to look; not what is too much.
"""

import urllib.request
from collections.abc import Callable
from pathlib import Path

from loadtests.bench import procfs
from loadtests.soak.figures import Sample

_PROC = Path("/proc")


def held(root: int) -> tuple[int, int]:
    """Descriptors and threads of a process and everything below it."""
    descriptors = threads = 0
    for process in procfs.read_tree(root):
        folder = _PROC / str(process.pid)
        try:
            descriptors += sum(1 for _ in (folder / "fd").iterdir())
            threads += sum(1 for _ in (folder / "task").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return descriptors, threads


class Scrape:
    """The metrics as text, read as far as sums need it."""

    def __init__(self, text: str) -> None:
        self._lines = [line for line in text.splitlines() if line and not line.startswith("#")]

    @property
    def series(self) -> int:
        """How many there are."""
        return len(self._lines)

    def total(self, name: str) -> float:
        """The sum over all labels."""
        begins = (f"{name}{{", f"{name} ")
        return sum(float(line.rpartition(" ")[2]) for line in self._lines if line.startswith(begins))


def scrape(admin_port: int) -> Scrape:
    """Raises OSError."""
    url = f"http://127.0.0.1:{admin_port}/metrics"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return Scrape(answer.read().decode())


def look(pid: int, admin_port: int, *, since_s: Callable[[], float]) -> Sample:
    """One sample. Raises OSError."""
    seen = scrape(admin_port)
    descriptors, threads = held(pid)
    return Sample(
        at=since_s(),
        rss_mib=procfs.tree_rss_mib(pid),
        fds=descriptors,
        threads=threads,
        tasks=seen.total("overspill_event_loop_tasks"),
        in_flight=seen.total("overspill_in_flight"),
        queued=seen.total("overspill_queue_depth"),
        series=seen.series,
        requests=seen.total("overspill_requests_total"),
    )
