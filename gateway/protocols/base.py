"""The protocol contract: bytes to Call, errors to bytes, and what all protocols read in the same way.

Knows the leaves only. A protocol is pure: it opens nothing, sends nothing, reads no clock, and the
only thing it ever waits for is the request's own body. It never learns which route or backend a call
takes; whatever is wrong with a request it says with a BadCall, before any slot is taken.

Three rules hold for every protocol:

- A target is refused rather than repaired: two readers of one odd path must not see two paths.
- Only end-to-end fields go on (`HeaderReader`). The gateway's own are read here and end here.
- What repeats is parsed once: targets and field names are remembered in bounded tables of the instance.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import ClassVar, NamedTuple, TypeVar
from typing import Protocol as Shape
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.errors import BadCall, MethodNotAllowed, OverspillError, Unauthorised, UnknownRoute
from gateway.kept_fields import KeptFields
from gateway.vocab import HOP_BY_HOP, Body, Call, Headers

T = TypeVar("T")

JSON = (b"content-type", b"application/json")
"""The field that says so."""

PRIORITIES = frozenset((b"critical", b"default", b"best_effort"))
"""Values of `x-overspill-priority`."""


class Request(Shape):
    """One request as the listener hands it over.

    Names of fields are lower-case, in wire order and without repair; `arrived` is on the monotonic
    clock; `max_body` is the most bytes that may be read into memory.
    """

    @property
    def method(self) -> bytes: ...
    @property
    def target(self) -> bytes: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def body(self) -> Body: ...
    @property
    def request_id(self) -> str: ...
    @property
    def traceparent(self) -> str: ...
    @property
    def arrived(self) -> float: ...
    @property
    def max_body(self) -> int: ...


class Answer(NamedTuple):
    """What the gateway answers by itself. `content-length` is left to the listener.

    seen_by:  the same for a caller who may use these routes only; None: it is the same for everybody
    """

    status: int
    headers: Headers
    body: bytes
    seen_by: "Callable[[Sequence[str]], Answer] | None" = None


class Target(NamedTuple):
    """A request target in origin form.

    path:      up to the query, in wire form
    query:     the query with its `?`, "" without one
    segments:  the path's segments, percent-decoded; `/a/b` is ("a", "b")
    """

    path: bytes
    query: bytes
    segments: tuple[str, ...]


# -- targets

_REMEMBERED = 1024
_LONGEST_REMEMBERED = 256

# Printable ASCII without space, `#` (fragments never go on the wire) and `\` (some servers read it as `/`).
_TARGET_BYTES = bytes(byte for byte in range(0x21, 0x7F) if byte not in b"#\\")
_HEX = b"0123456789abcdefABCDEF"


def remember(table: dict[bytes, T], key: bytes, value: T) -> T:
    """Keep `value` for the next request with this key; a full table starts anew. Returns `value`."""
    if len(key) <= _LONGEST_REMEMBERED:
        if len(table) >= _REMEMBERED:
            table.clear()
        table[key] = value
    return value


def parse_target(target: bytes, *, slash_in_segment: bool = False) -> Target:
    """Split an origin-form target (RFC 9112 section 3.2.1). Raises BadCall.

    Refused: other forms, control and non-ASCII bytes, fragments, broken percent-encoding, dot
    segments and (unless `slash_in_segment`) encoded slashes, which servers are known to disagree on.
    """
    if not target.startswith(b"/"):
        raise BadCall("the request target must be a path that begins with /")
    if target.translate(None, _TARGET_BYTES):
        raise BadCall("the request target holds a character that must be percent-encoded")
    path, mark, query = target.partition(b"?")
    if b"%" in query:
        _check_percent(query)
    text = path.decode("ascii")
    parts = text[1:].split("/")
    if "%" in text:
        _check_percent(path)
        parts = [_decode(part) for part in parts]
    for part in parts:
        if part in {".", ".."}:
            raise BadCall("the request path must not hold . or .. segments")
        if "\\" in part or ("/" in part and not slash_in_segment):
            raise BadCall("the request path must not hold an encoded slash")
    return Target(path, mark + query, tuple(parts))


def _check_percent(text: bytes) -> None:
    for piece in text.split(b"%")[1:]:
        if len(piece) < 2 or piece[0] not in _HEX or piece[1] not in _HEX:
            raise BadCall("the request target holds a % that is not followed by two hex digits")


def _decode(part: str) -> str:
    try:
        text = unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        raise BadCall("the request path is not UTF-8 once percent-decoded") from None
    if not text.isprintable():
        raise BadCall("the request path must not hold encoded control characters")
    return text


# -- header fields

_KEEP, _NOTE, _DROP, _CONNECTION, _DEADLINE, _PRIORITY, _KEY = range(7)

_FATES: tuple[tuple[bytes, int], ...] = (
    *((name, _DROP) for name in HOP_BY_HOP),
    *((name, _DROP) for name in (b"host", b"content-length", b"expect")),  # belong to this connection
    (b"authorization", _DROP),  # is for the gateway; a backend has credentials of its own
    # Without it every backend sends the plain bytes, so that a spilled answer equals a warm one.
    (b"accept-encoding", _DROP),
    (b"x-request-id", _DROP),  # the backend adds both anew from the call
    (b"traceparent", _DROP),
    (b"connection", _CONNECTION),
    (b"x-overspill-deadline-ms", _DEADLINE),
    (b"x-overspill-priority", _PRIORITY),
    (b"idempotency-key", _KEY),  # is passed on too: a backend may know what to do with it
)
_GATEWAY_ONLY = (b"x-overspill-", b"proxy-")
_PLAIN_CONNECTION = frozenset((b"keep-alive", b"close", b"Keep-Alive", b"Close", b""))


class _Fates(dict[bytes, int]):
    """Field name -> what becomes of it; a name is classified when it is first seen."""

    def __init__(self, note: Collection[bytes]) -> None:
        self._fixed = {**dict(_FATES), **dict.fromkeys(note, _NOTE)}
        super().__init__(self._fixed)

    def __missing__(self, name: bytes) -> int:
        fate = _DROP if name.startswith(_GATEWAY_ONLY) else _KEEP
        if len(self) >= _REMEMBERED:
            self.clear()
            self.update(self._fixed)
        if len(name) <= _LONGEST_REMEMBERED:
            self[name] = fate
        return fate


class HeaderReader:
    """Takes a call's fields from the request's in one pass.

    `note` names fields that the protocol wants to see; they go on all the same.
    """

    def __init__(self, note: Collection[bytes] = ()) -> None:
        self._fates = _Fates(note)

    def take(self, headers: Headers, call: Call) -> Sequence[tuple[bytes, bytes]]:
        """Set the call's headers, deadline and priority; returns the noted fields. Raises BadCall."""
        if type(headers) is KeptFields and (known := headers.known.get(self)) is not None:
            call.headers = known
            return ()
        kept: Headers = []
        noted: list[tuple[bytes, bytes]] | None = None
        plain = True  # nothing is said but the fields that go on
        fates = self._fates
        for field in headers:
            fate = fates[field[0]]
            if fate == _KEEP:
                kept.append(field)
            elif fate == _NOTE:
                kept.append(field)
                if noted is None:
                    noted = []
                noted.append(field)
            elif fate == _CONNECTION:
                if field[1] not in _PLAIN_CONNECTION:
                    return self.take(_without_named(headers), call)
            elif fate == _DEADLINE:
                plain = False
                _take_deadline(field[1], call)
            elif fate == _PRIORITY:
                if field[1] not in PRIORITIES:
                    raise BadCall("x-overspill-priority must be critical, default or best_effort")
                call.priority = field[1].decode("ascii")
                plain = False
            elif fate == _KEY:
                if call.idempotency_key:
                    raise BadCall("a request has one idempotency-key at most", field="idempotency-key")
                call.idempotency_key = field[1] or b" "  # an empty one is refused later, as no key
                kept.append(field)
                plain = False
        if plain and noted is None and type(headers) is KeptFields:
            kept = KeptFields(kept)
            headers.keep(self, kept)
        call.headers = kept
        return noted or ()


def _without_named(headers: Headers) -> Headers:
    """The fields less `Connection` and all that it names (RFC 9110 section 7.6.1)."""
    named = {b"connection"}
    for name, value in headers:
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
    return [field for field in headers if field[0] not in named]


def _take_deadline(value: bytes, call: Call) -> None:
    # float() alone would take inf, nan, 1_0 and signs.
    if len(value) > 15 or not value.replace(b".", b"", 1).isdigit() or not (milliseconds := float(value)):
        raise BadCall("x-overspill-deadline-ms must be a positive number of milliseconds, like 250")
    deadline = call.arrived + milliseconds / 1000
    call.deadline = min(call.deadline, deadline)
    call.deadline_is_clients = True


# -- bodies


def check_utf8(data: bytes) -> None:
    """JSON between systems is UTF-8 (RFC 8259 section 8.1); the fast decoders do not look. Raises BadCall."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadCall(f"the JSON is not UTF-8 (byte {error.start})") from None


def decode(decoder: msgspec.json.Decoder[T], data: bytes, what: str) -> T:
    """Decode JSON and check all of its syntax. Raises BadCall: it says what is wrong, and where."""
    if not data.isascii():
        check_utf8(data)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        place = str(error).partition(" - at `$.")[2]
        raise BadCall(f"{what}: {error}", field=place.rstrip("`")) from None
    except msgspec.DecodeError as error:
        raise BadCall(f"malformed JSON in the {what}: {error}") from None
    except RecursionError:
        raise BadCall(f"malformed JSON in the {what}: it is nested too deeply") from None


def header_int(value: bytes, name: str) -> int:
    """A field value that must be a plain decimal. Raises BadCall."""
    if not value.isdigit() or len(value) > 18:
        raise BadCall(f"{name} must be a plain decimal number")
    return int(value)


# -- errors


def error_fields(error: OverspillError) -> Headers:
    """Fields of every JSON error answer: its type, what would be allowed, when to come back."""
    fields: Headers = [JSON]
    if isinstance(error, MethodNotAllowed) and error.allow:
        fields.append((b"allow", error.allow.encode("ascii")))
    if isinstance(error, Unauthorised):
        fields.append((b"www-authenticate", error.challenge.encode("ascii")))
    if error.retry_after is not None or error.status in {429, 503, 504}:
        seconds = error.retry_after if error.retry_after is not None else 1.0
        fields.append((b"retry-after", b"%d" % max(1, math.ceil(seconds))))
    return fields


def error_text(error: OverspillError) -> str:
    """What the client is told; never empty."""
    return str(error) or error.word.replace("_", " ")


class Protocol(ABC):
    """One wire protocol."""

    name: ClassVar[str]

    @abstractmethod
    def claims(self, path: bytes) -> bool:
        """Is this path, up to its query, written in this protocol?"""

    @abstractmethod
    async def read(self, request: Request) -> Call | Answer:
        """Read one request. Waits for nothing but its body. Raises BadCall, and what its body raises."""

    @abstractmethod
    def error(self, error: OverspillError) -> tuple[int, Headers, bytes]:
        """An error in the protocol's own shape: status, fields, body."""

    @abstractmethod
    def stream_error(self, error: OverspillError) -> bytes:
        """The event that says so inside a stream of server-sent events that has begun."""


class Protocols:
    """All protocols of the listener, told apart by the first part of the path.

    `fallback` answers for paths that belong to none.
    """

    def __init__(self, protocols: Sequence[Protocol], *, fallback: Protocol) -> None:
        self._protocols = tuple(protocols)
        self._fallback = fallback
        self._known: dict[bytes, Protocol] = {}

    def read(self, request: Request) -> Awaitable[Call | Answer]:
        """Read one request. Raises BadCall at once or when awaited."""
        target = request.target
        protocol = self._known.get(target)
        if protocol is None:
            protocol = self._claimed(target)
            if protocol is None:
                parse_target(target)
                raise UnknownRoute("no such path: the gateway serves /v2/…, /v1/… and /invoke/ROUTE/…")
            remember(self._known, target, protocol)
        return protocol.read(request)

    def error(self, target: bytes, error: OverspillError) -> tuple[int, Headers, bytes]:
        """An error in the shape that the client of this target expects."""
        return (self._claimed(target) or self._fallback).error(error)

    def stream_error(self, target: bytes, error: OverspillError) -> bytes:
        """The error event for a stream that was asked for with this target.

        It begins with blank lines, which say nothing by themselves: a stream may have been cut in the middle
        of an event, and what followed would be taken for more of it.
        """
        event = (self._claimed(target) or self._fallback).stream_error(error)
        return event and b"\n\n" + event

    def _claimed(self, target: bytes) -> Protocol | None:
        path = target.partition(b"?")[0]
        for protocol in self._protocols:
            if protocol.claims(path):
                return protocol
        return None
