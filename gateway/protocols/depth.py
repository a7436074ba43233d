"""How deeply the JSON of a request is nested: counted before anything decodes it.

Decoders recurse, the ones behind the gateway too, and not all of them say no in time. Knows brackets and
strings, and leaves the rest of the syntax to the decoder.
"""

from collections.abc import Callable
from itertools import accumulate

from gateway.errors import BadCall

SHALLOWEST = 16
"""The least that can be configured: who has no more opening brackets need not ask."""
MOST = 64
"""Levels, where nothing else is said."""

Depth = Callable[[], int]
"""The limit of the moment."""

_STEPS = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")  # one level in, one level out, as signed bytes
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def most() -> int:
    """The default limit."""
    return MOST


def deeper_than(data: bytes, limit: int) -> bool:
    """Is this JSON nested deeper than so many levels?

    A body with at most `limit` opening brackets, which nearly all are, costs two counts. Of others the
    strings are left out, and the brackets that are left are added up.
    """
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")  # from then on a quote ends or begins a string
    steps = b"".join(data.split(b'"')[::2]).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(memoryview(steps).cast("b")), default=0) > limit


def check_depth(data: bytes, limit: Depth) -> None:
    """Raise BadCall where JSON is nested too deeply."""
    if deeper_than(data, most := limit()):
        raise BadCall(f"the JSON is nested too deeply; the limit is {most} levels")
