"""The envelope and the worker kit are two halves: what goes in on one side comes out on the other."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.envelope import encoded_size, from_result, overhead, to_event
from backends.workers import kit
from gateway.errors import BackendBroke
from gateway.vocab import Headers, Work
from tests.support.provider import a_call

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12)
VALUES = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20
)
PATHS = st.text("abcXYZ019/%.-_~", max_size=30).map(lambda text: "/" + text)


def through(event: dict[str, Any]) -> dict[str, Any]:
    """As the provider carries it."""
    decoded: dict[str, Any] = json.loads(json.dumps(event))
    return decoded


@given(body=st.binary(max_size=2000), path=PATHS, query=st.text("abc=&%019", max_size=20))
def test_a_request_arrives_as_it_was_sent(body: bytes, path: str, query: str) -> None:
    target = path + ("?" + query if query else "")
    call = a_call(body, method=b"PUT", target=target.encode(), headers=[(b"x-name", b"caf\xe9")])

    method, got_path, got_query, fields, got_body = kit.read_event(through(to_event(call, body)))

    assert (method, got_path, got_query, got_body) == ("PUT", path, query, body)
    assert fields["x-name"].encode("latin-1") == b"caf\xe9"


@given(body=st.binary(max_size=2000), status=st.integers(200, 599), name=TOKENS, value=VALUES)
def test_an_answer_arrives_as_it_was_given(body: bytes, status: int, name: str, value: str) -> None:
    result = kit.write_result(status, [("x-" + name, value)], body)

    assert from_result(through(result)) == (
        status,
        [(b"x-" + name.encode(), value.encode("latin-1"))],
        body,
    )


@given(body=st.binary(max_size=5000), value=VALUES, path=PATHS)
def test_the_size_is_never_estimated_too_small(body: bytes, value: str, path: str) -> None:
    call = a_call(body, target=path.encode(), headers=[(b"x-value", value.encode("latin-1"))])
    size = len(json.dumps(to_event(call, body), separators=(",", ":"), ensure_ascii=False).encode())
    assert size <= encoded_size(len(body)) + overhead(call)


def test_repeated_fields_survive_both_ways() -> None:
    call = a_call(headers=[(b"accept", b"a"), (b"accept", b"b"), (b"cookie", b"x=1"), (b"cookie", b"y=2")])
    fields = kit.read_event(through(to_event(call, b"")))[3]
    assert fields["accept"] == "a, b"
    assert fields["cookie"] == "x=1; y=2"

    result = kit.write_result(
        200, [("vary", "a"), ("Vary", "b"), ("Set-Cookie", "x=1"), ("set-cookie", "y")], b""
    )
    assert from_result(through(result))[1] == [
        (b"vary", b"a, b"),
        (b"set-cookie", b"x=1"),
        (b"set-cookie", b"y"),
    ]


def test_the_callers_credentials_and_the_connections_fields_stay_here() -> None:
    headers: Headers = [
        (b"authorization", b"Bearer the-callers"),
        (b"proxy-authorization", b"Basic x"),
        (b"connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"5"),
        (b"host", b"gateway"),
        (b"accept-encoding", b"gzip"),
        (b"x-overspill-priority", b"high"),
        (b"x-request-id", b"forged"),
        (b"x-mine", b"1"),
    ]
    call = a_call(headers=headers)
    call.traceparent = "00-aa-bb-01"
    event = to_event(call, b"")
    assert event["headers"] == {"x-mine": "1", "x-request-id": "req-1", "traceparent": "00-aa-bb-01"}


def test_it_is_an_api_gateway_event() -> None:
    call = a_call(b"hi", target=b"/v2/a%2Fb?x=1&y=%20", headers=[(b"x-forwarded-for", b"10.0.0.9, 10.0.0.1")])
    event = to_event(call, b"hi")
    assert event["version"] == "2.0"
    assert event["rawPath"] == "/v2/a%2Fb"
    assert event["rawQueryString"] == "x=1&y=%20"
    assert event["requestContext"]["http"] == {
        "method": "POST",
        "path": "/v2/a%2Fb",
        "protocol": "HTTP/1.1",
        "sourceIp": "10.0.0.9",
    }
    assert event["isBase64Encoded"] is True
    assert base64.b64decode(event["body"]) == b"hi"


@pytest.mark.parametrize(
    ("result", "status", "headers", "body"),
    [
        ({"statusCode": 200}, 200, [], b""),
        ({"statusCode": "201", "body": None, "headers": None}, 201, [], b""),
        ({"statusCode": 200, "body": "grüße"}, 200, [], "grüße".encode()),
        (
            {"statusCode": 200, "headers": {"X-N": 3, "X-B": True}},
            200,
            [(b"x-n", b"3"), (b"x-b", b"true")],
            b"",
        ),
        (
            {"statusCode": 200, "headers": {"a": "0"}, "multiValueHeaders": {"A": ["1", "2"]}},
            200,
            [(b"a", b"1"), (b"a", b"2")],
            b"",
        ),
        ({"statusCode": 200, "cookies": ["a=1"]}, 200, [(b"set-cookie", b"a=1")], b""),
        ({"statusCode": 200, "headers": {"Content-Length": "99", "Connection": "close"}}, 200, [], b""),
    ],
)
def test_harmless_deviations_are_taken(result: object, status: int, headers: Headers, body: bytes) -> None:
    assert from_result(result) == (status, headers, body)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (None, "null"),
        ([1], "a list"),
        ("x", "a string"),
        ({}, "statusCode"),
        ({"statusCode": 99}, "statusCode"),
        ({"statusCode": 101}, "statusCode"),
        ({"statusCode": True}, "statusCode"),
        ({"statusCode": "2oo"}, "statusCode"),
        ({"statusCode": 200, "body": "!!", "isBase64Encoded": True}, "cannot be decoded"),
        ({"statusCode": 200, "body": "YQ", "isBase64Encoded": True}, "cannot be decoded"),
        ({"statusCode": 200, "body": "ü", "isBase64Encoded": True}, "cannot be decoded"),
        ({"statusCode": 200, "body": "YQ==", "isBase64Encoded": "yes"}, "isBase64Encoded"),
        ({"statusCode": 200, "body": {"a": 1}}, "an object"),
        ({"statusCode": 200, "headers": {"x": "a\r\nset-cookie: b"}}, "one line"),
        ({"statusCode": 200, "headers": {"x\r\ny": "a"}}, "token"),
        ({"statusCode": 200, "headers": {"x": ["a"]}}, "one line"),
        ({"statusCode": 200, "headers": ["x"]}, "headers"),
        ({"statusCode": 200, "cookies": ["a\nb"]}, "one line"),
    ],
)
def test_what_could_harm_the_client_is_refused(result: object, says: str) -> None:
    with pytest.raises(BackendBroke, match=says) as caught:
        from_result(result)
    assert caught.value.work is Work.MAYBE
