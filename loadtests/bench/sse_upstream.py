"""`python -m loadtests.bench.sse_upstream PORT`: a server whose events carry the moment they left.

Answers an OpenAI chat request with a stream of `max_tokens` events, `--interval` seconds apart, each with
the clock's nanoseconds in its text; the reader on the same machine has the same clock (CLOCK_MONOTONIC).
Every other request is answered like a healthy server's. Knows no gateway.
"""

import argparse
import contextlib
import json
import time
from functools import partial

import uvloop

from loadtests.bench.pacing import Due, Pacer
from loadtests.bench.played_server import PlayedConnection, serve
from loadtests.bench.workload import CHAT_PATH

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"small",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":"t=%d "},"finish_reason":%b}]}\n\n'
)
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def chunk(moment_ns: int, *, last: bool) -> bytes:
    """One event as one chunk of the body."""
    event = _EVENT % (moment_ns, b'"stop"' if last else b"null")
    return b"%x\r\n%b\r\n" % (len(event), event)


class StreamConnection(PlayedConnection):
    """One client; one stream at a time."""

    def __init__(self, interval_s: float, pacer: Pacer) -> None:
        super().__init__()
        self._interval_ns = int(interval_s * 1e9)
        self._pacer = pacer
        self._timer: Due | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def answered(self, path: str, body: bytes) -> bool:
        if path != CHAT_PATH:
            return False
        self._transport.write(_HEAD)
        self._next(int(json.loads(body)["max_tokens"]), time.perf_counter_ns())
        return True

    def _next(self, left: int, due_ns: int) -> None:
        event = chunk(time.perf_counter_ns(), last=left == 1)
        if left == 1:
            self._timer = None
            self._transport.write(event + _END)
            return
        self._transport.write(event)
        due_ns += self._interval_ns
        self._timer = self._pacer.call_at(due_ns, partial(self._next, left - 1, due_ns))


async def stream(port: int, interval_s: float) -> None:
    """Serve until cancelled."""
    with Pacer() as pacer:
        await serve(port, lambda: StreamConnection(interval_s, pacer))


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m loadtests.bench.sse_upstream", description=__doc__)
    options.add_argument("port", type=int)
    options.add_argument("--interval", type=float, default=0.1, help="seconds between two events (0.1)")
    asked = options.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(stream(asked.port, asked.interval))


if __name__ == "__main__":
    main()
