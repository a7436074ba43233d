"""One replica with a fixed number of slots and a fixed service time: `python -m loadtests.overload.fleet`.

What it can do a second is slots / service time, whatever it is sent; who finds every slot taken waits in its
line. One line of JSON, `{"url", "pid"}`, says that it listens. Must never know who asks, nor why.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Sequence
from typing import cast

import uvloop

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class Fleet:
    """Its slots, and who waits for them."""

    def __init__(self, slots: int, service_s: float) -> None:
        self._free = slots
        self._service_s = service_s
        self._line: deque[FleetConnection] = deque()
        self.begun = 0

    def work(self, connection: "FleetConnection") -> None:
        """Answer it when its turn has come and its work is done."""
        if not self._service_s:
            self.begun += 1
            connection.answer()
        elif self._free:
            self._free -= 1
            self._begin(connection)
        else:
            self._line.append(connection)

    def _begin(self, connection: "FleetConnection") -> None:
        self.begun += 1
        asyncio.get_running_loop().call_later(self._service_s, self._finish, connection)

    def _finish(self, connection: "FleetConnection") -> None:
        connection.answer()
        if self._line:
            self._begin(self._line.popleft())
        else:
            self._free += 1


class FleetConnection(asyncio.Protocol):
    """One client that sends one request at a time, each with a length."""

    _transport: asyncio.Transport

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._head = b""
        self._left = 0
        self._works = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            end = self._head.find(_END)
            if end < 0:
                return
            head, body = self._head[:end].lower(), len(self._head) - end - len(_END)
            self._head = b""
            at = head.find(_LENGTH)
            length = 0 if at < 0 else int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
            self._left = length - body
            self._works = head.startswith(b"post")
        if self._left <= 0:
            self._left = 0
            if self._works:
                self._fleet.work(self)
            else:
                self.answer()

    def answer(self) -> None:
        """To the request that it has read."""
        if not self._transport.is_closing():
            self._transport.write(_ANSWER)


async def _serve(slots: int, service_s: float) -> None:
    stop, fleet = asyncio.Event(), Fleet(slots, service_s)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: FleetConnection(fleet), "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{port}", "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    server.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.overload.fleet")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--service", type=float, default=0.04, help="seconds")
    given = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(given.slots, given.service))
    return 0


if __name__ == "__main__":
    sys.exit(main())
