"""The worker kit: one file, standard library only, to be copied into any worker image.

A gateway that spills a call to a serverless API which only carries JSON sends the whole HTTP request
as one JSON object, the API Gateway "HTTP API" event, format 2.0. This file turns that event back into
the request, has it answered, and packs the answer into the same format, so that a spilled answer has
the same bytes as one that came over plain HTTP.

Who answers is said by the environment:

    OVERSPILL_APP      `module:function`: a Python function in this process (see below)
    OVERSPILL_TARGET   otherwise: base URL of a server in this image; default http://127.0.0.1:8000
    OVERSPILL_COMMAND  a command that starts that server; run once, before the first request
    OVERSPILL_BOOT_S   how long that server may take to accept connections; default 300

`server.py` beside this file answers over plain HTTP, where a provider carries that; `kserve_v2.py` makes a
KServe v2 model out of a class in Python. Each provider's own entry point is a file beside them.

A function is called as `app(method, path, query, headers, body)` with text, text (still percent-
encoded), text, a dict with lower-case names, and bytes. It returns `(status, headers, body)`, where
headers is a dict or a list of pairs, and body is bytes or an iterator of bytes.

Every answer gets two fields, by which the gateway can tell a cold start from a warm one where the
provider itself gives no sign, and which the gateway removes again:

    X-Overspill-Boot-Id    names this process: a new value means that a new instance has answered
    X-Overspill-Boot-Age   seconds for which this process had been running when the request reached it
"""

import asyncio
import base64
import functools
import http.client
import importlib
import os
import shlex
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

Fields = Mapping[str, str] | Iterable[tuple[str, str]]
Response = tuple[int, Fields, bytes | Iterable[bytes]]
Answer = tuple[int, list[tuple[str, str]], bytes | Iterable[bytes]]
App = Callable[[str, str, str, dict[str, str], bytes], Response]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Message, Receive, Send], Awaitable[None]]

_CONNECTION_FIELDS = frozenset(
    (
        "connection", "content-length", "host", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    )
)  # fmt: skip
_BOOT_FIELDS = "x-overspill-boot-"
_PIECE = 64 * 1024

PING_PATH = "/.overspill/ping"
"""A request for this path is answered by the kit itself, with 204, as soon as the worker could serve a call.

By it the gateway has an instance start, or keeps one from being stopped. The app does not see it; one that
has to wait for something before it can serve has a method `wait_until_up`, which is called then.

`?hold=SECONDS` keeps the worker busy for so long before it answers, `LONGEST_HOLD_S` at most: another request
then has to be answered by another instance."""

LONGEST_HOLD_S = 5.0
"""Longest that a ping may keep a worker."""

WITHOUT_BODY = frozenset((204, 304))
"""Answers with one of these have no body, and no length of one (RFC 9110 section 8.6)."""


class Boot:
    """The process as an instance: made once, when the worker starts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self.id = uuid.uuid4().hex

    def age(self) -> float:
        """Seconds since the process began."""
        return self._clock() - self._began

    def fields(self, age: float) -> list[tuple[str, str]]:
        """The two fields for an answer to a request that came at `age`."""
        return [("x-overspill-boot-id", self.id), ("x-overspill-boot-age", f"{age:.3f}")]


class Worker:
    """Answers requests, events, ASGI and WSGI requests with one app."""

    def __init__(self, app: App, boot: Boot) -> None:
        self.app = app
        self.boot = boot

    def answer(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, *, age: float
    ) -> Answer:
        """The app's answer with the boot fields, or the kit's own to a ping. `age`: when the request came.

        Raises what the app raises, and ValueError for a field that would not stay one line.
        """
        if path == PING_PATH:
            self.wait_until_up()
            time.sleep(_hold_s(query))
            return 204, self.boot.fields(age), b""
        status, fields, answer = self.app(method, path, query, headers, body)
        own = [field for field in _checked(fields) if not field[0].startswith(_BOOT_FIELDS)]
        return status, [*own, *self.boot.fields(age)], answer

    def handle(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """One event in, one result out. Raises ValueError for what is no event, and what the app raises."""
        status, fields, body = self.answer(*read_event(event), age=self.boot.age())
        whole = body if isinstance(body, bytes) else b"".join(body)
        return write_result(status, fields, whole)

    def wsgi(self, environ: Mapping[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        """The same app as a WSGI application. The path is as it came, where the server keeps that."""
        age = self.boot.age()
        path, query, headers = _of_environ(environ)
        # Without a length there is a body only where the server decodes chunks and ends the stream itself.
        size = int(environ.get("CONTENT_LENGTH") or (-1 if environ.get("wsgi.input_terminated") else 0))
        body = environ["wsgi.input"].read(size)
        status, fields, answer = self.answer(environ["REQUEST_METHOD"], path, query, headers, body, age=age)
        if isinstance(answer, bytes) and status not in WITHOUT_BODY:
            fields.append(("content-length", str(len(answer))))
        start_response(f"{status} {reason(status)}", fields)
        return (answer,) if isinstance(answer, bytes) else answer

    async def asgi(self, scope: Message, receive: Receive, send: Send) -> None:
        """The same app as an ASGI application, for providers that carry HTTP as it is."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        age = self.boot.age()
        headers = _joined((k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"])
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        query = scope.get("query_string", b"").decode("latin-1")
        body = await _received(receive)
        if path == PING_PATH:
            await asyncio.to_thread(self.wait_until_up)
            await asyncio.sleep(_hold_s(query))
            await _answer_ping(self.boot.fields(age), send)
            return
        work = functools.partial(self.answer, age=age)
        status, pairs, answer = await asyncio.to_thread(work, scope["method"], path, query, headers, body)
        if isinstance(answer, bytes) and status not in WITHOUT_BODY:
            pairs.append(("content-length", str(len(answer))))
        raw = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in pairs]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        pieces = iter((answer,) if isinstance(answer, bytes) else answer)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @property
    def application(self) -> Asgi:
        """`asgi` as a plain function: servers may take a method for an application of the old kind."""

        async def call(scope: Message, receive: Receive, send: Send) -> None:
            await self.asgi(scope, receive, send)

        return call

    def wait_until_up(self) -> None:
        """Return when a call could be served: at once, unless the app has to wait for something."""
        wait = getattr(self.app, "wait_until_up", None)
        if wait is not None:
            wait()


def boot_fields(app: Asgi, boot: Boot) -> Asgi:
    """Wrap an ASGI application (FastAPI, vLLM, …) so that its answers carry the two boot fields.

    Pings are answered here: a server takes requests once its application has started.
    """

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        age = boot.age()
        if scope["type"] == "http" and scope["path"] == PING_PATH:
            await _received(receive)
            await asyncio.sleep(_hold_s(scope.get("query_string", b"").decode("latin-1")))
            await _answer_ping(boot.fields(age), send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                mine = [(k.encode(), v.encode()) for k, v in boot.fields(age)]
                message = {**message, "headers": [*message.get("headers", ()), *mine]}
            await send(message)

        await app(scope, receive, marked)

    return wrapped


def read_event(event: Mapping[str, Any]) -> tuple[str, str, str, dict[str, str], bytes]:
    """Method, path, query, fields and body of an event. Raises ValueError if it is not one."""
    try:
        method = str(event["requestContext"]["http"]["method"])
        path = str(event["rawPath"])
    except (KeyError, TypeError):
        raise ValueError("not an HTTP event: requestContext.http.method and rawPath are needed") from None
    headers = {str(name).lower(): str(value) for name, value in (event.get("headers") or {}).items()}
    if event.get("cookies"):
        headers["cookie"] = "; ".join(event["cookies"])
    text = event.get("body") or ""
    body = base64.b64decode(text, validate=True) if event.get("isBase64Encoded") else text.encode()
    return method, path, str(event.get("rawQueryString") or ""), headers, body


def write_result(status: int, fields: Iterable[tuple[str, str]], body: bytes) -> dict[str, Any]:
    """The result of an event. The body is always base64: no byte of it is ever reinterpreted."""
    kept = _checked(fields)
    result: dict[str, Any] = {
        "statusCode": status,
        "headers": _joined(pair for pair in kept if pair[0] != "set-cookie"),
        "body": base64.b64encode(body).decode("ascii"),
        "isBase64Encoded": True,
    }
    cookies = [value for name, value in kept if name == "set-cookie"]
    if cookies:
        result["cookies"] = cookies
    return result


class LocalServer:
    """An app that passes requests on to an HTTP server in the same image, and starts it if told to."""

    def __init__(self, target: str, *, command: str = "", boot_s: float = 300.0) -> None:
        parts = urlsplit(target)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"OVERSPILL_TARGET is {target!r}; write it like http://127.0.0.1:8000")
        self._host, self._port, self._prefix = parts.hostname, parts.port or 80, parts.path.rstrip("/")
        self._command, self._boot_s = command, boot_s
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._up = False

    def __call__(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, Fields, bytes | Iterable[bytes]]:
        """Send the request there; the answer's body is an iterator, so that streams stay streams."""
        self.wait_until_up()
        connection = http.client.HTTPConnection(self._host, self._port)
        try:
            target = self._prefix + path + ("?" + query if query else "")
            own = {name: value for name, value in headers.items() if name not in _CONNECTION_FIELDS}
            # Without a body and a length, http.client would send a chunked or an ambiguous request.
            if body or method not in ("GET", "HEAD", "DELETE", "OPTIONS"):
                own["content-length"] = str(len(body))
            connection.request(method, target, body=body or None, headers=own)
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        fields = [(k, v) for k, v in response.getheaders() if k.lower() not in _CONNECTION_FIELDS]
        return response.status, fields, _pieces(connection, response)

    def wait_until_up(self) -> None:
        """Start the server if it is ours to start; return when it accepts connections."""
        with self._lock:
            if self._up:
                return
            if self._command and self._process is None:
                self._process = subprocess.Popen(shlex.split(self._command))  # noqa: S603 - the image's own
            give_up = time.monotonic() + self._boot_s
            while not self._accepts():
                if self._process is not None and self._process.poll() is not None:
                    raise RuntimeError(f"the server ended with exit code {self._process.returncode}")
                if time.monotonic() > give_up:
                    raise TimeoutError(f"no server at {self._host}:{self._port} within {self._boot_s:g} s")
                time.sleep(0.1)
            self._up = True

    def stop(self) -> None:
        """End the server, if it is ours: it gets as long as it takes to finish what it has."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def _accepts(self) -> bool:
        try:
            socket.create_connection((self._host, self._port), timeout=1.0).close()
        except OSError:
            return False
        return True


def from_environment() -> App:
    """The app that the environment names (see the top of this file)."""
    name = os.environ.get("OVERSPILL_APP", "")
    if name:
        module, _, function = name.partition(":")
        app: App = getattr(importlib.import_module(module), function or "app")
        return app
    return LocalServer(
        os.environ.get("OVERSPILL_TARGET", "http://127.0.0.1:8000"),
        command=os.environ.get("OVERSPILL_COMMAND", ""),
        boot_s=float(os.environ.get("OVERSPILL_BOOT_S", "300")),
    )


def _pieces(connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while piece := response.read1(_PIECE):
            yield piece
    finally:
        connection.close()


def reason(status: int) -> str:
    """The phrase beside a status; some text for one that has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _checked(fields: Fields) -> list[tuple[str, str]]:
    """The fields without those of a connection. Raises ValueError for one that would split the answer."""
    kept = []
    for name, value in fields.items() if isinstance(fields, Mapping) else fields:
        if not name or not set("\r\n\0 :").isdisjoint(name) or not set("\r\n\0").isdisjoint(value):
            raise ValueError(f"the app's field {name!r} is not one line of text")
        if name.lower() not in _CONNECTION_FIELDS:
            kept.append((name.lower(), value))
    return kept


def _of_environ(environ: Mapping[str, Any]) -> tuple[str, str, dict[str, str]]:
    """Path, query and fields of a WSGI request. Servers disagree on what keeps the path as it came."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    if target.startswith("/"):
        path, _, query = target.partition("?")
    else:
        path = quote(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), encoding="latin-1")
        query = environ.get("QUERY_STRING", "")
    headers = {k[5:].replace("_", "-").lower(): v for k, v in environ.items() if k.startswith("HTTP_")}
    for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(name):
            headers[name.replace("_", "-").lower()] = environ[name]
    return path, query, headers


def _joined(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Repeated fields become one, comma-separated (RFC 9110 section 5.3); `cookie` takes a semicolon."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        low = name.lower()
        glue = "; " if low == "cookie" else ", "
        joined[low] = joined[low] + glue + value if low in joined else value
    return joined


def _hold_s(query: str) -> float:
    """Seconds that a ping asks for; 0 for what is no such number."""
    try:
        return max(0.0, min(float(query.removeprefix("hold=")), LONGEST_HOLD_S))
    except ValueError:
        return 0.0


async def _answer_ping(fields: Iterable[tuple[str, str]], send: Send) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
    await send({"type": "http.response.start", "status": 204, "headers": raw})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _received(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left while its request was being read")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
