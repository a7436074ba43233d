"""The worker kit and its entry points, driven as the providers drive them."""

import asyncio
import base64
import importlib
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from backends.envelope import from_result, ping_call, to_event
from backends.instances import take_boot
from backends.workers import kit, lambda_handler, modal_app, runpod_handler
from tests.support.provider import a_call


def shout(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes
) -> tuple[int, dict[str, str], bytes]:
    return 201, {"X-Seen": f"{method} {path} {query} {headers.get('x-a', '')}"}, body.upper()


class Ticking:
    """A clock that is told what to say."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def a_worker() -> tuple[kit.Worker, Ticking]:
    clock = Ticking()
    return kit.Worker(shout, kit.Boot(clock)), clock


def test_an_event_becomes_a_call_and_its_answer_a_result() -> None:
    worker, clock = a_worker()
    clock.now += 2.5
    call = a_call(b"hello", target=b"/v2/x?q=1", headers=[(b"x-a", b"b")])
    status, headers, body = from_result(json.loads(json.dumps(worker.handle(to_event(call, b"hello")))))
    headers, boot = take_boot(headers)
    assert (status, headers, body) == (201, [(b"x-seen", b"POST /v2/x q=1 b")], b"HELLO")
    assert boot == (worker.boot.id, 2.5)


def test_two_workers_have_two_ids() -> None:
    assert a_worker()[0].boot.id != a_worker()[0].boot.id


@pytest.mark.parametrize("event", [{}, {"rawPath": "/"}, {"requestContext": {"http": {}}, "rawPath": "/"}])
def test_what_is_no_event_is_an_error_that_says_so(event: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not an HTTP event"):
        kit.read_event(event)


def test_an_event_with_a_text_body_is_understood() -> None:
    event = {"requestContext": {"http": {"method": "POST"}}, "rawPath": "/", "body": "grün"}
    assert kit.read_event(event)[4] == "grün".encode()


def test_the_runpod_handler_answers_a_job() -> None:
    worker, _ = a_worker()
    result = runpod_handler.make_handler(worker)({"id": "1", "input": to_event(a_call(b"x"), b"x")})
    assert base64.b64decode(result["body"]) == b"X"


def test_the_lambda_handler_answers_an_invocation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_APP", f"{__name__}:shout")
    cold = importlib.reload(lambda_handler)  # the module level runs once per environment
    result = cold.handler(to_event(a_call(b"x"), b"x"), None)
    assert base64.b64decode(result["body"]) == b"X"


class Asgi:
    """One request to an ASGI application, as a server would make it."""

    def __init__(self, body: list[bytes]) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/a b",
            "raw_path": b"/a%20b",
            "query_string": b"q=1",
            "headers": [(b"x-a", b"b")],
        }
        self._body = list(body)
        self.sent: list[kit.Message] = []

    async def receive(self) -> kit.Message:
        return {"type": "http.request", "body": self._body.pop(0), "more_body": bool(self._body)}

    async def send(self, message: kit.Message) -> None:
        self.sent.append(message)


async def test_the_modal_application_answers_a_request() -> None:
    request = Asgi([b"one", b"two"])
    await modal_app.make_asgi(shout)(request.scope, request.receive, request.send)
    start = request.sent[0]
    assert start["status"] == 201
    fields = dict(start["headers"])
    assert fields[b"x-seen"] == b"POST /a%20b q=1 b"
    assert fields[b"content-length"] == b"6"
    assert fields[b"x-overspill-boot-id"]
    assert b"".join(m["body"] for m in request.sent[1:]) == b"ONETWO"
    assert request.sent[-1]["more_body"] is False


async def test_an_application_of_ones_own_gets_the_fields_too() -> None:
    boot = kit.Boot(Ticking())

    async def own(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b"x"})

    request = Asgi([b""])
    await kit.boot_fields(own, boot)(request.scope, request.receive, request.send)
    assert request.sent[0]["headers"][0] == (b"a", b"b")
    assert (b"x-overspill-boot-id", boot.id.encode()) in request.sent[0]["headers"]
    assert request.sent[1] == {"type": "http.response.body", "body": b"x"}


async def test_lifespan_messages_are_acknowledged() -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    request = Asgi([])

    async def receive() -> kit.Message:
        return messages.pop(0)

    await a_worker()[0].asgi({"type": "lifespan"}, receive, request.send)
    assert [m["type"] for m in request.sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


class _Model(BaseHTTPRequestHandler):
    """A model server in the worker's image."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = f"{self.path} {self.headers['x-a']} ".encode() + body
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-Caf\xe9", "caf\xe9")
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def model_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_in_the_image_gets_the_request(model_url: str) -> None:
    worker = kit.Worker(kit.LocalServer(model_url + "/base"), kit.Boot())
    call = a_call(b"\x00\xff", target=b"/v2?x=%20", headers=[(b"x-a", b"b"), (b"connection", b"close")])
    status, _, body = from_result(worker.handle(to_event(call, b"\x00\xff")))
    assert (status, body) == (200, b"/base/v2?x=%20 b \x00\xff")

    status, _, body = from_result(worker.handle(to_event(a_call(b"", method=b"GET"), b"")))
    assert (status, body) == (404, b"")


def test_the_environment_names_the_app(model_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_TARGET", model_url)
    monkeypatch.delenv("OVERSPILL_APP", raising=False)
    assert isinstance(kit.from_environment(), kit.LocalServer)
    monkeypatch.setenv("OVERSPILL_APP", f"{__name__}:shout")
    assert kit.from_environment() is shout


def test_a_target_that_is_no_http_address_is_refused() -> None:
    with pytest.raises(ValueError, match="OVERSPILL_TARGET"):
        kit.LocalServer("127.0.0.1:8000")


def test_a_server_that_does_not_start_is_an_error() -> None:
    server = kit.LocalServer("http://127.0.0.1:9", command=f"{sys.executable} -c pass", boot_s=10)
    with pytest.raises(RuntimeError, match="exit code 0"):
        server.wait_until_up()


def test_a_worker_image_needs_nothing_but_these_files(tmp_path: Path) -> None:
    """Copied beside each other, as the images do, without this repository on the path."""
    source = Path(kit.__file__).parent
    for name in ("kit.py", "lambda_handler.py", "runpod_handler.py", "modal_app.py"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    code = "import kit, lambda_handler, runpod_handler, modal_app; print(lambda_handler.kit is kit)"

    async def isolated() -> bytes:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-S", "-c", code, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, env={}
        )
        return (await process.communicate())[0]

    assert asyncio.run(isolated()) == b"True\n"


class Slow:
    """An app that takes a while until it can serve."""

    def __init__(self) -> None:
        self.up = False
        self.calls = 0

    def wait_until_up(self) -> None:
        self.up = True

    def __call__(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        self.calls += 1
        return 200, {}, b""


def test_a_ping_is_answered_by_the_kit_once_the_app_is_up_and_never_by_the_app() -> None:
    clock, app = Ticking(), Slow()
    worker = kit.Worker(app, kit.Boot(clock))
    clock.now += 3.5
    status, headers, body = from_result(worker.handle(to_event(ping_call("embed"), b"")))
    assert (status, body) == (204, b"")
    assert take_boot(headers) == ([], (worker.boot.id, 3.5))
    assert (app.up, app.calls) == (True, 0)


async def asgi_ping(app: kit.Asgi) -> tuple[int, bytes, dict[bytes, bytes]]:
    target = ping_call("embed").target
    parts: list[kit.Message] = [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[kit.Message] = []

    async def receive() -> kit.Message:
        return parts.pop()

    async def send(message: kit.Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": target.decode(), "raw_path": target, "headers": []}
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body, dict(sent[0]["headers"])


async def test_a_ping_over_asgi_is_answered_alike() -> None:
    app = Slow()
    worker = kit.Worker(app, kit.Boot())
    status, body, headers = await asgi_ping(worker.asgi)
    assert (status, body) == (204, b"")
    assert headers[b"x-overspill-boot-id"] == worker.boot.id.encode()
    assert (app.up, app.calls) == (True, 0)


async def test_an_application_that_is_only_wrapped_does_not_see_pings() -> None:
    async def never(scope: kit.Message, receive: object, send: object) -> None:
        raise AssertionError(scope)

    boot = kit.Boot()
    status, body, headers = await asgi_ping(kit.boot_fields(never, boot))
    assert (status, body) == (204, b"")
    assert headers[b"x-overspill-boot-id"] == boot.id.encode()
