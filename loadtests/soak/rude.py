"""`python -m loadtests.soak.rude PORT --key KEY`: clients that do what no good client does, or does rarely.

They hang up in the middle of an answer, of a stream and of their own body, pipeline and leave in between,
and repeat a key of idempotency on two connections at once and hang up on one. What was answered in full is
counted; nothing of it is judged here.
"""

import argparse
import asyncio
import itertools
import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress

import uvloop

from loadtests.bench.load_figures import MARK
from loadtests.soak.scripts import CHAT, INFER

_PATIENCE_S = 20.0
_RESET = struct.pack("ii", 1, 0)
PIPELINED = 6


class Rude:
    """All of it against one port."""

    def __init__(self, port: int, key: str, chance: random.Random) -> None:
        self.port = port
        self.key = key
        self.chance = chance
        self.did: Counter[str] = Counter()
        self._numbers = itertools.count()

    def _request(self, path: str, body: str, *, more: str = "", length: int | None = None) -> bytes:
        size = len(body) if length is None else length
        return (
            f"POST {path} HTTP/1.1\r\nhost: soak\r\nx-api-key: {self.key}\r\n"
            f"content-type: application/json\r\n{more}content-length: {size}\r\n\r\n{body}"
        ).encode()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection that is closed in order or, as often, reset."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            if self.chance.random() < 0.5:
                found = writer.get_extra_info("socket")
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()
            else:
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> None:
        """Read one to its end."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        at = head.find(b"content-length: ")
        if at < 0:
            await reader.readuntil(b"0\r\n\r\n")
        else:
            await reader.readexactly(int(head[at + 16 : head.index(b"\r\n", at)]))
        self.did["answered"] += 1

    async def leave_answer(self) -> None:
        """Gone in the middle of an answer, or before it."""
        async with self._open() as (reader, writer):
            writer.write(self._request("/v2/models/small/versions/slow/infer", INFER))
            if self.chance.random() < 0.7:
                await reader.read(self.chance.randint(1, 400))

    async def leave_stream(self) -> None:
        """Gone after some events."""
        async with self._open() as (reader, writer):
            writer.write(self._request("/v1/chat/completions", CHAT))
            for _ in range(self.chance.randint(0, 4)):
                read = await reader.read(4096)
                if not read or b"[DONE]" in read or (b"HTTP/1.1 200" not in read and b"data:" not in read):
                    return  # its end, or an error

    async def leave_body(self) -> None:
        """Gone before the request is complete."""
        async with self._open() as (_, writer):
            writer.write(
                self._request("/v2/models/small/infer", INFER, length=self.chance.randint(200, 400_000))
            )
            await asyncio.sleep(self.chance.uniform(0.0, 0.02))

    async def pipeline(self) -> None:
        """Several at once; gone after some of the answers, or all."""
        async with self._open() as (reader, writer):
            writer.write(self._request("/v2/models/small/infer", INFER) * PIPELINED)
            for _ in range(self.chance.randint(0, PIPELINED)):
                await self._answer(reader)

    async def repeat(self) -> None:
        """The same key twice at once; one of the two may not wait for its answer."""
        more = f"idempotency-key: soak-{self.chance.getrandbits(64):x}\r\n"
        request = self._request("/v2/models/small/versions/slow/infer", INFER, more=more)
        async with self._open() as (reader, writer), self._open() as (other, beside):
            writer.write(request)
            beside.write(request)
            if self.chance.random() < 0.5:
                await self._answer(reader)
            await self._answer(other)

    async def run(self, deed: Callable[[], Coroutine[None, None, None]], ends: float) -> None:
        """One after the other until then."""
        while time.perf_counter() < ends:
            self.did[deed.__name__] += 1
            # Replicas are gone at times, and connections are cut on purpose.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                try:
                    async with asyncio.timeout(_PATIENCE_S):
                        await deed()
                except TimeoutError:
                    self.did["timeout"] += 1
                    self.did[f"{deed.__name__} was not answered"] += 1
            await asyncio.sleep(self.chance.uniform(0.0, 0.02))


async def annoy(rude: Rude, *, seconds: float) -> None:
    """Two of each kind, for so long."""
    ends = time.perf_counter() + seconds
    deeds: list[Callable[[], Coroutine[None, None, None]]] = [
        rude.leave_answer, rude.leave_stream, rude.leave_body, rude.pipeline, rude.repeat,
    ]  # fmt: skip
    async with asyncio.TaskGroup() as group:
        for deed in deeds * 2:
            group.create_task(rude.run(deed, ends))


def main() -> None:
    """The command line; its last line says what was done, how often."""
    options = argparse.ArgumentParser(prog="python -m loadtests.soak.rude", description=__doc__)
    options.add_argument("port", type=int)
    options.add_argument("--key", required=True)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    rude = Rude(asked.port, asked.key, random.Random(asked.seed))
    uvloop.run(annoy(rude, seconds=asked.seconds))
    did = rude.did
    told = {"requests": did.pop("answered", 0), "connect": 0, "timeout": did.pop("timeout", 0), "did": did}
    sys.stdout.write(MARK + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
