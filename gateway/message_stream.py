"""The client's side of a stream of messages, as a request body: kept while small, to be sent again.

Belongs to step 1, beside `body.py`, whose content is bytes without borders. It knows nothing of gRPC: the
server feeds it messages and waits for room, the one attempt at a time takes them.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from gateway.errors import NotOffered, OverspillError


class MessageStream:
    """The messages of one stream, the first of which is here.

    buffer:  bytes that are held; beyond it the client waits, and what was taken is forgotten
    """

    __slots__ = (
        "_arrived", "_buffer", "_ended", "_error", "_forgotten", "_held", "_kept", "_repeatable", "_room",
        "_taken", "_total", "_waiting",
    )  # fmt: skip

    def __init__(self, first: bytes, *, buffer: int) -> None:
        self._buffer = buffer
        self._kept = deque([first])
        self._forgotten = 0  # messages that were dropped from the left of `_kept`
        self._taken = 0  # messages that the attempt has
        self._held = self._total = self._waiting = len(first)  # bytes: held, ever, not yet taken
        self._repeatable = True
        self._ended = False
        self._error: OverspillError | None = None
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()

    # -- fed by the server

    async def feed(self, message: bytes) -> None:
        """One more message; returns when the next may come."""
        self._kept.append(message)
        self._held += len(message)
        self._total += len(message)
        self._waiting += len(message)
        self._forget()
        self._arrived.set()
        while self._waiting > self._buffer and self._error is None:
            self._room.clear()
            await self._room.wait()

    def finish(self) -> None:
        """The client has said all it wanted."""
        self._ended = True
        self._arrived.set()

    def fail(self, error: OverspillError) -> None:
        """No further message can be passed on, and why. The reader gets `error`."""
        self._error = error.again()
        self._arrived.set()
        self._room.set()

    def commit(self) -> None:
        """The answer has begun: there is no second attempt, so nothing is kept for one."""
        self._repeatable = False
        self._forget()

    # -- read by the call

    @property
    def length(self) -> int | None:
        """Bytes of all messages once the client has sent the last."""
        return self._total if self._ended else None

    @property
    def repeatable(self) -> bool:
        """True while every message is still here."""
        return self._repeatable

    @property
    def taken(self) -> int:
        """Messages that the present attempt has taken."""
        return self._taken

    def whole(self) -> bytes | None:
        """Never: it is many messages."""
        return None

    async def prefix(self, size: int) -> bytes:
        """The first message, or as much of it."""
        return self._kept[0][:size]

    async def settle(self) -> None:
        """Nothing to wait for: the first message is here, and the others may need its answer."""

    async def read(self, limit: int) -> bytes:
        """Not possible. Raises NotOffered."""
        raise NotOffered("a stream of messages cannot be sent as one request")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The messages, one by one, as they come. A new reader begins anew, while all are here."""
        if self._taken:
            assert self._repeatable, "what was forgotten cannot be sent again"
            self._taken, self._waiting = 0, self._held
        while True:
            while self._taken < self._forgotten + len(self._kept):
                message = self._kept[self._taken - self._forgotten]
                self._taken += 1
                self._waiting -= len(message)
                self._forget()
                self._room.set()
                yield message
            if self._error is not None:
                raise self._error.again()
            if self._ended:
                return
            self._arrived.clear()
            await self._arrived.wait()

    # -- inside

    def _forget(self) -> None:
        """Drop what was taken, if it is of no use any more or too large to keep."""
        while self._forgotten < self._taken and (not self._repeatable or self._held > self._buffer):
            self._repeatable = False
            self._held -= len(self._kept.popleft())
            self._forgotten += 1
