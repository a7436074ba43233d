"""A worker's server in this process, and what all kits are asked: a thousand random tensors, three ways."""

import http.client
import json
import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from backends.emulators.kserve import KServeApp
from backends.envelope import from_result, to_event
from backends.grpc_codec import to_http
from backends.workers import kit, server
from tests.grpc_codec.support import Tensor, as_request
from tests.serverless.test_kserve_through_workers import Batch, batches, fits_json, in_json, official
from tests.support.provider import a_call

HERE = server.Settings(host="127.0.0.1", port=0)


@contextmanager
def running(made: server.Server) -> Iterator[server.Server]:
    """Serving, until the block ends; then it has drained."""
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        assert made.up.wait(5.0)
        yield made
    finally:
        made.stop()
        thread.join(10.0)
        assert not thread.is_alive()


@contextmanager
def serving(app: kit.App, settings: server.Settings = HERE) -> Iterator[server.Server]:
    with running(server.Server(kit.Worker(app, kit.Boot()), settings)) as made:
        yield made


class Said(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes


def ask(
    connection: http.client.HTTPConnection,
    method: str = "POST",
    target: str = "/",
    body: Any = b"",
    headers: Mapping[str, str] | None = None,
) -> Said:
    connection.request(method, target, body=body, headers=dict(headers or {}))
    return read(connection.getresponse())


def read(response: http.client.HTTPResponse) -> Said:
    body = response.read()
    fields = {name.lower(): value for name, value in response.getheaders()}
    assert len(fields) == len(response.getheaders()), "no field comes twice"
    return Said(response.status, fields, body)


CONTENT = ("content-type", "content-encoding", "inference-header-content-length")


class Question(NamedTuple):
    """One request, and what the warm server says to it: status, content fields, body."""

    target: str
    headers: dict[str, str]
    body: bytes
    warm: tuple[int, dict[str, str], bytes]


def content(fields: Mapping[str, str] | list[tuple[str, str]]) -> dict[str, str]:
    """What says how to read the body; the rest is the connection's."""
    return {name.lower(): value for name, value in dict(fields).items() if name.lower() in CONTENT}


def every_batch() -> list[list[Tensor]]:
    """A thousand random tensors, and again those of them that JSON can carry."""
    drawn = batches()
    return [*drawn, *([tensor for tensor in batch if fits_json(tensor)] for batch in drawn)]


def models() -> list[Batch]:
    return [Batch(place, tensors) for place, tensors in enumerate(every_batch())]


def questions() -> list[Question]:
    """As the gRPC call in HTTP words, as the client library asks, in JSON both ways; wrong ones as well."""
    app = KServeApp(models())
    asked = []
    every = every_batch()
    for place, tensors in enumerate(every):
        target = b"/v2/models/batch-%d/infer" % place
        if place < len(every) // 2:
            message = as_request(tensors)
            message.model_name = f"batch-{place}"
            asked += [to_http(message.SerializeToString()), official(target, tensors, binary=True)]
        else:
            asked += [in_json(target, tensors), official(target, tensors, binary=False)]
    found = []
    for one in asked:
        headers = {name.decode(): value.decode() for name, value in one.headers}
        found.append(question(app, one.target.decode(), headers, one.body))
    wrong = [("/v2/models/none/infer", b"{}"), ("/v2/models/batch-0/infer", b"{"), ("/nowhere", b"")]
    for path, body in wrong:
        found.append(question(app, path, {"content-type": "application/json"}, body))
    assert sorted({one.warm[0] for one in found}) == [200, 404, 500]
    return found


def question(app: KServeApp, target: str, headers: dict[str, str], body: bytes) -> Question:
    status, fields, answer = app("POST", target, "", headers, body)
    return Question(target, headers, body, (status, content(fields), answer))


def an_event(one: Question) -> dict[str, Any]:
    headers = [(name.encode(), value.encode()) for name, value in one.headers.items()]
    event = to_event(a_call(one.body, target=one.target.encode(), headers=headers), one.body)
    return dict(json.loads(json.dumps(event)))


def of_result(result: object) -> tuple[int, dict[str, str], bytes]:
    status, headers, body = from_result(json.loads(json.dumps(result)))
    fields = {name.decode(): value.decode() for name, value in headers}
    assert fields["x-overspill-boot-id"]
    return status, content(fields), body


class RuntimeApi:
    """Lambda's runtime interface: hands out events, takes what is answered. One at a time."""

    def __init__(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                assert self.path == "/2018-06-01/runtime/invocation/next"
                event = api.events.get()
                if event is None:
                    self.close_connection = True
                    return
                body = json.dumps(event).encode()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", "the-id")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self) -> None:
                api.path, api.fields = self.path, dict(self.headers.items())
                api.body, api.trailer = self._read()
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _read(self) -> tuple[bytes, dict[str, str]]:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers["Content-Length"])), {}
                body, trailer = b"", {}
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    assert self.rfile.readline() == b"\r\n"
                while line := self.rfile.readline().strip():
                    name, _, value = line.decode().partition(": ")
                    trailer[name] = value
                return body, trailer

            def log_message(self, *_: object) -> None:
                pass

        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.path, self.fields, self.body, self.trailer = "", dict[str, str](), b"", dict[str, str]()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator["RuntimeApi"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.events.put(None)
            self._server.shutdown()
            thread.join()
            self._server.server_close()
