"""The frames of HTTP/2 (RFC 9113, sections 4, 6 and 7) as bytes. Knows no state of a connection."""

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (3.4)."""

HEAD = struct.Struct(">HBBBL")
"""The first nine bytes of a frame: its length as upper 16 and lower 8 bits, type, flags, stream."""
HEAD_SIZE = 9
WINDOW = 65535
"""Bytes of a window before anybody has said otherwise, the connection's included (6.9.2)."""
LARGEST_WINDOW = 2**31 - 1
SMALLEST_FRAME = 16384
LARGEST_FRAME = 2**24 - 1
STREAM_BITS = 0x7FFFFFFF

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

_PRIORITY_SIZE = 5
_PAIR = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")


class Setting(IntEnum):
    """Names of settings (6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """Why a stream or a connection ended (7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Broken(Exception):
    """The other side broke the protocol: the connection ends with this code (5.4.1)."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


def head(size: int, kind: int, flags: int, stream: int) -> bytes:
    """The first nine bytes of a frame with a payload of that size."""
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return head(len(payload), kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """What this side asks of the other."""
    return frame(SETTINGS, 0, 0, b"".join(_PAIR.pack(*each) for each in values.items()))


def settings_in(payload: bytes) -> list[tuple[int, int]]:
    """Names and values, known or not. Raises Broken."""
    if len(payload) % _PAIR.size:
        raise Broken(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS are not pairs of a name and a value")
    return list(_PAIR.iter_unpack(payload))


def window_update(stream: int, size: int) -> bytes:
    """So many bytes more may come: on a stream, or on the connection (0)."""
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(size))


def reset(stream: int, code: ErrorCode) -> bytes:
    """The end of a stream before its time."""
    return frame(RST_STREAM, 0, stream, _NUMBER.pack(code))


def goaway(last: int, code: ErrorCode, text: bytes = b"") -> bytes:
    """No stream above `last` was or will be looked at."""
    return frame(GOAWAY, 0, 0, _NUMBER.pack(last) + _NUMBER.pack(code) + text)


def unpadded(payload: bytes) -> bytes:
    """The content of a frame that is padded. Raises Broken."""
    if not payload or payload[0] >= len(payload):
        raise Broken(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def section_in(number: int, flags: int, payload: bytes) -> bytes:
    """The part of a field section in HEADERS that may be padded and tell a priority. Raises Broken."""
    if flags & PADDED:
        payload = unpadded(payload)
    if not flags & PRIORITISED:
        return payload
    check_priority(number, payload[:_PRIORITY_SIZE])
    return payload[_PRIORITY_SIZE:]


def check_priority(number: int, payload: bytes) -> None:
    """Hold a priority against its form; nobody heeds it (5.3.2). Raises Broken."""
    if len(payload) != _PRIORITY_SIZE:
        raise Broken(ErrorCode.FRAME_SIZE_ERROR, "a priority has five bytes")
    if not number or number_in(payload) == number:
        raise Broken(ErrorCode.PROTOCOL_ERROR, "a priority of no stream, or of one that depends on itself")


def number_in(payload: bytes, place: int = 0) -> int:
    """The 31 bits of a window's growth or of a stream's number. Raises Broken."""
    return code_in(payload, place) & STREAM_BITS


def code_in(payload: bytes, place: int = 0) -> int:
    """The 32 bits of an error's code. Raises Broken."""
    if len(payload) < place + _NUMBER.size:
        raise Broken(ErrorCode.FRAME_SIZE_ERROR, "a frame is too short for its type")
    number: int = _NUMBER.unpack_from(payload, place)[0]
    return number


def named(code: int) -> str:
    """An error's code as the RFC writes it."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code}"
