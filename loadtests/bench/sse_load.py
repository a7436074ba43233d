"""`python -m loadtests.bench.sse_load PORT STREAMS`: readers of event streams, and how late events come.

So many connections, each reading stream after stream until the time is up and the last ones to their end.
The events say when they left the upstream (`sse_upstream`), by the clock that both share. Each reader begins
at its own moment within the length of a stream, drawn at random (always the same draw), as people do who know
nothing of each other: beginnings at even steps would share their moments as soon as a step is a fraction of
the interval, and all events of a moment would come at once. Knows nothing about what is in between.

A stream counts when its answer is complete, with all its events and [DONE]; anything else is an error.
"""

import argparse
import asyncio
import random
import re
import sys
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools
import uvloop

from loadtests.bench.load_figures import LoadFigures, Percentiles
from loadtests.bench.pacing import Pacer
from loadtests.bench.turns import take_turn

_MOMENT = re.compile(rb"t=(\d{6,20})")
_DONE = b"data: [DONE]"
PATIENCE_S = 10.0
"""A stream may take so much longer than it should."""


@dataclass(kw_only=True)
class Seen:
    """What all readers saw. Microseconds."""

    first_us: "array[float]" = field(default_factory=lambda: array("d"))
    delay_us: "array[float]" = field(default_factory=lambda: array("d"))
    streams: int = 0
    errors: Counter[str] = field(default_factory=Counter)


class Reader(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, events: int, seen: Seen) -> None:
        self._request = request
        self._wanted = events
        self._seen = seen
        self._transport: asyncio.Transport | None = None
        self._ended: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("connection lost")

    @property
    def closed(self) -> bool:
        """True when another request needs another connection."""
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Give it up."""
        if self._transport is not None:
            self._transport.close()

    async def stream(self) -> None:
        """One stream to its end; what went wrong is counted, and closes the connection."""
        assert self._transport is not None
        self._events, self._done, self._tail, self._first = 0, False, b"", True
        self._parser = httptools.HttpResponseParser(self)
        self._ended = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter_ns()
        self._transport.write(self._request)
        await self._ended

    def give_up(self) -> None:
        """It took too long."""
        self._fail("timeout")

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("not HTTP")

    # what the parser calls

    def on_headers_complete(self) -> None:
        if self._parser.get_status_code() != 200:
            self._fail("status")

    def on_body(self, body: bytes) -> None:
        text = self._tail + body
        cut = text.rfind(b"\n\n") + 2
        if cut < 2:  # no event is complete yet
            self._tail = text
            return
        self._tail, text = text[cut:], text[:cut]
        for moment in _MOMENT.finditer(text):
            self._events += 1
            self._seen.delay_us.append((self._now - int(moment[1])) / 1000)
            if self._first:
                self._first = False
                self._seen.first_us.append((self._now - self._began) / 1000)
        self._done = self._done or _DONE in text

    def on_message_complete(self) -> None:
        if self._ended is None or self._ended.done():
            return
        if self._events != self._wanted or not self._done:
            self._fail("cut short")
            return
        self._seen.streams += 1
        self._ended.set_result(None)
        if not self._parser.should_keep_alive():
            self.close()

    def _fail(self, why: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._seen.errors[why] += 1
            self._ended.set_result(None)
        self.close()


async def _read(port: int, request: bytes, events: int, seen: Seen, *, ends: float, longest_s: float) -> None:
    loop = asyncio.get_running_loop()
    reader: Reader | None = None
    first = True  # every connection reads at least one stream, however short the run
    while first or loop.time() < ends:
        first = False
        if reader is None or reader.closed:
            try:
                _, reader = await loop.create_connection(
                    lambda: Reader(request, events, seen), "127.0.0.1", port
                )
            except OSError:
                seen.errors["connect"] += 1
                return
        failed = seen.errors.total()
        timer = loop.call_later(longest_s, reader.give_up)
        await reader.stream()
        timer.cancel()
        if seen.errors.total() > failed and reader.closed:
            return  # one failure makes the run void: no need to repeat it
    if reader is not None:
        reader.close()


async def load(
    port: int, streams: int, *, seconds: float, request: bytes, events: int, interval_s: float
) -> LoadFigures:
    """Read for so long; streams under way at the end are read to theirs."""
    loop = asyncio.get_running_loop()
    seen = Seen()
    length_s = events * interval_s
    chance = random.Random(streams)
    began, began_ns = loop.time(), time.perf_counter_ns()
    starts = sorted(chance.uniform(0, min(length_s, seconds)) for _ in range(streams))
    with Pacer() as pacer:
        async with asyncio.TaskGroup() as group:
            for start_s in starts:
                await pacer.until(began_ns + int(start_s * 1e9))
                group.create_task(
                    _read(port, request, events, seen, ends=began + seconds, longest_s=length_s + PATIENCE_S)
                )
    return LoadFigures(
        duration_us=(loop.time() - began) * 1e6,
        requests=seen.streams,
        latency=Percentiles.of(seen.first_us),
        events=len(seen.delay_us),
        event_delay=Percentiles.of(seen.delay_us),
        errors=dict(seen.errors),
    )


def http_request(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """The bytes of one POST."""
    fields = {"Host": "127.0.0.1", **headers, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def main() -> None:
    """The command line: waits for a line on standard input, loads, prints its figures, waits for the end."""
    options = argparse.ArgumentParser(prog="python -m loadtests.bench.sse_load", description=__doc__)
    options.add_argument("port", type=int)
    options.add_argument("streams", type=int, help="at once")
    options.add_argument("--seconds", type=float, default=5.0, help="no stream begins later (5)")
    options.add_argument("--events", type=int, required=True, help="that each stream must have")
    options.add_argument("--interval", type=float, required=True, help="seconds between two events")
    options.add_argument("--request", type=Path, required=True, help="file with the request, head and body")
    asked = options.parse_args()
    request = asked.request.read_bytes()
    take_turn(
        lambda: uvloop.run(
            load(
                asked.port, asked.streams, seconds=asked.seconds, request=request,
                events=asked.events, interval_s=asked.interval,
            )
        ),
        sys.stdin, sys.stdout,
    )  # fmt: skip


if __name__ == "__main__":
    main()
