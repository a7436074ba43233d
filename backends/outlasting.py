"""Work at a provider that goes on, and is billed, when the call that began it has gone.

Knows tasks and futures; it must never know a provider or what the work is.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from backends.base import Spawn
from gateway.errors import BackendBroke, BackendError

T = TypeVar("T")


async def outlasting(
    work: Coroutine[Any, Any, T],
    *,
    spawn: Spawn,
    name: str,
    limit_s: float,
    afterwards: Callable[[T | BackendError], None],
) -> T:
    """What `work` returns. Raises the BackendError that it raises.

    Being cancelled leaves `work` to run on for at most `limit_s` seconds in all; how it ended is then told to
    `afterwards`, which must not raise.
    """
    outcome: asyncio.Future[T | BackendError] = asyncio.get_running_loop().create_future()
    spawn(_into(work, outcome, name, limit_s), name=name)
    try:
        result = await asyncio.shield(outcome)
    except asyncio.CancelledError:
        outcome.add_done_callback(lambda done: afterwards(done.result()))
        raise
    if isinstance(result, BackendError):
        raise result
    return result


async def _into(
    work: Coroutine[Any, Any, T], outcome: "asyncio.Future[T | BackendError]", name: str, limit_s: float
) -> None:
    result: T | BackendError = BackendBroke(f"{name} was given up")
    try:
        async with asyncio.timeout(limit_s):
            result = await work
    except BackendError as error:
        result = error
    except TimeoutError:
        result = BackendBroke(f"{name}: no answer after {limit_s:g} s")
    finally:
        outcome.set_result(result)
