"""Work in an emulated instance whose answer may stream: pieces as they are written, then what is left.

Must never know a provider.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Sink = Callable[[Any], None]
"""Takes what the work writes, from any thread."""


class Running(Generic[T]):
    """One piece of work; `run` is given the sink to write to."""

    def __init__(
        self,
        run: Callable[[Sink], Coroutine[Any, Any, T]],
        spawn: Callable[[Coroutine[Any, Any, T]], "asyncio.Task[T]"],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Any] = asyncio.Queue()
        self._first: Any = None
        self.task = spawn(run(lambda piece: _put(loop, self._pieces, piece)))
        self.task.add_done_callback(lambda _: self._pieces.put_nowait(None))
        self.streamed = False
        """Whether it has written anything before it ended."""

    async def begun(self) -> None:
        """Wait for the first piece, or for the end. Raises what the work raised, if nothing came before."""
        self._first = await self._pieces.get()
        self.streamed = self._first is not None
        if not self.streamed:
            await self.task

    async def pieces(self) -> AsyncIterator[Any]:
        """What it writes, as it does."""
        piece = self._first
        while piece is not None:
            yield piece
            piece = await self._pieces.get()


def _put(loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[Any]", piece: Any) -> None:
    loop.call_soon_threadsafe(queue.put_nowait, piece)


def written(output: Any, sink: Sink | None) -> Any:
    """What a function returned; of one that streams, once it has written all, nothing is left."""
    if not isinstance(output, Iterator):
        return output
    if sink is None:
        pieces = list(output)
        return b"".join(pieces) if all(isinstance(piece, bytes) for piece in pieces) else pieces
    for piece in output:
        sink(piece)
    return None
