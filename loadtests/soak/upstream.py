"""`python -m loadtests.soak.upstream PORT…`: replicas that answer fast, err at random, and are gone at times.

One process, one port for each replica. What goes wrong follows from the seed and the order of the calls. It
answers inferences, chats (streamed where asked), large tensors and, at `/slow`, in two halves; `POST /close`
closes every connection. Knows no gateway.
"""

import argparse
import asyncio
import contextlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import uvloop

from loadtests.bench.played_server import PlayedConnection

ANSWER = json.dumps(
    {"model_name": "small", "outputs": [{"name": "y", "datatype": "FP32", "shape": [1], "data": [0.5]}]}
).encode()
CHAT = json.dumps(
    {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "small",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()  # fmt: skip
LARGE = b"\0" * 300_000
_EVENT = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"small",'
    b'"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
EVENTS, EVERY_S, SLOW_S = 6, 0.01, 0.05
REFUSED, FAILED, RESET, CUT = 0.004, 0.008, 0.010, 0.012
"""Up to where a number drawn from [0, 1) means: 429, 500, a reset before the answer, one in its middle."""
AWAY_S, BETWEEN_S = 1.0, (4.0, 9.0)
"""A replica is gone for so long; the next one so much later."""


@dataclass
class Replicas:
    """What all connections share."""

    chance: random.Random
    open: set["ReplicaConnection"] = field(default_factory=set)


class ReplicaConnection(PlayedConnection):
    """One client of one replica."""

    def __init__(self, replicas: Replicas, port: int) -> None:
        super().__init__()
        self._replicas = replicas
        self.port = port
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._replicas.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._replicas.open.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """At once."""
        self._transport.abort()

    def answered(self, path: str, body: bytes) -> bool:
        if path == "/close":
            for other in [each for each in self._replicas.open if each is not self]:
                other.close()
            return False
        if not body:  # a probe
            return False
        drawn = self._replicas.chance.random()
        if drawn < FAILED:
            status = b"429 Too Many Requests" if drawn < REFUSED else b"500 Internal Server Error"
            self._transport.write(b"HTTP/1.1 %b\r\ncontent-length: 2\r\n\r\n{}" % status)
        elif drawn < RESET:
            self.close()
        elif drawn < CUT:
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{")
            self.close()
        else:
            self._work(path, body)
        return True

    def _work(self, path: str, body: bytes) -> None:
        if "slow" in path:
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * len(ANSWER)) + ANSWER
            )
            self._later(SLOW_S, ANSWER)
        elif "large" in path:
            self.write_whole(LARGE, b"content-type: application/octet-stream\r\n")
        elif "/chat/" not in path:
            self.write_whole(ANSWER)
        elif b'"stream":true' in body:
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            self._event(EVENTS)
        else:
            self.write_whole(CHAT)

    def _later(self, seconds: float, data: bytes) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.write, data)

    def _event(self, left: int) -> None:
        if not left:
            self._transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT))
        self._timer = asyncio.get_running_loop().call_later(EVERY_S, self._event, left - 1)


async def serve(ports: Sequence[int], seed: int) -> None:
    """Until the process is ended. The last port is always there; of the others one is away now and then."""
    loop, replicas = asyncio.get_running_loop(), Replicas(random.Random(seed))

    async def opened(port: int) -> asyncio.Server:
        return await loop.create_server(
            lambda: ReplicaConnection(replicas, port), "127.0.0.1", port, backlog=4096
        )

    servers = {port: await opened(port) for port in ports}
    breaks = random.Random(seed + 1)
    while True:
        await asyncio.sleep(breaks.uniform(*BETWEEN_S))
        if len(ports) < 2:
            continue
        port = breaks.choice(ports[:-1])
        servers[port].close()
        for connection in [each for each in replicas.open if each.port == port]:
            connection.close()
        await asyncio.sleep(AWAY_S)
        servers[port] = await opened(port)


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m loadtests.soak.upstream", description=__doc__)
    options.add_argument("port", type=int, nargs="+")
    options.add_argument("--seed", type=int, default=1)
    asked = options.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(asked.port, asked.seed))


if __name__ == "__main__":
    main()
