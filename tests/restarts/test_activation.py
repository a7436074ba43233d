"""Ports that a service manager keeps, as descriptors of a real process."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.grpc_ingress.support import Replica
from tests.support.upstream import Upstream, upstream
from tests.workers_serving.live import Crowd, Served, checked

BAD_CONFIG = 2
LAUNCHER = """
import fcntl, os, sys
numbers, names, pid = sys.argv[1:4]
kept = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 100) for each in numbers.split(",")]
for place, each in enumerate(kept):
    os.dup2(each, 3 + place, inheritable=True)
    os.close(each)
os.environ.update(LISTEN_PID=pid or str(os.getpid()), LISTEN_FDS=str(len(kept)), LISTEN_FDNAMES=names)
os.execv(sys.executable, [sys.executable, "-m", "gateway.cli", *sys.argv[4:]])
"""


def listening(host: str = "127.0.0.1") -> socket.socket:
    made = socket.create_server((host, 0), backlog=512)
    made.setblocking(False)
    return made


def port_of(each: socket.socket) -> int:
    return int(each.getsockname()[1])


def written(folder: Path, replica: Upstream | Replica | None, http: int, admin: int, more: str = "") -> Path:
    config = folder / "gateway.yaml"
    url = "http://127.0.0.1:9" if replica is None else replica.url
    config.write_text(
        f"""
version: 1
listen: {{http: "127.0.0.1:{http}", admin: "127.0.0.1:{admin}"{more}}}
backends:
  fleet: {{type: triton, replicas: ["{url}"], max_in_flight: 4}}
routes:
  everything: {{match: {{model: "*"}}, tiers: [{{backend: fleet}}]}}
"""
    )
    return config


@asynccontextmanager
async def activated(
    config: Path, sockets: Sequence[socket.socket], names: str, *, workers: int = 1, pid: str = ""
) -> AsyncIterator[Served]:
    numbers = [each.fileno() for each in sockets]
    errors = config.with_name(f"errors-{len(list(config.parent.iterdir()))}.txt")
    with errors.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", LAUNCHER, ",".join(map(str, numbers)), names, pid,
            "serve", "-c", str(config), "--workers", str(workers),
            stderr=sink, stdout=sink, pass_fds=numbers,
        )  # fmt: skip
    try:
        yield Served(process, errors)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()  # workers end by themselves when nobody supervises them
            await process.wait()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_service_that_is_restarted_under_load_loses_no_connection(
    tmp_path: Path, workers: int
) -> None:
    async with checked(0.002) as (_, replica):
        with listening() as http, listening() as admin:
            config = written(tmp_path, replica, port_of(http), port_of(admin))
            crowds = (
                Crowd(port_of(http)),
                Crowd(port_of(http), keep=False),
                Crowd(port_of(http), pause=0.05),
            )
            loop = asyncio.get_running_loop()
            load = [loop.create_task(crowd.until_done(clients=4)) for crowd in crowds]
            seen: set[str] = set()
            try:
                for _ in range(3):
                    async with activated(config, (http, admin), "http:admin", workers=workers) as served:
                        await served.until("serving on")
                        served.admin = port_of(admin)
                        assert (await served.ask("/readyz"))[0] == 200
                        while not {each for crowd in crowds for each in crowd.workers} - seen:
                            await asyncio.sleep(0.02)
                        seen = {each for crowd in crowds for each in crowd.workers}
                        assert not any(task.done() for task in load)
                        assert await served.stop() == 0
                async with activated(config, (http, admin), "http:admin", workers=workers) as served:
                    await served.until("serving on")
                    for crowd in crowds:
                        crowd.done.set()
                    await asyncio.gather(*load)
                    assert await served.stop() == 0
            finally:
                for task in load:
                    task.cancel()
        for crowd in crowds:
            assert set(crowd.statuses) == {200}
            assert not crowd.broken
        assert len(seen) >= 3, "one process after the other has served them"


async def test_it_goes_on_by_itself_as_a_new_version(tmp_path: Path) -> None:
    """A restart in the same process keeps what was passed, and its variables do not count twice."""
    async with upstream() as replica:
        with listening() as http, listening() as admin:
            config = written(tmp_path, replica, port_of(http), port_of(admin))
            async with activated(config, (http, admin), "http:admin") as served:
                await served.until("serving on")
                served.process.send_signal(signal.SIGUSR2)
                await served.until("serving on", count=2)
                served.admin = port_of(admin)
                config_told = json.loads((await served.ask("/readyz"))[1])
                assert config_told["status"] == "ready"
                crowd = Crowd(port_of(http))
                await crowd.run(clients=2, calls=3)
                assert crowd.statuses == {200: 6}
                assert await served.stop() == 0


async def test_what_was_passed_to_another_process_is_not_ours(tmp_path: Path) -> None:
    async with upstream() as replica:
        with listening() as other:
            config = written(tmp_path, replica, 0, 0)
            async with activated(config, (other,), "http", pid=str(os.getpid())) as served:
                found = await served.until(r"serving on http://127\.0\.0\.1:(\d+)")
                assert int(found[1]) != port_of(other)
                assert await served.stop() == 0


@pytest.mark.parametrize(
    ("names", "address", "why"),
    [
        ("grpc", "", "the file has no listen.grpc: write its address there"),
        ("overspill.socket", "", "write FileDescriptorName=http, grpc or admin"),
        ("", "", "write FileDescriptorName=http"),
        ("http", "127.0.0.2", "write the same address in both"),
        ("admin:admin", "", "that port has one address"),
    ],
)
async def test_sockets_that_do_not_fit_are_refused_with_what_would(
    tmp_path: Path, names: str, address: str, why: str
) -> None:
    with listening(address or "127.0.0.1") as passed:
        sockets = [passed] * len(names.split(":"))
        async with activated(written(tmp_path, None, 0, 0), sockets, names) as served:
            assert await asyncio.wait_for(served.process.wait(), 30) == BAD_CONFIG
            assert why in served.log


async def test_what_does_not_listen_is_refused(tmp_path: Path) -> None:
    with socket.socket() as idle, (tmp_path / "file").open("wb") as file:
        idle.bind(("127.0.0.1", 0))
        async with activated(written(tmp_path, None, 0, 0), (idle,), "http") as served:
            assert await asyncio.wait_for(served.process.wait(), 30) == BAD_CONFIG
            assert "does not listen on TCP" in served.log
        async with activated(written(tmp_path, None, 0, 0), (file,), "http") as served:  # type: ignore[arg-type]
            assert await asyncio.wait_for(served.process.wait(), 30) == BAD_CONFIG
            assert "is no socket" in served.log
