"""Fuzz targets: everything that turns an answer or a message into another form."""

from contextlib import suppress
from typing import Any

import msgspec

from backends.aws_event_stream import BadEventStream, EventReader
from backends.envelope import from_result, to_event
from backends.grpc_codec import error_message, from_grpc, from_http, to_grpc, to_http
from backends.json_members import inserted, members
from backends.load_report import from_field, from_metrics
from backends.sse import EventSplitter, EventTooLong
from gateway.errors import BackendBroke, BadCall
from gateway.vocab import HOP_BY_HOP, Call, WholeBody
from loadtests.fuzz.pieces import parted, ways
from loadtests.fuzz.target import Target

_INFER = b"/v2/models/m/infer"
_SIZE = b"inference-header-content-length"


class Envelope(Target):
    """A worker's result becomes an answer that cannot split a connection, or is refused; a call its event."""

    def __call__(self, data: bytes) -> None:
        """A result as JSON, or, where it is none, the target and fields of a call."""
        try:
            result: Any = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._event(data)
            return
        try:
            status, headers, body = from_result(result)
        except BackendBroke:
            return
        assert 200 <= status <= 599
        assert isinstance(body, bytes)
        for name, value in headers:
            assert name == name.lower()
            assert name not in HOP_BY_HOP
            assert not set(b"\r\n\0 :") & set(name)
            assert not set(b"\r\n\0") & set(value)

    def _event(self, data: bytes) -> None:
        target, rest = parted(data)
        rows = [row.partition(b":") for row in rest.split(b"\n")]
        call = Call(
            protocol="raw", operation="invoke", method=b"POST", target=b"/" + target, body=WholeBody(data),
            headers=[(name.lower(), value) for name, _, value in rows],
        )  # fmt: skip
        event = to_event(call, data)
        again = msgspec.json.decode(msgspec.json.encode(event))
        assert again["rawPath"] == event["rawPath"]
        assert "authorization" not in again["headers"]
        assert not any(name.startswith("x-overspill-") for name in again["headers"])


class GrpcCodec(Target):
    """Tensors between JSON and protocol buffers. The first line is how many bytes of the rest are JSON."""

    def __call__(self, data: bytes) -> None:
        """The same bytes as a message and as a body."""
        said, body = parted(data)
        fields = [(_SIZE, said)] if said else []
        with suppress(BadCall):
            target, headers, out = to_http(body)
            assert target.startswith(b"/v2/models/")
            assert not set(b"\r\n\0 ") & set(target)
            assert int(dict(headers)[_SIZE]) <= len(out)
        with suppress(BackendBroke):
            from_http(fields, body)
        with suppress(BackendBroke, BadCall):
            from_grpc(body, binary=bool(said))
        with suppress(BadCall):
            message = to_grpc(_INFER, fields, body).message
            to_http(message)  # what is written can be read
        assert len(error_message(body)) <= 2000


class EventStreams(Target):
    """Server-sent events and Amazon's framing: the same events however the bytes are split."""

    def __call__(self, data: bytes) -> None:
        """A stream."""
        for read in (_sse, _aws):
            whole = read([data])
            for pieces in ways(data):
                assert read(pieces) == whole


def _sse(pieces: list[bytes]) -> list[bytes] | None:
    splitter = EventSplitter(256)
    events: list[bytes] = []
    try:
        for piece in pieces:
            events += splitter.feed(piece)
        return [*events, *splitter.finish()]
    except EventTooLong:
        return None


def _aws(pieces: list[bytes]) -> list[Any] | None:
    reader = EventReader()
    events: list[Any] = []
    try:
        for piece in pieces:
            events += reader.feed(piece)
    except BadEventStream:
        return None
    return [*events, reader.partial]


class JsonMembers(Target):
    """A member put into JSON that is not decoded: what comes out is JSON, and has it."""

    def __call__(self, data: bytes) -> None:
        """A document."""
        try:
            document = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
            data.decode("utf-8")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        found = list(members(data))
        assert {each.name for each in found} == set(document), (found, document)
        if "zz" not in document:
            out = msgspec.json.decode(inserted(data, "zz", b"7"), type=dict[str, msgspec.Raw])
            assert bytes(out["zz"]) == b"7"
            assert len(out) == len(document) + 1


class Reports(Target):
    """What a server says of its load, in text that may be anything."""

    def __call__(self, data: bytes) -> None:
        """A page of metrics, or a field."""
        from_metrics(data)
        from_field(data)
