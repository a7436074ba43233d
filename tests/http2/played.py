"""A peer that is played by hand: a transport in memory, frames read and written without the gateway's code."""

import asyncio
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hpack import Decoder, Encoder

from gateway.http2.connection import Http2Connection
from gateway.http2.fields import Fields
from gateway.http2.limits import Limits
from gateway.http2.stream import Stream

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        return int.from_bytes(self.payload[:4], "big")

    @property
    def second(self) -> int:
        return int.from_bytes(self.payload[4:8], "big")


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, size: int = -1) -> bytes:
    """`size`: what the frame says of its length, where that is not the truth."""
    length = len(payload) if size < 0 else size
    return length.to_bytes(3, "big") + struct.pack(">BBL", kind, flags, stream) + payload


def settings(values: Iterable[tuple[int, int]] = (), flags: int = 0) -> bytes:
    return frame(SETTINGS, flags, 0, b"".join(struct.pack(">HL", *each) for each in values))


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">L", size))


def reset(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">L", code))


def goaway(last: int, code: int = 0) -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last, code))


def frames_in(data: bytes) -> list[Frame]:
    """Every frame of these bytes, which end with one."""
    found, place = [], 0
    while place < len(data):
        assert len(data) - place >= 9, "a frame is cut short"
        size = int.from_bytes(data[place : place + 3], "big")
        kind, flags, stream = struct.unpack_from(">BBL", data, place + 3)
        payload = data[place + 9 : place + 9 + size]
        assert len(payload) == size, "a frame is cut short"
        found.append(Frame(kind, flags, stream, payload))
        place += 9 + size
    return found


class PlayedTransport(asyncio.Transport):
    """What a connection writes to. `unread`: bytes that the system has not taken yet, as it would say."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.unread = 0
        self.closing = False

    def write(self, data: Any) -> None:
        if not self.closing:
            self.sent += data

    def get_write_buffer_size(self) -> int:
        return self.unread

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close


class Carried(Stream):
    """A stream that keeps what it is told."""

    def __init__(self, side: "Side", number: int) -> None:
        super().__init__(side, number, side.peer_window)
        self.sections: list[Any] = []
        self.data = b""
        self.all_heard = 0
        self.cuts: list[int] = []
        self.losses: list[bool] = []

    def fields(self, made: Any, *, last: bool) -> None:
        self.sections.append(made)
        self.all_heard += last

    def content(self, data: bytes, *, last: bool) -> None:
        self.data += data
        self.all_heard += last

    def cut(self, code: int) -> None:
        self.cuts.append(code)

    def lost(self, why: str, *, untouched: bool) -> None:
        self.losses.append(untouched)


class Side(Http2Connection):
    """One side of a connection, whose other side the test plays."""

    def __init__(self, limits: Limits | None = None, *, client: bool = False) -> None:
        super().__init__(limits or Limits(), client=client)
        self.transport = PlayedTransport()
        self.all: dict[int, Carried] = {}
        self.heard: list[Any] = []
        self.connection_made(self.transport)
        self.write(self.greeting())

    @property
    def last_opened(self) -> int:
        return max(self.all, default=0) if self.client else 0

    def made(self, fields: Fields, size: int) -> Any:
        return tuple(fields)

    def opened(self, number: int, made: Any, *, last: bool) -> None:
        if not self.client:
            self.begin(number).fields(made, last=last)
            self.all[number].heard_all = last
        else:
            super().opened(number, made, last=last)

    def begin(self, number: int) -> Carried:
        stream = self.all[number] = Carried(self, number)
        self.add(stream)
        return stream

    def answered(self, payload: bytes) -> None:
        self.heard.append(("answered", payload))

    def left(self, last: int, code: int, text: str) -> None:
        self.heard.append(("left", last, code))

    def hear(self, *pieces: bytes) -> list[Frame]:
        """Feed it, and what it says to that."""
        for piece in pieces:
            self.data_received(piece)
        return self.said()

    def said(self) -> list[Frame]:
        sent = bytes(self.transport.sent)
        self.transport.sent.clear()
        return frames_in(sent)

    def settle(self, *values: tuple[int, int]) -> "Side":
        """The other side's settings come; what it says to that is forgotten."""
        self.hear(settings(values))
        return self


def section(*fields: tuple[bytes, bytes], huffman: bool = True) -> bytes:
    """Fields that enter nothing into a table."""
    return bytes(Encoder().encode([(name, value, True) for name, value in fields], huffman=huffman))


REQUEST = section((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/m"), (b"te", b"trailers"))


def head(number: int, *, last: bool = False, block: bytes = REQUEST) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if last else 0), number, block)


def read(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in Decoder().decode(block, raw=True)]


async def until(true: Callable[[], bool], what: str) -> None:
    """A few turns of the loop."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"never: {what}")
