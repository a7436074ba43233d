"""Ask a server over a socket, and say in a word what it made of it."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from tests.http2.played import (
    ACK,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    Frame,
    frame,
    read,
)

SYNC = b"in step?"


@dataclass
class Outcome:
    """ends: code of a GOAWAY, -1: closed without one, None: it lives."""

    ends: int | None = None
    resets: dict[int, int] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    in_step: bool = False

    def kind(self, stream: int) -> str:
        if self.ends is not None:
            return "connection"
        if self.resets.get(stream):
            return "stream"
        return "call" if stream in self.statuses else "passed over"

    def hear(self, each: Frame) -> None:
        if each.kind == GOAWAY:
            self.ends = each.second
        elif each.kind == RST_STREAM:
            self.resets.setdefault(each.stream, each.number)
        elif each.kind == HEADERS and each.flags & END_STREAM:
            self.statuses[each.stream] = int(dict(read(each.payload)).get(b"grpc-status", b"-1"))
        elif each.kind == PING and each.flags & ACK and each.payload == SYNC:
            self.in_step = True


async def ask(
    port: int, data: bytes, *, stream: int = 1, patience: float = 5.0, wait: bool = False
) -> Outcome:
    """`wait`: until the stream has ended; otherwise until a ping is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    outcome = Outcome()
    try:
        writer.write(data + frame(PING, 0, 0, SYNC))
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await _hear(reader, writer, outcome, stream, wait)
    finally:
        writer.transport.abort()
    return outcome


async def _hear(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, outcome: Outcome, stream: int, wait: bool
) -> None:
    try:
        while outcome.ends is None:
            start = await reader.readexactly(9)
            if start.startswith(b"HTTP/1.1"):
                outcome.ends = -1
                return
            payload = await reader.readexactly(int.from_bytes(start[:3], "big"))
            each = Frame(start[3], start[4], int.from_bytes(start[5:], "big"), payload)
            outcome.hear(each)
            if each.kind == SETTINGS and not each.flags & ACK:
                writer.write(frame(SETTINGS, ACK))
            done = stream in outcome.statuses or stream in outcome.resets
            if outcome.in_step and (done or not wait):
                return
    except (asyncio.IncompleteReadError, OSError):
        if outcome.ends is None:
            outcome.ends = -1
