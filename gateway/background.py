"""Background tasks with an owner: none is lost, no error goes unseen, all end at shutdown.

Knows nothing of what the tasks do.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("overspill.background")


class Background:
    """A set of tasks. `spawn` is the only way in."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, None], /, *, name: str) -> None:
        """Run `work` beside the requests; its failure is logged."""
        self.start(work, name=name)

    def start(self, work: Coroutine[Any, Any, None], /, *, name: str) -> asyncio.Task[None]:
        """The same, for who may have to end it before the rest."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self, grace: float) -> None:
        """Let what is under way finish for `grace` seconds, then cancel it."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background task %s failed", task.get_name(), exc_info=error)
