"""How deeply the JSON of a request is nested: counted before anything decodes it.

Decoders recurse, the ones behind the gateway too, and not all of them say no in time. Knows brackets and
strings, and leaves the rest of the syntax to the decoder.
"""

import asyncio
from collections.abc import Callable, Iterator
from itertools import accumulate

from gateway.errors import BadCall

SHALLOWEST = 16
"""The least that can be configured: who has no more opening brackets need not ask."""
MOST = 64
"""Levels, where nothing else is said."""
SLICE = 64 * 1024
"""Bytes that are looked at in one go: a few milliseconds, whatever they are."""

Depth = Callable[[], int]
"""The limit of the moment."""

_ALIKE = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")  # one level in, one level out, as signed bytes
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_INNERMOST = 4
"""So many levels are taken away from the inside before the brackets are added up one by one."""


def most() -> int:
    """The default limit."""
    return MOST


def looks(data: bytes, limit: int) -> Iterator[bool]:
    """For one slice of the JSON after the other: is it nested deeper than so many levels by then?

    Ends with the first True, so that who begins with a million brackets is not read to the end.
    """
    begin = level = inside = 0
    while begin < len(data):
        piece = data[begin : begin + SLICE]
        begin += SLICE
        if b"\\" in piece:
            if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # what the last one escapes belongs to it
                piece += data[begin : begin + 1]
                begin += 1
            # From then on a quote ends or begins a string.
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        brackets = b"".join(parts[inside::2]).translate(_ALIKE, _NOT_BRACKETS)
        inside ^= len(parts) % 2 == 0
        deep = _climbs(brackets, limit - level)
        yield deep
        if deep:
            return
        level += 2 * brackets.count(b"[") - len(brackets)


def _climbs(brackets: bytes, limit: int) -> bool:
    """Do these ever open so many more than they close? The common shapes cost a few passes and no sum."""
    rest = brackets
    for taken in range(_INNERMOST):
        if taken + rest.count(b"[") <= limit:
            return False
        rest = rest.replace(b"[]", b"")
    return max(accumulate(memoryview(brackets.translate(_STEPS)).cast("b")), default=0) > limit


def deeper_than(data: bytes, limit: int) -> bool:
    """Is this JSON nested deeper than so many levels?"""
    return any(looks(data, limit))


async def check_depth(data: bytes, limit: Depth) -> None:
    """Raise BadCall where JSON is nested too deeply. After a slice of a long one others have their turn."""
    most = limit()
    if len(data) <= SLICE and data.count(b"[") + data.count(b"{") <= most:
        return  # nearly all: two counts
    for deep in looks(data, most):
        if deep:
            raise BadCall(f"the JSON is nested too deeply; the limit is {most} levels")
        if len(data) > SLICE:
            await asyncio.sleep(0)
