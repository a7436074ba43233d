"""OpenAI's API: what is read of a request, and shapes that the `openai` package understands."""

import json
from typing import Any

import openai
import pytest
from openai.types import Model

from gateway.errors import (
    BackendBroke,
    BadCall,
    BodyTooLarge,
    Contended,
    DeadlinePassed,
    MethodNotAllowed,
    NoCapacity,
    OverspillError,
    Refused,
    Unauthorised,
    UnknownRoute,
)
from gateway.protocols.base import Answer
from gateway.protocols.openai import OpenAI
from gateway.vocab import Body, Call, Headers
from tests.support.openai_client import client_that_gets
from tests.support.requests import ArrivingBody, FakeRequest

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
NAMES = ("small", "org/large", "naïve")


def protocol() -> OpenAI:
    return OpenAI(lambda: NAMES)


async def post(
    body: bytes | Body, target: bytes = b"/v1/chat/completions", headers: Headers | None = None, **limits: int
) -> Call:
    read = await protocol().read(FakeRequest(b"POST", target, body, headers or [], **limits))
    assert isinstance(read, Call)
    return read


async def get(target: bytes) -> Any:
    read = await protocol().read(FakeRequest(b"GET", target))
    assert isinstance(read, Answer)
    assert (read.status, read.headers) == (200, [(b"content-type", b"application/json")])
    return json.loads(read.body)


@pytest.mark.parametrize(
    ("target", "operation"),
    [
        (b"/v1/chat/completions", "chat"),
        (b"/v1/completions", "completions"),
        (b"/v1/embeddings", "embeddings"),
        (b"/v1/responses", "responses"),
        (b"/v1/chat/completions?api-version=1", "chat"),
    ],
)
async def test_a_path_names_an_operation_and_the_body_the_model(target: bytes, operation: str) -> None:
    read = await post(CHAT, target, [(b"authorization", b"Bearer k"), (b"content-type", b"application/json")])
    assert (read.protocol, read.operation, read.model, read.inference) == ("openai", operation, "m", True)
    assert (read.method, read.target, read.body.whole()) == (b"POST", target, CHAT)
    assert read.headers == [(b"content-type", b"application/json")]


@pytest.mark.parametrize(
    ("fields", "stream", "tokens"),
    [
        ("", False, None),
        (',"stream":true', True, None),
        (',"stream":false', False, None),
        (',"stream":null,"max_tokens":null', False, None),
        (',"max_tokens":16', False, 16),
        (',"max_completion_tokens":32', False, 32),
        (',"max_tokens":16,"max_completion_tokens":32', False, 32),
        (',"max_output_tokens":8', False, 8),
        (',"max_tokens":0', False, None),
        (',"max_tokens":-1', False, None),
    ],
)
async def test_five_fields_are_read_of_a_body(fields: str, stream: bool, tokens: int | None) -> None:
    read = await post(b'{"messages":[],"model":"m"' + fields.encode() + b"}")
    assert (read.stream, read.max_tokens) == (stream, tokens)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (CHAT + b"x", None),
        (b'{"model":"m","x":NaN}', None),
        (b'{"model":"m","x":"\xff"}', None),
        (b'{"model":"m","x":' + b"[" * 100_000, None),
        (b"{}", "model"),
        (b'{"model":""}', "model"),
        (b'{"model":null}', "model"),
        (b'{"model":["m"]}', "model"),
        (b'{"model":"m","stream":"yes"}', "stream"),
        (b'{"model":"m","max_tokens":"16"}', "max_tokens"),
        (b'{"model":"m","max_tokens":1.5}', "max_tokens"),
    ],
)
async def test_a_body_that_cannot_be_served_is_400_and_names_the_parameter(
    body: bytes, param: str | None
) -> None:
    with pytest.raises(BadCall) as caught:
        await post(body)
    status, _, answer = protocol().error(caught.value)
    error = json.loads(answer)["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"]


async def test_a_body_that_is_still_arriving_is_read_up_to_the_limit() -> None:
    assert (await post(ArrivingBody(CHAT))).model == "m"
    with pytest.raises(BodyTooLarge):
        await post(ArrivingBody(CHAT), max_body=10)


async def test_a_compressed_body_is_refused_because_its_model_cannot_be_read() -> None:
    with pytest.raises(BadCall, match="content-encoding"):
        await post(CHAT, headers=[(b"content-encoding", b"gzip")])
    assert (await post(CHAT, headers=[(b"content-encoding", b"identity")])).model == "m"


@pytest.mark.parametrize(
    "target", [b"/v1", b"/v1/", b"/v1/chat", b"/v1/chat/completions/", b"/v1/audio/speech", b"/v1/chat%2Fcompletions",
               b"/v1/%63ompletions", b"/v1/models/", b"/v1/models//x"]
)  # fmt: skip
async def test_a_path_outside_the_offer_is_404(target: bytes) -> None:
    with pytest.raises(UnknownRoute) as caught:
        await post(CHAT, target)
    assert json.loads(protocol().error(caught.value)[2])["error"]["code"] == "unknown_route"


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        (b"GET", b"/v1/embeddings", "POST"),
        (b"POST", b"/v1/models", "GET"),
        (b"DELETE", b"/v1/models/small", "GET"),
    ],
)
async def test_another_method_is_405(method: bytes, target: bytes, allow: str) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        await protocol().read(FakeRequest(method, target))
    assert (b"allow", allow.encode()) in protocol().error(caught.value)[1]


async def test_the_models_are_those_of_the_routes() -> None:
    listed = await get(b"/v1/models")
    assert listed["object"] == "list"
    assert [Model.model_validate(model, strict=True).id for model in listed["data"]] == list(NAMES)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (b"/v1/models/small", "small"),
        (b"/v1/models/org%2Flarge", "org/large"),
        (b"/v1/models/org/large", "org/large"),
        (b"/v1/models/na%C3%AFve", "naïve"),
    ],
)
async def test_one_model_is_found_by_its_name_in_either_spelling(target: bytes, name: str) -> None:
    assert Model.model_validate(await get(target)).id == name


async def test_an_unknown_model_is_404_model_not_found() -> None:
    with pytest.raises(UnknownRoute) as caught:
        await get(b"/v1/models/huge")
    status, _, body = protocol().error(caught.value)
    error = json.loads(body)["error"]
    assert (status, error["param"], error["code"]) == (404, "model", "model_not_found")


async def test_the_list_follows_a_changed_route_table() -> None:
    names = ["a"]
    changing = OpenAI(lambda: names)
    request = FakeRequest(b"GET", b"/v1/models")
    for _ in range(2):
        read = await changing.read(request)
        assert isinstance(read, Answer)
        assert [model["id"] for model in json.loads(read.body)["data"]] == names
        names = ["a", "b"]


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (BadCall("x"), 400, "invalid_request_error", "bad_request"),
        (Unauthorised("x"), 401, "authentication_error", "unauthorised"),
        (Refused("x"), 403, "permission_error", "refused"),
        (UnknownRoute("x", field="model"), 404, "invalid_request_error", "model_not_found"),
        (BodyTooLarge("x"), 413, "invalid_request_error", "body_too_large"),
        (Contended("x"), 429, "rate_limit_error", "rate_limit_exceeded"),
        (OverspillError("x"), 500, "server_error", "internal_error"),
        (BackendBroke("x"), 502, "server_error", "backend_broke"),
        (NoCapacity("x"), 503, "service_unavailable_error", "no_capacity"),
        (DeadlinePassed("x"), 504, "timeout_error", "deadline_passed"),
    ],
)
def test_errors_have_openais_shape(error: OverspillError, status: int, kind: str, code: str) -> None:
    got, headers, body = protocol().error(error)
    shown = json.loads(body)["error"]
    assert (got, shown["type"], shown["code"], shown["message"]) == (status, kind, code, "x")
    assert set(shown) == {"message", "type", "param", "code"}
    assert any(name == b"retry-after" for name, _ in headers) == (status in {429, 503, 504})


def test_an_error_inside_a_stream_is_raised_by_the_openai_package() -> None:
    begun = b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'
    body = begun + protocol().stream_error(BackendBroke("gone"))
    stream = client_that_gets(200, body, "text/event-stream").chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    with pytest.raises(openai.APIError, match="gone"):
        list(stream)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (BadCall("x"), openai.BadRequestError),
        (UnknownRoute("x", field="model"), openai.NotFoundError),
        (Contended("x"), openai.RateLimitError),
        (NoCapacity("x"), openai.InternalServerError),
    ],
)
def test_errors_are_told_apart_by_the_openai_package(
    error: OverspillError, raised: type[openai.APIStatusError]
) -> None:
    status, _, body = protocol().error(error)
    with pytest.raises(raised) as caught:
        client_that_gets(status, body).models.list()
    assert caught.value.code
