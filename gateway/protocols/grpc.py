"""KServe v2 over gRPC, `inference.GRPCInferenceService`: which model is asked what, and what a status means.

Knows the leaves and the protocol contract; it must never know a socket or the gRPC library. Of a message
only the fields that name the model are read, by walking the top level of the protocol buffer; tensors are
passed over. A message goes on as it came. Field numbers are those of `grpc_service.proto` (KServe v2,
Triton's common repository), of health checks those of `grpc/health/v1/health.proto`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

from gateway.errors import BackendError, BadCall, NotOffered, OverspillError, Refused, UnknownRoute
from gateway.protocols.base import Answer, HeaderReader, Protocol, Request, error_fields, error_text
from gateway.protocols.kserve import EXTENSIONS, NO_SHARED_MEMORY, REFUSED_AREAS, Fleet
from gateway.vocab import Call, Headers, Work

SERVICE = "inference.GRPCInferenceService"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
STREAM = f"/{SERVICE}/ModelStreamInfer"
"""The only method whose two sides are streams."""

STATUS_FIELD = b"grpc-status"
"""Field of an answer that carries its gRPC status code, where the HTTP status alone does not tell it."""

INVALID_ARGUMENT, INTERNAL, UNAVAILABLE = 3, 13, 14
_CODES = {
    400: INVALID_ARGUMENT,
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    405: 12,
    408: 4,
    409: 10,  # ABORTED
    413: 8,  # what gRPC itself answers to a message over the limit
    429: 8,  # RESOURCE_EXHAUSTED
    431: 8,
    499: 1,  # CANCELLED
    501: 12,  # UNIMPLEMENTED
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: 4,  # DEADLINE_EXCEEDED
}

_SHARED_MEMORY_KEY = b"shared_memory_region"
_UNREADABLE = "the message is not a protocol buffer of this method"


def code_of(status: int) -> int:
    """The gRPC status code for an answer of which only the HTTP status is known."""
    if status < 400:
        return 0
    return _CODES.get(status, INVALID_ARGUMENT if status < 500 else INTERNAL)


def code_of_error(error: OverspillError) -> int:
    """The gRPC status code of an error: 502 is UNAVAILABLE where the work did not start, else INTERNAL.

    Clients repeat what was UNAVAILABLE, and must not repeat what may have been done.
    """
    if isinstance(error, BackendError) and error.work is not Work.NOT_STARTED:
        return INTERNAL
    return code_of(error.status)


class _Method(NamedTuple):
    """One method of the service. `model` and `version` are field numbers in its request, 0 for none."""

    operation: str
    model: int = 1
    version: int = 2
    inference: bool = False
    stream: bool = False


_METHODS = {
    "ModelInfer": _Method("infer", inference=True),
    "ModelStreamInfer": _Method("stream_infer", inference=True, stream=True),
    "ModelMetadata": _Method("metadata"),
    "ModelConfig": _Method("config"),
    "ModelStatistics": _Method("stats"),
    "RepositoryIndex": _Method("index", model=0, version=0),
}
_REFUSED = {
    "RepositoryModelLoad": REFUSED_AREAS["repository"],
    "RepositoryModelUnload": REFUSED_AREAS["repository"],
    "TraceSetting": REFUSED_AREAS["trace"],
    "LogSettings": REFUSED_AREAS["logging"],
    **{
        f"{kind}SharedMemory{action}": NO_SHARED_MEMORY
        for kind in ("System", "Cuda")
        for action in ("Status", "Register", "Unregister")
    },
}
_LOCAL = ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady")

METHODS = frozenset(f"/{SERVICE}/{name}" for name in (*_METHODS, *_REFUSED, *_LOCAL)) | {HEALTH_CHECK}
"""Every method that is answered here; others are UNIMPLEMENTED."""


class Named(NamedTuple):
    """What a request says of its model."""

    model: str
    version: str


class Grpc(Protocol):
    """The gRPC data plane. A request's target is the RPC's method, its body the first message."""

    name: ClassVar[str] = "grpc"

    def __init__(self, fleet: Fleet, *, version: str = "") -> None:
        self._fleet = fleet
        self._metadata = b"".join(
            (
                _string(1, "overspill"),
                _string(2, version),
                *(_string(3, extension) for extension in EXTENSIONS),
            )
        )
        self._headers = HeaderReader()
        self._local: dict[str, Callable[[bytes], bytes]] = {
            "ServerLive": lambda _: _flag(self._fleet.live()),
            "ServerReady": lambda _: _flag(self._fleet.ready()),
            "ServerMetadata": lambda _: self._metadata,
            "ModelReady": self._model_ready,
        }

    def claims(self, path: bytes) -> bool:
        """Every path: gRPC has its own port."""
        return True

    async def read(self, request: Request) -> Call | Answer:
        """See `Protocol.read`. Answers health, readiness and server metadata by itself."""
        target = request.target.decode("ascii", "replace")
        message = request.body.whole()
        if message is None:
            message = await request.body.prefix(request.max_body)
        if target == HEALTH_CHECK:
            return Answer(200, [], self._health(message))
        name = target.rpartition("/")[2]
        if (answer := self._local.get(name)) is not None:
            return Answer(200, [], answer(message), self._seen_by(name, message))
        if (why := _REFUSED.get(name)) is not None:
            raise Refused(why)
        method = _METHODS.get(name)
        if method is None:
            raise NotOffered(f"{SERVICE} has no method {name!r} here")
        named = _named(message, method)
        if method.inference:
            _check_infer(message, named)
        call = Call(
            protocol="grpc",
            operation=method.operation,
            method=b"POST",
            target=request.target,
            headers=request.headers,
            body=request.body,
            model=named.model,
            version=named.version,
            inference=method.inference,
            stream=method.stream,
            arrived=request.arrived,
            request_id=request.request_id,
            traceparent=request.traceparent,
        )
        self._headers.take(request.headers, call)
        if not named.model:
            call.route_hint = self._only_route(name)
        return call

    def follows(self, first: bytes) -> Callable[[bytes], None]:
        """What checks the messages of a stream after its first one. The check raises BadCall, Refused."""
        model = _named(first, _METHODS["ModelStreamInfer"]).model

        def check(message: bytes) -> None:
            named = _named(message, _METHODS["ModelStreamInfer"])
            if named.model != model:
                raise BadCall(
                    f"this stream is for the model {model!r}, a message of it names {named.model!r};"
                    " open one stream per model",
                    field="model_name",
                )
            _check_infer(message, named)

        return check

    def error(self, error: OverspillError) -> tuple[int, Headers, bytes]:
        """The status for the record, the gRPC code and when to come back; the text is the status message."""
        fields = [field for field in error_fields(error) if field[0] == b"retry-after"]
        fields.append((STATUS_FIELD, b"%d" % code_of_error(error)))
        return error.status, fields, error_text(error).encode()

    def stream_error(self, error: OverspillError) -> bytes:
        """Nothing: the status of a stream comes at its end."""
        return b""

    # -- answers of the gateway itself

    def _model_ready(self, message: bytes) -> bytes:
        return _flag(self._fleet.model_ready(*_named(message, _METHODS["ModelMetadata"])))

    def _seen_by(self, name: str, message: bytes) -> Callable[[Sequence[str]], Answer] | None:
        if name != "ModelReady":
            return None

        def seen_by(routes: Sequence[str]) -> Answer:
            model, _ = _named(message, _METHODS["ModelMetadata"])
            usable = self._fleet.route_of("kserve", model) in routes
            return Answer(200, [], self._model_ready(message) if usable else _flag(value=False))

        return seen_by

    def _health(self, message: bytes) -> bytes:
        service = _texts(message, (1,))[0]
        if service not in {"", SERVICE}:
            raise UnknownRoute(f"no service {service!r} here; ask for {SERVICE}")
        return b"\x08\x01" if self._fleet.ready() else b"\x08\x02"  # SERVING, NOT_SERVING

    def _only_route(self, method: str) -> str:
        route = self._fleet.sole_route()
        if not route:
            raise NotOffered(
                f"{method} of all models at once is not offered: several routes serve models here"
            )
        return route


# -- protocol buffers (protobuf.dev, "Encoding"): as much of it as names a model


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The number at `place`, and where it ends."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise BadCall(_UNREADABLE)


def delimited(message: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each length-delimited field between two places. Raises BadCall.

    Other fields are passed over. Nothing is copied, so it takes no longer for large tensors.
    """
    place = start
    try:
        while place < end:
            key = message[place]
            if key < 0x80:
                place += 1
            else:
                key, place = _varint(message, place)
            kind = key & 7
            if kind == 2:
                size = message[place]
                if size < 0x80:
                    place += 1
                else:
                    size, place = _varint(message, place)
                if place + size > end:
                    raise BadCall(_UNREADABLE)
                yield key >> 3, place, place + size
                place += size
            elif kind == 0:
                _, place = _varint(message, place)
            elif kind in {1, 5}:
                place += 8 if kind == 1 else 4
            else:
                raise BadCall(_UNREADABLE)
    except IndexError:
        raise BadCall(_UNREADABLE) from None
    if place != end:
        raise BadCall(_UNREADABLE)


def _texts(message: bytes, numbers: tuple[int, ...]) -> list[str]:
    """String fields by number, "" where absent. Of a field that comes twice the last counts, as it must:
    a server that reads the message again must not see another model.
    """
    found = dict.fromkeys(numbers, "")
    for number, start, end in delimited(message, 0, len(message)):
        if number in found:
            try:
                found[number] = message[start:end].decode("utf-8")
            except UnicodeDecodeError:
                raise BadCall(f"field {number} of the request is not UTF-8") from None
    return list(found.values())


def _named(message: bytes, method: _Method) -> Named:
    if not method.model:
        return Named("", "")
    model, version = _texts(message, (method.model, method.version))
    if version and not (version.isascii() and version.isdigit()):
        raise BadCall("the model version must be a number", field="model_version")
    return Named(model, version)


def _check_infer(message: bytes, named: Named) -> None:
    """No region of shared memory, and a model."""
    if not named.model:
        raise BadCall("the request names no model", field="model_name")
    if message.find(_SHARED_MEMORY_KEY) < 0:
        return
    # The words may be a client's text: what counts is a parameter of an input (5) or an output (6).
    for number, start, end in delimited(message, 0, len(message)):
        if number not in {5, 6}:
            continue
        parameters = 4 if number == 5 else 2
        for part, left, right in delimited(message, start, end):
            if part == parameters and any(
                entry == 1 and message[begin:stop] == _SHARED_MEMORY_KEY
                for entry, begin, stop in delimited(message, left, right)
            ):
                raise Refused(NO_SHARED_MEMORY)


def _string(number: int, text: str) -> bytes:
    data = text.encode()
    assert len(data) < 128, "one byte holds the length"
    return bytes((number << 3 | 2, len(data))) + data


def _flag(value: bool) -> bytes:
    """A message whose field 1 is a bool; proto3 leaves out what is false."""
    return b"\x08\x01" if value else b""
