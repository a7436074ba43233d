"""Writes AWS's binary event streams.

Pure. Must never know who reads them: it is written from AWS's description of the encoding, so that it is a
check on whoever decodes them.
"""

from collections.abc import Mapping
from zlib import crc32


def event(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One event with text headers."""
    block = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + len(value.encode()).to_bytes(2, "big") + value.encode()
        for name, value in headers.items()
    )
    total = 12 + len(block) + len(payload) + 4
    lengths = total.to_bytes(4, "big") + len(block).to_bytes(4, "big")
    message = lengths + crc32(lengths).to_bytes(4, "big") + block + payload
    return message + crc32(message).to_bytes(4, "big")


def payload_chunk(data: bytes) -> bytes:
    """A piece of a function's answer."""
    headers = {
        ":event-type": "PayloadChunk",
        ":content-type": "application/octet-stream",
        ":message-type": "event",
    }
    return event(headers, data)


def invoke_complete(document: bytes) -> bytes:
    """The end of an invocation; `document` is JSON."""
    headers = {
        ":event-type": "InvokeComplete",
        ":content-type": "application/json",
        ":message-type": "event",
    }
    return event(headers, document)
