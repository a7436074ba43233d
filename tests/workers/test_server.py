"""The kit's HTTP server: what a provider's proxy, the gateway, and a platform that stops it may rely on."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.workers import kit, server
from tests.workers.support import HERE, Said, ask, serving

PATIENCE = 5.0


def echo(method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> kit.Response:
    seen = f"{method} {path} {query} {headers.get('x-a', '')}"
    return 200, {"Content-Type": "application/x", "X-Seen": seen, "Connection": "upgrade"}, body[::-1]


Connect = Callable[[server.Server | int], http.client.HTTPConnection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connections to a server or a port, closed in the end."""
    made = []

    def to(where: server.Server | int) -> http.client.HTTPConnection:
        port = where if isinstance(where, int) else where.port
        made.append(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE))
        return made[-1]

    yield to
    for connection in made:
        connection.close()


def raw(made: server.Server, request: bytes) -> bytes:
    """Everything that comes back until the connection is closed."""
    with socket.create_connection(("127.0.0.1", made.port), timeout=PATIENCE) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_an_answer_has_the_apps_fields_and_the_boots_and_nothing_else(connect: Connect) -> None:
    with serving(echo) as made:
        said = ask(connect(made), "PUT", "/v2/a%20b?x=%2F", b"\x00\xff", {"X-A": "b"})
    boot = {"x-overspill-boot-id": made.worker.boot.id}
    age = float(said.fields.pop("x-overspill-boot-age"))
    assert 0 <= age < PATIENCE
    own = {"content-type": "application/x", "x-seen": "PUT /v2/a%20b x=%2F b", "content-length": "2"}
    assert said == (200, {**own, **boot}, b"\xff\x00")


def test_connections_are_kept(connect: Connect) -> None:
    with serving(echo) as made:
        connection = connect(made)
        assert ask(connection, body=b"ab").body == b"ba"
        first = connection.sock
        assert ask(connection, body=b"").body == b""
        assert ask(connection, "GET", body=None).status == 200
        assert connection.sock is first


def test_bodies_in_chunks_are_read(connect: Connect) -> None:
    with serving(echo) as made:
        connection = connect(made)
        said = ask(connection, body=iter([b"one", b"", b"two" * 50_000]))
        assert said.body == (b"one" + b"two" * 50_000)[::-1]
        assert ask(connection, body=b"next").body == b"txen"


def test_who_expects_a_100_gets_it() -> None:
    with serving(echo) as made:
        with socket.create_connection(("127.0.0.1", made.port), timeout=PATIENCE) as connection:
            connection.sendall(
                b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
            connection.sendall(b"ab")
            assert connection.recv(1000).endswith(b"\r\n\r\nba")


class Gated:
    """An app whose second piece waits until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go, self.closed = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, *_: object) -> kit.Response:
        return 200, {"content-type": "text/event-stream"}, self.pieces()

    def pieces(self) -> Iterator[bytes]:
        try:
            yield b"first"
            self.begun.set()
            assert self.go.wait(PATIENCE)
            yield b""
            yield b"second"
        finally:
            self.closed.set()


def test_answers_stream(connect: Connect) -> None:
    app = Gated()
    with serving(app) as made:
        connection = connect(made)
        connection.request("POST", "/")
        response = connection.getresponse()
        assert response.getheader("transfer-encoding") == "chunked"
        assert response.read1() == b"first"
        app.go.set()
        assert response.read() == b"second"


def test_an_app_is_told_that_its_client_has_left(connect: Connect) -> None:
    def endless(*_: object) -> kit.Response:
        return 200, {}, pieces()

    def pieces() -> Iterator[bytes]:
        try:
            while True:
                yield bytes(65536)
        finally:
            closed.set()

    closed = threading.Event()
    with serving(endless) as made:
        connection = connect(made)
        connection.request("POST", "/")
        connection.getresponse().close()
        connection.close()
        assert closed.wait(PATIENCE)


def test_more_calls_than_places_get_429_at_once_and_health_is_still_told(connect: Connect) -> None:
    app = Gated()
    with serving(app, HERE._replace(concurrency=1)) as made:
        busy, other = connect(made), connect(made)
        busy.request("POST", "/")
        response = busy.getresponse()
        assert app.begun.wait(PATIENCE)
        said = ask(other)
        assert (said.status, said.body) == (429, b'{"error": "this worker is full"}')
        assert said.fields["retry-after"] == "1"
        assert ask(other, target=kit.PING_PATH).status == 429, "a ping takes a place as a call does"
        assert ask(other, "GET", server.HEALTH_PATH).status == 200
        app.go.set()
        assert response.read() == b"firstsecond"
        assert ask(other, target=kit.PING_PATH).status == 204


@pytest.mark.parametrize("answer", [b"whole", [b"in ", b"pieces"]], ids=["whole", "stream"])
def test_who_has_read_an_answer_finds_its_place_free(connect: Connect, answer: Any) -> None:
    """A gateway's next call follows the last byte at once, on another connection."""

    def app(*_: object) -> kit.Answer:
        return 200, [], answer

    with serving(app, HERE._replace(concurrency=1)) as made:
        both = connect(made), connect(made)
        assert {ask(both[turn % 2]).status for turn in range(500)} == {200}


class Loading:
    """An app that cannot serve yet."""

    def __init__(self) -> None:
        self.loaded = threading.Event()

    def wait_until_up(self) -> None:
        assert self.loaded.wait(PATIENCE)

    def __call__(self, *_: object) -> kit.Response:
        return 200, {}, b""


def test_health_is_told_as_runpod_asks_it_and_on_a_port_of_its_own(connect: Connect) -> None:
    app = Loading()
    settings = HERE._replace(health_path="/ping", health_port=0)
    made = server.Server(kit.Worker(app, kit.Boot()), settings)
    thread = threading.Thread(target=made.run)
    thread.start()
    assert made.listening.wait(PATIENCE)
    own = connect(made.health_port)
    connection = connect(made)
    for one in (own, connection):
        assert ask(one, "GET", "/ping") == Said(204, {}, b"")
        assert ask(one, "GET", server.HEALTH_PATH).status == 503
    app.loaded.set()
    assert made.up.wait(PATIENCE)
    for one in (own, connection):
        assert ask(one, "GET", "/ping") == Said(200, {"content-length": "0"}, b"")
        assert ask(one, "GET", server.HEALTH_PATH).status == 200
    assert ask(own).status == 404
    assert ask(connection).status == 200
    made.stop()
    thread.join(PATIENCE)


def test_what_cannot_come_up_is_a_failure() -> None:
    class Broken(Loading):
        def wait_until_up(self) -> None:
            raise RuntimeError("no weights")

    assert server.Server(kit.Worker(Broken(), kit.Boot()), HERE).run() is False


@pytest.mark.parametrize("fields", [{"x-a": "b\r\nset-cookie: c"}, {"x a": "b"}, {"": "b"}, {"x:a": "b"}])
def test_fields_that_would_split_an_answer_are_refused(connect: Connect, fields: dict[str, str]) -> None:
    with serving(lambda *_: (200, fields, b"")) as made:
        connection = connect(made)
        assert ask(connection)[::2] == (500, b'{"error": "the app failed"}')
        assert ask(connection).status == 500


def test_an_app_that_raises_is_a_500_without_its_secrets(connect: Connect) -> None:
    def broken(*_: object) -> kit.Response:
        raise ValueError("sk-secret")

    with serving(broken) as made:
        assert ask(connect(made))[::2] == (500, b'{"error": "the app failed"}')


def test_an_app_that_fails_within_its_answer_is_no_whole_answer(connect: Connect) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"first"
        raise ValueError("boom")

    with serving(lambda *_: (200, {}, pieces())) as made:
        connection = connect(made)
        connection.request("POST", "/")
        with pytest.raises(http.client.IncompleteRead):
            connection.getresponse().read()


def test_answers_without_a_body(connect: Connect) -> None:
    with serving(lambda method, *_: (204 if method == "POST" else 200, {}, b"")) as made:
        connection = connect(made)
        assert "content-length" not in ask(connection).fields
        assert ask(connection, "HEAD").fields["content-length"] == "0"
        assert ask(connection).status == 204


def test_a_client_of_http_1_0_gets_its_body_until_the_end() -> None:
    app = Gated()
    app.go.set()
    with serving(app) as made:
        head, _, body = raw(made, b"POST / HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert body == b"firstsecond"
    assert b"transfer-encoding" not in head


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\na", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n", 413),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffffffff\r\n", 413),
        (b"POST / HTTP/1.1\r\ncontent-length: 1001\r\n\r\n", 413),
        (b"POST\r\n\r\n", 400),
        (b"POST / HTTP/9.9\r\n\r\n", 505),
    ],
)
def test_what_is_no_request_is_told_so_and_the_connection_ends(request_bytes: bytes, status: int) -> None:
    with serving(echo, HERE._replace(most_bytes=1000)) as made:
        answer = raw(made, request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1") == 1


def test_the_environment_says_how_to_serve() -> None:
    environment = {
        "PORT": "80", "PORT_HEALTH": "81", "HEALTH_CHECK_PATH": "/ping", "OVERSPILL_CONCURRENCY": "3",
        "OVERSPILL_DRAIN_S": "2.5", "OVERSPILL_HOST": "127.0.0.1",
    }  # fmt: skip
    assert server.Settings.of(environment) == ("127.0.0.1", 80, 81, "/ping", 3, 2.5, 2**30)
    assert server.Settings.of({"PORT": "80", "PORT_HEALTH": "80"}).health_port is None
    assert server.Settings.of({"PORT": "80", "FUNCTIONS_CUSTOMHANDLER_PORT": "90"}).port == 90
    assert server.Settings.of({}) == server.Settings()
    with pytest.raises(ValueError, match="PORT is 'eighty'; write a whole number"):
        server.Settings.of({"PORT": "eighty"})


SLOW = """
import pathlib, time
def app(method, path, query, headers, body):
    def pieces():
        yield b"first"
        while not pathlib.Path("go").exists():
            time.sleep(0.01)
        yield b"second"
    return 200, {}, pieces()
"""


def started(folder: Path, **environment: str) -> tuple["subprocess.Popen[bytes]", int]:
    """`python server.py` with nothing else beside it but the kit and an app, and its port."""
    for module in (kit, server):
        (folder / Path(str(module.__file__)).name).write_bytes(Path(str(module.__file__)).read_bytes())
    (folder / "slow.py").write_text(SLOW)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"OVERSPILL_APP": "slow:app", "OVERSPILL_HOST": "127.0.0.1", "PORT": str(port), **environment}
    process = subprocess.Popen(
        [sys.executable, "-S", "server.py"], cwd=folder, env=own, stderr=subprocess.PIPE
    )
    for _ in range(500):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None
        threading.Event().wait(0.01)
    return process, port


def test_sigterm_lets_calls_finish_and_closes_what_idles(connect: Connect, tmp_path: Path) -> None:
    process, port = started(tmp_path)
    with process:
        idle = connect(port)
        assert ask(idle, target=kit.PING_PATH).status == 204
        busy = connect(port)
        busy.request("POST", "/")
        response = busy.getresponse()
        assert response.read1() == b"first"
        os.kill(process.pid, signal.SIGTERM)
        assert idle.sock.recv(1) == b"", "closed, and nothing of an answer lost"
        with pytest.raises(OSError, match=r"refused|reset"):
            ask(connect(port))
        (tmp_path / "go").touch()
        assert response.read() == b"second"
        assert process.wait(PATIENCE) == 0


def test_what_takes_too_long_to_finish_is_given_up(connect: Connect, tmp_path: Path) -> None:
    process, port = started(tmp_path, OVERSPILL_DRAIN_S="0.2")
    with process:
        busy = connect(port)
        busy.request("POST", "/")
        response = busy.getresponse()
        assert response.read1() == b"first"
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert b"1 requests were not finished within 0.2 s" in process.stderr.read()
        response.close()


def test_a_server_that_waits_for_its_app_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text(
        "import time\nclass A:\n def wait_until_up(self): time.sleep(60)\napp = A()\n"
    )
    process, _ = started(tmp_path, OVERSPILL_APP="never:app", HEALTH_CHECK_PATH="/ping")
    with process:
        process.terminate()
        assert process.wait(PATIENCE) == 0
