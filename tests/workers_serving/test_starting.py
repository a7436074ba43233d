"""What is seen of a gateway that is not all there yet."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.upstream import Upstream, upstream
from tests.top.live import free_port
from tests.workers_serving.live import Served


@asynccontextmanager
async def starting(
    folder: Path, replica: Upstream, how: str, file: Path, *, workers: int = 2, more: str = ""
) -> AsyncIterator[Served]:
    """A gateway of `disturbed`, from its first moment on; it and its workers end with the test."""
    http, admin = free_port(), free_port()
    config = folder / "gateway.yaml"
    config.write_text(
        f"""
version: 1
listen: {{http: "127.0.0.1:{http}", admin: "127.0.0.1:{admin}"}}
backends:
  fleet: {{type: triton, replicas: ["{replica.url}"], max_in_flight: 4}}
routes:
  everything: {{match: {{model: "*"}}, tiers: [{{backend: fleet}}]}}
{more}"""
    )
    errors = folder / "errors.txt"
    with errors.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.workers_serving.disturbed", how, str(file),
            "serve", "-c", str(config), "--workers", str(workers), stderr=sink, stdout=sink,
        )  # fmt: skip
    served = Served(process, errors, http, admin)
    try:
        yield served
    finally:
        if process.returncode is None:
            process.kill()  # workers end by themselves when nobody supervises them
            await process.wait()


async def readiness(served: Served) -> tuple[int, str]:
    """As soon as the admin port answers."""
    for _ in range(1200):
        try:
            status, body = await served.ask("/readyz")
        except OSError:
            await asyncio.sleep(0.02)
            continue
        return status, json.loads(body)["status"]
    raise AssertionError(served.log)


async def test_it_is_not_ready_before_every_worker_serves(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with upstream() as replica, starting(tmp_path, replica, "late", gate) as served:
        await readiness(served)
        while await served.metric("overspill_workers") < 1:
            await asyncio.sleep(0.02)
        for _ in range(5):
            assert await readiness(served) == (503, "not_ready"), "one worker answers, the other does not"
        gate.touch()
        await served.until("serving on")
        assert await readiness(served) == (200, "ready")

        gate.unlink()
        worker = served.worker(1)
        os.kill(worker, signal.SIGKILL)
        while served.worker(1) == worker:
            await asyncio.sleep(0.02)
        assert await readiness(served) == (200, "ready"), "one that is started again is covered by the others"
        os.kill(admin_process(served), signal.SIGKILL)
        await served.until("the admin process is process", count=2)
        assert await readiness(served) == (200, "ready"), "who is asked now knows that it had begun"
        gate.touch()
        assert await served.stop() == 0


def admin_process(served: Served) -> int:
    line = next(line for line in served.log.splitlines() if "the admin process is process" in line)
    return int(line.rsplit(" ", 1)[1])


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_log_that_is_renamed_before_anybody_listens_to_signals_is_opened_again(
    tmp_path: Path, workers: int
) -> None:
    log = tmp_path / "access.log"
    more = f"access_log: {{path: {log}}}\nreload: {{watch: false}}"
    async with (
        upstream() as replica,
        starting(tmp_path, replica, "rotated", log, workers=workers, more=more) as served,
    ):
        await served.until("serving on")
        process = served.process.pid if workers == 1 else served.worker(1)
        async with asyncio.timeout(10.0):
            while str(log) not in open_files(process):
                await asyncio.sleep(0.02)
        assert log.with_suffix(".1").exists()
        assert served.log.count("serving on") == 1
        assert "started again" not in served.log
        assert await served.stop() == 0


def open_files(process: int) -> set[str]:
    return {str(each.readlink()) for each in Path(f"/proc/{process}/fd").iterdir() if each.is_symlink()}
