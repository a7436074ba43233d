"""All streams of one HTTP/2 connection, for either side: frames in, windows kept, frames out.

Knows the wire only. Whose side it is and what its streams carry is said by the class that is made of it.

What the other side may make this one hold is bounded: a section and its frames, the bytes of each window,
the streams at once, and answers to its pings (frames that ask for nothing are counted, `MOST_IDLE_FRAMES`).
"""

import asyncio
from collections import deque
from typing import Any

from gateway.cork import Cork
from gateway.http2.fields import FAR_OVER, FieldReader, Fields
from gateway.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEAD_SIZE,
    HEADERS,
    LARGEST_FRAME,
    LARGEST_WINDOW,
    PADDED,
    PING,
    PRIORITISED,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    SMALLEST_FRAME,
    STREAM_BITS,
    WINDOW,
    WINDOW_UPDATE,
    Broken,
    ErrorCode,
    Setting,
    check_priority,
    code_in,
    frame,
    goaway,
    number_in,
    reset,
    section_in,
    settings,
    settings_in,
    unpadded,
    window_update,
)  # fmt: skip
from gateway.http2.limits import MOST_UNREAD, PAUSE_ABOVE, Limits
from gateway.http2.stream import Stream

MOST_IDLE_FRAMES = 2000
"""Frames that ask for nothing useful (pings, settings, resets, empty ones) between two calls of `calm`."""
_STREAMS_A_GRAIN = 64  # whose windows settings may move for the price of one frame that asks for nothing


class Http2Connection(asyncio.Protocol):
    """One connection. `streams` are those on which something may still be said or heard."""

    def __init__(self, limits: Limits, *, client: bool, cork: Cork | None = None) -> None:
        self._cork = cork or Cork(at_once=True)
        self.limits = limits
        self.client = client
        self.window = limits.window
        self.streams: dict[int, Stream] = {}
        self.send_window = WINDOW
        self.largest_frame = SMALLEST_FRAME
        self.paused = False
        self.closed = False
        self.settled = False
        """The other side's settings are known."""
        self.most_streams = LARGEST_WINDOW
        """That the other side takes at once."""
        self.last_heard = 0
        """The highest number of a stream of the other side's making."""
        self._reader: FieldReader[Any] = FieldReader(self.made, most=limits.fields)
        self._transport: asyncio.Transport
        self._peer_window = WINDOW
        self._credit = limits.shared
        self._rest = b""
        self._section: bytearray | None = None
        self._section_of = (0, 0)  # stream and flags of a section that goes on
        self._blocked: deque[Stream] = deque()
        self._turn = SMALLEST_FRAME  # bytes that the first of them may send before it is the next one's turn
        self._idle_frames = 0
        self._calm_at = 0  # the highest number of a stream of the other side's making at the last `calm`

    # -- for the class that is made of this one

    def made(self, fields: Fields, size: int) -> Any:
        """What its streams are to get of a field section. It is used again, so it must not change."""
        raise NotImplementedError

    def opened(self, number: int, made: Any, *, last: bool) -> None:
        """The other side has opened a stream."""
        raise Broken(ErrorCode.PROTOCOL_ERROR, "a server cannot open streams")

    def late(self, made: Any) -> None:
        """Fields have come for a stream that is over."""

    def ready(self) -> None:
        """The other side's settings have come for the first time."""

    def room(self) -> None:
        """A stream is over: there is room for another."""

    def left(self, last: int, code: int, text: str) -> None:
        """The other side takes no new streams, and has looked at none above `last`."""

    def answered(self, payload: bytes) -> None:
        """The answer to a ping."""

    def over(self, why: str) -> None:
        """The connection has ended. Its streams know by now."""

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(high=PAUSE_ABOVE)

    def greeting(self) -> bytes:
        """The settings of this side, and a larger window for the whole connection."""
        limits = self.limits
        values = {
            Setting.INITIAL_WINDOW_SIZE: limits.window,
            Setting.MAX_FRAME_SIZE: limits.frame,
            Setting.MAX_HEADER_LIST_SIZE: limits.fields,
        }
        if self.client:
            values[Setting.ENABLE_PUSH] = 0
        else:
            values[Setting.MAX_CONCURRENT_STREAMS] = limits.streams
        return settings(values) + window_update(0, limits.shared - WINDOW)

    def data_received(self, data: bytes) -> None:
        try:
            self._read(self._rest + data if self._rest else data)
        except Broken as error:
            self.give_up(error.code, str(error))

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._send_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        why = "the connection was closed" if exc is None else f"the connection broke: {exc}"
        self._drop_streams(why)
        self.over(why)

    # -- what streams use

    def write(self, data: bytes) -> None:
        """Send bytes; never waits."""
        self._cork.write(self._transport, data)

    def wait_for_room(self, stream: Stream) -> None:
        """Call its `send_some` when there is room again, until nothing waits."""
        if not stream.queued:
            stream.queued = True
            self._blocked.append(stream)
        self._send_waiting()

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream before its time, and forget it."""
        if self.streams.pop(stream.number, None) is not None:
            stream.stop()
            self.write(reset(stream.number, code))
            self.room()

    def finished(self, stream: Stream) -> None:
        """Nothing more is said on a stream. A server that has need not hear the rest (RFC 9113, 8.1)."""
        if stream.heard_all or not self.client:
            if not stream.heard_all:
                stream.heard_all = True
                self.write(reset(stream.number, ErrorCode.NO_ERROR))
            if self.streams.pop(stream.number, None) is not None:
                self.room()

    def add(self, stream: Stream) -> None:
        """A stream of either side's making begins."""
        self.streams[stream.number] = stream

    @property
    def peer_window(self) -> int:
        """Bytes that may be sent on a new stream."""
        return self._peer_window

    def ping(self, payload: bytes) -> None:
        """Ask for a sign of life, eight bytes long; it comes to `answered`."""
        self.write(frame(PING, 0, 0, payload))

    def calm(self) -> None:
        """Some time has passed: forgive frames that asked for nothing."""
        self._idle_frames = 0
        self._calm_at = self.last_heard

    def give_up(self, code: ErrorCode, text: str) -> None:
        """End the connection, and say why."""
        if self.closed:
            return
        self.closed = True
        self.write(goaway(self.last_heard, code, text.encode("utf-8", "replace")[:200]))
        self._drop_streams(text)
        self.close()

    def close(self) -> None:
        """End the connection: nothing is left to say."""
        self.closed = True
        self._cork.flush()
        self._transport.close()

    def abort(self) -> None:
        """End the connection at once; what waits to be sent is lost."""
        self.closed = True
        self._transport.abort()

    def _drop_streams(self, why: str) -> None:
        streams, self.streams = list(self.streams.values()), {}
        self._blocked.clear()
        for stream in streams:
            stream.stop()
            stream.lost(why, untouched=False)

    # -- frames that arrive

    def _read(self, data: bytes) -> None:
        place, size, most = 0, len(data), self.limits.frame
        while size - place >= HEAD_SIZE and not self.closed:
            high, low, kind, flags, number = HEAD.unpack_from(data, place)
            length = high << 8 | low
            if length > most:
                raise Broken(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            end = place + HEAD_SIZE + length
            if end > size:
                break
            payload = data[place + HEAD_SIZE : end]
            place = end
            number &= STREAM_BITS
            if self._section is not None and (kind != CONTINUATION or number != self._section_of[0]):
                raise Broken(ErrorCode.PROTOCOL_ERROR, "a field section is interrupted")
            if not self.settled and (kind != SETTINGS or flags & ACK):
                raise Broken(ErrorCode.PROTOCOL_ERROR, "what is said first are settings")
            if kind == DATA:
                self._content(number, flags, payload)
            elif kind == HEADERS:
                self._headers(number, flags, payload)
            else:
                self._other(kind, number, flags, payload)
        self._rest = data[place:] if place < size else b""

    def _content(self, number: int, flags: int, payload: bytes) -> None:
        size = len(payload)
        self._credit -= size
        if self._credit < self.limits.shared // 2:
            if self._credit < 0:
                raise Broken(ErrorCode.FLOW_CONTROL_ERROR, "more bytes than the connection's window")
            self.write(window_update(0, self.limits.shared - self._credit))
            self._credit = self.limits.shared
        if flags & PADDED:
            payload = unpadded(payload)
        last = bool(flags & END_STREAM)
        if not payload and not last:
            self._idle()
        stream = self.streams.get(number)
        if stream is None or stream.heard_all:
            self._unknown(number)
            if stream is not None:
                self.fail(stream, ErrorCode.STREAM_CLOSED)
            return
        if not stream.use(size):
            self.fail(stream, ErrorCode.FLOW_CONTROL_ERROR)
            return
        if last:
            stream.heard_all = True
        elif size != len(payload):
            stream.taken(size - len(payload))
        stream.content(payload, last=last)
        if last:
            self._heard_all(stream)

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        if flags & (PADDED | PRIORITISED):
            payload = section_in(number, flags, payload)
        if not flags & END_HEADERS:
            self._section = bytearray(payload)
            self._section_of = (number, flags)
            return
        self._fields(number, flags, payload)

    def _continuation(self, number: int, flags: int, payload: bytes) -> None:
        if self._section is None:
            raise Broken(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._section += payload
        if not payload:
            self._idle()
        if len(self._section) > FAR_OVER * self.limits.fields:
            raise Broken(ErrorCode.ENHANCE_YOUR_CALM, "a field section is far over the limit")
        if flags & END_HEADERS:
            section, self._section = bytes(self._section), None
            self._fields(number, self._section_of[1], section)

    def _fields(self, number: int, flags: int, section: bytes) -> None:
        made = self._reader.read(section)  # even if nobody wants it: the table goes on
        last = bool(flags & END_STREAM)
        stream = self.streams.get(number)
        if stream is None:
            if not self.client and number > self.last_heard:
                if not number & 1:
                    raise Broken(ErrorCode.PROTOCOL_ERROR, "a client opens streams of odd numbers")
                self.last_heard = number
                self._check_unread()  # it may be refused, and a refusal waits for no window
                self.opened(number, made, last=last)
            else:
                self._unknown(number)
                self.late(made)
            return
        if stream.heard_all:
            self.fail(stream, ErrorCode.STREAM_CLOSED)
            return
        if last:
            stream.heard_all = True
        stream.fields(made, last=last)
        if last:
            self._heard_all(stream)

    def _heard_all(self, stream: Stream) -> None:
        if stream.ended and self.streams.pop(stream.number, None) is not None:
            self.room()

    def _other(self, kind: int, number: int, flags: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            self._grown(number, payload)
        elif kind == CONTINUATION:
            self._continuation(number, flags, payload)
        elif kind == PING:
            self._pinged(number, flags, payload)
        elif kind == RST_STREAM:
            self._was_reset(number, payload)
        elif kind == SETTINGS:
            self._settings(number, flags, payload)
        elif kind == GOAWAY:
            if number:
                raise Broken(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
            self._idle()
            text = payload[8:].decode("utf-8", "replace")
            self.left(number_in(payload), code_in(payload, 4), text)
        elif kind == PUSH_PROMISE:
            raise Broken(ErrorCode.PROTOCOL_ERROR, "nothing may be pushed")
        elif kind == PRIORITY:
            check_priority(number, payload)
            self._idle()
        else:  # not known: passed over (5.5)
            self._idle()

    def _grown(self, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Broken(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong length")
        size = number_in(payload)
        if number == 0:
            self.send_window += size
            if not size or self.send_window > LARGEST_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if size else ErrorCode.PROTOCOL_ERROR
                raise Broken(code, "a window grows by nothing, or beyond 2^31 - 1")
        else:
            stream = self.streams.get(number)
            if stream is None:
                self._unknown(number)
                return
            if not size or stream.send_window + size > LARGEST_WINDOW:
                self.fail(stream, ErrorCode.FLOW_CONTROL_ERROR if size else ErrorCode.PROTOCOL_ERROR)
                return
            stream.grow(size)
            if stream.waiting:
                self.wait_for_room(stream)
            return
        self._send_waiting()

    def _pinged(self, number: int, flags: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            code = ErrorCode.PROTOCOL_ERROR if number else ErrorCode.FRAME_SIZE_ERROR
            raise Broken(code, "PING is malformed")
        self._idle()
        if flags & ACK:
            self.answered(payload)
            return
        self.write(frame(PING, ACK, 0, payload))

    def _was_reset(self, number: int, payload: bytes) -> None:
        if not number or len(payload) != 4:
            code = ErrorCode.FRAME_SIZE_ERROR if number else ErrorCode.PROTOCOL_ERROR
            raise Broken(code, "RST_STREAM is malformed")
        stream = self.streams.pop(number, None)
        if stream is None:
            self._unknown(number)
            return
        if number > self._calm_at:  # opened and given up in one go; who waited may all give up at once
            self._idle()
        stream.stop()
        stream.cut(code_in(payload))
        self.room()

    def _settings(self, number: int, flags: int, payload: bytes) -> None:
        if number or (flags & ACK and payload):
            code = ErrorCode.PROTOCOL_ERROR if number else ErrorCode.FRAME_SIZE_ERROR
            raise Broken(code, "SETTINGS are malformed")
        self._idle()
        if flags & ACK:
            return
        before = self._peer_window
        for name, value in settings_in(payload):
            self._set(name, value)
        if self._peer_window != before:
            self._move_windows(self._peer_window - before)
        self.write(frame(SETTINGS, ACK, 0))
        if not self.settled:
            self.settled = True
            self.ready()
        self._send_waiting()
        self.room()  # it may take more streams than before

    def _move_windows(self, size: int) -> None:
        """Once for a frame, however often it names the window: each time costs a look at every stream."""
        self._idle(len(self.streams) // _STREAMS_A_GRAIN)
        for stream in self.streams.values():
            stream.grow(size)
            if stream.waiting and not stream.queued:
                stream.queued = True
                self._blocked.append(stream)

    def _set(self, name: int, value: int) -> None:
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > LARGEST_WINDOW:
                raise Broken(ErrorCode.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")
            self._peer_window = value
        elif name == Setting.MAX_FRAME_SIZE:
            if not SMALLEST_FRAME <= value <= LARGEST_FRAME:
                raise Broken(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
            self.largest_frame = value
        elif name == Setting.MAX_CONCURRENT_STREAMS:
            self.most_streams = value
        elif name == Setting.ENABLE_PUSH and (value > 1 or (value and self.client)):
            raise Broken(ErrorCode.PROTOCOL_ERROR, "a server cannot ask for pushes")

    # -- inside

    def _unknown(self, number: int) -> None:
        """A frame for a stream that is over is passed over; one that never began cannot be meant."""
        ours = number and bool(number & 1) == self.client
        if not number or (not ours and number > self.last_heard) or (ours and number > self.last_opened):
            raise Broken(ErrorCode.PROTOCOL_ERROR, f"a frame for stream {number}, which nobody has opened")
        self._idle()

    @property
    def last_opened(self) -> int:
        """The highest number of a stream of this side's making."""
        return 0

    def fail(self, stream: Stream, code: ErrorCode) -> None:
        """The other side has broken the rules on one stream. Raises Broken where it does so all the time."""
        self.reset(stream, code)
        stream.cut(code)
        self._idle()

    def _idle(self, count: int = 1) -> None:
        self._idle_frames += count
        if self._idle_frames > MOST_IDLE_FRAMES and not self.client:
            raise Broken(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")
        self._check_unread()

    def _check_unread(self) -> None:
        if self.paused and self._transport.get_write_buffer_size() > MOST_UNREAD:
            raise Broken(ErrorCode.ENHANCE_YOUR_CALM, "answers are asked for and not read")

    def _send_waiting(self) -> None:
        """A frame's bytes of each stream in turn, as long as there is room for any.

        A stream whose own window is used up leaves the queue and comes back when it grows: whoever lets many
        streams wait must not have them all looked at for each frame that moves none.
        """
        blocked = self._blocked
        while blocked and not self.paused and self.send_window > 0:
            stream = blocked.popleft()
            stream.queued = False
            before = self.send_window
            more = stream.send_some()
            self._turn -= before - self.send_window
            if more:
                stream.queued = True
                (blocked.append if self._turn <= 0 else blocked.appendleft)(stream)
            if not more or self._turn <= 0:
                self._turn = self.largest_frame
