"""`overspill serve` as a process: how it starts, refuses to start, and ends."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.demo.processes import Child, free_port
from tests.support.wire import Peer, eventually
from tests.wire.test_gateway import BODY, infer, server


def config(folder: Path, url: str, http: int, admin: int) -> Path:
    file = folder / "overspill.yaml"
    file.write_text(f"""
version: 1
listen: {{http: "127.0.0.1:{http}", admin: "127.0.0.1:{admin}"}}
access_log: {{path: "{folder / "access.jsonl"}"}}
backends:
  fleet: {{type: triton, replicas: ["{url}"], max_in_flight: 2, price: {{usd_per_replica_hour: 1}}}}
routes:
  twice: {{match: {{model: twice}}, tiers: [{{backend: fleet, when_full: shed}}]}}
""")
    return file


@contextmanager
def serving(file: Path) -> Iterator[Child]:
    with Child("gateway", [sys.executable, "-m", "gateway.cli", "serve", "-c", str(file)]) as child:
        yield child


async def ended(child: Child) -> int:
    await eventually(lambda: not child.alive, "the process ends")
    return child.stop()


async def ready(child: Child, admin: int) -> None:
    await asyncio.to_thread(child.wait_answer, f"http://127.0.0.1:{admin}/readyz", 30)


async def test_sigterm_finishes_what_is_in_flight_and_ends_with_0(tmp_path: Path) -> None:
    async with server(pace_s=0.5) as triton:
        http, admin = free_port(), free_port()
        with serving(config(tmp_path, triton.url, http, admin)) as child:
            await ready(child, admin)
            peer = await Peer.connect(http)
            peer.send(infer())
            await eventually(lambda: triton.in_flight == 1, "the work runs")
            os.kill(child.pid, signal.SIGTERM)
            answer = await peer.rest()
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" in answer
            assert await ended(child) == 0
        assert len((tmp_path / "access.jsonl").read_text().splitlines()) == 1
        await Peer.close_all()


async def test_sighup_reopens_the_access_log_so_that_it_can_be_rotated(tmp_path: Path) -> None:
    async with server() as triton:
        http, admin = free_port(), free_port()
        with serving(config(tmp_path, triton.url, http, admin)) as child:
            await ready(child, admin)
            log, old = tmp_path / "access.jsonl", tmp_path / "access.jsonl.1"
            peer = await Peer.connect(http)
            peer.send(infer())
            await peer.answer()
            log.rename(old)
            os.kill(child.pid, signal.SIGHUP)
            await eventually(log.exists, "the log is open under its name again")
            peer.send(infer(body=BODY))
            await peer.answer()
            os.kill(child.pid, signal.SIGINT)
            assert await ended(child) == 0
            assert [len(path.read_text().splitlines()) for path in (old, log)] == [1, 1]
        await Peer.close_all()


async def test_a_bad_file_never_starts_and_says_where_it_is_bad(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("version: 1\nbackends: {}\nrotes: {}\n")
    with serving(file) as child:
        await eventually(lambda: not child.alive, "the process ends")
        said = child.stderr_tail()
        assert child.stop() == 2
        assert f"{file}:3:1: " in said


async def test_a_port_that_is_taken_ends_it_with_1_and_a_sentence(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        file = config(tmp_path, "http://127.0.0.1:9", taken.getsockname()[1], free_port())
        with serving(file) as child:
            await eventually(lambda: not child.alive, "the process ends")
            said = child.stderr_tail()
            assert child.stop() == 1
            assert "cannot start" in said
            assert "Traceback" not in said


async def test_an_access_log_that_cannot_be_opened_ends_it_with_1_and_a_sentence(tmp_path: Path) -> None:
    file = config(tmp_path, "http://127.0.0.1:9", free_port(), free_port())
    file.write_text(file.read_text().replace("access.jsonl", "no/such/folder/access.jsonl"))
    with serving(file) as child:
        await eventually(lambda: not child.alive, "the process ends")
        said = child.stderr_tail()
        assert child.stop() == 1
        assert "no/such/folder" in said
        assert "Traceback" not in said


async def test_serving_triton_imports_neither_botocore_nor_litellm(tmp_path: Path) -> None:
    http, admin = free_port(), free_port()
    with serving(config(tmp_path, "http://127.0.0.1:9", http, admin)) as child:
        await asyncio.to_thread(child.wait_answer, f"http://127.0.0.1:{admin}/livez", 30)
        mapped = Path(f"/proc/{child.pid}/maps").read_text()
        assert "uvloop" in mapped
        code = "import gateway.cli, sys; print(*[m for m in ('botocore','litellm','numpy','rich','grpc') if m in sys.modules])"
        done = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
        )
        assert (await done.communicate())[0].strip() == b""
