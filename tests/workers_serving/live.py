"""A gateway with workers as real processes, an upstream that counts, and clients that keep their connections."""

import asyncio
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.grpc_ingress.support import Replica
from tests.support.upstream import Received, Upstream, upstream

BODY = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}]}'
REQUEST = (
    b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


@dataclass
class Checker:
    """A replica that works on every call for `seconds`, whether its client is still there or not."""

    seconds: float
    running: int = 0
    most: int = 0
    total: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def answer(self, received: Received, writer: asyncio.StreamWriter) -> None:
        if received.line.startswith(b"POST"):
            task = asyncio.get_running_loop().create_task(self._work())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            await asyncio.shield(task)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")

    async def _work(self) -> None:
        self.running += 1
        self.total += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1


@asynccontextmanager
async def checked(seconds: float) -> AsyncIterator[tuple[Checker, Upstream]]:
    checker = Checker(seconds)
    async with upstream(checker.answer) as replica:
        yield checker, replica
        await asyncio.gather(*checker.tasks)


@dataclass
class Served:
    """A running `overspill serve --workers N`."""

    process: asyncio.subprocess.Process
    errors: Path
    http: int = 0
    admin: int = 0
    grpc: int = 0

    @property
    def log(self) -> str:
        return self.errors.read_text()

    def worker(self, index: int) -> int:
        """The process id of its latest incarnation."""
        return int(re.findall(rf"worker {index} is process (\d+)", self.log)[-1])

    def children(self) -> set[int]:
        return {int(pid) for pid in re.findall(r"is process (\d+)", self.log)}

    async def until(self, words: str, *, count: int = 1) -> re.Match[str]:
        """Wait for a line of its log."""
        for _ in range(1200):
            if len(found := list(re.finditer(words, self.log))) >= count:
                return found[count - 1]
            assert self.process.returncode is None, self.log
            await asyncio.sleep(0.05)
        raise AssertionError(f"no {words!r} in:\n{self.log}")

    async def ask(self, path: str) -> tuple[int, str]:
        """GET from the admin port."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.admin)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body.decode()

    async def view(self, what: str) -> list[dict[str, object]]:
        entries: list[dict[str, object]] = json.loads((await self.ask(f"/admin/{what}"))[1])[what]
        return entries

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        lines = (await self.ask("/metrics"))[1].splitlines()
        found = [line for line in lines if re.match(rf"{name}(\{{| )", line)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found if all(each in line for each in wanted))

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 60)


@asynccontextmanager
async def serving(
    folder: Path,
    replica: Upstream | Replica,
    *,
    workers: int = 2,
    slots: int = 4,
    listen: str = "",
    fleet: str = "",
    more: str = "",
) -> AsyncIterator[Served]:
    """It is killed at the end if it still runs, and so are its workers. `fleet`: more of that backend."""
    config = folder / "gateway.yaml"
    config.write_text(
        f"""
version: 1
listen: {{http: "127.0.0.1:0", admin: "127.0.0.1:0"{listen}}}
backends:
  fleet: {{type: triton, replicas: ["{replica.url}"], max_in_flight: {slots}{fleet}}}
routes:
  everything: {{match: {{model: "*"}}, tiers: [{{backend: fleet}}]}}
{more}"""
    )
    errors = folder / "errors.txt"
    with errors.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", "serve", "-c", str(config), "--workers", str(workers),
            stderr=sink, stdout=sink,
        )  # fmt: skip
    served = Served(process, errors)
    try:
        found = await served.until(
            r"serving on https?://127\.0\.0\.1:(\d+), admin on https?://127\.0\.0\.1:(\d+)"
        )
        served.http, served.admin = int(found[1]), int(found[2])
        if listen:
            served.grpc = int((await served.until(r"serving gRPC on 127\.0\.0\.1:(\d+)"))[1])
        yield served
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            for pid in served.children():  # they would end by themselves, when they have drained
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@dataclass
class Crowd:
    """Clients that call in a closed loop, each on one connection, and open another when it breaks or is closed.

    keep:    whether they keep a connection as long as they are not told to close it; else one for each call
    broken:  of each call that got no answer, which worker had answered on that connection before, if any
    """

    port: int
    keep: bool = True
    pause: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)
    broken: list[str | None] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_done(self, clients: int) -> None:
        """So many clients, which call until `done`."""
        await asyncio.gather(*(self._client(1 << 60) for _ in range(clients)))

    async def run(self, clients: int, calls: int) -> None:
        """So many clients, each with so many calls that are answered."""
        await asyncio.gather(*(self._client(calls) for _ in range(clients)))

    async def _client(self, calls: int) -> None:
        broken = 0
        while broken < 50:
            worker: str | None = None
            writer: asyncio.StreamWriter | None = None
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                last = False
                while calls and not last and not self.done.is_set():
                    if reader.at_eof() or writer.is_closing():
                        break  # it was closed while nobody asked anything, which clients look for
                    writer.write(REQUEST)
                    status, worker, last = await _answer(reader)
                    self.statuses[status] += 1
                    self.workers[worker] += 1
                    calls -= 1
                    last = last or not self.keep
                    await asyncio.sleep(self.pause)
                if not calls or self.done.is_set():
                    return
            except (asyncio.IncompleteReadError, ConnectionError):
                broken += 1
                self.broken.append(worker)
            finally:
                if writer is not None:
                    writer.close()
        raise AssertionError("one connection after the other breaks")


async def all_serve(port: int, workers: int = 2) -> None:
    """Wait until so many workers answer: the first to be there takes every connection until others are."""
    crowd = Crowd(port, keep=False)
    async with asyncio.timeout(20.0):
        while len(crowd.workers) < workers:
            await crowd.run(clients=4, calls=2)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, str, bool]:
    """The status, the part of the request id that is the worker's own, and whether it is the last answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))  # type: ignore[index]
    worker = re.search(rb"x-request-id: (\w+)-", head)[1].decode()  # type: ignore[index]
    return int(head.split()[1]), worker, b"\r\nconnection: close\r\n" in head.lower()
