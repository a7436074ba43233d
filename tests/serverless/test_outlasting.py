"""Work at a provider that goes on when its call has gone."""

import asyncio

import pytest

from backends.outlasting import outlasting
from gateway.errors import BackendBroke, BackendError, BackendFull
from tests.support.provider import Background

pytestmark = pytest.mark.virtual_time


class Work:
    """So many seconds of it, and how it ends."""

    def __init__(self, seconds: float, ends: str | BackendError = "done") -> None:
        self.seconds = seconds
        self.ends = ends
        self.background = Background()
        self.told: list[str | BackendError] = []

    async def _run(self) -> str:
        await asyncio.sleep(self.seconds)
        if isinstance(self.ends, BackendError):
            raise self.ends
        return self.ends

    async def waited_for(self, limit_s: float = 60.0) -> str:
        return await outlasting(
            self._run(),
            spawn=self.background.spawn,
            name="work",
            limit_s=limit_s,
            afterwards=self.told.append,
        )

    async def left(self, limit_s: float = 60.0) -> None:
        """Waited for by somebody who leaves after a second, and over."""
        call = asyncio.ensure_future(self.waited_for(limit_s))
        await asyncio.sleep(1.0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert self.told == []
        await asyncio.gather(*self.background.tasks)
        await asyncio.sleep(0)


async def test_who_stays_gets_the_result_and_nobody_else_is_told() -> None:
    work = Work(2.0)
    assert await work.waited_for() == "done"
    assert work.told == []


async def test_who_stays_gets_the_error() -> None:
    error = BackendFull("no room")
    work = Work(2.0, error)
    with pytest.raises(BackendFull) as caught:
        await work.waited_for()
    assert caught.value is error
    assert work.told == []


async def test_when_the_call_has_gone_the_result_is_told_afterwards() -> None:
    work = Work(5.0)
    await work.left()
    assert work.told == ["done"]


async def test_when_the_call_has_gone_the_error_is_told_afterwards() -> None:
    error = BackendBroke("gone")
    work = Work(5.0, error)
    await work.left()
    assert work.told == [error]


async def test_it_does_not_go_on_for_ever() -> None:
    work = Work(1000.0)
    await work.left(limit_s=10.0)
    (told,) = work.told
    assert isinstance(told, BackendBroke)
    assert "no answer after 10 s" in str(told)


async def test_the_limit_is_for_who_stays_too() -> None:
    with pytest.raises(BackendBroke, match="no answer after 3 s"):
        await Work(1000.0).waited_for(limit_s=3.0)


async def test_a_gateway_that_ends_ends_the_work_and_tells_so() -> None:
    work = Work(1000.0)
    call = asyncio.ensure_future(work.waited_for())
    await asyncio.sleep(1.0)
    (task,) = work.background.tasks
    task.cancel()
    with pytest.raises(BackendBroke, match="was given up"):
        await call
