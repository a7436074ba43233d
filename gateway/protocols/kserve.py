"""KServe v2 REST with Triton's extensions: which model is asked what, and can the request be right?

Knows the leaves and the protocol contract. Tensors are never decoded: the URL names the model, and of
a body only the JSON part is checked, because Triton answers malformed JSON with 500 and a rented
backend would bill for it. The grammar is the one in Triton's `src/http_server.cc`.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple
from typing import Protocol as Shape

import msgspec

from gateway.errors import BadCall, MethodNotAllowed, NotOffered, OverspillError, Refused, UnknownRoute
from gateway.protocols.base import (
    JSON,
    Answer,
    HeaderReader,
    Protocol,
    Request,
    Target,
    decode,
    error_fields,
    error_text,
    header_int,
    parse_target,
    remember,
)
from gateway.protocols.depth import SHALLOWEST, SLICE, Depth, check_depth, most
from gateway.vocab import Call, Headers

_LENGTH_FIELD = b"inference-header-content-length"

EXTENSIONS = (
    "classification", "schedule_policy", "model_configuration", "binary_tensor_data", "parameters",
    "statistics", "generate",
)  # fmt: skip
"""Triton's protocol extensions that work through the gateway, as server metadata names them."""

NO_SHARED_MEMORY = "shared memory is not offered: send the tensors in the request, as JSON or binary data"
REFUSED_AREAS = {
    "systemsharedmemory": NO_SHARED_MEMORY,
    "cudasharedmemory": NO_SHARED_MEMORY,
    "repository": "repository control is not offered here: load and unload models on each Triton server",
    "trace": "trace settings are not offered here: set them on each Triton server",
    "logging": "log settings are not offered here: set them on each Triton server",
}
_QUESTIONS = frozenset(("config", "stats"))
_WORK = frozenset(("infer", "generate", "generate_stream"))


class Fleet(Shape):
    """What the gateway knows about its backends without asking them."""

    def live(self) -> bool:
        """The gateway runs."""
        ...

    def ready(self) -> bool:
        """Calls can be served."""
        ...

    def model_ready(self, model: str, version: str) -> bool:
        """Some backend of the model's route can take calls; False for unknown models."""
        ...

    def route_of(self, protocol: str, model: str) -> str | None:
        """Name of the model's route in a protocol; None for unknown models."""
        ...

    def sole_route(self) -> str:
        """The one route that serves this protocol, "" if there are none or several."""
        ...


class _Form(NamedTuple):
    """All that a target says, parsed once."""

    method: bytes
    operation: str
    model: str
    version: str
    inference: bool
    stream: bool
    answer: Callable[[], Answer] | None


# -- what is looked at in a body

_NotNegative = Annotated[int, msgspec.Meta(ge=0)]


class _TensorParameters(msgspec.Struct):
    binary_data_size: _NotNegative = 0


class _Tensor(msgspec.Struct):
    name: str
    parameters: _TensorParameters | None = None


class _Infer(msgspec.Struct, gc=False):
    inputs: msgspec.Raw  # not a list of them: a client could send millions


class _BadInfer(msgspec.Struct, gc=False):
    inputs: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1)]


class _BinaryInfer(msgspec.Struct):
    inputs: Annotated[list[_Tensor], msgspec.Meta(min_length=1)]


class _Generate(msgspec.Struct):
    max_tokens: msgspec.Raw = msgspec.Raw(b"")  # a number, or a tensor of any shape


_infer = msgspec.json.Decoder(_Infer)
_bad_infer = msgspec.json.Decoder(_BadInfer)
_binary_infer = msgspec.json.Decoder(_BinaryInfer)
_generate = msgspec.json.Decoder(_Generate)

_SOMETHING = re.compile(rb"\[[ \t\r\n]*+[^]]")
_SHM_KEY = re.compile(rb'"shared_memory_region"\s*:')
_BACKSLASH = ord("\\")
_SHM_KEY_IN_ESCAPES = re.compile(
    b'"%b"\\s*:' % b"".join(rb"(?:%c|\\u00(?i:%x))" % (letter, letter) for letter in b"shared_memory_region")
)
_LONGEST_NUMBER = 18
"""Digits of a limit of tokens that is taken for one."""
_NOT_NUMBERS = (b"-Infinity", b"Infinity", b"-Inf", b"Inf", b"-NaN", b"NaN")


class Kserve(Protocol):
    """KServe v2 REST."""

    name: ClassVar[str] = "kserve"

    def __init__(self, fleet: Fleet, *, version: str = "", depth: Depth = most) -> None:
        self._fleet = fleet
        self._depth = depth
        self._metadata = msgspec.json.encode(
            {"name": "overspill", "version": version, "extensions": EXTENSIONS}
        )
        self._forms: dict[bytes, _Form] = {}
        self._headers = HeaderReader((_LENGTH_FIELD, b"content-encoding"))

    def claims(self, path: bytes) -> bool:
        """`/v2` and all below."""
        return path.startswith(b"/v2/") or path == b"/v2"

    async def read(self, request: Request) -> Call | Answer:
        """See `Protocol.read`. Answers health, readiness and server metadata by itself."""
        form = self._forms.get(request.target)
        if form is None:
            form = remember(self._forms, request.target, self._form(parse_target(request.target)))
        if request.method != form.method:
            allow = form.method.decode("ascii")
            raise MethodNotAllowed(f"this path takes {allow} only", allow=allow)
        if form.answer is not None:
            return form.answer()
        call = Call(
            protocol="kserve",
            operation=form.operation,
            method=form.method,
            target=request.target,
            headers=request.headers,
            body=request.body,
            model=form.model,
            version=form.version,
            inference=form.inference,
            stream=form.stream,
            arrived=request.arrived,
            request_id=request.request_id,
            traceparent=request.traceparent,
        )
        noted = self._headers.take(request.headers, call)
        if form.operation == "infer":
            data = None if noted else request.body.whole()
            if (
                data is not None
                and len(data) <= SLICE
                and data.count(b"[") + data.count(b"{") <= SHALLOWEST  # so it cannot be too deep
            ):
                _check_json_infer(data)  # the common case, without a coroutine of its own
            else:
                await _check_infer(request, noted, self._depth)
        elif form.inference:
            await _check_generate(request, noted, call, self._depth)
        elif not form.model:
            call.route_hint = self._only_route()
        return call

    def error(self, error: OverspillError) -> tuple[int, Headers, bytes]:
        """`{"error": text}`, as Triton writes it."""
        return error.status, error_fields(error), msgspec.json.encode({"error": error_text(error)})

    def stream_error(self, error: OverspillError) -> bytes:
        """`data: {"error": text}`: how Triton tells of an error once a stream has begun."""
        return b"data: " + msgspec.json.encode({"error": error_text(error)}) + b"\n\n"

    # -- targets

    def _form(self, target: Target) -> _Form:
        # Triton matches its URLs undecoded: only the model's name may be in percent-encoding.
        if b"%" in target.path and any(
            b"%" in part for place, part in enumerate(target.path.split(b"/")) if place != 3
        ):
            raise _no_such_path()
        match target.segments[1:]:
            case () | ("",):
                return _local(self._server_metadata)
            case ("health", "live"):
                return _local(lambda: _status(self._fleet.live()))
            case ("health", "ready"):
                return _local(lambda: _status(self._fleet.ready()))
            case ("models", "stats"):
                return _Form(b"GET", "stats", "", "", inference=False, stream=False, answer=None)
            case ("models", model, "versions", version, *action) if model:
                if not (version.isascii() and version.isdigit()):
                    raise BadCall("the model version in the path must be a number")
                return self._model_form(model, version, action)
            case ("models", model, *action) if model:
                return self._model_form(model, "", action)
            case (area, *_) if area in REFUSED_AREAS:
                raise Refused(REFUSED_AREAS[area])
        raise _no_such_path()

    def _model_form(self, model: str, version: str, action: Sequence[str]) -> _Form:
        match action:
            case []:
                return _Form(b"GET", "metadata", model, version, inference=False, stream=False, answer=None)
            case ["ready"]:
                return _local(partial(self._model_ready, model, version))
            case [operation] if operation in _QUESTIONS:
                return _Form(b"GET", operation, model, version, inference=False, stream=False, answer=None)
            case [operation] if operation in _WORK:
                streams = operation == "generate_stream"
                return _Form(b"POST", operation, model, version, inference=True, stream=streams, answer=None)
            case ["trace", "setting"]:
                raise Refused(REFUSED_AREAS["trace"])
        raise _no_such_path()

    def _only_route(self) -> str:
        route = self._fleet.sole_route()
        if not route:
            raise NotOffered(
                "statistics of all models at once are not offered: ask per model, /v2/models/MODEL/stats"
            )
        return route

    # -- answers of the gateway itself

    def _server_metadata(self) -> Answer:
        return Answer(200, [JSON], self._metadata)

    def _model_ready(self, model: str, version: str) -> Answer:
        def seen_by(routes: Sequence[str]) -> Answer:
            return ready if self._fleet.route_of("kserve", model) in routes else _NOT_READY

        ready = _status(good=True) if self._fleet.model_ready(model, version) else _NOT_READY
        return ready._replace(seen_by=seen_by)


_NOT_READY = Answer(400, [JSON], b'{"error":"Model version not ready"}')


def _local(answer: Callable[[], Answer]) -> _Form:
    return _Form(b"GET", "", "", "", inference=False, stream=False, answer=answer)


def _status(good: bool) -> Answer:
    # Triton says "not ready" with 400, never 503, and with no body.
    return Answer(200 if good else 400, [], b"")


def _no_such_path() -> UnknownRoute:
    return UnknownRoute(
        "no such path in the KServe v2 protocol; inference is POST /v2/models/MODEL/infer, without a final /"
    )


# -- bodies


async def _check_infer(request: Request, noted: Sequence[tuple[bytes, bytes]], depth: Depth) -> None:
    body = request.body
    if noted:
        length = _json_length(noted)
        if length is None:
            return  # compressed: Triton unpacks it, and it cannot be looked into here
        if length >= 0:
            await _check_binary_infer(request, length, depth)
            return
    data = await body.read(request.max_body)
    await check_depth(data, depth)
    _check_json_infer(data)


def _check_json_infer(data: bytes) -> None:
    if data.isascii():
        try:
            inputs = _infer.decode(data).inputs
        except (msgspec.DecodeError, RecursionError):
            # At leisure: it may be right, or says what is wrong.
            inputs = _decode(_infer, data, "infer request").inputs
    else:
        inputs = _decode(_infer, data, "infer request").inputs
    if not _SOMETHING.match(inputs):
        _decode(_bad_infer, data, "infer request")  # says what it is instead
    _refuse_shared_memory(data)


def _json_length(noted: Sequence[tuple[bytes, bytes]]) -> int | None:
    """Size of the JSON part; -1 if nothing was said of it, None if the body is compressed."""
    length = -1
    compressed = False
    for name, value in noted:
        if name == _LENGTH_FIELD:
            if length >= 0:
                raise BadCall("inference-header-content-length is given more than once")
            length = header_int(value, "inference-header-content-length")
        elif value and value != b"identity":
            compressed = True
    return None if compressed else length


async def _check_binary_infer(request: Request, length: int, depth: Depth) -> None:
    body = request.body
    total = body.length
    if total is not None and length > total:
        raise BadCall(f"inference-header-content-length is {length}, but the body has only {total} bytes")
    if not length:
        return  # raw mode: all of the body is one tensor
    data = await body.prefix(length)
    if len(data) < length:
        raise BadCall(f"inference-header-content-length is {length}, but the body has only {len(data)} bytes")
    await check_depth(data, depth)
    request_json = _decode(_binary_infer, data, "infer request")
    _refuse_shared_memory(data)
    tensors = sum(each.parameters.binary_data_size for each in request_json.inputs if each.parameters)
    if (total := body.length) is not None and length + tensors != total:
        raise BadCall(
            f"the inputs declare {tensors} bytes of binary data, but {total - length} bytes follow the JSON"
        )


async def _check_generate(
    request: Request, noted: Sequence[tuple[bytes, bytes]], call: Call, depth: Depth
) -> None:
    for name, value in noted:
        if name == b"content-encoding" and value and value != b"identity":
            raise BadCall("generate takes no content-encoding but identity")
    data = request.body.whole()
    if data is None:
        data = await request.body.read(request.max_body)
    await check_depth(data, depth)
    limit = memoryview(_decode(_generate, data, "generate request").max_tokens)
    if len(limit) <= _LONGEST_NUMBER and (digits := limit.tobytes()).isdigit() and int(digits):
        call.max_tokens = int(digits)


def _decode(decoder: "msgspec.json.Decoder[Any]", data: bytes, what: str) -> Any:
    try:
        return decode(decoder, data, what)
    except BadCall:
        # Triton reads NaN and infinities (RapidJSON's kParseNanAndInfFlag), and Python clients write them.
        if b"NaN" not in data and b"Inf" not in data:
            raise
    for word in _NOT_NUMBERS:
        data = data.replace(word, b"null")
    return decode(decoder, data, what)


def _refuse_shared_memory(data: bytes) -> None:
    """A region belongs to processes on the server's machine; a client beyond the gateway could only guess."""
    # `in` with a number and find() are several times as fast here as `in` with bytes.
    # A quote within a JSON string is escaped, so what is found is a key and never a client's text.
    plain = data.find(b"shared_memory_region") >= 0 and _SHM_KEY.search(data)
    # The key may be written in JSON escapes. These are matched, not undone: there may be millions of them.
    if plain or (_BACKSLASH in data and data.find(b"\\u00") >= 0 and _SHM_KEY_IN_ESCAPES.search(data)):
        raise Refused(NO_SHARED_MEMORY)
