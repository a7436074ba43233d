"""A client connection without a socket: bytes go to the listener's own class, its answers are kept.

For fuzzing and for the attacks that are sent split at every byte. Nothing here waits for the clock: a turn
runs the loop until nothing is left to do at once, so that what happens depends on the bytes alone.
"""

import asyncio
import random
from collections.abc import Iterable
from typing import Any, NamedTuple

from gateway.connection import Connection
from gateway.errors import OverspillError
from gateway.exchange import Exchange
from gateway.listener import Listener
from gateway.listener_limits import ListenerLimits
from gateway.vocab import Headers

_MOST_TURNS = 10_000


class StillClock:
    """A clock that stands: no time-out can pass while bytes are fed."""

    def now(self) -> float:
        """Seconds."""
        return 1000.0

    def wall(self) -> float:
        """Seconds since 1970."""
        return 1_700_000_000.0


class MemoryTransport(asyncio.Transport):
    """What a protocol writes to. `paused` holds back what would be fed, as a socket would."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.paused = False
        self.closing = False
        self.ended = False

    def write(self, data: Any) -> None:
        """Keep it."""
        if not self.closing:
            self.sent += data

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        """Keep them."""
        for data in list_of_data:
            self.write(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known of the peer."""
        return default

    def get_write_buffer_size(self) -> int:
        """All is taken at once."""
        return 0

    def is_closing(self) -> bool:
        """Closed?"""
        return self.closing

    def close(self) -> None:
        """Take no more."""
        self.closing = True

    abort = close

    def can_write_eof(self) -> bool:
        """Yes."""
        return True

    def write_eof(self) -> None:
        """No more will be written."""
        self.ended = True

    def pause_reading(self) -> None:
        """Hold back what comes."""
        self.paused = True

    def resume_reading(self) -> None:
        """Go on."""
        self.paused = False


class Understood(NamedTuple):
    """A request as the listener handed it on."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes


class Recording:
    """A handler that reads every body, says so, and remembers what it was asked."""

    def __init__(self) -> None:
        self.understood: list[Understood] = []
        self.refused: list[OverspillError] = []
        self.failed: list[OverspillError] = []

    async def handle(self, exchange: Exchange) -> None:
        """Answer with what was understood."""
        try:
            body = await exchange.body.read(exchange.max_body)
        except OverspillError as error:
            self.failed.append(error)
            exchange.keep_alive = False
            exchange.send(error.status, [], b"", b"")
            return
        self.understood.append(Understood(exchange.method, exchange.target, exchange.headers, body))
        # An empty answer to HEAD, so that who reads the answers need not know what was asked.
        exchange.send(200, [], b"", b"" if exchange.method == b"HEAD" else b"%d" % len(body))

    def refuse(self, exchange: Exchange, error: OverspillError) -> None:
        """Answer a request that could not be read."""
        self.refused.append(error)
        exchange.send(error.status, [], b"", b"")


class Heard(NamedTuple):
    """What came of the bytes of one connection.

    statuses:  of the answers, in their order
    closed:    will the gateway take no more on this connection?
    """

    understood: list[Understood]
    refused: list[str]
    statuses: list[int]
    closed: bool


class MemoryListener:
    """Listener and loop of many such connections, one after the other."""

    def __init__(self, limits: ListenerLimits | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self._handler = Recording()
        self.listener = Listener(
            self._handler,
            limits=limits or ListenerLimits(),
            clock=StillClock(),
            chance=random.Random(1),
        )
        self.listener.loop = self.loop
        self.errors: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(str(context)))

    def hear(self, pieces: Iterable[bytes]) -> Heard:
        """Feed the pieces to a new connection. Raises AssertionError for what must never happen."""
        handler = self.listener.handler = self._handler = Recording()
        connection, transport = Connection(self.listener), MemoryTransport()
        connection.connection_made(transport)
        for piece in pieces:
            self._settle()
            if transport.closing:
                break
            assert not transport.paused or transport.ended, "it reads no more, and nothing is under way"
            connection.data_received(piece)
        self._settle()
        closed = transport.closing or transport.ended
        statuses = statuses_of(bytes(transport.sent))
        connection.connection_lost(None)
        self._settle()
        assert not self.errors, self.errors
        assert self.listener.connections == 0
        told = [*handler.refused, *handler.failed]
        return Heard(handler.understood, [error.word for error in told], statuses, closed)

    def close(self) -> None:
        """Give the loop back."""
        self.loop.close()

    def _settle(self) -> None:
        for _ in range(_MOST_TURNS):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
            if not self.loop._ready:  # type: ignore[attr-defined]
                return
        raise AssertionError("the loop never comes to rest")


def statuses_of(sent: bytes) -> list[int]:
    """The statuses of the answers in a stream of bytes; each must be framed by its length, to the byte."""
    statuses = []
    while sent:
        head, found, rest = sent.partition(b"\r\n\r\n")
        assert found, "an answer breaks off"
        line, *rows = head.split(b"\r\n")
        status = int(line.split(b" ")[1])
        lengths = [int(row.partition(b":")[2]) for row in rows if row.startswith(b"content-length:")]
        if status >= 200:
            statuses.append(status)
            assert len(lengths) == 1, rows
        size = lengths[0] if lengths else 0
        assert len(rest) >= size
        sent = rest[size:]
    return statuses
