"""Steady load that remembers everything: what was sent when, every byte that came back, and how it ended.

Open loop: arrivals come from a seed and wait for nobody. Must never know which fault is on.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import cast

import httptools

from gateway.clock import Clock
from loadtests.chaos.work import answer_to, question

PATIENCE_S = 12.0
"""What is not answered by then counts as lost; it is far over every time limit of the gateway."""


class Asked:
    """One request, and what became of it.

    ending:  "" while it is open; `answered`, `cut` (an answer that visibly broke off), `unreached` (nobody
             took the connection), or `lost` (it was taken, and nothing came back)
    """

    __slots__ = ("body", "done_at", "ending", "fields", "name", "raw", "received", "sent_at", "status", "why")

    def __init__(self, name: str, body: bytes, sent_at: float) -> None:
        self.name = name
        self.body = body
        self.sent_at = sent_at
        self.done_at: float | None = None
        self.ending = ""
        self.why = ""
        self.status = 0
        self.fields: dict[bytes, bytes] = {}
        self.received = b""
        self.raw = b""

    @property
    def right(self) -> bool:
        """It got the answer to its own question."""
        return self.ending == "answered" and self.status == 200 and self._own and self._expected

    @property
    def wrong(self) -> bool:
        """It got a complete answer that is not its own."""
        if self.ending != "answered":
            return False
        return not self._own or (self.status == 200 and not self._expected)

    @property
    def _own(self) -> bool:
        return self.fields.get(b"x-request-id") == self.name.encode()

    @property
    def _expected(self) -> bool:
        return self.received == answer_to(self.body)


class _Line(asyncio.Protocol):
    """One connection to the gateway; carries one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._asked: Asked | None = None
        self._done: asyncio.Future[None] | None = None
        self._closes = False
        self.usable = True

    def ask(self, asked: Asked) -> "asyncio.Future[None]":
        self._asked = asked
        self._done = asyncio.get_running_loop().create_future()
        head = (
            f"POST /invoke/chaos/work HTTP/1.1\r\nhost: chaos\r\nx-request-id: {asked.name}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(asked.body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + asked.body)
        return self._done

    def close(self) -> None:
        self.usable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        asked = self._asked
        if asked is not None:
            ending = "cut" if asked.status else "lost"
            self._end(ending, type(error).__name__ if error else "closed")

    def data_received(self, data: bytes) -> None:
        if self._asked is None:
            self._load.strays.append(data)
            self.close()
            return
        self._asked.raw += data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._asked.why = f"not HTTP: {error}"
            self.close()

    def on_message_begin(self) -> None:
        if self._asked is None:
            self._load.strays.append(b"a second answer")
            self.usable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._asked is not None:
            self._asked.fields[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._asked is not None:
            self._asked.status = self._parser.get_status_code()
            self._closes = not self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self._asked is not None:
            self._asked.received += body

    def on_message_complete(self) -> None:
        if self._asked is not None:
            self.usable = self.usable and not self._closes
            self._end("answered")

    def _end(self, ending: str, why: str = "") -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            return
        asked.ending, asked.why = ending, asked.why or why
        asked.done_at = self._load.clock.now()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


class Load:
    """Requests at `rate` a second to one port of 127.0.0.1, from the seed of `chance`.

    prefix:  what the names of its requests begin with
    """

    def __init__(self, prefix: str, port: int, *, rate: float, chance: Random, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[Asked] = []
        self.strays: list[bytes] = []
        """What came without having been asked for: an answer too many."""
        self.rate = rate
        self._prefix = prefix
        self._port = port
        self._chance = chance
        self._idle: list[_Line] = []
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """Requests that have no ending yet."""
        return sum(not each.ending for each in self.asked)

    async def run(self) -> None:
        """Until `stop`. What is open then is still waited for."""
        loop = asyncio.get_running_loop()
        due = self.clock.now()
        while not self._stopped:
            due += self._chance.expovariate(self.rate)
            name = f"{self._prefix}-{len(self.asked):05d}"
            body = question(name, self._chance)
            await asyncio.sleep(max(0.0, due - self.clock.now()))
            asked = Asked(name, body, self.clock.now())
            self.asked.append(asked)
            task = loop.create_task(self._ask(asked))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        while self._tasks:
            await asyncio.wait(self._tasks)
        # Whoever is answered twice has to be given the time for it.
        await asyncio.sleep(0.1)
        for line in self._idle:
            line.close()

    async def open_lines(self, count: int) -> None:
        """Have so many connections open besides, for times in which no new ones can be made."""
        self._idle[:0] = [await self._new_line() for _ in range(count)]

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True

    async def _ask(self, asked: Asked) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = await self._line()
        except (OSError, TimeoutError) as error:
            asked.ending, asked.why, asked.done_at = "unreached", type(error).__name__, self.clock.now()
            return
        done = line.ask(asked)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await done
        except TimeoutError:
            asked.ending, asked.why, asked.done_at = "lost", "silence", self.clock.now()
            line.close()
        if line.usable:
            self._idle.append(line)

    async def _line(self) -> _Line:
        while self._idle:
            line = self._idle.pop()
            if line.usable:
                return line
        return await self._new_line()

    async def _new_line(self) -> _Line:
        make: Callable[[], _Line] = lambda: _Line(self)  # noqa: E731
        _, line = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", self._port)
        return line
