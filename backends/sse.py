"""Server-sent events out of bytes in any pieces: only the data of each event, which is all we read.

Knows nothing. Lines end with LF or CRLF; a line that ends with CR alone, which the standard also
allows, is not told apart: no server we read from writes it.
"""

LONGEST_EVENT = 8 * 2**20
"""The most bytes held for one event."""


class EventTooLong(ValueError):
    """An event is over the limit; nothing sensible can follow."""


class EventSplitter:
    """Feed it bytes, take whole events."""

    def __init__(self, limit: int = LONGEST_EVENT) -> None:
        self._limit = limit
        self._line = b""
        self._data: list[bytes] = []
        self._held = 0  # bytes of these, and one for each

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that are complete now. Raises EventTooLong."""
        *lines, self._line = (self._line + data).split(b"\n")
        events: list[bytes] = []
        for line in lines:
            self._take(line, events)
        self._bound(self._line)
        return events

    def finish(self) -> list[bytes]:
        """The data of an event whose closing blank line never came: whole or cut off, the reader can tell."""
        events: list[bytes] = []
        self._take(self._line, events)
        self._take(b"", events)
        self._line = b""
        return events

    def _bound(self, line: bytes) -> None:
        if len(line) + self._held > self._limit:  # the same for a whole line as for one that comes in pieces
            raise EventTooLong(f"an event has more than {self._limit} bytes")

    def _take(self, line: bytes, events: list[bytes]) -> None:
        self._bound(line)
        line = line.removesuffix(b"\r")
        if line.startswith(b"data:"):
            data = line[5:].removeprefix(b" ")
            self._data.append(data)
            self._held += len(data) + 1
        elif not line and self._data:
            events.append(b"\n".join(self._data))
            self._data.clear()
            self._held = 0
