"""OpenAI's HTTP API: which model is asked, and will the answer be a stream?

Knows the leaves and the protocol contract. A body is checked as JSON and read for five fields; the
messages in it are never decoded. Shapes of errors and of `/v1/models` are those that the `openai`
package parses.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, ClassVar, NamedTuple

import msgspec

from gateway.errors import BadCall, MethodNotAllowed, OverspillError, UnknownRoute
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
    parse_target,
    remember,
)
from gateway.protocols.depth import SHALLOWEST, SLICE, Depth, check_depth, most
from gateway.vocab import Call, Headers

_OPERATIONS = {
    ("chat", "completions"): "chat",
    ("completions",): "completions",
    ("embeddings",): "embeddings",
    ("responses",): "responses",
}
_TYPES = {
    401: "authentication_error", 403: "permission_error", 429: "rate_limit_error",
    503: "service_unavailable_error", 504: "timeout_error",
}  # fmt: skip


_Tokens = Annotated[int, msgspec.Meta(le=2**63 - 1)]  # more has no place in a float


class _Peek(msgspec.Struct, gc=False):
    model: str | None = None
    stream: bool | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    max_output_tokens: _Tokens | None = None


_peek = msgspec.json.Decoder(_Peek)


class _Form(NamedTuple):
    """All that a target says, parsed once."""

    method: bytes
    operation: str
    answer: Callable[[], Answer] | None


class OpenAI(Protocol):
    """The parts of OpenAI's API that inference servers offer.

    models:    yields the names served here
    route_of:  the route of such a name
    depth:     how deeply JSON may be nested
    """

    name: ClassVar[str] = "openai"

    def __init__(
        self,
        models: Callable[[], Iterable[str]],
        *,
        route_of: Callable[[str], str | None] = lambda _: None,
        depth: Depth = most,
    ) -> None:
        self._models = models
        self._route_of = route_of
        self._depth = depth
        self._forms: dict[bytes, _Form] = {}
        self._headers = HeaderReader((b"content-encoding",))

    def claims(self, path: bytes) -> bool:
        """`/v1` and all below."""
        return path.startswith(b"/v1/") or path == b"/v1"

    async def read(self, request: Request) -> Call | Answer:
        """See `Protocol.read`. Answers `/v1/models` by itself."""
        form = self._forms.get(request.target)
        if form is None:
            target = parse_target(request.target, slash_in_segment=True)
            form = remember(self._forms, request.target, self._form(target))
        if request.method != form.method:
            allow = form.method.decode("ascii")
            raise MethodNotAllowed(f"this path takes {allow} only", allow=allow)
        if form.answer is not None:
            return form.answer()
        call = Call(
            protocol="openai",
            operation=form.operation,
            method=form.method,
            target=request.target,
            headers=request.headers,
            body=request.body,
            arrived=request.arrived,
            request_id=request.request_id,
            traceparent=request.traceparent,
        )
        for name, value in self._headers.take(request.headers, call):
            if value and value != b"identity":
                raise BadCall(f"{name.decode('ascii')} is not accepted here: send the JSON as it is")
        data = request.body.whole()
        if data is None:
            data = await request.body.read(request.max_body)
        # With few brackets it cannot be too deep; a long body is not even counted through in one go.
        if len(data) > SLICE or data.count(b"[") + data.count(b"{") > SHALLOWEST:
            await check_depth(data, self._depth)
        _peek_into(data, call)
        return call

    def error(self, error: OverspillError) -> tuple[int, Headers, bytes]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return error.status, error_fields(error), _body(error)

    def stream_error(self, error: OverspillError) -> bytes:
        """A `data:` event with the error object; a stream that ends so sends no `[DONE]`."""
        return b"data: " + _body(error) + b"\n\n"

    # -- targets

    def _form(self, target: Target) -> _Form:
        _, *parts = target.segments
        if parts == ["models"]:
            return _Form(b"GET", "", self._list)
        if len(parts) > 1 and parts[0] == "models" and all(parts):
            # Names like org/model come in both spellings, org%2Fmodel and org/model.
            return _Form(b"GET", "", partial(self._model, "/".join(parts[1:])))
        operation = _OPERATIONS.get(tuple(parts))
        if operation is None or b"%" in target.path:
            offered = ", ".join("/v1/" + "/".join(each) for each in _OPERATIONS)
            raise UnknownRoute(f"no such path in the OpenAI API here; offered are {offered}, /v1/models")
        return _Form(b"POST", operation, None)

    # -- answers of the gateway itself

    def _list(self) -> Answer:
        names = list(self._models())

        def seen_by(routes: Sequence[str]) -> Answer:
            return _listed(name for name in names if self._route_of(name) in routes)

        return _listed(names)._replace(seen_by=seen_by)

    def _model(self, name: str) -> Answer:
        if name not in self._models():
            raise _no_model(name)

        def seen_by(routes: Sequence[str]) -> Answer:
            if self._route_of(name) not in routes:
                raise _no_model(name)
            return found

        found = Answer(200, [JSON], msgspec.json.encode(_described(name)))
        return found._replace(seen_by=seen_by)


def _listed(names: Iterable[str]) -> Answer:
    listed = {"object": "list", "data": [_described(name) for name in names]}
    return Answer(200, [JSON], msgspec.json.encode(listed))


def _no_model(name: str) -> UnknownRoute:
    return UnknownRoute(f"the model {name[:100]!r} does not exist here", field="model")


def _described(model: str) -> dict[str, object]:
    return {"id": model, "object": "model", "created": 0, "owned_by": "overspill"}


def _peek_into(data: bytes, call: Call) -> None:
    seen = decode(_peek, data, "request")
    if not seen.model:
        raise BadCall("you must provide a model parameter", field="model")
    call.model = seen.model
    call.stream = bool(seen.stream)
    limit = seen.max_completion_tokens  # the newest spelling wins, as in servers that know several
    if limit is None and (limit := seen.max_output_tokens) is None:
        limit = seen.max_tokens
    if limit is not None and limit > 0:
        call.max_tokens = limit


def _body(error: OverspillError) -> bytes:
    field = error.field if isinstance(error, BadCall) else ""
    kind = _TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "server_error")
    code = error.word
    if isinstance(error, UnknownRoute) and field == "model":
        code = "model_not_found"
    elif error.status == 429:
        code = "rate_limit_exceeded"
    return msgspec.json.encode(
        {"error": {"message": error_text(error), "type": kind, "param": field or None, "code": code}}
    )
