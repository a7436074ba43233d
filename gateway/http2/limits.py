"""What one side of an HTTP/2 connection lets the other do. Figures only."""

from typing import NamedTuple


class Limits(NamedTuple):
    """What one side lets the other do.

    fields:   bytes of a section's fields (RFC 9113, 6.5.2); `made` gets no more of them
    window:   bytes of one stream that may arrive before they are taken
    shared:   the same of all streams together; they are taken as they come
    frame:    bytes of one frame
    streams:  at once, those of the other side's making
    """

    fields: int = 32 * 1024
    window: int = 2**20
    shared: int = 16 * 2**20
    frame: int = 64 * 1024
    streams: int = 4096


MOST_UNREAD = 4 * 2**20
"""Bytes that may wait for a side that does not read, beyond what its windows ask for."""
PAUSE_ABOVE = 256 * 1024
"""Bytes that wait for a side, above which no stream of it is sent more."""
