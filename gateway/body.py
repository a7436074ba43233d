"""A request body on its way in: whole and repeatable while small, a stream with back-pressure when large.

Belongs to step 1. It knows nothing of HTTP: the listener feeds it decoded bytes and lends it three
levers (pause, resume, ask the client to go on). It never holds more than `buffer` bytes unless a
reader asks for the whole body, and then never more than the listener's body limit.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar, Protocol

from msgspec import Struct

from gateway.errors import BodyTooLarge, ClientGone, OverspillError

_WORTH_JOINING = 16 * 1024
"""Parts that are larger than this on average go on one by one: to join them is to copy them."""


RATE_OVER_S = 10.0
"""Seconds over which the rate of a body is looked at: no network stops for so long and is well."""


class Source(Protocol):
    """Where the bytes come from, as far as a body may steer it."""

    def pause(self) -> None:
        """Stop reading from the client."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def invite(self) -> None:
        """Tell a client that asked (`Expect: 100-continue`) to send the body. Idempotent."""
        ...


class IncomingBody:
    """The body of one request.

    length:  declared size, None if chunked and not ended
    buffer:  bytes held before the client is made to wait; a body up to this size is repeatable
    limit:   the most that is ever accepted
    """

    __slots__ = (
        "_buffer", "_complete", "_error", "_held", "_keep", "_length", "_limit", "_lost", "_parts", "_paused",
        "_received", "_since", "_source", "_waiter",
    )  # fmt: skip

    def __init__(self, source: Source, length: int | None, buffer: int, limit: int) -> None:
        self._source = source
        self._length = length
        self._buffer = buffer
        self._limit = limit
        self._parts: list[bytes] = []
        self._held = 0
        self._received = 0
        self._since: tuple[float, int] | None = None  # when a look at its rate began, and what was here then
        self._complete = False
        self._keep = True  # until a reader begins to take bytes away
        self._lost = False
        self._paused = False
        self._error: OverspillError | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- fed by the listener

    def feed(self, data: bytes) -> None:
        """More bytes have arrived."""
        if self._lost:
            return
        self._received += len(data)
        if self._received > self._limit:
            self.fail(BodyTooLarge(f"the body is over the limit of {self._limit} bytes", close=True))
            return
        self._parts.append(data)
        self._held += len(data)
        if self._held >= self._buffer and not self._paused:
            self._paused = True
            self._source.pause()
        self._wake()

    def trickles(self, now: float, rate: int, *, awaited: bool = True) -> bool:
        """Has less than `rate` bytes a second come, of `RATE_OVER_S` in which it was `awaited`?"""
        if self._since is None or not awaited:
            self._since = (now, self._received) if awaited else None
            return False
        passed = now - self._since[0]
        if passed < RATE_OVER_S:
            return False
        came = self._received - self._since[1]
        self._since = (now, self._received)
        return came < rate * passed

    def finish(self) -> None:
        """The last byte has arrived."""
        self._complete = True
        self._length = self._received
        self._wake()

    def fail(self, error: OverspillError) -> None:
        """No more bytes will come, and why. Readers get `error`."""
        if self._error is None and not self._complete:
            self._error = error.again()
            self._parts.clear()
            self._held = 0
            self._wake()

    def discard(self) -> None:
        """Nobody reads on: forget what is held and let the rest pass by."""
        self._lost = True
        self._parts.clear()
        self._held = 0
        self._flow()

    # -- read by the call

    @property
    def complete(self) -> bool:
        """True once the last byte has arrived."""
        return self._complete

    @property
    def length(self) -> int | None:
        """Declared size, or the real one once it is known."""
        return self._length

    @property
    def repeatable(self) -> bool:
        """True until a reader has begun to take bytes away."""
        return self._keep

    def whole(self) -> bytes | None:
        """All bytes if they are here and held; never waits."""
        if not (self._complete and self._keep):
            return None
        parts = self._parts
        if len(parts) == 1:
            return parts[0]
        self._parts = [b"".join(parts)]
        return self._parts[0]

    async def settle(self) -> None:
        """Wait until the body is all here or fills its buffer: before a slot is taken, not while."""
        while not self._complete and self._held < self._buffer:
            await self._more()

    async def prefix(self, size: int) -> bytes:
        """The first `size` bytes (fewer if the body ends before); they stay in the body."""
        _allow_prefix(size, self._limit)
        while not self._complete and self._held < size:
            self._flow()
            await self._more()
        if len(self._parts) > 1 and len(self._parts[0]) < size:
            self._parts = [b"".join(self._parts)]
        return self._parts[0][:size] if self._parts else b""

    async def read(self, limit: int) -> bytes:
        """All bytes, kept. Raises BodyTooLarge beyond `limit`."""
        if self._length is not None:
            _allow_all(self._length, limit)
        while not self._complete:
            if self._held > limit:
                raise BodyTooLarge(f"the body is over the {limit} bytes allowed here")
            self._flow()
            await self._more()
        data = self.whole()
        assert data is not None, "a body that was streamed away cannot be read again"
        return data

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come, joined into as few pieces as are ready (tiny chunks are not passed on)."""
        if (data := self.whole()) is not None:
            if data:
                yield data
            return
        self._keep = False
        while True:
            while parts := self._parts:
                small = self._held < _WORTH_JOINING * len(parts)
                self._parts, self._held = [], 0
                for data in (b"".join(parts),) if small else parts:
                    yield data
            if self._complete:
                return
            self._flow()
            await self._more()

    # -- inside

    def _flow(self) -> None:
        if self._paused:
            self._paused = False
            self._source.resume()

    async def _more(self) -> None:
        if self._error is not None:
            raise self._error.again()
        self._source.invite()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None:
            raise self._error.again()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class ArrivedBody(Struct, frozen=True, gc=False, eq=False):
    """A body that came in one piece with its head: nothing of it is waited for.

    limit:  the most that is ever accepted
    """

    _data: bytes
    length: int
    limit: int

    __repr__ = object.__repr__  # nobody is to read a body in a log

    complete: ClassVar[bool] = True
    repeatable: ClassVar[bool] = True

    def whole(self) -> bytes:
        """All of it."""
        return self._data

    async def settle(self) -> None:
        """Nothing to wait for."""

    async def prefix(self, size: int) -> bytes:
        """The first `size` bytes (fewer if the body ends before)."""
        _allow_prefix(size, self.limit)
        return self._data[:size]

    async def read(self, limit: int) -> bytes:
        """All bytes. Raises BodyTooLarge beyond `limit`."""
        _allow_all(self.length, limit)
        return self._data

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, in one piece."""
        if self._data:
            yield self._data

    def discard(self) -> None:
        """Nothing of it will pass by."""


def _allow_prefix(size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(f"the body is over the limit of {limit} bytes", close=True)


def _allow_all(length: int, limit: int) -> None:
    if length > limit:
        raise BodyTooLarge(f"the body has {length} bytes, more than the {limit} allowed here")


def client_left() -> ClientGone:
    """The error a body gets when the connection is lost under it."""
    return ClientGone("the client closed the connection before its request was complete")
