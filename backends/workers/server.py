"""The worker kit's HTTP server: standard library only, to be copied into an image beside kit.py.

    python server.py

serves what the environment names (see kit.py) on every provider that carries plain HTTP: RunPod load
balancing, Modal servers, Google Cloud Run, Azure custom handlers, Lambda behind its web adapter, or a
machine of one's own. Connections are kept, answers stream, and an answer has the app's own fields and the
two of the boot, nothing else. It knows no provider, only what they put into the environment:

    PORT                   where to listen; default 8080. FUNCTIONS_CUSTOMHANDLER_PORT goes before it
    PORT_HEALTH            another port for the health path alone; default none
    HEALTH_CHECK_PATH      a path that is answered 200 once a call could be served and 204 before, as RunPod
                           asks; default none. `/.overspill/health` is answered 200 and 503 everywhere
    OVERSPILL_CONCURRENCY  most calls at once; another gets 429 at once. Default no limit
    OVERSPILL_DRAIN_S      how long calls may still take after SIGTERM; default 10
    OVERSPILL_HOST         address to listen on; default all

Without a HEALTH_CHECK_PATH nobody would ask whether a call could be served, so the port opens only then.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Protocol

try:
    from backends.workers import kit
except ImportError:  # in an image the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]

HEALTH_PATH = "/.overspill/health"

_IDLE_S = 620.0  # longer than the 600 s for which the front ends of clouds keep a connection
_LONGEST_LINE = 64 * 1024
_LOOK_S = 0.05  # how long it may take until an end is noticed
_log = logging.getLogger("overspill.worker")


class Settings(NamedTuple):
    """How to serve; see the top of this file. Port 0 takes any that is free."""

    host: str = "0.0.0.0"  # noqa: S104 - a container is reached from outside
    port: int = 8080
    health_port: int | None = None
    health_path: str = ""
    concurrency: int | None = None
    drain_s: float = 10.0
    most_bytes: int = 2**30

    @classmethod
    def of(cls, environment: "os._Environ[str] | dict[str, str]") -> "Settings":
        """Raises ValueError, naming the variable, for what is no number."""
        port = _number(environment, "FUNCTIONS_CUSTOMHANDLER_PORT") or _number(environment, "PORT")
        drain = environment.get("OVERSPILL_DRAIN_S", "")
        health_port = _number(environment, "PORT_HEALTH")
        return cls(
            host=environment.get("OVERSPILL_HOST") or cls._field_defaults["host"],
            port=8080 if port is None else port,
            health_port=None if health_port == port else health_port,
            health_path=environment.get("HEALTH_CHECK_PATH", ""),
            concurrency=_number(environment, "OVERSPILL_CONCURRENCY"),
            drain_s=float(drain) if drain else 10.0,
        )


def _number(environment: "os._Environ[str] | dict[str, str]", name: str) -> int | None:
    text = environment.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{name} is {text!r}; write a whole number, like 8080")
    return int(text)


class BadRequest(Exception):
    """Bytes that are no request. `status` is what to answer before the connection is closed."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Respond(Protocol):
    """What turns a request into an answer; `Worker.answer` is one."""

    def __call__(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, *, age: float
    ) -> kit.Answer:
        """May raise anything: it becomes a 500."""


class Server:
    """One worker on one port, and its health on another if that is asked for.

    `respond` stands before the worker, for providers whose requests are not the calls themselves.
    """

    def __init__(self, worker: kit.Worker, settings: Settings, respond: Respond | None = None) -> None:
        self.worker, self.settings = worker, settings
        self.respond: Respond = respond or worker.answer
        self.up = threading.Event()
        """Set once a call could be served."""
        self.draining = self._failed = False
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, bool] = {}  # whether a request is being read or answered
        self._running = 0
        self._listeners: list[_Listener] = []
        self.port = self.health_port = 0
        """Where calls go, and questions about health; 0 until it listens there."""
        self.listening = threading.Event()
        """Set once it listens for whatever it may be asked before it is up."""

    def run(self) -> bool:
        """Serve until `stop`. False if what the app waits for has failed."""
        if self.settings.health_port is not None:
            self.health_port = self._listen(self.settings.health_port, only_health=True)
        if self.settings.health_path:
            self.port = self._listen(self.settings.port)
        self.listening.set()
        # In a thread: whatever the app waits for, this one has to notice that it is told to stop.
        threading.Thread(target=self._come_up, daemon=True).start()
        while not self.draining and not self._failed:
            time.sleep(_LOOK_S)
        self._drain()
        return not self._failed

    def stop(self) -> None:
        """Take no more connections, finish what is being answered, have `run` return; from any thread."""
        self.draining = True

    def _come_up(self) -> None:
        try:
            self.worker.wait_until_up()
            if not self.settings.health_path:
                self.port = self._listen(self.settings.port)
        except Exception:
            _log.exception("this worker cannot serve")
            self._failed = True
        else:
            self.up.set()

    def _listen(self, port: int, *, only_health: bool = False) -> int:
        listener = _Listener((self.settings.host, port), self, only_health=only_health)
        self._listeners.append(listener)
        threading.Thread(target=listener.serve_forever, args=(_LOOK_S,), daemon=True).start()
        return int(listener.server_address[1])

    def _drain(self) -> None:
        for listener in self._listeners:
            listener.shutdown()
            listener.server_close()
        give_up = time.monotonic() + self.settings.drain_s
        while time.monotonic() < give_up:
            with self._lock:
                for connection, busy in self._connections.items():
                    if not busy:
                        # What has arrived is still read and answered; then the connection ends.
                        with contextlib.suppress(OSError):
                            connection.shutdown(socket.SHUT_RD)
                if not self._connections:
                    return
            time.sleep(0.02)
        _log.warning("%d requests were not finished within %g s", self._running, self.settings.drain_s)

    # -- for the connections

    def mark(self, connection: socket.socket, *, busy: bool | None) -> None:
        """A connection waits for a request, has one, or (None) is gone."""
        with self._lock:
            if busy is None:
                self._connections.pop(connection, None)
            else:
                self._connections[connection] = busy

    @contextlib.contextmanager
    def place(self) -> Iterator["_Place"]:
        """A place to run one call in, if one is free."""
        with self._lock:
            free = self.settings.concurrency is None or self._running < self.settings.concurrency
            self._running += free
        place = _Place(self._left, free=free)
        try:
            yield place
        finally:
            place.leave()

    def _left(self) -> None:
        with self._lock:
            self._running -= 1

    def health(self, path: str) -> int | None:
        """The status for a question about health; None for any other path."""
        if path and path == self.settings.health_path:
            return 200 if self.up.is_set() else 204
        if path == HEALTH_PATH:
            return 200 if self.up.is_set() else 503
        return None


class _Place:
    """One call's part of what the worker may do at once. `free`: it got one."""

    def __init__(self, left: Callable[[], None], *, free: bool) -> None:
        self.free = free
        self._left = left if free else None

    def leave(self) -> None:
        """Give it back; once is enough."""
        left, self._left = self._left, None
        if left is not None:
            left()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], owner: Server, *, only_health: bool) -> None:
        self.owner, self.only_health = owner, only_health
        super().__init__(address, _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that left is no error; anything else is this server's own."""
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("a connection ended")


class _Connection(BaseHTTPRequestHandler):
    """Requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _IDLE_S
    server: _Listener

    def handle(self) -> None:
        owner = self.server.owner
        try:
            self.close_connection = False
            while not self.close_connection:
                owner.mark(self.connection, busy=False)
                self.raw_requestline = self.rfile.readline(_LONGEST_LINE + 1)
                if not self.raw_requestline:
                    return
                owner.mark(self.connection, busy=True)
                self._one()
        finally:
            owner.mark(self.connection, busy=None)

    def _one(self) -> None:
        age = self.server.owner.worker.boot.age()
        try:
            if not self.parse_request():
                return
            if self.request_version == "HTTP/1.0" or self.server.owner.draining:
                self.close_connection = True
            body = self._body()
        except BadRequest as error:
            self.close_connection = True
            self._send(*_error(error.status, str(error)))
            return
        path, _, query = self.path.partition("?")
        status = self.server.owner.health(path)
        if status is not None:
            self._send(status, [], b"")
        elif self.server.only_health:
            self._send(*_error(404, "only health is told on this port"))
        else:
            self._call(path, query, body, age)

    def _call(self, path: str, query: str, body: bytes, age: float) -> None:
        """One call, if there is a place for it.

        The place is free again once the app is done: a stream holds it but for its last bytes, and what the
        app answered whole is written without it.
        """
        with self.server.owner.place() as place:
            if not place.free:
                status, fields, text = _error(429, "this worker is full")
                self._send(status, [*fields, ("retry-after", "1")], text)
                return
            headers: dict[str, str] = {}
            for name, value in self.headers.items():
                low = name.lower()
                glue = "; " if low == "cookie" else ", "
                headers[low] = headers[low] + glue + value if low in headers else value
            try:
                answer = self.server.owner.respond(str(self.command), path, query, headers, body, age=age)
            except Exception:
                _log.exception("the app failed")
                answer = _error(500, "the app failed")
            self._send(*answer, ending=place.leave)

    # -- reading

    def _body(self) -> bytes:
        most = self.server.owner.settings.most_bytes
        lengths = set(self.headers.get_all("content-length", ()))
        encoding = self.headers.get("transfer-encoding", "").strip().lower()
        if encoding:
            if lengths or encoding != "chunked":
                raise BadRequest(400, "transfer-encoding may only be chunked, without a content-length")
            return self._chunked(most)
        if not lengths:
            return b""
        length = lengths.pop()
        if lengths or not length.isascii() or not length.isdigit():
            raise BadRequest(400, "content-length is not one number")
        if int(length) > most:
            raise BadRequest(413, f"{length} bytes, {most} are allowed")
        return self._exactly(int(length))

    def _chunked(self, most: int) -> bytes:
        body = bytearray()
        while True:
            line = self.rfile.readline(_LONGEST_LINE)
            try:
                size = int(line.partition(b";")[0].strip(), 16)
            except ValueError:
                raise BadRequest(400, "a chunk has no size") from None
            if size < 0 or len(body) + size > most:
                raise BadRequest(413, f"more than the {most} bytes that are allowed")
            if size == 0:
                while self.rfile.readline(_LONGEST_LINE).strip():
                    pass  # trailer fields: nothing of ours
                return bytes(body)
            body += self._exactly(size)
            if self.rfile.readline(3).strip():
                raise BadRequest(400, "a chunk is longer than it says")

    def _exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError("the client left while its request was being read")
        return data

    # -- writing

    def _send(
        self,
        status: int,
        fields: list[tuple[str, str]],
        body: Any,
        *,
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        """The answer: as it is, with a length, or in chunks as its pieces come.

        `ending` is called before its last byte: whoever has read that may call again at once, and must not
        find that the call before still counts.
        """
        whole = body if isinstance(body, bytes) else None
        bodiless = status in kit.WITHOUT_BODY
        chunked = whole is None and not bodiless and self.request_version != "HTTP/1.0"
        if chunked:
            fields = [*fields, ("transfer-encoding", "chunked")]
        elif whole is not None and not bodiless:
            fields = [*fields, ("content-length", str(len(whole)))]
        if self.close_connection:
            fields = [*fields, ("connection", "close")]
        lines = [f"HTTP/1.1 {status} {kit.reason(status)}", *(f"{name}: {value}" for name, value in fields)]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        if bodiless or self.command == "HEAD":
            _close(body)
            ending()
            self.wfile.write(head)
        elif whole is not None:
            ending()
            self.wfile.write(head + whole)
        else:
            self.wfile.write(head)
            if self._stream(body, chunked=chunked):
                ending()
                if chunked:
                    self.wfile.write(b"0\r\n\r\n")

    def _stream(self, pieces: Any, *, chunked: bool) -> bool:
        """All pieces; whether they came to their end."""
        try:
            for piece in pieces:
                if piece:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        except OSError:
            self.close_connection = True  # the client has left, or the app's own connection broke
        except Exception:
            _log.exception("the app failed within its answer")
            self.close_connection = True
        else:
            return True
        finally:
            _close(pieces)
        return False

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `parse_request` says of bytes that are no request."""
        self.close_connection = True
        self._send(*_error(int(code), message or kit.reason(int(code))))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Calls are the gateway's to log."""


def _close(pieces: Any) -> None:
    """Tell an app that nobody takes the rest of its answer."""
    if hasattr(pieces, "close"):
        pieces.close()


def _error(status: int, text: str) -> kit.Answer:
    return status, [("content-type", "application/json")], json.dumps({"error": text}).encode()


def serve(server: Server) -> None:
    """Run until SIGTERM or SIGINT, then finish what is being answered. Ends the process with 1 on failure."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    try:
        good = server.run()
    finally:
        if isinstance(server.worker.app, kit.LocalServer):
            server.worker.app.stop()
    sys.exit(0 if good else 1)


def main() -> None:
    """Serve what the environment names."""
    logging.basicConfig()
    serve(Server(kit.Worker(kit.from_environment(), kit.Boot()), Settings.of(os.environ)))


if __name__ == "__main__":
    main()
