"""A replica or a provider as a process that does wrong on request: `python -m loadtests.chaos.upstream`.

It answers `work.answer_to`, notes what it executes, and is told over `POST /chaos {"mode": …}` what to do
(`"close": true` also closes the connections that are open):

    ok      answers                                 refuse  429, nothing is executed
    hang    accepts, and never answers anything     fail    does the work, and answers 500
    stall   stops in the middle of the answer       reset   resets the connection there
    expired (TLS only) shows a certificate whose time is over; connections that are open are closed

One line of JSON, `{"url", "pid"}`, says that it listens. Must never know who asks.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import ssl
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import httptools
import uvloop

from loadtests.chaos.work import Notes, answer_to, name_of

MODES = ("ok", "hang", "stall", "reset", "refuse", "fail", "expired")

_REASONS = {200: b"OK", 400: b"Bad Request", 429: b"Too Many Requests", 500: b"Internal Server Error"}


class Upstream:
    """What its connections share. `tls`: folder with good.pem and expired.pem, each certificate and key."""

    def __init__(self, notes: Notes, service_s: float, tls: Path | None) -> None:
        self.notes = notes
        self.service_s = service_s
        self.mode = "ok"
        self.connections: set[UpstreamConnection] = set()
        self._tls = tls
        self.context: ssl.SSLContext | None = None
        if tls is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(tls / "good.pem")

    def become(self, mode: str, *, close: bool = False) -> None:
        """Behave like that from now on; `close` the connections that are open. ValueError for no mode."""
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}")
        self.mode = mode
        if self.context is not None and self._tls is not None:
            self.context.load_cert_chain(self._tls / ("expired.pem" if mode == "expired" else "good.pem"))
        if close or self.context is not None:
            for connection in list(self.connections):
                connection.close_soon()


class UpstreamConnection(asyncio.Protocol):
    """One client; one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body: list[bytes] = []
        self._working = False
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._upstream.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._upstream.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def close_soon(self) -> None:
        """Now, or behind the answer that is being worked on."""
        self._closing = True
        if not self._working:
            self._transport.close()

    # what the parser calls

    def on_url(self, url: bytes) -> None:
        self._path = url
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, upstream = b"".join(self._body), self._upstream
        if self._path == b"/chaos":
            self._obey(body)
        elif self._parser.get_method() != b"POST":
            if upstream.mode != "hang":
                self._write(200, b"{}")
        else:
            self._work(body)

    def _obey(self, body: bytes) -> None:
        self._working = True  # or it would be closed before it has its answer
        try:
            wish = json.loads(body)
            self._upstream.become(wish["mode"], close=bool(wish.get("close")))
        except (ValueError, KeyError, TypeError) as error:
            self._write(400, json.dumps({"error": str(error)}).encode())
        else:
            self._write(200, b"{}")
        self._working = False
        if self._closing:
            self._transport.close()

    def _work(self, body: bytes) -> None:
        try:
            name = name_of(body)
        except ValueError as error:
            self._write(400, json.dumps({"error": str(error)}).encode())
            return
        if self._upstream.mode in ("hang", "refuse"):
            self._upstream.notes.met(name)
            if self._upstream.mode == "refuse":
                self._write(429, b'{"error": "too many requests"}')
            return
        self._working = True
        self._upstream.notes.began(name)
        asyncio.get_running_loop().call_later(self._upstream.service_s, self._finish, name, body)

    def _finish(self, name: str, body: bytes) -> None:
        self._working = False
        answer, mode = answer_to(body), self._upstream.mode
        if mode in ("hang", "stall", "reset", "fail"):
            self._upstream.notes.met(name)
        if self._transport.is_closing() or mode == "hang":
            return
        if mode == "fail":
            self._write(500, b'{"error": "something went wrong"}')
            return
        if mode in ("stall", "reset"):
            half = answer[: len(answer) // 2]
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            self._transport.write(head + b"%x\r\n%b\r\n" % (len(half), half))
            if mode == "reset":
                asyncio.get_running_loop().call_later(0.02, self._reset)
            return
        self._write(200, answer)
        self._upstream.notes.ended(name)
        if self._closing:
            self._transport.close()

    def _reset(self) -> None:
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None and not self._transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def _write(self, status: int, body: bytes) -> None:
        head = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self._transport.write(head % (status, _REASONS[status], len(body)) + body)


async def _serve(given: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    upstream = Upstream(Notes(given.notes), given.service, given.tls)
    server = await loop.create_server(
        lambda: UpstreamConnection(upstream), given.host, given.port, ssl=upstream.context, backlog=1024
    )
    async with server:
        port = server.sockets[0].getsockname()[1]
        scheme = "http" if given.tls is None else "https"
        sys.stdout.write(json.dumps({"url": f"{scheme}://{given.host}:{port}", "pid": os.getpid()}) + "\n")
        sys.stdout.flush()
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 after SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.chaos.upstream")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--service", type=float, default=0.02, help="seconds that a call takes")
    parser.add_argument("--tls", type=Path, help="folder with good.pem and expired.pem")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
