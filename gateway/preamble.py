"""Where an answer that is streamed really begins: what comes before its first output commits nobody.

Servers of language models open a stream at once, with an event that says who speaks or that the work was
taken on, and only then find out that they cannot do it. Sent to the client those bytes would rule out a
second attempt; held back for a moment they rule out nothing.

Reads server-sent events (WHATWG HTML, "Server-sent events") as far as needed to tell what an event is for.
Never changes a byte. Knows no backend, no client, and no time.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

import msgspec

from gateway.vocab import Headers

MOST_BYTES = 64 * 1024
"""More is not held: then the answer has begun, whatever it says."""
LONGEST_S = 3.0
"""Nor longer than this, counted from the head: a client may wait for a sign of life."""

_ERRORS = frozenset(("error", "response.failed", "response.error"))
_OPENING = frozenset(
    (
        "ping", "message_start", "content_block_start", "response.created", "response.queued",
        "response.in_progress", "response.output_item.added", "response.content_part.added",
    )
)  # fmt: skip
_FULL = ("rate_limit", "quota", "overloaded", "too_many_requests")
_BLAMES_REQUEST = (
    "invalid",
    "content_filter",
    "content_policy",
    "context_length",
    "not_found",
    "unsupported",
)
_QUIET = frozenset(("role", "index"))
"""Parts of a delta that are no output by themselves."""

_decode = msgspec.json.Decoder().decode


class Kind(Enum):
    """What an event is for."""

    OPENING = "opening"
    OUTPUT = "output"  # also an error that blames the request: that is its answer, wherever it is sent
    FULL = "full"  # the server pushes back: rate limits, quotas
    BROKE = "broke"  # the server says that it failed
    ERROR = "error"  # an error, and nobody says whose


def is_events(headers: Headers) -> bool:
    """Is the answer a stream of server-sent events that can be read?"""
    events = False
    for name, value in headers:
        if name == b"content-type":
            events = value.lower().startswith(b"text/event-stream")
        elif name == b"content-encoding":
            return False
    return events


class Preamble:
    """The beginning of one stream: `take` what comes until it says that it is over.

    events:  the bytes are server-sent events; else the first byte is output
    """

    __slots__ = ("_events", "_held", "_name", "_place", "kind")

    def __init__(self, *, events: bool) -> None:
        self._events = events
        self._held = bytearray()
        self._place = 0  # where the line begins that is not complete yet
        self._name = ""
        self.kind = Kind.OPENING
        """Of the event that ended it."""

    @property
    def held(self) -> bytes:
        """All that came so far."""
        return bytes(self._held)

    def take(self, data: bytes) -> bool:
        """More bytes. True when the answer has begun, or has failed."""
        self._held += data
        if not self._events:
            return bool(self._held)
        while (line := self._next_line()) is not None:
            self.kind = self._read(line)
            if self.kind is not Kind.OPENING:
                return True
        return len(self._held) > MOST_BYTES

    def _next_line(self) -> bytes | None:
        """A line ends with CR, LF or both; a CR at the very end may have its LF yet to come."""
        held, start = self._held, self._place
        ends = [end for end in (held.find(b"\n", start), held.find(b"\r", start)) if end >= 0]
        if not ends:
            return None
        end = min(ends)
        self._place = end + 1
        if held[end] == 0x0D:
            if end + 1 == len(held):
                self._place = start
                return None
            if held[end + 1] == 0x0A:
                self._place += 1
        return bytes(held[start:end])

    def _read(self, line: bytes) -> Kind:
        """A line of data is judged as it stands: one of several lines is no JSON, and counts as output."""
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            return kind_of(self._name, value)
        if field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif not line:
            self._name = ""
        return Kind.OPENING


def kind_of(name: str, said: bytes) -> Kind:
    """What an event is for, by its name and its data. What is not known for an opening is output."""
    if not said:
        return Kind.OPENING
    try:
        message = _decode(said)
    except (msgspec.DecodeError, RecursionError):
        message = None
    if not isinstance(message, dict):
        return Kind.ERROR if name in _ERRORS else Kind.OUTPUT
    kind = message.get("type")
    if message.get("error") or kind in _ERRORS or name in _ERRORS:
        return _whose(message)
    if kind in _OPENING:
        return Kind.OPENING
    choices = message.get("choices")
    if isinstance(choices, list) and all(map(_says_nothing, choices)):
        return Kind.OPENING
    return Kind.OUTPUT


def _whose(message: dict[str, Any]) -> Kind:
    """Whose fault an error is, as far as it says: by a status, or by the words that APIs use for theirs."""
    response = message.get("response")
    error = message.get("error") or (response.get("error") if isinstance(response, dict) else None) or message
    if not isinstance(error, dict):
        return Kind.ERROR
    said = [error.get(name) for name in ("code", "status", "type")]
    for status in said:
        if isinstance(status, int) and 400 <= status < 600:
            if status == 429:
                return Kind.FULL
            return Kind.OUTPUT if status < 500 else Kind.BROKE
    words = " ".join(word for word in said if isinstance(word, str))
    if any(word in words for word in _FULL):
        return Kind.FULL
    if any(word in words for word in _BLAMES_REQUEST):
        return Kind.OUTPUT
    return Kind.BROKE if "server" in words or "internal" in words else Kind.ERROR


def _says_nothing(choice: Any) -> bool:
    """A choice of a completion that carries no output yet."""
    if not isinstance(choice, dict) or choice.get("finish_reason"):
        return False
    delta = choice.get("delta")
    if isinstance(delta, dict):
        return not any(value for name, value in delta.items() if name not in _QUIET)
    return "text" in choice and not choice["text"]


class Opening:
    """Holds an answer's head and preamble back until `begin` is due: by output, or by time.

    begin:  sends the head and these bytes, once
    """

    __slots__ = ("_begin", "begun", "preamble")

    def __init__(self, preamble: Preamble, begin: Callable[[bytes], None]) -> None:
        self._begin = begin
        self.preamble = preamble
        self.begun = False

    def commit(self) -> None:
        """From now on there is no second attempt."""
        if not self.begun:
            self.begun = True
            self._begin(self.preamble.held)
