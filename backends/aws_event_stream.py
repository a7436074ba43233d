"""AWS's binary event streams (`application/vnd.amazon.eventstream`): bytes in any pieces, whole events out.

Pure. It must never know a service or what its events mean.

Wire facts (AWS SDK documentation, "Event stream encoding"), all numbers big-endian:

    u32 length of the whole event    u32 length of its headers    u32 CRC-32 of these eight bytes
    headers    payload    u32 CRC-32 of everything before
    a header is: u8 length and text of its name, u8 type, value; type 7 is text with a u16 length
"""

import struct
from typing import NamedTuple
from zlib import crc32

LONGEST_EVENT = 25 * 2**20
"""Most bytes of one event: 24 MiB of payload and 128 KiB of headers are allowed."""

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_U16 = struct.Struct(">H")
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}  # bytes of a value, by its type
_COUNTED = (6, 7)  # bytes and text, with their length ahead
_TEXT = 7


class BadEventStream(ValueError):
    """The bytes are no event stream, or were damaged; nothing sensible can follow."""


class Event(NamedTuple):
    """One event: its text headers (`:event-type`, `:message-type`, …), and its payload."""

    headers: dict[str, str]
    payload: bytes


class EventReader:
    """Feed it bytes, take whole events."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def partial(self) -> bool:
        """Whether an event has begun that is not complete yet."""
        return bool(self._held)

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete now. Raises BadEventStream."""
        self._held += data
        events: list[Event] = []
        while len(self._held) >= _PRELUDE.size:
            total, of_headers, sealed = _PRELUDE.unpack_from(self._held)
            if crc32(self._held[:8]) != sealed:
                raise BadEventStream("an event's prelude is damaged")
            if not _PRELUDE.size + of_headers + _CRC.size <= total <= LONGEST_EVENT:
                raise BadEventStream("an event's lengths contradict each other")
            if len(self._held) < total:
                break
            events.append(_event(bytes(self._held[:total]), of_headers))
            del self._held[:total]
        return events


def _event(data: bytes, of_headers: int) -> Event:
    if crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise BadEventStream("an event is damaged")
    end = _PRELUDE.size + of_headers
    try:
        headers = _headers(data[_PRELUDE.size : end])
    except (struct.error, IndexError, KeyError, UnicodeDecodeError):
        raise BadEventStream("an event's headers cannot be read") from None
    return Event(headers, data[end : -_CRC.size])


def _headers(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    at = 0
    while at < len(data):
        name_end = at + 1 + data[at]
        name = data[at + 1 : name_end].decode("utf-8")
        kind = data[name_end]
        at = name_end + 1
        if kind in _COUNTED:
            size = _U16.unpack_from(data, at)[0]
            at += _U16.size
        else:
            size = _FIXED[kind]
        if at + size > len(data):
            raise BadEventStream("an event's header is longer than all its headers")
        if kind == _TEXT:
            headers[name] = data[at : at + size].decode("utf-8")
        at += size
    return headers
