"""Spans as OTLP's own bytes: an ExportTraceServiceRequest in protobuf, written without message objects.

OpenTelemetry's library makes an object of every attribute, and then bytes of these: several times the work,
on a thread that shares its core with the requests. Pure; it never knows how bytes are sent. Field numbers are
those of opentelemetry-proto 1 (`trace.proto`, `common.proto`, `trace_service.proto`).
"""

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import Final

from backends.protobuf_wire import FIXED32, FIXED64, LENGTH, VARINT, delimited, key, string, varint
from gateway.tracing.spans import Event, Span

_KINDS: Final = {"internal": 1, "server": 2, "client": 3}
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
"""SpanFlags: whether the parent is somebody else's is known, and it is."""
_SHORT: Final = tuple(varint(size) for size in range(1024))
_ids: Final = Struct("2s16s2s8s").pack
_times: Final = Struct("<sQsQ").pack
_at: Final = Struct("<sQ").pack
_double: Final = Struct("<sd").pack
_flags: Final = Struct("<2sI").pack

_TRACE_ID, _SPAN_ID = key(1, LENGTH) + varint(16), key(2, LENGTH) + varint(8)
_PARENT_ID, _NAME, _KIND = key(4, LENGTH) + varint(8), key(5, LENGTH), key(6, VARINT)
_START, _END, _FLAGS = key(7, FIXED64), key(8, FIXED64), key(16, FIXED32)
_UNSET, _ERROR = delimited(15, b""), delimited(15, key(3, VARINT) + varint(2))
_VALUE = key(2, LENGTH)
_STRING, _BOOL, _INT, _DOUBLE = key(1, LENGTH), key(2, VARINT), key(3, VARINT), key(4, FIXED64)
_TRUE, _FALSE, _NINE = _BOOL + b"\x01", _BOOL + b"\x00", varint(9)

_MOST_NAMES = 1024
_MOST_WORDS, _LONGEST_WORD = 4096, 32
"""Attributes kept as bytes, and the longest value that may be a word from a short list: ids are longer."""


class Wire:
    """Writes the spans of one program.

    resource:  attributes of the program itself
    scope:     name and version of what made the spans, and the schema of their attributes
    """

    def __init__(self, resource: Mapping[str, object], *, scope: tuple[str, str], schema: str) -> None:
        self._names: dict[str, bytes] = {}
        self._words: dict[tuple[str, str], bytes] = {}
        name, version = scope
        told = {key: value for key, value in resource.items() if isinstance(value, str | bool | int | float)}
        self._resource = delimited(1, self._attributes(key(1, LENGTH), told))
        self._scope = delimited(1, string(1, name) + string(2, version))
        self._schema = string(3, schema)

    def request(self, spans: Iterable[Span]) -> bytes:
        """All of them in one ExportTraceServiceRequest."""
        written = b"".join([delimited(2, self._span(span)) for span in spans])
        return delimited(1, self._resource + delimited(2, self._scope + written + self._schema))

    def _span(self, span: Span) -> bytes:
        parent = _PARENT_ID + span.parent.to_bytes(8) if span.parent else b""
        flags = _HAS_IS_REMOTE | _IS_REMOTE if span.remote and span.parent else _HAS_IS_REMOTE
        name = span.name.encode()
        return b"".join(
            (
                _ids(_TRACE_ID, span.trace_id.to_bytes(16), _SPAN_ID, span.span_id.to_bytes(8)),
                parent,
                _NAME + _size(len(name)) + name if name else b"",
                _KIND + _SHORT[_KINDS[span.kind]],
                _times(_START, span.start, _END, span.end),
                self._attributes(key(9, LENGTH), span.attributes),
                b"".join([delimited(11, self._event(event)) for event in span.events]),
                _ERROR if span.failed else _UNSET,
                _flags(_FLAGS, flags),
            )
        )

    def _event(self, event: Event) -> bytes:
        told = self._attributes(key(3, LENGTH), event.attributes)
        return _at(key(1, FIXED64), event.at) + string(2, event.name) + told

    def _attributes(self, field: bytes, told: Mapping[str, str | bool | int | float]) -> bytes:
        """KeyValue messages, each as one more `field`."""
        names, words = self._names, self._words
        parts: list[bytes] = []
        for name, value in told.items():
            if isinstance(value, str):
                parts += (field, words.get((name, value)) or self._word(name, value))
                continue
            head = names.get(name) or self._head(name)
            if isinstance(value, float):
                # nine bytes of content, the type before them
                parts += (field, _size(len(head) + 10), head, _NINE, _double(_DOUBLE, value))
                continue
            content = _INT + varint(value)  # of a bool, too, but for its type
            if isinstance(value, bool):
                content = _TRUE if value else _FALSE
            size = _size(len(content))
            parts += (field, _size(len(head) + len(size) + len(content)), head, size, content)
        return b"".join(parts)

    def _word(self, name: str, value: str) -> bytes:
        """A KeyValue of text with its size before it; the same few words come again and again."""
        text = value.encode()
        content = string(1, name) + delimited(2, _STRING + _size(len(text)) + text)
        written = _size(len(content)) + content
        if len(value) <= _LONGEST_WORD:
            if len(self._words) >= _MOST_WORDS:
                self._words.clear()
            self._words[name, value] = written
        return written

    def _head(self, name: str) -> bytes:
        """What stands before a value: its name, which is one of a few, and the key of the value."""
        if len(self._names) >= _MOST_NAMES:
            self._names.clear()
        head = self._names[name] = string(1, name) + _VALUE
        return head


def _size(size: int) -> bytes:
    return _SHORT[size] if size < 1024 else varint(size)
