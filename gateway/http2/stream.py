"""One stream of an HTTP/2 connection: what waits for room in a window, and how much was read.

Who uses a stream makes a class of its own of it, which says what is to be done with what arrives. It knows
its connection only as something that writes; in which order several are served is the connection's affair.
"""

import asyncio
from collections import deque
from typing import Any, Protocol

from gateway.http2.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST_WINDOW,
    SMALLEST_FRAME,
    Broken,
    ErrorCode,
    frame,
    head,
    window_update,
)


class Link(Protocol):
    """What a stream needs of its connection."""

    send_window: int
    largest_frame: int
    window: int
    paused: bool

    def write(self, data: bytes) -> None:
        """Send these bytes now."""
        ...

    def wait_for_room(self, stream: "Stream") -> None:
        """Call `send_some` when there is room on the connection, as long as it says that more waits."""
        ...

    def reset(self, stream: "Stream", code: ErrorCode) -> None:
        """End a stream before its time, and forget it."""
        ...

    def finished(self, stream: "Stream") -> None:
        """Nothing more is said on a stream."""
        ...


class Stream:
    """One stream. What is sent on it after it has `ended` goes nowhere."""

    __slots__ = (
        "_credit", "_drained", "_last", "_queue", "_taken", "ended", "heard_all", "link", "number",
        "queued", "send_window", "waiting",
    )  # fmt: skip

    def __init__(self, link: Link, number: int, send_window: int) -> None:
        self.link = link
        self.number = number
        self.send_window = send_window
        self.heard_all = False
        """The other side has said all, or will not be heard any more."""
        self.ended = False
        """This side has said all that it may."""
        self.waiting = 0
        """Bytes of content that wait for room."""
        self.queued = False
        """Its turn to send some of them comes: that is its connection's affair."""
        self._queue: deque[memoryview] = deque()
        self._last: bytes | None = None  # ends the stream after the queue: a section's frames; b"": a flag
        self._credit = link.window
        self._taken = 0
        self._drained: asyncio.Future[None] | None = None

    # -- what arrives: for the class that is made of this one

    def fields(self, made: Any, *, last: bool) -> None:
        """A field section, as the connection's reader has made it."""
        raise NotImplementedError

    def content(self, data: bytes, *, last: bool) -> None:
        """Bytes of a DATA frame, maybe none. Their room in the window comes back with `taken` only."""
        raise NotImplementedError

    def cut(self, code: int) -> None:
        """The other side has reset it. It is forgotten already."""
        raise NotImplementedError

    def lost(self, why: str, *, untouched: bool) -> None:
        """The connection has ended. `untouched`: the other side says that it never looked at this stream."""
        raise NotImplementedError

    # -- reading

    def use(self, size: int) -> bool:
        """So many bytes of the other side's window are used; False if it had not as many."""
        self._credit -= size
        return self._credit >= 0

    def taken(self, size: int) -> None:
        """So many bytes that arrived take no room any more."""
        self._taken += size
        if self._taken >= self.link.window // 2 and not self.heard_all:  # many together: each costs a frame
            self.link.write(window_update(self.number, self._taken))
            self._credit += self._taken
            self._taken = 0

    # -- writing

    def send_fields(self, section: bytes, *, last: bool = False) -> None:
        """A field section. With `last` it is the end, after what still waits."""
        if self.ended:
            return
        if not last:
            self.link.write(section_frames(self.number, section, 0, self.link.largest_frame))
            return
        frames = section_frames(self.number, section, END_STREAM, self.link.largest_frame)
        if self.waiting:
            self._last = frames
        else:
            self._end(frames)

    def send(self, data: bytes, *, last: bool = False) -> None:
        """Content. What finds no room waits for it."""
        if self.ended:
            return
        link, size = self.link, len(data)
        if not self.waiting and self._fits(size):
            self.send_window -= size
            link.send_window -= size
            if last:
                self._end(head(size, DATA, END_STREAM, self.number) + data)
            else:
                link.write(head(size, DATA, 0, self.number) + data)
            return
        if last:
            self._last = b""
        if size:
            self._queue.append(memoryview(data))
            self.waiting += size
        link.wait_for_room(self)

    def ask(self, section: bytes, data: bytes) -> None:
        """A whole request: head and content, in one write where there is room for it."""
        link, size, number = self.link, len(data), self.number
        if not self._fits(size) or len(section) > link.largest_frame:
            self.send_fields(section)
            self.send(data, last=True)
            return
        self.send_window -= size
        link.send_window -= size
        self._end(
            head(len(section), HEADERS, END_HEADERS, number) + section
            + head(size, DATA, END_STREAM, number) + data
        )  # fmt: skip

    def answer(self, section: bytes, data: bytes, trailers: bytes) -> None:
        """A whole answer: head, content and trailers, in one write where there is room for it."""
        if self.ended:
            return
        link, size, number = self.link, len(data), self.number
        limit = link.largest_frame
        if self._fits(size) and len(section) <= limit and len(trailers) <= limit:
            self.send_window -= size
            link.send_window -= size
            self._end(
                head(len(section), HEADERS, END_HEADERS, number) + section
                + head(size, DATA, 0, number) + data
                + head(len(trailers), HEADERS, END_HEADERS | END_STREAM, number) + trailers
            )  # fmt: skip
            return
        self.send_fields(section)
        self.send(data)
        self.send_fields(trailers, last=True)

    def send_some(self) -> bool:
        """One frame of what waits. False: its window is used up, or nothing waits any more.

        There is room on the connection.
        """
        link = self.link
        room = min(self.send_window, link.send_window, link.largest_frame)
        if room <= 0 and self.waiting:
            return False
        if self._queue:
            data = self._queue[0]
            size = min(len(data), room)
            if size == len(data):
                self._queue.popleft()
            else:
                self._queue[0] = data[size:]
            self.waiting -= size
            self.send_window -= size
            link.send_window -= size
            all_said = not self.waiting and self._last == b""
            link.write(head(size, DATA, END_STREAM if all_said else 0, self.number))
            if all_said:
                self._end(bytes(data[:size]))
                return False
            link.write(bytes(data[:size]))
        if self.waiting:
            return self.send_window > 0
        self._release()
        if self._last is not None and not self.ended:
            self._end(self._last or head(0, DATA, END_STREAM, self.number))
        return False

    def grow(self, size: int) -> None:
        """The other side's window has grown, or shrunk. Raises Broken."""
        self.send_window += size
        if self.send_window > LARGEST_WINDOW:
            raise Broken(ErrorCode.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")

    async def drained(self) -> bool:
        """Wait until nothing waits for room; False if the stream is over before."""
        if self.waiting:
            if self._drained is None:
                self._drained = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._drained)
        return not self.ended

    def stop(self) -> None:
        """Nothing more is said or heard on it: it was reset, or the connection has ended."""
        self.ended = self.heard_all = True
        self._queue.clear()
        self.waiting = 0
        self._release()

    def _fits(self, size: int) -> bool:
        """Can so many bytes go out now, as one frame?"""
        link = self.link
        return not size or (  # an end without content needs no room (RFC 9113, 6.9)
            size <= link.largest_frame
            and size <= self.send_window
            and size <= link.send_window
            and not link.paused
        )

    def _end(self, data: bytes) -> None:
        self.ended = True
        self.link.write(data)
        self.link.finished(self)

    def _release(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None


def section_frames(number: int, section: bytes, flags: int, limit: int) -> bytes:
    """A field section as HEADERS and as many CONTINUATION as it takes."""
    if len(section) <= limit:
        return frame(HEADERS, flags | END_HEADERS, number, section)
    parts = [section[place : place + SMALLEST_FRAME] for place in range(0, len(section), SMALLEST_FRAME)]
    frames = [frame(HEADERS, flags, number, parts[0])]
    frames += [frame(CONTINUATION, 0, number, part) for part in parts[1:-1]]
    frames.append(frame(CONTINUATION, END_HEADERS, number, parts[-1]))
    return b"".join(frames)
