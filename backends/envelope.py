"""The request envelope for APIs that only carry JSON: the API Gateway "HTTP API" event, format 2.0.

Pure: a call and its body in, a dict out, and the worker's dict back into an answer. It knows the
format; it must never know which provider carries it. `workers/kit.py` is its other half.

The format is public (AWS, "Working with AWS Lambda proxy integrations for HTTP APIs"), so a function
written for API Gateway or a function URL understands it unchanged.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gateway.errors import BackendBroke
from gateway.vocab import HOP_BY_HOP, Call, Headers, WholeBody

# Not sent on: what the kit sets itself, what names the gateway's own caller, and compression, which
# would change the bytes of the answer.
_NOT_CARRIED = HOP_BY_HOP | {b"accept-encoding", b"authorization", b"content-length", b"expect", b"host"}
_OWN_PREFIX = b"x-overspill-"
_BINARY = b"inference-header-content-length"
_FRAMING = HOP_BY_HOP | {b"content-length"}

PING_TARGET = b"/.overspill/ping"
"""Where the worker kit answers by itself, as soon as it could serve a call, without asking the model.

With `?hold=SECONDS` it stays for so long, and keeps its worker from answering anything else."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN_IN_VALUE = re.compile(r"[\x00\r\n]")


def carried(call: Call) -> Headers:
    """The request fields that go to a rented backend: end-to-end ones, without the caller's credentials.

    The identity of the request (`x-request-id`, `traceparent`) is the gateway's word, not the client's.
    """
    ours = {b"x-request-id": call.request_id.encode(), b"traceparent": call.traceparent.encode()}
    fields = [
        (name, value)
        for name, value in call.headers
        if name not in _NOT_CARRIED and not name.startswith(_OWN_PREFIX) and not ours.get(name)
    ]
    return fields + [(name, value) for name, value in ours.items() if value]


def ping_call(route: str, hold_s: float = 0.0) -> Call:
    """A call of nobody's, that only needs an instance to be up, and keeps it busy for `hold_s`.

    A worker without the kit answers it too, whatever it answers: it is up then.
    """
    call = Call(
        protocol="raw",
        operation="ping",
        method=b"POST",  # an HTTP library may send a GET twice
        target=PING_TARGET + (b"?hold=%g" % hold_s if hold_s else b""),
        headers=[],
        body=WholeBody(b""),
        inference=False,
    )
    call.route = route
    return call


def overhead(call: Call) -> int:
    """Upper bound in bytes of the event without its body, for comparing with a provider's limit."""
    return 1024 + 2 * len(call.target) + sum(len(name) + 2 * len(value) + 8 for name, value in call.headers)


def encoded_size(body: int) -> int:
    """Size in bytes of `body` bytes as base64."""
    return 4 * ((body + 2) // 3)


def unfit_for_raw(call: Call) -> str | None:
    """Why this call could never go without the event, its JSON body as a job's input; None if it could."""
    if call.stream:
        return "`envelope: raw` cannot answer with a stream"
    if call.method != b"POST" or any(name == _BINARY for name, _ in call.headers):
        return "`envelope: raw` carries JSON bodies of POST requests only"
    return None


def to_event(call: Call, body: bytes) -> dict[str, Any]:
    """The event of a call. Path and query stay percent-encoded, as they came."""
    path, _, query = call.target.decode("latin-1").partition("?")
    method = call.method.decode("latin-1")
    headers: dict[str, str] = {}
    cookies: list[str] = []
    source = "127.0.0.1"
    for name, value in carried(call):
        text = value.decode("latin-1")
        if name == b"cookie":
            cookies.append(text)
            continue
        if name == b"x-forwarded-for":
            source = text.partition(",")[0].strip()
        key = name.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "stage": "$default",
            "requestId": call.request_id,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": source},
        },
        "body": base64.b64encode(body).decode("ascii"),
        "isBase64Encoded": True,
    }
    if cookies:
        event["cookies"] = cookies
    return event


def from_result(result: object) -> tuple[int, Headers, bytes]:
    """Status, fields and body of a worker's result. Fields of the connection are left out.

    Tolerant where nothing can go wrong (a status as digits, numbers as field values, fields missing);
    strict where a client could be harmed: a field that would split the answer, a body that is not
    what it says it is. Raises BackendBroke: the work has been done.
    """
    if not isinstance(result, Mapping):
        raise BackendBroke(f"the worker's result is {_kind(result)}, expected an object with statusCode")
    status = _status(result.get("statusCode"))
    headers = [(name, value) for name, value in _fields(result) if name not in _FRAMING]
    return status, headers, _body(result)


def _status(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 200 <= value <= 599:
        raise BackendBroke("the worker's result has no statusCode between 200 and 599")
    return value


def _fields(result: Mapping[str, Any]) -> Iterator[tuple[bytes, bytes]]:
    single = _mapping(result, "headers")
    multiple = _mapping(result, "multiValueHeaders")
    repeated = {str(name).lower() for name in multiple}
    for name, value in single.items():
        # Where both name a field, API Gateway gives the list precedence.
        if str(name).lower() not in repeated:
            yield _field(name, value)
    for name, values in multiple.items():
        for value in _sequence(values):
            yield _field(name, value)
    for cookie in _sequence(result.get("cookies")):
        yield _field("set-cookie", cookie)


def _field(name: object, value: object) -> tuple[bytes, bytes]:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise BackendBroke("the worker's result has a header whose name is no HTTP token")
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str) or _FORBIDDEN_IN_VALUE.search(value):
        raise BackendBroke(f"the worker's result has a header {name} that is not one line of text")
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError:
        raw = value.encode("utf-8", "replace")
    return name.lower().encode("ascii"), raw.strip()


def _body(result: Mapping[str, Any]) -> bytes:
    text = result.get("body")
    if text is None:
        return b""
    if not isinstance(text, str):
        raise BackendBroke(f"the worker's result has a body that is {_kind(text)}, expected a string")
    encoded = result.get("isBase64Encoded")
    if encoded is not None and not isinstance(encoded, bool):
        raise BackendBroke(f"the worker's result has isBase64Encoded as {_kind(encoded)}, expected a boolean")
    try:
        if encoded:
            return base64.b64decode(text, validate=True)
        return text.encode("utf-8")
    except (binascii.Error, ValueError):
        raise BackendBroke("the worker's result has a body that cannot be decoded") from None


def _mapping(result: Mapping[str, Any], key: str) -> Mapping[Any, Any]:
    value = result.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise BackendBroke(f"the worker's result has {key} that are {_kind(value)}, expected an object")
    return value


def _sequence(value: object) -> Iterable[object]:
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _kind(value: object) -> str:
    """The JSON name of what came instead: its content may be the client's and is not repeated."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
